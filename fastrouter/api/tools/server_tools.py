"""All tools that this router offers: the list for models, and calls by name.

Invariant: a tool that was not turned on cannot be called. The name of a built-in tool is never taken by an MCP tool.
"""

import importlib.util
import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

from fastrouter.api.tools.job import ToolJob
from fastrouter.api.tools.mcp_servers import McpServers
from fastrouter.api.tools.process import ToolProcesses
from fastrouter.config.config import Config
from fastrouter.errors import ConfigError, InvalidRequest
from fastrouter.options.tool_definitions import ALL, chosen
from fastrouter.system.confinement import landlock_version

log = logging.getLogger("fastrouter.tools")

NEEDED = "mcp>=2.3,<3"  # as in pyproject.toml
_SHELL = "exec_shell_command"


class UnknownTool(InvalidRequest):
    status = 404


class ServerTools:
    def __init__(self, config: Config) -> None:
        """Raises ConfigError."""
        if config.mcp_servers and importlib.util.find_spec("mcp") is None:
            raise ConfigError(f"MCP servers need the package mcp. Install it: {sys.executable} -m pip install '{NEEDED}'")
        self._root = config.tools_dir
        self._built_in = {tool.name: tool for tool in chosen(config.tools)}
        self._processes = ToolProcesses()
        self._mcp = McpServers(config.mcp_servers) if config.mcp_servers else None
        if _SHELL in self._built_in and not landlock_version():
            self._do_without_shell(is_named=ALL not in config.tools)

    def __repr__(self) -> str:
        return f"<ServerTools {list(self._built_in)} {self._mcp}>"

    def _do_without_shell(self, *, is_named: bool) -> None:
        why = f"{_SHELL} needs Landlock, which this kernel does not have: a command could not be confined to --tools-dir"
        if is_named:
            raise ConfigError(f"--tools: {why}")
        log.warning("%s; it is not offered", why)
        del self._built_in[_SHELL]

    def start(self) -> None:
        """Asks the MCP servers for their tools, in the background."""
        if self._mcp is not None:
            self._mcp.start()

    async def stop(self) -> None:
        if self._mcp is not None:
            await self._mcp.stop()

    def is_built_in(self, name: str) -> bool:
        return name in self._built_in

    async def list(self) -> list[dict[str, Any]]:
        found = [tool.to_json() for tool in self._built_in.values()]
        if self._mcp is not None:
            found += [tool.to_json() for tool in await self._mcp.list() if tool.name not in self._built_in]
        return found

    async def call(self, job: ToolJob) -> dict[str, Any]:
        """The result, or {"error": ...}. Raises FastrouterError."""
        if job.tool in self._built_in:
            return await self._processes.call(job)
        tool = await self._mcp.find(job.tool) if self._mcp is not None else None
        if tool is None or self._mcp is None:
            raise UnknownTool(f'unknown tool "{job.tool}"; GET /tools lists those that are there')
        return await self._mcp.call(tool, job.params)

    def follow(self, job: ToolJob) -> AsyncIterator[dict[str, Any]]:
        """Pieces of the output as they come. Raises FastrouterError."""
        tool = self._built_in.get(job.tool)
        if tool is None or not tool.can_stream:
            raise UnknownTool(f'tool "{job.tool}" does not support stream = true')
        return self._processes.follow(job)

    def job(self, name: str, params: dict[str, Any], cwd: str, *, is_stream: bool = False) -> ToolJob:
        return ToolJob(name, params, self._root, cwd, is_stream)
