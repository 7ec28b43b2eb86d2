"""API keys and what each may do. A model is known here only by its names.

Invariant: only the digest of a key is kept, and a key is never written anywhere. A reload that fails changes nothing. A reload never
removes the last key of a router.
"""

import fnmatch
import hashlib
import hmac
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastrouter.errors import ConfigError, InvalidApiKey, RateLimited
from fastrouter.system.text_file import read_text

log = logging.getLogger("fastrouter.http")

_SCOPE_WORDS = "name=, models=, read-only or concurrency="
_MAX_CONCURRENCY = 1 << 20
_NONE_SENT = "Invalid API Key: none was sent. Send it as the header `Authorization: Bearer KEY` or `X-Api-Key: KEY`"

Signature = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class KeyScope:
    """What a line of the key file says after the key."""

    name: str | None = None
    models: tuple[str, ...] | None = None  # shell patterns; None: all
    is_read_only: bool = False
    concurrency: int | None = None


class Caller:
    """The owner of a key that does not allow everything. Reloads keep the object, so that nothing is counted twice."""

    __slots__ = ("_pattern", "id", "num_running", "scope")

    def __init__(self, scope: KeyScope, caller_id: str = "") -> None:
        """`caller_id`: the same after a restart; the key cannot be found from it."""
        self.id = caller_id
        self.num_running = 0
        self.set_scope(scope)

    def __repr__(self) -> str:
        return f"<Caller {self.scope.name or '-'} {self.num_running} running>"

    @property
    def name(self) -> str | None:
        return self.scope.name

    @property
    def models(self) -> tuple[str, ...] | None:
        return self.scope.models

    @property
    def is_read_only(self) -> bool:
        return self.scope.is_read_only

    def set_scope(self, scope: KeyScope) -> None:
        self.scope = scope
        patterns = None if scope.models is None else "|".join(fnmatch.translate(pattern) for pattern in scope.models)
        self._pattern = None if patterns is None else re.compile(patterns)

    def can_see(self, names: Iterable[str]) -> bool:
        """A model that has one of these names."""
        return self._pattern is None or any(self._pattern.match(name) for name in names)

    def enter(self) -> None:
        """One more generation, until `leave`. Raises RateLimited."""
        limit = self.scope.concurrency
        if limit is not None and self.num_running >= limit:
            who = f"the key {self.name}" if self.name else "this key"
            raise RateLimited(f"{who} has {self.num_running} requests running or waiting, and may have {limit}")
        self.num_running += 1

    def leave(self) -> None:
        self.num_running -= 1


def read_keys(text: str, said: str) -> dict[str, KeyScope | None]:
    """The lines of a key file; None: a key that may do everything. A ConfigError begins with `said` and the line's number."""
    found: dict[str, KeyScope | None] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = re.split(r"[ \t]+", line.strip(" \t\r"))
        words = words[: next((index for index, word in enumerate(words) if word.startswith("#")), len(words))]
        if not words or not words[0]:
            continue
        key, *options = words
        if key in found:
            raise ConfigError(f"{said}:{number}: this key appears twice")
        found[key] = _read_scope(options, f"{said}:{number}") if options else None
    if not found:
        raise ConfigError(f"{said}: has no keys")
    return found


def _read_scope(words: Sequence[str], where: str) -> KeyScope:
    """Errors do not repeat the words: part of a key with a space in it would be logged."""
    fields: dict[str, str] = {}
    for index, word in enumerate(words, 2):
        name, equals, value = word.partition("=")
        if name not in (("name", "models", "concurrency") if equals else ("read-only",)):
            raise ConfigError(f"{where}: word {index} must be one of {_SCOPE_WORDS}")
        if name in fields:
            raise ConfigError(f"{where}: {name} appears twice")
        fields[name] = value
    models = tuple(pattern for pattern in fields.get("models", "").split(",") if pattern)
    if "models" in fields and not models:
        raise ConfigError(f"{where}: models= needs a model")
    if "name" in fields and not (fields["name"] and fields["name"].isprintable()):
        raise ConfigError(f"{where}: name= needs a printable name")
    limit = fields.get("concurrency")
    if limit is not None and not (limit.isascii() and limit.isdigit() and len(limit) < 8 and 1 <= int(limit) <= _MAX_CONCURRENCY):
        raise ConfigError(f"{where}: concurrency= must be a whole number from 1 to {_MAX_CONCURRENCY}")
    return KeyScope(fields.get("name"), models or None, "read-only" in fields, int(limit) if limit is not None else None)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class KeyRing:
    """The keys of the command line, which may do everything, and those of the key file."""

    def __init__(self, keys: Sequence[str] = (), path: Path | None = None) -> None:
        """Raises ConfigError."""
        self._given = [_digest(key.encode()) for key in keys]
        self._path = path
        self._callers: dict[bytes, Caller | None] = dict.fromkeys(self._given)
        self._read_signature: Signature = None
        self._last_signature: Signature = None
        self.reload()

    def __len__(self) -> int:
        return len(self._callers)

    def __repr__(self) -> str:
        return f"<KeyRing {len(self)} keys>"

    def find(self, candidate: bytes) -> Caller | None:
        """The owner of the key; None: the key may do everything. Raises InvalidApiKey."""
        if not candidate:
            raise InvalidApiKey(_NONE_SENT)
        digest = _digest(candidate)
        # Every key is compared, so that the time does not show which one was similar.
        matches = [caller for key, caller in self._callers.items() if hmac.compare_digest(digest, key)]
        if not matches:
            raise InvalidApiKey()
        return matches[0]

    # ------------------------------------------------------------ the file

    def reload(self) -> None:
        """Read the file again. Raises ConfigError; then nothing has changed."""
        if self._path is None:
            return
        self._read_signature = self._last_signature = _signature(self._path)
        said = f"--api-key-file {self._path}"
        callers: dict[bytes, Caller | None] = dict.fromkeys(self._given)
        for key, scope in read_keys(read_text(self._path, said), said).items():
            digest = _digest(key.encode())
            if digest in callers:
                raise ConfigError(f"{said}: --api-key has one of its keys too")
            callers[digest] = None if scope is None else Caller(scope, _digest(digest).hex())
        for known in callers.keys() & self._callers.keys():
            caller, fresh = self._callers[known], callers[known]
            if caller is not None and fresh is not None:
                caller.set_scope(fresh.scope)
                callers[known] = caller
        self._callers = callers

    def refresh(self) -> None:
        """Called once a second: read a changed file when it no longer changes. An error in it is logged once."""
        if self._path is None:
            return
        signature = _signature(self._path)
        is_at_rest = signature == self._last_signature
        self._last_signature = signature
        if signature == self._read_signature or not is_at_rest:
            return
        try:
            self.reload()
        except ConfigError as error:
            log.error("%s; the old keys stay in use", error.message)
        else:
            log.info("--api-key-file %s: read again after a change", self._path)


def _signature(path: Path) -> Signature:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
