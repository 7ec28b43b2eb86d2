"""MCP servers through a real router: real ones of the official package, over both transports, and ones that misbehave."""

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from conftest import FASTROUTER, IS_PACKAGE, REPOSITORY, Router, StartRouter, descendants_that_run, environment, eventually, is_alive

from fastrouter.api.tools.server_tools import NEEDED, ServerTools
from fastrouter.config.config import Config
from fastrouter.config.tools import McpServer
from fastrouter.errors import ConfigError

NOTES = str(REPOSITORY / "tests" / "support" / "notes_mcp_server.py")
ODD = str(REPOSITORY / "tests" / "support" / "odd_mcp_server.py")


def notes(**more: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": [NOTES, "stdio"], **more}


def odd(kind: str, **more: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": [ODD, kind], **more}


@contextlib.contextmanager
def http_notes(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The URL of a real server, and its process."""
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, NOTES, "http", str(port_file)])
    try:
        port = eventually(lambda: port_file.exists() and port_file.read_text(), "the MCP server's port")
        yield f"http://127.0.0.1:{port}/mcp", process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def with_servers(router: StartRouter, tmp_path: Path) -> Callable[..., Router]:
    def start(servers: dict[str, Any], *flags: str, **how: Any) -> Router:
        config = tmp_path / "mcp.json"
        config.write_text(json.dumps({"mcpServers": servers}))
        return router("--mcp-servers-config", str(config), *flags, is_fake=IS_PACKAGE, **how)

    return start


def names(server: Router) -> list[str]:
    return [tool["tool"] for tool in server.get("/tools").json]


def call(server: Router, tool: str, headers: dict[str, str] | None = None, **params: Any) -> dict[str, Any]:
    answer = server.post("/tools", {"tool": tool, "params": params}, headers)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


def text(server: Router, tool: str, **params: Any) -> str:
    found = call(server, tool, **params)
    assert "error" not in found, found
    return "".join(part["text"] for part in found["content"])


# ---------------------------------------------------------------- servers that behave


@pytest.fixture(scope="module")
def two(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """`local` is a program, `web` an address, `broken` and `gone` cannot be reached."""
    folder = tmp_path_factory.mktemp("mcp")
    with http_notes(folder) as (url, _):
        servers = {
            "local": notes(env={"NOTES_PATH": "x"}),
            "web": {"url": url, "headers": {"X-Wanted": "yes"}, "type": "http"},
            "broken": {"command": "this_program_does_not_exist_12345"},
            "gone": {"url": "http://127.0.0.1:9/mcp"},
            "off": {"command": "never", "disabled": True},
        }
        (folder / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
        yield module_router("--mcp-servers-config", str(folder / "mcp.json"), is_fake=IS_PACKAGE, env={"MY_SECRET": "hush"})


def test_tools_of_all_servers_are_listed_by_their_names(two: Router) -> None:
    assert two.get("/health").status == 200
    tools = two.get("/tools").json
    assert {tool["tool"] for tool in tools} == {
        f"{at}_{name}" for at in ("local", "web") for name in ("echo", "add", "fail_once", "sleep", "variables")
    }
    echo = next(tool for tool in tools if tool["tool"] == "local_echo")
    assert (echo["type"], echo["display_name"], echo["permissions"], echo["uses_cwd"]) == ("mcp", "local_echo", {"write": False}, False)
    function = echo["definition"]["function"]
    assert (echo["definition"]["type"], function["name"], function["description"]) == ("function", "local_echo", "Say it again.")
    assert (function["parameters"]["type"], list(function["parameters"]["properties"])) == ("object", ["message"])
    eventually(lambda: "MCP server broken: it cannot be reached" in two.log and "MCP server gone" in two.log, "the reasons in the log")


@pytest.mark.parametrize("server", ["local", "web"])
class TestBothTransports:
    def test_calls(self, two: Router, server: str) -> None:
        assert text(two, f"{server}_echo", message="hello wörld") == "hello wörld"
        assert float(text(two, f"{server}_add", a=3, b=5)) == 8

    def test_what_fails_is_said(self, two: Router, server: str) -> None:
        found = call(two, f"{server}_fail_once")
        assert found["isError"] is True
        assert "fail_once" in found["content"][0]["text"]
        assert text(two, f"{server}_fail_once") == "ok"
        assert "error" in call(two, f"{server}_add", a="x") or call(two, f"{server}_add", a="x")["isError"]

    def test_many_calls_one_after_the_other_and_together(self, two: Router, server: str) -> None:
        for number in range(20):
            assert text(two, f"{server}_echo", message=f"m{number}") == f"m{number}"
        with ThreadPoolExecutor(10) as threads:
            found = list(threads.map(lambda number: text(two, f"{server}_echo", message=f"m{number}"), range(10)))
        assert found == [f"m{number}" for number in range(10)]

    def test_headers_for_built_in_tools_change_nothing(self, two: Router, server: str) -> None:
        headers = {"x-tool-cwd": "/client", "x-tool-runtime": "ssh:somewhere", "x-resp-type": "base64"}
        found = call(two, f"{server}_echo", headers, message="m")
        assert found["content"][0]["text"] == "m"


def test_a_program_gets_only_the_variables_that_are_meant_for_it(two: Router) -> None:
    found = text(two, "local_variables").split()
    assert "NOTES_PATH" in found
    assert "PATH" in found
    assert not {"MY_SECRET", "LLAMA_CACHE", "HF_HOME"} & set(found)


def test_unknown_tools(two: Router) -> None:
    for name in ("local_missing", "missing_echo", "broken_echo", "read_file", "echo"):
        answer = two.post("/tools", {"tool": name, "params": {}})
        assert (answer.status, "unknown tool" in answer.error["message"]) == (404, True)
    assert two.post("/tools", {"tool": "local_echo", "params": {"message": "x"}, "stream": True}).status == 404


def test_the_router_does_not_import_the_library(two: Router) -> None:
    names(two)
    assert "/mcp/" not in Path(f"/proc/{two.process.pid}/maps").read_text()
    assert "pydantic_core" not in Path(f"/proc/{two.process.pid}/maps").read_text()
    [host] = host_pids(two)
    assert "pydantic_core" in Path(f"/proc/{host}/maps").read_text()


def host_pids(server: Router) -> list[int]:
    return descendants_that_run(server.process.pid, b"fastrouter.api.tools")


def test_built_in_tools_and_servers_together(with_servers: Callable[..., Router], tmp_path: Path) -> None:
    server = with_servers({"read": notes()}, "--tools", "get_info", "--tools-dir", str(tmp_path))
    assert set(names(server)) == {"get_info", "read_echo", "read_add", "read_fail_once", "read_sleep", "read_variables"}


# ---------------------------------------------------------------- servers that do not


@pytest.fixture(scope="module")
def odd_ones(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    kinds = ("crash", "burst", "garbage", "long", "mute", "flood", "child", "empty", "huge", "wrong", "twice", "stubborn")
    servers = {kind: odd(kind, timeout_ms={"mute": 1500, "huge": 4000}.get(kind, 20_000)) for kind in kinds}
    servers["refuses"] = odd("refuses")
    config = tmp_path_factory.mktemp("odd") / "mcp.json"
    config.write_text(json.dumps({"mcpServers": servers}))
    return module_router("--mcp-servers-config", str(config), is_fake=IS_PACKAGE)


def test_only_their_own_tools_are_missing(odd_ones: Router) -> None:
    found = names(odd_ones)
    assert {name.removesuffix("_echo") for name in found} == {
        *("crash", "burst", "garbage", "long", "mute", "flood", "child", "huge", "wrong", "twice", "stubborn")
    }
    eventually(lambda: "the notes are locked" in odd_ones.log, "the last words of a server that refused")


@pytest.mark.parametrize("kind", ["burst", "garbage", "long", "child", "stubborn"])
def test_nonsense_before_an_answer_is_left_out(odd_ones: Router, kind: str) -> None:
    for number in range(3):
        assert text(odd_ones, f"{kind}_echo", message=f"m{number}") == f"m{number}"


def test_a_server_that_died_is_started_again(odd_ones: Router) -> None:
    for number in range(3):
        assert text(odd_ones, "crash_echo", message=f"m{number}") == f"m{number}"
        time.sleep(0.3)  # until its end is known


def test_a_server_that_refused_a_call_keeps_its_state(odd_ones: Router) -> None:
    assert "ask again" in call(odd_ones, "twice_echo", message="m")["error"]
    assert text(odd_ones, "twice_echo", message="m") == "m"


@pytest.mark.parametrize(
    ("kind", "problem"), [("mute", "did not answer within 1.5 s"), ("wrong", "the call failed"), ("huge", "more than 8 MiB was left out")]
)
def test_a_call_without_a_proper_answer_ends_with_an_error(odd_ones: Router, kind: str, problem: str) -> None:
    found = call(odd_ones, f"{kind}_echo", message="m")
    assert problem in found["error"]
    assert f"MCP server {kind}" in found["error"]
    assert text(odd_ones, "burst_echo", message="still here") == "still here"


def test_a_flood_of_notices_does_not_stop_the_others(odd_ones: Router) -> None:
    assert text(odd_ones, "flood_echo", message="m") == "m"
    assert text(odd_ones, "burst_echo", message="m") == "m"
    assert odd_ones.get("/health").status == 200


def test_a_server_that_never_answers_does_not_hold_the_list_for_ever(with_servers: Callable[..., Router]) -> None:
    server = with_servers({"deaf": odd("deaf", timeout_ms=100), "good": odd("burst")})
    assert names(server) == ["good_echo"]
    assert text(server, "good_echo", message="m") == "m"
    eventually(lambda: "MCP server deaf: it did not answer within" in server.log, "the reason in the log")


def test_a_process_of_ours_that_dies_is_started_again(with_servers: Callable[..., Router]) -> None:
    server = with_servers({"good": odd("burst")})
    assert text(server, "good_echo", message="m") == "m"
    [host] = host_pids(server)
    os.kill(host, signal.SIGKILL)
    eventually(lambda: not is_alive(host), "its end")
    eventually(lambda: "error" not in server.post("/tools", {"tool": "good_echo", "params": {"message": "m"}}).json, "another process")
    assert host_pids(server) != [host]


def test_a_web_server_that_comes_back_is_used_again(with_servers: Callable[..., Router], tmp_path: Path) -> None:
    with http_notes(tmp_path) as (url, first):
        server = with_servers({"web": {"url": url, "timeout_ms": 5000}})
        assert text(server, "web_echo", message="m") == "m"
        first.kill()
        first.wait()
        assert "error" in call(server, "web_echo", message="m")
        assert server.get("/health").status == 200


def test_a_redirect_to_another_place_is_not_followed(with_servers: Callable[..., Router]) -> None:
    reached: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            reached.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as target:
        Thread(target=target.serve_forever, daemon=True).start()

        class Redirecting(Elsewhere):
            def do_POST(self) -> None:
                self.send_response(307)
                self.send_header("Location", f"http://127.0.0.1:{target.server_port}/private")
                self.end_headers()

        with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as door:
            Thread(target=door.serve_forever, daemon=True).start()
            server = with_servers({"door": {"url": f"http://127.0.0.1:{door.server_port}/mcp"}})
            assert names(server) == []
            eventually(lambda: "MCP server door" in server.log, "the reason in the log")
            door.shutdown()
        target.shutdown()
    assert reached == []


def test_a_client_that_leaves_cancels_its_call(two: Router) -> None:
    server = two
    assert "local_sleep" in names(server)
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request(
        "POST", "/tools", json.dumps({"tool": "local_sleep", "params": {"seconds": 50}}), {"Content-Type": "application/json"}
    )
    time.sleep(0.3)
    connection.close()
    assert text(server, "local_echo", message="m") == "m"


def test_the_end_does_not_wait_for_a_slow_call(with_servers: Callable[..., Router]) -> None:
    server = with_servers(
        {"local": notes(timeout_ms=60_000), "stubborn": odd("stubborn"), "child": odd("child")}, "--shutdown-timeout", "0.5"
    )
    assert "local_sleep" in names(server)
    assert text(server, "stubborn_echo", message="m") == text(server, "child_echo", message="m") == "m"
    with ThreadPoolExecutor(1) as thread:

        def slow() -> None:
            with contextlib.suppress(OSError):
                server.post("/tools", {"tool": "local_sleep", "params": {"seconds": 50}})

        waiting = thread.submit(slow)
        time.sleep(0.5)
        assert server.stop() == 0  # it also checks that no process is left
        waiting.result(20)


# ---------------------------------------------------------------- the file


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    def start(content: str | None, *flags: str) -> str:
        config = tmp_path / "mcp.json"
        if content is not None:
            config.write_text(content)
        more = flags or ("--mcp-servers-config", str(config))
        found = subprocess.run([*FASTROUTER, "--port", "0", *more], capture_output=True, text=True, env=environment(tmp_path), check=False)
        assert found.returncode == 1, found
        return found.stderr

    return start


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no such file"),
        ("not valid json", "is not JSON"),
        ("[]", "must be an object like"),
        ('{"mcpServers": []}', "must be an object like"),
        ('{"mcpServers": {"a": 1}}', "server a: must be an object"),
        ('{"mcpServers": {"a": {}}}', "server a: needs either command"),
        ('{"mcpServers": {"a": {"command": "x", "url": "http://x/"}}}', "server a: needs either command"),
        ('{"mcpServers": {"a": {"url": "ftp://x/"}}}', "server a: url must be an http or https address"),
        ('{"mcpServers": {"a": {"url": "http://me:secretword@x/"}}}', "server a: url must be"),
        ('{"mcpServers": {"a": {"command": "x", "args": "secretword"}}}', "server a: args must be a list of texts"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"A": 1}}}}', "server a: env must be an object of texts"),
        ('{"mcpServers": {"a": {"url": "http://x/", "headers": {"A b": "secretword"}}}}', "server a: headers has a name"),
        ('{"mcpServers": {"a": {"url": "http://x/", "headers": {"A": "secretword\\r\\nB: c"}}}}', "server a: headers has a name"),
        ('{"mcpServers": {"a": {"command": "x", "timeout_ms": 0}}}', "server a: timeout_ms must be a number between"),
        ('{"mcpServers": {"a b": {"command": "x"}}}', "the name 'a b' may have"),
    ],
)
def test_a_wrong_file_stops_the_start(refused: Callable[..., str], content: str | None, problem: str) -> None:
    message = refused(content)
    assert problem in message
    assert "secretword" not in message


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"need the package mcp. Install it: {sys.executable} -m pip install '{NEEDED}'$"):
        ServerTools(Config(mcp_servers=(McpServer("notes", "x"),)))
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["mcp"] == [NEEDED]


def test_both_flags_together(refused: Callable[..., str], tmp_path: Path) -> None:
    servers = '{"mcpServers": {"a": {"command": "x"}}}'
    (tmp_path / "mcp.json").write_text(servers)
    assert "is in --mcp-servers-config and in" in refused(
        None, "--mcp-servers-config", str(tmp_path / "mcp.json"), "--mcp-servers-json", servers
    )
    assert "must be a JSON object" in refused(None, "--mcp-servers-json", '["secretword"]')
    assert "secretword" not in refused(None, "--mcp-servers-json", '["secretword"]')
    assert "need an API key" in refused(None, "--mcp-servers-json", servers, "--host", "0.0.0.0", "--insecure")
