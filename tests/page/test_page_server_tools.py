"""Tools of the server on the page: nothing runs before the user has allowed it, results go back, the loop ends, and can be stopped."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import PHONE, Tab, violations
from chat_page import IDLE, ask, is_wider_than_window, pick, says
from conftest import REPOSITORY, Router, StartRouter, eventually

from fastrouter.system.confinement import landlock_version

CARD = ".tool-call >> nth=-1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are scripts of the fake worker: the result of a tool decides what the model says next."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "end.json").write_text(json.dumps(says("It is warm.")))
    (folder / "more.json").write_text(json.dumps(calls("read_file", path="end.json")))
    (folder / "endless.json").write_text(json.dumps(calls("read_file", path="endless.json")))
    return folder


@pytest.fixture(scope="module")
def scripted(module_router: StartRouter, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Router:
    models = tmp_path_factory.mktemp("models")
    (models / "calm.gguf").write_text("{}")
    notes = {"command": sys.executable, "args": [str(REPOSITORY / "tests" / "support" / "notes_mcp_server.py"), "stdio"]}
    config = folder.parent / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"notes": notes}}))
    flags = ("--tools", "all", "--tools-dir", str(folder), "--mcp-servers-config", str(config))
    return module_router(*flags, models_dir=models, is_fake=True)


@pytest.fixture
def page(tab: Tab, scripted: Router) -> Iterator[Any]:
    with tab.page.expect_response("**/tools", timeout=60_000):  # the first list waits for the MCP server
        opened = tab.open(scripted)
    opened.wait_for_selector(".card")
    pick(opened, "calm")
    yield opened
    opened.unroute_all(behavior="ignoreErrors")
    eventually(lambda: scripted.status("calm") != "loaded" or not scripted.is_processing("calm"), "the end of all streams")


def calls(*names: str, **arguments: Any) -> dict[str, Any]:
    """A script of the fake worker: an answer that calls these tools."""
    each = [{"index": at, "id": f"c{at}", "name": name, "arguments": json.dumps(arguments)} for at, name in enumerate(names)]
    return {"deltas": [{"calls": [call]} for call in each]}


def choose(page: Any, *names: str) -> None:
    """Ticks these tools in the settings."""
    page.get_by_role("button", name="Settings of this conversation").click()
    dialog = page.get_by_role("dialog", name="Settings of this conversation")
    for name in names:
        dialog.locator(f'input[value="{name}"]').check()
    dialog.get_by_role("button", name="Save").click()


def posts(page: Any) -> list[dict[str, Any]]:
    """The calls that the page sends from now on."""
    found: list[dict[str, Any]] = []
    page.on("request", lambda request: request.method == "POST" and request.url.endswith("/tools") and found.append(request.post_data_json))
    return found


def requests_of(page: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    page.on("request", lambda request: request.url.endswith("/v1/chat/completions") and found.append(request.post_data_json))
    return found


def click(page: Any, name: str) -> None:
    page.locator(CARD).get_by_role("button", name=name, exact=True).click()


def test_an_allowed_call_runs_and_the_answer_goes_on(page: Any) -> None:
    choose(page, "read_file")
    sent, asked = posts(page), requests_of(page)
    ask(page, calls("read_file", path="end.json"))
    assert page.locator(f"{CARD} >> .chip").inner_text() == "asks to be run"
    assert not page.get_by_label("Result of read_file").is_visible()  # the user writes nothing
    page.wait_for_timeout(300)
    assert sent == []
    click(page, "Allow")
    page.get_by_text("It is warm.", exact=True).wait_for()
    page.wait_for_selector(IDLE)
    assert sent == [{"tool": "read_file", "params": {"path": "end.json"}}]
    assert [tool["function"]["name"] for tool in asked[0]["tools"]] == ["read_file"]
    assert "server_tools" not in asked[0]
    assert asked[1]["messages"][-1] == {
        "role": "tool",
        "tool_call_id": "c0",
        "name": "read_file",
        "content": json.dumps(says("It is warm.")) + "\n",
    }
    assert page.locator(".tool-call .chip").inner_text() == "has its result"
    assert len(asked) == 2


def test_a_denied_call_does_not_run(page: Any) -> None:
    choose(page, "read_file")
    sent, asked = posts(page), requests_of(page)
    ask(page, calls("read_file", path="end.json"))
    click(page, "Deny")
    page.wait_for_function("() => document.querySelectorAll('.answer').length === 2")
    page.wait_for_selector(IDLE)
    assert sent == []
    assert asked[1]["messages"][-1]["content"] == "The user did not allow this call."


def test_always_is_for_one_tool_of_one_conversation_until_a_reload(page: Any) -> None:
    choose(page, "read_file", "get_info")
    sent = posts(page)
    ask(page, calls("read_file", path="more.json"))
    click(page, "Always for this tool")
    page.get_by_text("It is warm.", exact=True).wait_for()  # the second call has not asked
    page.wait_for_selector(IDLE)
    assert [each["params"]["path"] for each in sent] == ["more.json", "end.json"]
    ask(page, calls("get_info"))
    assert page.locator(f"{CARD} >> .chip").inner_text() == "asks to be run"  # another tool
    page.keyboard.press("Control+Shift+O")
    choose(page, "read_file")
    ask(page, calls("read_file", path="end.json"))
    assert page.locator(f"{CARD} >> .chip").inner_text() == "asks to be run"  # another conversation
    assert len(sent) == 2
    page.reload()
    page.locator(".conversation").first.click()
    page.wait_for_function("() => document.querySelector('.tool-call .chip')?.textContent === 'asks to be run'")
    sent = posts(page)
    click(page, "Allow")
    page.get_by_text("It is warm.", exact=True).wait_for()
    assert len(sent) == 1


def test_a_model_that_calls_for_ever_asks_again(page: Any) -> None:
    choose(page, "read_file")
    sent = posts(page)
    ask(page, calls("read_file", path="endless.json"))
    click(page, "Always for this tool")
    page.wait_for_function("() => document.querySelectorAll('.answer').length === 26", timeout=60_000)
    page.wait_for_selector(IDLE)
    eventually(lambda: page.locator(f"{CARD} >> .chip").inner_text() == "asks to be run", "a question")
    assert len(sent) == 25


def test_calls_of_several_tools_and_one_that_the_user_answers(page: Any) -> None:
    choose(page, "read_file", "get_info")
    asked = requests_of(page)
    ask(page, calls("get_info", "unknown", "read_file", path="end.json"))
    cards = page.locator(".tool-call")
    cards.nth(0).get_by_role("button", name="Deny").click()
    cards.nth(2).get_by_role("button", name="Allow", exact=True).click()
    page.get_by_label("Result of unknown").fill(json.dumps(says("So be it.")))
    page.get_by_role("button", name="Send the result").click()
    page.wait_for_function("() => document.querySelectorAll('.answer').length === 2")
    contents = [message["content"] for message in asked[1]["messages"][-3:]]
    assert contents == ["The user did not allow this call.", json.dumps(says("So be it.")), json.dumps(says("It is warm.")) + "\n"]


def test_a_stop_ends_a_call_that_runs(page: Any, folder: Path) -> None:
    if not landlock_version():
        pytest.skip("this kernel has no Landlock")
    choose(page, "exec_shell_command")
    asked = requests_of(page)
    ask(page, calls("exec_shell_command", command="echo $$ > pid; sleep 600", timeout=60))
    click(page, "Allow")
    pid = int(eventually(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), "the command"))
    assert page.locator(f"{CARD} >> .chip").inner_text() == "runs on the server"
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector(IDLE)
    assert page.locator(f"{CARD} >> .chip").inner_text() == "stopped"
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end of the command")
    assert len(asked) == 1
    assert page.get_by_role("button", name="Allow", exact=True).is_visible()


def test_what_a_tool_says_about_its_failure_goes_to_the_model(page: Any) -> None:
    choose(page, "read_file")
    asked = requests_of(page)
    ask(page, calls("read_file", path="../outside"))
    click(page, "Allow")
    page.wait_for_function("() => document.querySelectorAll('.answer').length === 2")
    assert asked[1]["messages"][-1]["content"].startswith("Error: ../outside: is outside of")


def test_a_tool_of_an_mcp_server(page: Any) -> None:
    choose(page, "notes_echo")
    asked = requests_of(page)
    ask(page, calls("notes_echo", message=json.dumps(says("From the notes."))))
    click(page, "Allow")
    page.get_by_text("From the notes.", exact=True).wait_for()
    assert asked[1]["messages"][-1]["content"] == json.dumps(says("From the notes."))


def test_a_pasted_tool_of_the_same_name_is_not_run(page: Any) -> None:
    choose(page, "read_file")
    page.get_by_role("button", name="Settings of this conversation").click()
    dialog = page.get_by_role("dialog", name="Settings of this conversation")
    dialog.get_by_label("Tools", exact=True).fill('[{"type": "function", "function": {"name": "read_file"}}]')
    dialog.get_by_role("button", name="Save").click()
    ask(page, calls("read_file", path="end.json"))
    assert page.get_by_label("Result of read_file").is_visible()
    assert page.get_by_role("button", name="Allow", exact=True).count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_questions_and_settings(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    choose(page, "read_file")
    ask(page, calls("read_file", path="end.json"))
    assert violations(page) == []
    page.get_by_role("button", name="Settings of this conversation").click()
    assert violations(page) == []


def test_questions_fit_on_a_phone(page: Any) -> None:
    choose(page, "read_file")
    page.set_viewport_size(PHONE)
    ask(page, calls("read_file", path="x" * 300))
    assert not is_wider_than_window(page)
    assert page.get_by_role("button", name="Allow", exact=True).is_visible()
