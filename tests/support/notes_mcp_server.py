"""A real MCP server of the official package, as a program: `notes_mcp_server.py stdio`, or `http PORT-FILE` on a free loopback port."""

import asyncio
import os
import socket
import sys
from pathlib import Path

from mcp.server import MCPServer

notes = MCPServer("notes")
failed: set[str] = set()


@notes.tool()
def echo(message: str) -> str:
    """Say it again."""
    return message


@notes.tool()
def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


@notes.tool()
def fail_once() -> str:
    """Fails the first time."""
    if "once" not in failed:
        failed.add("once")
        raise ValueError("not yet")
    return "ok"


@notes.tool()
async def sleep(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return "slept"


@notes.tool()
def variables() -> str:
    """The names of the environment variables."""
    return " ".join(sorted(os.environ))


def serve_http(port_file: str) -> None:
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(notes.streamable_http_app(), log_level="error"))
    Path(port_file).write_text(str(listener.getsockname()[1]))
    server.run(sockets=[listener])


if __name__ == "__main__":
    if sys.argv[1] == "http":
        serve_http(sys.argv[2])
    else:
        notes.run("stdio")
