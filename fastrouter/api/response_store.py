"""Responses that clients may ask for again or continue: in one SQLite file, or in memory if a file cannot be used.

Invariant: only one thread uses the database. The file stays near its size limit; the least recently used responses are removed first. An
owner sees only its own responses. A damaged file is replaced by an empty one. If the disk fails, only the new responses are lost.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from fastrouter.errors import InvalidRequest

log = logging.getLogger("fastrouter.api")

FILE_NAME = "responses.sqlite3"
MAX_CHAIN = 10_000  # responses of one conversation
MAX_CONVERSATION_BYTES = 8 << 20  # that one request may bring back, as much as a body
MAX_PENDING = 256  # responses that wait for a slow disk
MAX_PENDING_BYTES = 64 << 20  # of the requests that they answer
MAX_JOURNAL_BYTES = 4 << 20  # beside the file, when nothing is written
_VERSION = 2
_TABLES = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, previous TEXT, used REAL NOT NULL, num_bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS responses_by_use ON responses (used, num_bytes);
CREATE TABLE IF NOT EXISTS bodies (id TEXT PRIMARY KEY, response BLOB NOT NULL, input BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS items (id TEXT NOT NULL, response TEXT NOT NULL, PRIMARY KEY (id, response)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_by_response ON items (response);
"""
_CHAIN = """
WITH RECURSIVE chain (id, previous, depth, num_bytes) AS (
    SELECT id, previous, 0, num_bytes FROM responses WHERE id = :id AND :owner IN (owner, '')
    UNION ALL
    SELECT r.id, r.previous, depth + 1, c.num_bytes + r.num_bytes FROM responses r JOIN chain c ON r.id = c.previous
    WHERE :owner IN (r.owner, '') AND depth < :most AND c.num_bytes <= :most_bytes
)
SELECT b.id, b.response, b.input FROM chain JOIN bodies b USING (id) ORDER BY depth DESC
"""

Item = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored:
    """One response, and the input items of its own turn. Owner "": may do and see everything."""

    response: dict[str, Any]
    input: list[Item]


def _too_large(what: str, field: str) -> InvalidRequest:
    message = f"{what} is larger than {MAX_CONVERSATION_BYTES >> 20} MiB: send a shorter conversation as `input`"
    return InvalidRequest(message, param=field)


class ResponseStore:
    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        """Does not open the file yet. None: in memory. `max_bytes` 0: responses are not kept."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._database: sqlite3.Connection | None = None
        self._num_bytes = 0
        self._pending = (0, 0)  # responses, and bytes of the requests that they answer
        self._pending_lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "responses")

    def __repr__(self) -> str:
        return f"<ResponseStore {self._folder or 'in memory'}: {self._num_bytes} of {self._max_bytes} bytes>"

    @property
    def is_on(self) -> bool:
        return self._max_bytes > 0

    # ------------------------------------------------------------ for the event loop

    def put(self, owner: str, response: dict[str, Any], items: Callable[[], list[Item]], num_bytes: int) -> None:
        """Written later, in the store's thread; later calls find it. `items` makes its input items there. Neither they nor the response
        may change any more. `num_bytes`: how much memory they take, about."""
        if not self.is_on:
            return
        if not self._has_room(num_bytes):
            log.warning("the disk is too slow: response %s is not kept", response["id"])
            return
        self._count_pending(1, num_bytes)
        written = self._thread.submit(self._guarded, lambda: self._put(owner, response, items()), None)
        written.add_done_callback(lambda _: self._count_pending(-1, -num_bytes))

    def _has_room(self, num_bytes: int) -> bool:
        count, pending_bytes = self._pending
        return count < MAX_PENDING and pending_bytes + num_bytes <= MAX_PENDING_BYTES

    def _count_pending(self, count: int, num_bytes: int) -> None:
        """Also in the store's thread."""
        with self._pending_lock:
            self._pending = (self._pending[0] + count, self._pending[1] + num_bytes)

    async def get(self, owner: str, response_id: str) -> Stored | None:
        found = await self._up_to(owner, response_id, 0)
        return found[-1] if found else None

    async def conversation(self, owner: str, response_id: str) -> list[Item] | None:
        """All items up to this response, including its own; None: it does not exist, or an earlier response has been removed."""
        found = await self._up_to(owner, response_id, MAX_CHAIN)
        if not found or found[0].response.get("previous_response_id") is not None:
            return None
        return [item for stored in found for item in (*stored.input, *stored.response["output"])]

    async def _up_to(self, owner: str, response_id: str, most: int) -> list[Stored]:
        nothing: list[Stored] = []
        return await self._ask(lambda: self._chain(owner, response_id, most), nothing)

    async def items(self, owner: str, item_ids: Sequence[str]) -> dict[str, Item]:
        """The stored ones of these items."""
        return await self._ask(lambda: self._items(owner, item_ids), {})

    async def delete(self, owner: str, response_id: str) -> bool:
        return await self._ask(lambda: self._delete(owner, response_id), False)

    def close(self) -> None:
        """Waits until everything is written."""
        self._thread.submit(self._close)
        self._thread.shutdown()

    async def _ask(self, call: Callable[[], T], default: T) -> T:
        if not self.is_on:
            return default
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, call, default)

    # ------------------------------------------------------------ in the thread

    def _guarded(self, call: Callable[[], T], default: T) -> T:
        try:
            if self._database is None:
                self._database = self._open()
            return call()
        except (sqlite3.Error, orjson.JSONEncodeError, orjson.JSONDecodeError) as error:
            log.warning("the store of responses failed: %s", error)
            if type(error) is sqlite3.DatabaseError:  # the file is damaged
                self._replace()
            return default

    def _replace(self) -> None:
        """By an empty file, with the next use."""
        self._close()
        self._database = None
        if self._folder is not None:
            path = self._folder / FILE_NAME
            log.warning("%s is damaged; it is replaced by an empty one", path)
            with contextlib.suppress(OSError):
                self._remove(path)

    @property
    def _tables(self) -> sqlite3.Connection:
        assert self._database is not None
        return self._database

    def _open(self) -> sqlite3.Connection:
        if self._folder is None:
            return self._connect(":memory:")
        path = self._folder / FILE_NAME
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            try:
                return self._connect(str(path))
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                log.warning("%s: %s; it is replaced by an empty one", path, error)
                self._remove(path)
                return self._connect(str(path))
        except (OSError, sqlite3.Error) as error:
            log.warning("%s cannot be used (%s): responses are kept in memory until the router ends", path, error)
            return self._connect(":memory:")

    def _connect(self, path: str) -> sqlite3.Connection:
        """Deleted texts are overwritten. After a power cut the last responses may be missing, but the file is whole."""
        database = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA auto_vacuum=FULL")
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute("PRAGMA secure_delete=ON")
            database.execute(f"PRAGMA journal_size_limit={MAX_JOURNAL_BYTES}")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"its version is {version}, not {_VERSION}")
            database.executescript(_TABLES + f"PRAGMA user_version={_VERSION};")
            self._num_bytes = self._count(database)
        except BaseException:  # the caller gets it; the file must not stay open
            database.close()
            raise
        return database

    def _remove(self, path: Path) -> None:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}{suffix}")

    def _count(self, database: sqlite3.Connection) -> int:
        return int(database.execute("SELECT coalesce(sum(num_bytes), 0) FROM responses").fetchone()[0])

    def _put(self, owner: str, response: dict[str, Any], items: list[Item]) -> None:
        row, given = orjson.dumps(response), orjson.dumps(items)
        num_bytes = len(row) + len(given)
        if num_bytes > self._max_bytes:
            return
        names = [item["id"] for item in (*items, *response["output"]) if isinstance(item.get("id"), str)]
        with self._transaction() as tables:
            values = (response["id"], owner, response.get("previous_response_id"), time.time(), num_bytes)
            tables.execute("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?)", values)
            tables.execute("INSERT OR REPLACE INTO bodies VALUES (?, ?, ?)", (response["id"], row, given))
            tables.executemany("INSERT OR REPLACE INTO items VALUES (?, ?)", [(name, response["id"]) for name in names])
            self._num_bytes = self._count(tables)
            while self._num_bytes > self._max_bytes:
                self._evict(tables)

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        tables = self._tables
        tables.execute("BEGIN IMMEDIATE")
        try:
            yield tables
        except BaseException:  # the caller gets it; an open transaction would lock the file
            tables.execute("ROLLBACK")
            raise
        tables.execute("COMMIT")

    def _evict(self, tables: sqlite3.Connection) -> None:
        found, num_bytes = tables.execute("SELECT id, num_bytes FROM responses ORDER BY used LIMIT 1").fetchone()
        self._erase(tables, found)
        self._num_bytes -= num_bytes

    def _erase(self, tables: sqlite3.Connection, response_id: str) -> None:
        tables.execute("DELETE FROM responses WHERE id = ?", (response_id,))
        tables.execute("DELETE FROM bodies WHERE id = ?", (response_id,))
        tables.execute("DELETE FROM items WHERE response = ?", (response_id,))

    def _chain(self, owner: str, response_id: str, most: int) -> list[Stored]:
        """Oldest first; each counts as used now."""
        limits = {"most": most, "most_bytes": MAX_CONVERSATION_BYTES}
        rows = self._tables.execute(_CHAIN, {"id": response_id, "owner": owner, **limits}).fetchall()
        if most and sum(len(response) + len(items) for _, response, items in rows) > MAX_CONVERSATION_BYTES:
            raise _too_large("the conversation up to this response", "previous_response_id")
        with self._transaction() as tables:
            tables.executemany("UPDATE responses SET used = ? WHERE id = ?", [(time.time(), row[0]) for row in rows])
        return [Stored(orjson.loads(response), orjson.loads(items)) for _, response, items in rows]

    def _items(self, owner: str, item_ids: Sequence[str]) -> dict[str, Item]:
        query = """SELECT b.response, b.input FROM items i JOIN responses r ON r.id = i.response JOIN bodies b ON b.id = r.id
                   WHERE i.id = ? AND ? IN (r.owner, '') ORDER BY r.used DESC LIMIT 1"""
        found: dict[str, Item] = {}
        wanted, num_bytes = Counter(item_ids), 0  # one item may be wanted many times
        for item_id in wanted:
            row = None if item_id in found else self._tables.execute(query, (item_id, owner)).fetchone()
            if row is not None:
                items = (*orjson.loads(row[1]), *orjson.loads(row[0])["output"])
                new = {item["id"]: item for item in items if isinstance(item.get("id"), str) and item["id"] in wanted}
                num_bytes += sum(len(orjson.dumps(item)) * wanted[name] for name, item in new.items() if name not in found)
                found.update(new)
            if num_bytes > MAX_CONVERSATION_BYTES:
                raise _too_large("what the references stand for", "input")
        return found

    def _delete(self, owner: str, response_id: str) -> bool:
        with self._transaction() as tables:
            found = tables.execute("SELECT 1 FROM responses WHERE id = ? AND ? IN (owner, '')", (response_id, owner)).fetchone()
            if found is not None:
                self._erase(tables, response_id)
                self._num_bytes = self._count(tables)
        return found is not None

    def _close(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
