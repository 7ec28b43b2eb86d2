"""The process that talks to MCP servers, seen from the router: questions with numbers, answers in any order.

Invariant: there is at most one process; it is started by the first question, and again by the next one when it has ended. A question
that nobody waits for any more is cancelled there too.
"""

import asyncio
import itertools
import subprocess
from collections.abc import Mapping
from typing import Any

import orjson

from fastrouter.api.tools.job import MAX_REPORT_BYTES, MCP, start_process
from fastrouter.api.tools.process import ToolError, await_end
from fastrouter.errors import Unavailable

MAX_WAITING = 64  # questions
MAX_UNSENT_BYTES = 32 << 20


class _Running:
    """One process and its open questions."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        reader: asyncio.StreamReader,
        source: asyncio.BaseTransport,
        writer: asyncio.WriteTransport,
    ) -> None:
        self.process = process
        self.reader = reader
        self.source = source  # of what is read
        self.writer = writer
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.is_over = False
        self.reading: asyncio.Task[None] | None = None

    def send(self, message: Mapping[str, Any]) -> None:
        if not self.is_over:
            self.writer.write(orjson.dumps(message) + b"\n")


class HostProcess:
    def __init__(self, first: Mapping[str, Any]) -> None:
        """`first`: what the process needs to know."""
        self._first = {"kind": MCP, **first}
        self._numbers = itertools.count(1)
        self._starting = asyncio.Lock()
        self._running: _Running | None = None
        self._is_stopped = False

    def __repr__(self) -> str:
        return f"<HostProcess {len(self._running.waiting) if self._running else 'not started'}>"

    async def ask(self, message: Mapping[str, Any], limit_s: float) -> Any:
        """Raises FastrouterError."""
        running = await self._ready()
        if len(running.waiting) >= MAX_WAITING or running.writer.get_write_buffer_size() > MAX_UNSENT_BYTES:
            raise Unavailable("too many calls of MCP servers are running")
        number = next(self._numbers)
        answer = running.waiting[number] = asyncio.get_running_loop().create_future()
        running.send({"id": number, **message})
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except TimeoutError:
            await self._end(running)  # it does not keep its own limits, so it hangs
            raise ToolError("the process of the MCP servers did not answer, and was ended") from None
        finally:
            running.waiting.pop(number, None)
            if not answer.done() or answer.cancelled():
                running.send({"id": number, "do": "cancel"})

    async def _ready(self) -> _Running:
        async with self._starting:
            if self._is_stopped:
                raise Unavailable("the server is stopping")
            if self._running is None or self._running.is_over:
                self._running = await self._start()
            return self._running

    async def _start(self) -> _Running:
        loop = asyncio.get_running_loop()
        try:
            process = await loop.run_in_executor(None, start_process, self._first)
        except OSError as error:
            raise ToolError(f"the process of the MCP servers cannot be started: {error}") from None
        reader = asyncio.StreamReader(limit=MAX_REPORT_BYTES)
        source, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
        writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, process.stdin)
        running = _Running(process, reader, source, writer)
        running.reading = loop.create_task(self._read(running))
        return running

    async def _read(self, running: _Running) -> None:
        why = "the process of the MCP servers ended"
        try:
            while line := await running.reader.readline():
                self._take(running, orjson.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            why = f"the process of the MCP servers sent something unreadable: {error}"
        await self._end(running, why)

    def _take(self, running: _Running, report: dict[str, Any]) -> None:
        future = running.waiting.get(report["id"])
        if future is not None and not future.done():
            future.set_result(report["answer"])

    async def _end(self, running: _Running, why: str = "the process of the MCP servers was ended") -> None:
        if running.is_over:
            return
        running.is_over = True
        for future in running.waiting.values():
            if not future.done():
                future.set_exception(ToolError(why))
        running.writer.abort()  # the end of its stdin is its sign to end
        running.source.close()
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, await_end, running.process))

    async def stop(self) -> None:
        self._is_stopped = True
        async with self._starting:
            running, self._running = self._running, None
        if running is not None:
            await self._end(running, "the server is stopping")
            if running.reading is not None:
                running.reading.cancel()
