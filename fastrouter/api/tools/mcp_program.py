"""An MCP server that is a program: its standard streams as a transport for the official client.

Invariant: a line longer than the limit, or one that is not a message, is left out and the conversation goes on. At the end the program and
its group of processes have ended. Only a tool's process imports this.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

MAX_LINE_BYTES = 8 << 20
MAX_TAIL_CHARACTERS = 2000
GRACE_S = 1.0
_PIECE_BYTES = 4096


def plain(text: str, most: int) -> str:
    """Text of a server in one line, without characters that mean something to a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))[:most]


class Tail:
    """The last of what a program wrote to stderr."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, piece: bytes) -> None:
        self.text = (self.text + piece.decode("utf-8", "replace"))[-MAX_TAIL_CHARACTERS:]

    def of(self, problem: str) -> str:
        said = plain(self.text, MAX_TAIL_CHARACTERS)
        return f"{problem}; its last words: {said}" if said else problem


@contextlib.asynccontextmanager
async def program(server: dict[str, Any], tail: Tail, on_end: Callable[[], None]) -> AsyncIterator[tuple[Any, Any]]:
    """`server`: command, args, env, cwd. `on_end`: when it writes no more. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        server["command"],
        *server["args"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=get_default_environment() | server["env"],
        cwd=server["cwd"] or None,
        limit=MAX_LINE_BYTES,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    to_session, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    tasks = [
        asyncio.create_task(_read(process.stdout, to_session, tail, on_end)),
        asyncio.create_task(_write(from_session, process.stdin)),
        asyncio.create_task(_listen(process.stderr, tail)),
    ]
    try:
        yield read, write
    finally:
        for task in tasks:
            task.cancel()
        for stream in (to_session, read, write, from_session):
            stream.close()
        await asyncio.shield(_end(process))


async def _read(source: asyncio.StreamReader, to_session: Any, tail: Tail, on_end: Callable[[], None]) -> None:
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
        while True:
            try:
                line = await source.readline()
            except ValueError:  # what follows of it cannot be read either
                tail.add(b" (a line of more than %d MiB was left out) " % (MAX_LINE_BYTES >> 20))
                continue
            if not line:
                break
            with contextlib.suppress(ValueError):
                await to_session.send(SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False)))
    on_end()
    to_session.close()  # the session notices the end


async def _write(from_session: Any, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, anyio.ClosedResourceError):
        async for message in from_session:
            sink.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            await sink.drain()


async def _listen(source: asyncio.StreamReader, tail: Tail) -> None:
    while piece := await source.read(_PIECE_BYTES):
        tail.add(piece)


async def _end(process: asyncio.subprocess.Process) -> None:
    """First politely: the end of its stdin is the sign to end."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(GRACE_S):
            await process.wait()
    except TimeoutError:
        pass
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)  # also what it has started
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE_S):  # another process may hold its pipes open
            await process.wait()
