"""The built-in tools through a real router: what they answer, what they cannot reach, who may use them."""

import ast
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import FASTROUTER, IS_PACKAGE, REPOSITORY, Router, StartRouter, descendants_that_run, environment, eventually, is_alive

from fastrouter.options.tool_definitions import BUILT_IN
from fastrouter.system.confinement import landlock_version

NAMES = [tool.name for tool in BUILT_IN]
needs_landlock = pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")


LIBRARIES = os.environ.get("LD_LIBRARY_PATH", "/opt/mine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tools/ is the folder of the tools; beside it is what they must not reach."""
    around = tmp_path_factory.mktemp("around")
    (around / "secret.txt").write_text("a secret\n")
    (around / "tools").mkdir()
    (around / "tools-2").mkdir()
    (around / "tools-2" / "near.txt").write_text("a secret\n")
    return around / "tools"


@pytest.fixture(scope="module")
def server(module_router: StartRouter, folder: Path) -> Router:
    env = {"LLAMA_ARG_HF_TOKEN": "", "SECRET_THING": "hush", "LD_LIBRARY_PATH": LIBRARIES}
    return module_router("--tools", "all", "--tools-dir", str(folder), is_fake=IS_PACKAGE, env=env)


@pytest.fixture
def here(folder: Path, request: pytest.FixtureRequest) -> Path:
    """A folder for one test."""
    own = folder / request.node.name.partition("[")[0]
    own.mkdir(exist_ok=True)
    return own


def call(server: Router, tool: str, headers: dict[str, str] | None = None, **params: Any) -> dict[str, Any]:
    answer = server.post("/tools", {"tool": tool, "params": params}, headers)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


def text(server: Router, tool: str, headers: dict[str, str] | None = None, **params: Any) -> str:
    found = call(server, tool, headers, **params)
    assert "error" not in found, found
    return str(found["plain_text_response"])


def error(server: Router, tool: str, **params: Any) -> str:
    return str(call(server, tool, **params)["error"])


# ---------------------------------------------------------------- the list


def test_the_list_has_llama_servers_shape(server: Router) -> None:
    tools = server.get("/tools").json
    assert [tool["tool"] for tool in tools if tool["type"] == "builtin"] == NAMES
    for tool in tools:
        assert set(tool) == {"display_name", "tool", "type", "permissions", "uses_cwd", "definition"}
        function = tool["definition"]["function"]
        assert (tool["definition"]["type"], function["name"]) == ("function", tool["tool"])
        assert function["parameters"]["type"] == "object"
        assert set(function["parameters"].get("required", [])) <= set(function["parameters"]["properties"])
    assert {tool["tool"] for tool in tools if tool["permissions"]["write"]} == {"exec_shell_command", "write_file", "edit_file"}
    assert server.get("/props").json["tools_enabled"] is True


def test_only_the_named_tools_are_there(router: StartRouter, tmp_path: Path) -> None:
    server = router("--tools", "read_file,get_info", "--tools-dir", str(tmp_path), is_fake=IS_PACKAGE)
    assert [tool["tool"] for tool in server.get("/tools").json] == ["read_file", "get_info"]
    answer = server.post("/tools", {"tool": "write_file", "params": {"path": "x", "content": "x"}})
    assert (answer.status, answer.error["type"]) == (404, "invalid_request_error")
    assert 'unknown tool "write_file"' in answer.error["message"]
    assert not (tmp_path / "x").exists()


def test_without_the_flag_there_is_nothing(router: StartRouter) -> None:
    server = router(is_fake=IS_PACKAGE)
    for answer in (server.get("/tools"), server.post("/tools", {"tool": "read_file"}), server.get("/cors-proxy")):
        assert (answer.status, answer.error["type"]) == (403, "feature_disabled")
    assert "tools_enabled" not in server.get("/props").json


def test_what_is_off_is_not_imported() -> None:
    script = "import sys, fastrouter.app.service; print([name for name in sys.modules if name.startswith(('fastrouter.api.tools', 'mcp'))])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert set(ast.literal_eval(found.stdout)) <= {"fastrouter.api.tools", "fastrouter.api.tools.job", "fastrouter.api.tools.video"}


# ---------------------------------------------------------------- llama-server's own cases


def test_write_then_read_then_edit(server: Router, here: Path) -> None:
    path = str(here / "new" / "file.log")
    assert call(server, "write_file", path=path, content="line1\nline2\nline3\n")["result"] == "file written successfully"
    assert text(server, "read_file", path=path) == "line1\nline2\nline3\n"
    edits = [{"old_text": "line2", "new_text": "line2-edited"}, {"old_text": "line3\n", "new_text": "line3\nline4\n"}]
    found = call(server, "edit_file", path=path, edits=edits)
    assert (found["result"], found["edits_applied"]) == ("file edited successfully", 2)
    assert text(server, "read_file", path=path) == "line1\nline2-edited\nline3\nline4\n"


def test_edits_must_be_clear(server: Router, here: Path) -> None:
    path = here / "file"
    path.write_text("dup\ndup\nline1\nline2\n")

    def refused(*pairs: tuple[str, str]) -> str:
        return error(server, "edit_file", path=str(path), edits=[{"old_text": old, "new_text": new} for old, new in pairs])

    assert "unique" in refused(("dup", "x"))
    assert "overlap" in refused(("line1\nline2", "a"), ("line2", "b"))
    assert "letter by letter" in refused(("line3", "x"))
    assert "change nothing" in refused(("line1", "line1"))
    assert "edits[0]" in refused(("", "x"))
    assert path.read_text() == "dup\ndup\nline1\nline2\n"


def test_lines_of_a_file(server: Router, here: Path) -> None:
    path = here / "file"
    path.write_text("one\ntwo\nthree\n")
    assert text(server, "read_file", path=str(path), start_line=2, end_line=2) == "two\n"
    assert text(server, "read_file", path=str(path), append_loc=True) == "1→one\n2→two\n3→three\n"
    path.write_text("x" * 1000 + "\n")
    path.write_text(path.read_text() * 30)
    assert "start_line" in error(server, "read_file", path=str(path))
    assert text(server, "read_file", path=str(path), end_line=30).endswith("[output truncated]")
    found = call(server, "read_file", {"x-resp-type": "base64"}, path=str(path))
    assert (found["size_bytes"], len(found["base64"])) == (30030, 40040)
    assert "base64" not in call(server, "read_file", path=str(path), end_line=1, resp_type="base64")  # a model cannot ask for it


def test_grep(server: Router, here: Path) -> None:
    (here / "src").mkdir()
    (here / "src" / "a.py").write_text("before\nthe Marker (1)\nafter\n")
    (here / "b.txt").write_text("the Marker (1)\n")
    (here / "binary").write_bytes(b"\0the Marker (1)")
    found = text(server, "grep_search", path=str(here), pattern="Mark.r", include="*.py")
    assert found == "src/a.py:the Marker (1)\n\n---\nTotal matches: 1\n"
    assert "Total matches: 2" in text(server, "grep_search", path=str(here), pattern="marker (1)", literal=True, ignore_case=True)
    around = text(server, "grep_search", path=str(here / "src" / "a.py"), pattern="Marker", context_lines=1)
    assert around.splitlines()[:3] == [f"{here}/src/a.py-1-before", f"{here}/src/a.py:2:the Marker (1)", f"{here}/src/a.py-3-after"]
    assert "Total matches: 1" in text(server, "grep_search", path=str(here), pattern="Marker", exclude="src/*.py")
    assert "invalid regex" in error(server, "grep_search", path=str(here), pattern="(")
    (here / "many").write_text("x\n" * 500)
    assert "Total matches: 100" in text(server, "grep_search", path=str(here), pattern="x", include="many")


def test_glob_types_depth_and_limit(server: Router, here: Path) -> None:
    (here / "project-alpha" / "src").mkdir(parents=True)
    (here / "project-alpha" / "README.md").write_text("alpha")
    (here / "build" / "nested").mkdir(parents=True)
    (here / "build" / "artifact.txt").write_text("built")
    (here / "top.txt").write_text("top")

    def paths(**params: Any) -> list[str]:
        return [entry["path"] for entry in call(server, "file_glob_search", path=str(here), **params)["entries"]]

    assert paths(type="dir") == ["build", "project-alpha", "project-alpha/src"]  # build can be chosen, but is not searched
    assert paths() == ["project-alpha/README.md", "top.txt"]
    assert paths(max_depth=1) == ["top.txt"]
    assert paths(type="all", include="*proj*") == ["project-alpha"]
    assert paths(include="project-alpha/*.md") == paths(include="**/*.md") == ["project-alpha/README.md"]
    found = call(server, "file_glob_search", path=str(here), limit=1)
    assert (len(found["entries"]), found["base"]) == (1, str(here))
    assert "Total matches: 2" in found["plain_text_response"]
    assert "project-alpha/\n" in text(server, "file_glob_search", path=str(here), type="dir")
    assert "invalid type" in error(server, "file_glob_search", path=str(here), type="bogus")
    assert "invalid limit" in error(server, "file_glob_search", path=str(here), limit=0)
    assert "not a folder" in error(server, "file_glob_search", path=str(here / "top.txt"))


@needs_landlock
def test_a_command_as_a_stream(server: Router) -> None:
    with server.stream(
        "/tools", {"tool": "exec_shell_command", "params": {"command": "echo hello; sleep 0.3; echo äöü"}, "stream": True}
    ) as stream:
        events = list(stream)
    assert events[-1] == {"done": True}
    assert "".join(event["chunk"] for event in events[:-1]) == "hello\näöü\n\n[exit code: 0]"
    assert stream.is_whole
    assert len(events) >= 4  # the first line did not wait for the last one
    refused = server.post("/tools", {"tool": "read_file", "params": {"path": "x"}, "stream": True})
    assert (refused.status, "does not support stream" in refused.error["message"]) == (404, True)


def test_the_header_for_the_folder(server: Router, here: Path) -> None:
    (here / "marker.txt").write_text("marker")
    headers = {"x-tool-cwd": str(here)}
    assert "marker" in text(server, "read_file", headers, path="marker.txt", cwd="/definitely/not/real")
    call(server, "write_file", headers, path="sub/out.txt", content="written")
    assert (here / "sub" / "out.txt").read_text() == "written"
    assert "marker.txt" in text(server, "file_glob_search", headers, path=".", include="*.txt")
    assert call(server, "get_info", headers)["cwd"] == str(here)
    if landlock_version():
        text(server, "exec_shell_command", headers, command="echo hello > made.txt")
        assert (here / "made.txt").read_text() == "hello\n"
    outside = server.post("/tools", {"tool": "get_info", "params": {}}, {"x-tool-cwd": str(here.parent.parent)})
    assert "is outside of" in outside.json["error"]


@pytest.mark.parametrize("runtime", ["fake:does-not-exist", "ssh:-oProxyCommand=touch /tmp/pwned", "docker-container:--privileged"])
def test_another_runtime_is_refused_and_nothing_runs(server: Router, here: Path, runtime: str) -> None:
    body = {"tool": "write_file", "params": {"path": str(here / "x"), "content": "x"}}
    answer = server.post("/tools", body, {"x-tool-runtime": runtime})
    assert answer.status == 400
    assert "unknown tool runtime" in answer.error["message"]
    assert not (here / "x").exists()


# ---------------------------------------------------------------- the folder is the limit


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "a/../../secret.txt",
        "/etc/passwd",
        "/proc/self/environ",
        "../tools-2/near.txt",
        "~/../secret.txt",
        "/",
        "..",
        "link",
        "links/secret.txt",
    ],
)
def test_nothing_outside_is_read_or_written(server: Router, folder: Path, path: str) -> None:
    for name, target in {"link": folder.parent / "secret.txt", "links": folder.parent}.items():
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    for tool, more in {
        "read_file": {},
        "write_file": {"content": "x"},
        "edit_file": {"edits": [{"old_text": "secret", "new_text": "x"}]},
        "grep_search": {"pattern": "secret"},
        "file_glob_search": {},
    }.items():
        assert "is outside of" in error(server, tool, path=path, **more), tool
    assert (folder.parent / "secret.txt").read_text() == "a secret\n"
    found = text(server, "grep_search", path=str(folder), pattern="a secret")
    assert "Total matches: 0" in found  # links are not followed


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "a/" * 3000, "\udcff", "-rf", "$(id)", "*", "a\nb"])
def test_strange_names_are_only_names(server: Router, here: Path, path: str) -> None:
    body = json.dumps({"tool": "read_file", "params": {"path": path}})
    answer = server.request("POST", "/tools", body.encode())
    assert answer.status in (200, 400)
    assert "error" in answer.json


def test_what_is_no_regular_file_is_not_read(server: Router, here: Path) -> None:
    os.mkfifo(here / "pipe")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as one:
        one.bind(str(here / "socket"))
    for name in ("pipe", "socket", "."):
        assert error(server, "read_file", path=str(here / name))
        assert "is not a regular file" in error(server, "write_file", path=str(here / name), content="x")
    assert "Total matches: 0" in text(server, "grep_search", path=str(here), pattern=".")


@pytest.mark.parametrize(
    ("tool", "params", "problem"),
    [
        ("read_file", {}, "parameter 'path' is missing"),
        ("read_file", {"path": 7}, "parameter 'path' must be a text"),
        ("read_file", {"path": "x", "start_line": "1"}, "parameter 'start_line' must be a whole number"),
        ("grep_search", {"path": "x", "pattern": "x", "literal": "yes"}, "parameter 'literal' must be true or false"),
        ("edit_file", {"path": "x", "edits": []}, "parameter 'edits' must be a list"),
        ("edit_file", {"path": "x", "edits": [1]}, "no such file"),
    ],
)
def test_wrong_parameters_are_named(server: Router, tool: str, params: dict[str, Any], problem: str) -> None:
    assert problem.lower() in error(server, tool, **params).lower()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "'tool'"),
        ({"tool": 1}, "'tool'"),
        ({"tool": "read_file", "params": []}, "is missing"),
        ({"tool": "get_info", "params": [1]}, "'params'"),
    ],
)
def test_wrong_bodies_are_named(server: Router, body: dict[str, Any], problem: str) -> None:
    answer = server.post("/tools", body)
    assert problem in (answer.error["message"] if answer.status == 400 else answer.json["error"])


def test_a_regular_expression_without_end_does_not_hold_the_router(server: Router, here: Path) -> None:
    (here / "long").write_text("a" * 60 + "b")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        body = json.dumps({"tool": "grep_search", "params": {"path": str(here), "pattern": "(a+)+$"}}).encode()
        client.sendall(
            b"POST /tools HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        eventually(lambda: tool_pids(server), "the process of the tool")
        assert server.get("/health").status == 200
    eventually(lambda: not tool_pids(server), "the end of the process, because its client has left")


def tool_pids(server: Router) -> list[int]:
    return descendants_that_run(server.process.pid, b"fastrouter.api.tools")


# ---------------------------------------------------------------- commands


def run(server: Router, command: str, **params: Any) -> str:
    return text(server, "exec_shell_command", command=command, **params)


@needs_landlock
def test_it_sees_only_the_folder(server: Router, folder: Path) -> None:
    secret = folder.parent / "secret.txt"
    for command in (f"cat {secret}", f"ls {folder.parent}", "cat /etc/shadow", "ls /root /home"):
        found = run(server, command)
        assert "a secret" not in found
        assert "exit code: 0" not in found, command


@needs_landlock
@pytest.mark.parametrize("name", ["environ", "cmdline", "maps", "mem", "exe", "fd/0", "root/etc/passwd", "cwd/log"])
def test_it_cannot_look_into_the_router(server: Router, name: str) -> None:
    """Also as root, who may read all of /proc."""
    assert "exit code: 0" not in run(server, f"head -c 10 /proc/{server.process.pid}/{name}")


@needs_landlock
def test_it_writes_only_below_the_folder(server: Router, folder: Path) -> None:
    outside = folder.parent / "outside"
    run(server, f"echo x > {outside}; touch /tmp/{folder.parent.name}; mv file ..; ln -s {folder.parent} up; echo x > up/outside")
    run(server, f"rm -rf {folder.parent / 'secret.txt'} ../tools-2; mkdir ../made; chmod 777 ..")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["secret.txt", "tools", "tools-2"]
    assert not Path(f"/tmp/{folder.parent.name}").exists()
    assert run(server, "echo x > inside && cat inside && mktemp").splitlines()[0] == "x"
    assert (folder / "inside").read_text() == "x\n"


@needs_landlock
def test_it_has_no_secrets_of_the_router(server: Router, folder: Path) -> None:
    found = run(server, "env")
    assert "SECRET_THING" not in found
    assert f"HOME={folder}" in found


@needs_landlock
def test_its_libraries_are_those_of_the_user(server: Router) -> None:
    """Not those inside the executable."""
    assert run(server, "echo $LD_LIBRARY_PATH").splitlines()[0] == LIBRARIES


@needs_landlock
def test_it_cannot_end_the_router(server: Router) -> None:
    found = run(server, f"kill -9 {server.process.pid}; kill -9 $PPID; echo $?")
    assert server.process.poll() is None
    assert found


@needs_landlock
def test_it_ends_after_its_time_with_all_it_has_started(server: Router, folder: Path) -> None:
    command = "(sleep 600 & echo $! > pid1; exec setsid sleep 601 >/dev/null 2>&1 & echo $! > pid2); sleep 602"
    found = run(server, command, timeout=1)
    assert "[exit due to timed out]" in found
    pids = [int((folder / name).read_text()) for name in ("pid1", "pid2")]
    eventually(lambda: not any(map(is_alive, pids)), "the end of its processes")


@needs_landlock
def test_what_it_leaves_in_the_background_ends_with_it(server: Router, folder: Path) -> None:
    found = run(server, "sleep 600 & echo $! > pid3; echo done")
    assert found == "done\n\n[exit code: 0]"
    eventually(lambda: not is_alive(int((folder / "pid3").read_text())), "its end")


@needs_landlock
def test_it_ends_when_its_client_leaves(server: Router, folder: Path) -> None:
    with server.stream(
        "/tools",
        {"tool": "exec_shell_command", "params": {"command": "echo $$ > pid4; echo x; sleep 600", "timeout": 60}, "stream": True},
    ) as stream:
        next(stream.events())
    eventually(lambda: (folder / "pid4").exists() and not is_alive(int((folder / "pid4").read_text())), "its end")


@needs_landlock
def test_its_output_has_a_limit(server: Router) -> None:
    found = run(server, "yes | head -c 5000000")
    assert len(found) < 17_000
    assert "[output truncated]\n[exit code: 0]" in found
    assert run(server, "printf abcdef", max_output_size=3).startswith("abc\n[output truncated]")


@needs_landlock
def test_its_code_and_its_errors(server: Router) -> None:
    assert run(server, "echo oh >&2; exit 3") == "oh\n\n[exit code: 3]"
    assert "has a NUL" in error(server, "exec_shell_command", command="a\0b")
    assert "[exit code: " in run(server, "cat")  # it reads nothing


def test_a_command_that_would_never_end_does_not_keep_the_router(router: StartRouter, tmp_path: Path) -> None:
    if not landlock_version():
        pytest.skip("this kernel has no Landlock")
    server = router("--tools", "all", "--tools-dir", str(tmp_path), "--shutdown-timeout", "1", is_fake=IS_PACKAGE)
    with server.stream(
        "/tools", {"tool": "exec_shell_command", "params": {"command": "echo x; sleep 600", "timeout": 60}, "stream": True}
    ) as stream:
        next(stream.events())
        assert server.stop() == 0  # it also checks that no process is left


# ---------------------------------------------------------------- who may use them


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """The error of a router that must not start."""

    def start(*flags: str, **env: str) -> str:
        found = subprocess.run(
            [*FASTROUTER, "--port", "0", *flags],
            capture_output=True,
            text=True,
            env=environment(tmp_path, **env),
            cwd=tmp_path,
            check=False,
        )
        assert found.returncode == 1, found
        return found.stderr

    return start


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--host", "0.0.0.0", "--insecure"), "other machines can reach"),
        (("--host", "127.0.0.1,::", "--insecure"), "other machines can reach"),
        (("--allowed-hosts", "ai.example.com"), "lets a proxy in"),
        (("--cors-origins", "*"), "pages of other sites"),
        (("--cors-origins", "localhost,https://example.com"), "pages of other sites"),
    ],
)
def test_without_a_key_they_are_for_this_machine_only(
    refused: Callable[..., str], tmp_path: Path, flags: tuple[str, ...], problem: str
) -> None:
    message = refused("--tools", "get_info", "--tools-dir", str(tmp_path), *flags)
    assert problem in message
    assert "--api-key-file" in message


def test_flags_that_cannot_work(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "--tools needs --tools-dir" in refused("--tools", "all")
    assert "--tools needs --tools-dir" in refused("--agent")
    assert "there is no tool nonsense; these exist: all, read_file" in refused("--tools", "nonsense", "--tools-dir", str(tmp_path))
    assert "must be an existing folder" in refused("--tools", "all", "--tools-dir", str(tmp_path / "missing"))
    assert "--tools-runtime: not possible here" in refused("--tools-runtime", "docker:busybox")
    assert "--tools needs --tools-dir" in refused(LLAMA_ARG_TOOLS="all")


def test_a_key_with_limits_has_no_tools(router: StartRouter, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("everything\nfew models=tiny*\nlook read-only\n")
    server = router("--tools", "all", "--tools-dir", str(tmp_path), "--api-key-file", str(keys), is_fake=IS_PACKAGE)
    body = {"tool": "get_info", "params": {}}

    def ask(key: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        return server.post("/tools", body, headers).status, server.get("/tools", headers).json

    assert ask("everything")[0] == 200
    assert ask("few") == (403, [])
    assert ask("look")[0] == 403
    assert ask("wrong")[0] == 401
    assert server.get("/tools").status == 401


def test_a_page_of_another_site_cannot_use_them(server: Router, here: Path) -> None:
    body = {"tool": "write_file", "params": {"path": str(here / "x"), "content": "x"}}
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}):
        assert server.post("/tools", body, headers).status == 403
    assert server.post("/tools", body, {"Content-Type": "text/plain"}).status == 415
    assert not (here / "x").exists()
