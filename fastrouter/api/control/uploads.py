"""POST /api/blobs/sha256:...: a model file from a client, written as it comes. Never imports: api.models, api.flavours.

Invariant: a file has its final name only when all of it is on disk and its hash is right. An upload that ends too early, is wrong or does
not fit leaves nothing behind. A slow disk holds up only its own client.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

from fastrouter._core import Request
from fastrouter.catalog.created import PART, CreatedModels
from fastrouter.config.config import Config
from fastrouter.errors import FastrouterError, Forbidden, InvalidRequest
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response
from fastrouter.system.words import size_text

MAX_WAITING_BYTES = 4 << 20  # that are not written yet
LEAST_FREE_BYTES = 2 << 30  # of the disk, afterwards


@dataclass(slots=True)
class Space:
    """What all uploads at a time may still write."""

    left: int


class Upload:
    """A Sink. Bytes are written by a thread, one batch after the other."""

    def __init__(self, target: Path, digest: str, space: Space) -> None:
        """Raises OSError."""
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, self._path = tempfile.mkstemp(suffix=PART, dir=target.parent)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._target = target
        self._digest = digest
        self._space = space
        self._hash = hashlib.sha256()
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes] = []
        self._num_waiting = 0
        self._writing: asyncio.Future[int] | None = None
        self._on_free: list[Callable[[], None]] = []
        self._error: FastrouterError | None = None

    def __del__(self) -> None:
        self._drop()

    @property
    def is_full(self) -> bool:
        return self._num_waiting > MAX_WAITING_BYTES

    def call_when_free(self, callback: Callable[[], None]) -> None:
        self._on_free.append(callback)

    def write(self, data: bytes) -> None:
        """Bytes after an error are dropped; `finish` tells the error."""
        self._space.left -= len(data)
        if self._space.left < 0 and self._error is None:
            self._error = InvalidRequest("the file is larger than the space for uploads: start the server with a larger --blobs-mib")
        if self._error is not None:
            return
        self._waiting.append(data)
        self._num_waiting += len(data)
        self._write_on()

    def _write_on(self) -> None:
        if self._writing is None and self._waiting:
            batch, self._waiting = self._waiting, []
            self._writing = self._loop.run_in_executor(None, self._store, batch)
            self._writing.add_done_callback(self._on_stored)

    def _store(self, batch: list[bytes]) -> int:
        """In a thread."""
        for data in batch:
            self._hash.update(data)
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        return sum(map(len, batch))

    def _on_stored(self, stored: "asyncio.Future[int]") -> None:
        self._writing = None
        problem = stored.exception()
        if problem is not None:
            why = problem.strerror if isinstance(problem, OSError) else str(problem)
            self._error = InvalidRequest(f"the file cannot be written: {why}")
            self._waiting.clear()
            self._num_waiting = 0
        else:
            self._num_waiting -= stored.result()
            self._write_on()
        if not self.is_full:
            callbacks, self._on_free = self._on_free, []
            for callback in callbacks:
                callback()

    async def finish(self) -> None:
        """All bytes have come. After an error the file is gone. Raises FastrouterError."""
        try:
            await self._finish()
        except FastrouterError:
            self._drop()
            raise

    async def _finish(self) -> None:
        while self._writing is not None:
            await asyncio.wait([self._writing])
        if self._error is not None:
            raise self._error
        found = self._hash.hexdigest()
        if found != self._digest:
            raise InvalidRequest(
                f"the file's hash is sha256:{found}, not the one in the path: it was changed on the way, or the path is wrong"
            )
        try:
            await asyncio.to_thread(self._keep)
        except OSError as error:
            raise InvalidRequest(f"the file cannot be kept: {error.strerror}") from None

    def _keep(self) -> None:
        os.fsync(self._file.fileno())
        os.replace(self._path, self._target)
        self._path = ""

    def _drop(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
            if self._path:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)


class Uploads:
    """The route."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._created = CreatedModels(config.created_dir)
        self._running: WeakSet[Upload] = WeakSet()
        self._space = Space(0)

    def begin(self, request: Request, num_bytes: int) -> Upload:
        """At the end of the head. Raises FastrouterError."""
        if not self._config.blobs_mib:
            raise Forbidden("--blobs-mib 0 forbids uploads: put the file into the folder of --models-dir")
        if self._config.insecure and request.caller is None:
            raise Forbidden("a server that is open to other machines without a key (--insecure) takes no uploads: start it with --api-key")
        target = self._created.blob_path(request.path.partition("/api/blobs/")[2])
        self._created.remove_old()
        if not self._running:
            self._space = Space(self._room())
        if num_bytes > self._space.left:
            has, needs = size_text(max(0, self._space.left)), size_text(num_bytes)
            raise InvalidRequest(f"there is room for {has} of uploads, but the file has {needs} (see --blobs-mib)")
        try:
            upload = Upload(target, target.name.removeprefix("sha256-"), self._space)
        except OSError as error:
            raise InvalidRequest(f"{error.filename}: {error.strerror}; name another folder with --created-dir") from None
        self._running.add(upload)
        return upload

    def _room(self) -> int:
        """How large a file may be."""
        folder = next((path for path in (self._created.blobs, *self._created.blobs.parents) if path.exists()), Path("/"))
        free = shutil.disk_usage(folder).free - LEAST_FREE_BYTES
        return min(free, (self._config.blobs_mib << 20) - self._created.blob_bytes())

    async def finish(self, request: Request, exchange: Exchange) -> Response:
        """When all of the body has come."""
        upload: Upload | None = request.sink
        if upload is None:
            raise InvalidRequest("the request body is empty; send the file")
        request.sink = None
        await upload.finish()
        return Response(201)
