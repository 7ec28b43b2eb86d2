"""What the flags for tools mean: names of built-in tools, and the file of MCP servers in the form that most MCP clients share:
{"mcpServers": {NAME: {"command": ...} or {"url": ...}}}.

Invariant: an error names the server and the key, and never shows a value: these may be secrets.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastrouter.errors import ConfigError
from fastrouter.options.tool_definitions import ALL, BY_NAME
from fastrouter.system.text_file import read_text

DEFAULT_TIMEOUT_S = 30.0
MAX_TIMEOUT_S = 3600.0
MAX_SERVERS = 64
_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_WEB = ("http", "streamable-http", "streamableHttp", "streamable_http")
_EXAMPLE = '{"mcpServers": {"NAME": {"command": "PROGRAM", "args": []}}}'


@dataclass(frozen=True, slots=True)
class McpServer:
    name: str
    command: str = ""  # a program that speaks MCP on its standard streams; or:
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict, repr=False)
    cwd: str = ""  # empty: the router's
    url: str = ""  # one that speaks MCP's streamable HTTP
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = DEFAULT_TIMEOUT_S

    @property
    def origin(self) -> tuple[str, str, int] | None:
        """(scheme, host, port) of its URL."""
        return origin_of(self.url) if self.url else None


def origin_of(url: str) -> tuple[str, str, int] | None:
    """None: it is not an http(s) URL with a host, or it has a user name."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or not url.isprintable() or " " in url:
        return None
    return parts.scheme, parts.hostname.lower().rstrip("."), port or (443 if parts.scheme == "https" else 80)


def check_tools(names: Sequence[str], folder: str) -> None:
    """--tools and --tools-dir. Raises ConfigError."""
    unknown = [name for name in names if name != ALL and name not in BY_NAME]
    if unknown:
        raise ConfigError(f"--tools: there is no tool {unknown[0]}; these exist: {ALL}, {', '.join(BY_NAME)}")
    if names and not folder:
        raise ConfigError("--tools needs --tools-dir DIR, the folder below which the tools work")


def read_tool_fields(fields: dict[str, Any]) -> None:
    """Replaces what only the flags know by fields of Config. Raises ConfigError."""
    if fields.pop("agent", False):
        fields |= {"tools": (ALL,), "ui_mcp_proxy": True}
    fields["mcp_servers"] = read_servers(fields.pop("mcp_servers_config", None), fields.pop("mcp_servers_json", None))


def read_servers(path: str | None, inline: dict[str, Any] | None) -> tuple[McpServer, ...]:
    """Of --mcp-servers-config and --mcp-servers-json. Raises ConfigError."""
    found: list[McpServer] = []
    if path is not None:
        place = f"--mcp-servers-config {path}"
        found += _servers_of(_parse(read_text(Path(path), place), place), place)
    if inline is not None:
        found += _servers_of(inline, "--mcp-servers-json")
    names = [server.name for server in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"the MCP server {twice} is in --mcp-servers-config and in --mcp-servers-json: give one of them another name")
    if len(found) > MAX_SERVERS:
        raise ConfigError(f"there are {len(found)} MCP servers, and there may be {MAX_SERVERS}")
    return tuple(found)


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: is not JSON: {error}") from None


def _servers_of(value: Any, place: str) -> list[McpServer]:
    servers = value.get("mcpServers") if isinstance(value, dict) else None
    if not isinstance(servers, dict):
        raise ConfigError(f"{place}: must be an object like {_EXAMPLE}")
    for name in servers:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{place}: the name {name[:64]!r} may have letters, digits, '_', '.' and '-' only, at most 64")
    given = {name: entry for name, entry in servers.items() if not (isinstance(entry, dict) and entry.get("disabled") is True)}
    return [_Entry(name, entry, f"{place}: server {name}").server() for name, entry in given.items()]


class _Entry:
    """One server as it stands in the file. Keys that other clients use are ignored."""

    def __init__(self, name: str, entry: Any, place: str) -> None:
        self._name = name
        self._place = place
        if not isinstance(entry, dict):
            raise self._wrong("", "must be an object")
        self._entry = entry

    def _wrong(self, key: str, problem: str) -> ConfigError:
        return ConfigError(f"{self._place}: {key and key + ' '}{problem}")

    def server(self) -> McpServer:
        command, url = self._text("command"), self._text("url")
        if bool(command) == bool(url):
            raise self._wrong("", "needs either command, a program to start, or url, an address of MCP's streamable HTTP")
        if url and (origin_of(url) is None or self._entry.get("type", "http") not in _WEB):
            raise self._wrong("url", "must be an http or https address of MCP's streamable HTTP, without a user name")
        headers = self._texts("headers")
        for name, value in headers.items():
            if not _HEADER.fullmatch(name) or not value.isprintable():
                raise self._wrong("headers", "has a name or a value that cannot be sent")
        return McpServer(self._name, command, self._args(), self._texts("env"), self._text("cwd"), url, headers, self._timeout_s())

    def _text(self, key: str) -> str:
        value = self._entry.get(key, "")
        if not isinstance(value, str) or "\0" in value:
            raise self._wrong(key, "must be a text")
        return value

    def _args(self) -> tuple[str, ...]:
        value = self._entry.get("args", [])
        if not isinstance(value, list) or not all(isinstance(each, str) and "\0" not in each for each in value):
            raise self._wrong("args", "must be a list of texts")
        return tuple(value)

    def _texts(self, key: str) -> dict[str, str]:
        value = self._entry.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(each, str) and "\0" not in each for each in value.values()):
            raise self._wrong(key, "must be an object of texts")
        return value

    def _timeout_s(self) -> float:
        value = self._entry.get("timeout_ms", DEFAULT_TIMEOUT_S * 1000)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MAX_TIMEOUT_S * 1000:
            raise self._wrong("timeout_ms", f"must be a number between 1 and {MAX_TIMEOUT_S * 1000:g}")
        return float(value) / 1000
