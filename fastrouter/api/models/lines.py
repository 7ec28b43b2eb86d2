"""A stream of JSON lines, or of events, to one client while an operation runs.

Invariant: when the client leaves, the stream ends, but the operation continues.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson

from fastrouter._core import SseWriter
from fastrouter.errors import FastrouterError
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import NDJSON_HEADERS, SSE_HEADERS
from fastrouter.http.sse import json_event


class LineStream(SseWriter):
    """Answers its exchange with the lines of an iterator."""

    headers = NDJSON_HEADERS

    def __init__(self, exchange: Exchange, lines: AsyncIterator[dict[str, Any]]) -> None:
        super().__init__(exchange.transport, exchange.stream_head(self.headers), chunked=exchange.is_chunked)
        self._exchange = exchange
        exchange.responder = self
        self._task = asyncio.get_running_loop().create_task(self._run(lines))

    async def _run(self, lines: AsyncIterator[dict[str, Any]]) -> None:
        try:
            async for line in lines:
                self._write(line)
        except FastrouterError as error:
            self._write({"error": error.message})
        self.finish()
        self._exchange.end_stream()

    def _write(self, line: dict[str, Any]) -> None:
        self.write_event(self._text_of(line))
        self.flush()

    def _text_of(self, line: dict[str, Any]) -> bytes:
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)

    def disconnect(self) -> None:
        self._task.cancel()

    def fail(self, error: Exception) -> None:
        """The server is stopping."""
        self._task.cancel()
        self._write({"error": str(error)})
        self.cut()
        self._exchange.end(is_whole=False)

    def on_overflow(self) -> None:
        self.disconnect()
        self._exchange.abort()


class EventLines(LineStream):
    """The same as server-sent events."""

    headers = SSE_HEADERS

    def _text_of(self, line: dict[str, Any]) -> bytes:
        return json_event(line)
