"""The router's side of MCP servers: what tools they have, and calls. A process of ours talks to all of them (mcp_host.py).

Invariant: only a tool that a server has listed is called. The library of MCP is never imported here, and no byte of a server is read here.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from fastrouter.api.tools.host_process import HostProcess
from fastrouter.config.tools import McpServer
from fastrouter.errors import FastrouterError

log = logging.getLogger("fastrouter.tools")

LIST_S = 15.0  # that a server may take to start and to list its tools
FRESH_S = 1.0  # a list stays valid without a question
_SLACK_S = 10.0  # for the process that talks to them


class McpTool(NamedTuple):
    server: str
    tool: str
    description: str
    schema: dict[str, Any]

    @property
    def name(self) -> str:
        """As models call it."""
        return f"{self.server}_{self.tool}"

    def to_json(self) -> dict[str, Any]:
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {
            "display_name": self.name,
            "tool": self.name,
            "type": "mcp",
            "permissions": {"write": False},
            "uses_cwd": False,
            "definition": {"type": "function", "function": function},
        }


class McpServers:
    def __init__(self, servers: Sequence[McpServer]) -> None:
        self._timeouts = {server.name: server.timeout_s for server in servers}
        self._host = HostProcess({"servers": [asdict(server) for server in servers], "list_s": LIST_S})
        self._tools: dict[str, McpTool] = {}  # of the last list, by name
        self._problems: dict[str, str] = {}  # by server
        self._listing: asyncio.Task[None] | None = None
        self._listed_at = -math.inf

    def __repr__(self) -> str:
        return f"<McpServers {list(self._timeouts)}>"

    def start(self) -> None:
        self._refresh()

    async def stop(self) -> None:
        if self._listing is not None:
            self._listing.cancel()
        await self._host.stop()

    async def list(self) -> list[McpTool]:
        """Of all servers that answer. Only the first caller waits for them; later ones get the last list, and a new one is made."""
        has_list = self._listed_at > -math.inf
        if not has_list or time.monotonic() - self._listed_at > FRESH_S:
            listing = self._refresh()
            if not has_list:
                await asyncio.shield(listing)
        return list(self._tools.values())

    async def find(self, name: str) -> McpTool | None:
        if name not in self._tools:
            await asyncio.shield(self._refresh())
        return self._tools.get(name)

    def _refresh(self) -> "asyncio.Task[None]":
        """One question for all who want to know."""
        if self._listing is None or self._listing.done():
            self._listing = asyncio.get_running_loop().create_task(self._look())
        return self._listing

    async def _look(self) -> None:
        try:
            answer = await self._host.ask({"do": "list"}, LIST_S + _SLACK_S)
        except FastrouterError as error:
            log.warning("the MCP servers cannot be asked: %s", error.message)
            return
        tools = [McpTool(*tool) for tool in answer["tools"]]
        found: dict[str, McpTool] = {}
        for tool in tools:
            found.setdefault(tool.name, tool)  # the first one of a name
        self._tools = found
        self._listed_at = time.monotonic()
        self._log(answer["problems"])

    def _log(self, problems: dict[str, str]) -> None:
        for server, problem in problems.items():
            if self._problems.get(server) != problem:
                log.warning("MCP server %s: %s", server, problem)
        for server in self._problems.keys() - problems.keys():
            log.info("MCP server %s: works again", server)
        self._problems = problems

    async def call(self, tool: McpTool, arguments: dict[str, Any]) -> dict[str, Any]:
        """The server's result, or {"error": ...}. Raises FastrouterError."""
        limit_s = self._timeouts[tool.server]
        message = {"do": "call", "server": tool.server, "tool": tool.tool, "arguments": arguments}
        answer: dict[str, Any] = await self._host.ask(message, limit_s + LIST_S + _SLACK_S)
        return answer
