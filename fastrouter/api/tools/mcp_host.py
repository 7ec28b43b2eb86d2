"""Conversations with all MCP servers, by the official client, in a process of its own. Only a tool's process imports this.

Invariant: a server that hangs, dies or sends nonsense costs only its own calls, within their time. Each question of the router gets one
answer, unless the router cancels it.
"""

import asyncio
import contextlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, INTERNAL_ERROR, INVALID_REQUEST, Implementation

from fastrouter import __version__
from fastrouter.api.tools.confine import adopt_orphans
from fastrouter.api.tools.mcp_program import Tail, plain, program
from fastrouter.api.tools.shell import end_all

MAX_TOOLS = 512  # of a server
MAX_PAGES = 64
MAX_RESULT_BYTES = 8 << 20
MAX_REASON_CHARACTERS = 500
LEAST_START_S = 3.0
PAUSE_S = 5.0  # after a failed attempt to connect
END_S = 2.0
_CLOSED = (CONNECTION_CLOSED, "Connection closed")  # so the library says it; servers use this code for errors of their own
_SESSION_ENDED = (INVALID_REQUEST, INTERNAL_ERROR)  # so HTTP servers say it


class Unreachable(Exception):
    """The reason why a server cannot be used now."""


class Server:
    """One MCP server: a connection when one is needed, again after it was lost."""

    def __init__(self, config: dict[str, Any], list_s: float) -> None:
        self._config = config
        self._list_s = min(list_s, max(config["timeout_s"], LEAST_START_S))  # also for its start
        self._connecting = asyncio.Lock()
        self._client: Client | None = None
        self._holding: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._tail = Tail()
        self._problem = ""
        self._not_before = 0.0
        self._num_calls = 0

    def __repr__(self) -> str:
        return f"<Server {self._config['name']} {'connected' if self._client else self._problem}>"

    async def tools(self) -> list[list[Any]]:
        """[server, name, description, schema] of each tool. Raises Unreachable."""
        async with self._using(self._list_s, "its list of tools") as client:
            found: list[list[Any]] = []
            cursor: str | None = None
            for _ in range(MAX_PAGES):
                page = await client.list_tools(cursor=cursor, cache_mode="refresh")
                found += [[self._config["name"], tool.name, tool.description or "", tool.input_schema] for tool in page.tools]
                cursor = page.next_cursor
                if not cursor or len(found) >= MAX_TOOLS:
                    break
        return found[:MAX_TOOLS]

    async def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The server's result. Raises Unreachable."""
        limit_s = self._config["timeout_s"]
        async with self._using(limit_s, "the call") as client:
            result = await client.call_tool(tool, arguments)
        found: dict[str, Any] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        if len(json.dumps(found)) > MAX_RESULT_BYTES:
            raise Unreachable(f"the result is larger than {MAX_RESULT_BYTES >> 20} MiB")
        return found

    @contextlib.asynccontextmanager
    async def _using(self, limit_s: float, what: str) -> AsyncIterator[Client]:
        client = await self._connected()
        self._num_calls += 1
        try:
            async with asyncio.timeout(limit_s):
                yield client
        except TimeoutError:
            if self._num_calls == 1:
                self._lose(client)  # it may hang
            raise Unreachable(self._tail.of(f"it did not answer within {limit_s:g} s ({what})")) from None
        except MCPError as error:
            is_lost = self._is_lost(error)
            if is_lost:
                self._lose(client)
            raise Unreachable(self._tail.of(_why(error)) if is_lost else _why(error)) from None
        except Exception as error:  # the library passes on whatever a server does
            self._lose(client)
            raise Unreachable(self._tail.of(f"{what} failed: {_why(error)}")) from None
        finally:
            self._num_calls -= 1

    def _is_lost(self, error: MCPError) -> bool:
        """Whether the connection or its session has ended. A program that has only refused a call is used again, with its state."""
        code, message = error.error.code, error.error.message
        return (code, message) == _CLOSED or (not self._config["command"] and code in _SESSION_ENDED)

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None:
                if time.monotonic() < self._not_before:
                    raise Unreachable(self._problem)
                await self._connect()
            assert self._client is not None
            return self._client

    async def _connect(self) -> None:
        ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._tail, self._closing = Tail(), asyncio.Event()
        self._holding = asyncio.create_task(self._hold(ready, self._closing))
        try:
            async with asyncio.timeout(self._list_s):
                self._client = await asyncio.shield(ready)
        except (TimeoutError, Unreachable) as error:
            self._holding.cancel()
            why = f"it did not answer within {self._list_s:g} s" if isinstance(error, TimeoutError) else str(error)
            self._problem, self._not_before = self._tail.of(why), time.monotonic() + PAUSE_S
            raise Unreachable(self._problem) from None

    async def _hold(self, ready: "asyncio.Future[Client]", closing: asyncio.Event) -> None:
        """Opens a connection, keeps it until `closing`, and closes it, all in one task, as the library needs it."""
        client: Client | None = None
        try:
            async with (
                self._transport(closing) as transport,
                Client(transport, client_info=Implementation(name="fastrouter", version=__version__)) as client,
            ):
                with contextlib.suppress(MCPError):  # the library checks results by this list, and would ask for it after the first one
                    await client.list_tools()
                ready.set_result(client)
                await closing.wait()
                await self._drain()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # groups of exceptions too
            if not ready.done():
                ready.set_exception(Unreachable(f"it cannot be reached: {_why(error)}"))
        finally:
            if client is not None:
                self._lose(client)
            if not ready.done():
                ready.cancel()

    async def _drain(self) -> None:
        """An answer may have come just before the end."""
        end = time.monotonic() + END_S
        while self._num_calls and time.monotonic() < end:
            await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def _transport(self, closing: asyncio.Event) -> AsyncIterator[Any]:
        config = self._config
        if config["command"]:
            yield program(config, self._tail, lambda: self._ended(closing))
            return
        timeout = httpx2.Timeout(self._list_s, read=config["timeout_s"] + self._list_s)
        async with httpx2.AsyncClient(headers=config["headers"], timeout=timeout) as http:
            yield streamable_http_client(config["url"], http_client=http, max_sse_event_size=MAX_RESULT_BYTES)

    def _lose(self, client: Client) -> None:
        """The next use connects again."""
        if self._client is client:
            self._client = None
            self._closing.set()

    def _ended(self, closing: asyncio.Event) -> None:
        """The program writes no more."""
        closing.set()
        if self._closing is closing:
            self._client = None

    async def close(self) -> None:
        self._closing.set()
        if self._holding is not None:
            await asyncio.wait({self._holding}, timeout=END_S)


def _why(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MCPError):
        return plain(error.error.message, MAX_REASON_CHARACTERS)
    return plain(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, MAX_REASON_CHARACTERS)


class Host:
    def __init__(self, servers: list[dict[str, Any]], list_s: float) -> None:
        self._servers = {server["name"]: Server(server, list_s) for server in servers}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._end = asyncio.Event()

    async def run(self) -> None:
        threading.Thread(target=self._listen, args=(asyncio.get_running_loop(),), daemon=True).start()
        await self._end.wait()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.wait([asyncio.create_task(server.close()) for server in self._servers.values()], timeout=END_S)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread. At the end of stdin all ends, also when the loop hangs."""
        for line in sys.stdin.buffer:
            loop.call_soon_threadsafe(self._take, json.loads(line))
        loop.call_soon_threadsafe(self._end.set)
        time.sleep(END_S)
        end_all()
        os._exit(0)

    def _take(self, message: dict[str, Any]) -> None:
        number = message["id"]
        if message["do"] == "cancel":
            if number in self._tasks:
                self._tasks[number].cancel()
            return
        task = self._tasks[number] = asyncio.create_task(self._answer(number, message))
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _answer(self, number: int, message: dict[str, Any]) -> None:
        answer = await (self._list() if message["do"] == "list" else self._call(message))
        sys.stdout.buffer.write(json.dumps({"id": number, "answer": answer}).encode() + b"\n")
        sys.stdout.buffer.flush()

    async def _list(self) -> dict[str, Any]:
        found = await asyncio.gather(*(server.tools() for server in self._servers.values()), return_exceptions=True)
        problems = {
            name: str(each) or type(each).__name__
            for name, each in zip(self._servers, found, strict=True)
            if isinstance(each, BaseException)
        }
        return {"tools": [tool for each in found if not isinstance(each, BaseException) for tool in each], "problems": problems}

    async def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._servers[message["server"]].call(message["tool"], message["arguments"])
        except Unreachable as error:
            return {"error": f"MCP server {message['server']}: {error}"}


def run_host(message: dict[str, Any]) -> int:
    """Until the end of stdin."""
    adopt_orphans()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asyncio.run(Host(message["servers"], message["list_s"]).run())
    end_all()
    return 0
