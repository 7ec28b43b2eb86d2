"""Recorded requests of coding agents, sent again to a scripted model: each tool loop ends, and little of a prompt is read twice."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from agent_answers import Read, Turn, events_of, read, repeated
from agent_model import ANSWER, CALLS, SAYING, THOUGHT, make_agent_model
from conftest import REPOSITORY, Router, StartRouter
from recorded_agents import FOLDER, OWN, RECORDINGS, Recording, Sent, Shapes, read_recording, write_recording

pytestmark = pytest.mark.timeout(600)  # prompts of 15,000 tokens on a busy machine
MODEL = "agent"
CALLED = {name: Turn(THOUGHT, SAYING, [(name, arguments)]) for name, (_, arguments) in CALLS.items()}
MOST_READ = 0.05  # of a prompt that continues a conversation
NAMES = {"claude_code": "Claude Code", "codex": "Codex CLI", "opencode": "opencode", "qwen_code": "Qwen Code"}
THOUGHTS = {"/v1/messages": "`thinking` blocks", "/v1/responses": "`reasoning` items", "/v1/chat/completions": "`reasoning_content`"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agents")
    make_agent_model(folder / f"{MODEL}.gguf")
    return folder


@pytest.fixture(scope="module")
def server(module_router: StartRouter, models: Path) -> Router:
    return module_router("-c", "65536", "--temp", "0", models_dir=models)


@pytest.fixture(scope="module")
def observed(server: Router) -> dict[str, list[Read]]:
    """The answers to the requests of each conversation, in their order and streamed or not as they were."""
    return {recording.name: asked(server, recording) for recording in RECORDINGS}


def asked(server: Router, recording: Recording) -> list[Read]:
    """All requests, those for titles too; the answers to those of the conversation."""
    return [found for sent, found in [(sent, ask(server, sent)) for sent in recording.requests] if sent.is_main]


def ask(server: Router, sent: Sent, **changes: Any) -> Read:
    body = {**sent.body, "model": MODEL, **changes}
    answer = server.request(sent.method, sent.path, body, sent.headers)
    assert answer.status == 200, answer.body
    found = read(sent.path, answer.body, is_stream=body.get("stream", False))
    return Read(Turn(found.turn.thought, found.turn.text.strip(), found.turn.calls), found.prompt, found.cached)


def check_loop(turns: list[Turn]) -> None:
    """Each question gets a call, each result an answer."""
    assert len(turns) >= 4
    called, *_ = [turn for turn in CALLED.values() if turn == turns[0]]
    assert turns == [called if number % 2 == 0 else Turn(text=ANSWER) for number in range(len(turns))]


@pytest.mark.parametrize("recording", RECORDINGS, ids=str)
def test_the_loop_ends(server: Router, observed: dict[str, list[Read]], recording: Recording) -> None:
    check_loop([found.turn for found in observed[recording.name]])
    check_loop([ask(server, sent, stream=not sent.body.get("stream", False)).turn for sent in recording.main])


@pytest.mark.parametrize("recording", RECORDINGS, ids=str)
def test_an_agent_repeats_what_it_got(observed: dict[str, list[Read]], recording: Recording) -> None:
    """The texts and calls that it has read from the stream are in its next request."""
    told = [(turn.text.strip(), turn.calls) for turn in repeated(recording.main[-1].body)]
    assert told == [(found.turn.text, found.turn.calls) for found in observed[recording.name][:-1]]


def test_later_turns_read_little(observed: dict[str, list[Read]]) -> None:
    for name, (_, *later) in observed.items():
        assert max(found.share for found in later) < MOST_READ, (name, [(found.prompt, found.cached) for found in later])


def test_later_turns_read_little_with_one_slot(router: StartRouter, models: Path) -> None:
    """Although requests for titles need it, too."""
    server = router("-c", "65536", "--temp", "0", "-np", "1", models_dir=models)
    with_titles = [recording for recording in RECORDINGS if recording.requests != recording.main]
    assert with_titles
    for recording in with_titles:
        _, *later = asked(server, recording)
        assert max(found.share for found in later) < MOST_READ, (recording, [(found.prompt, found.cached) for found in later])


def too_long(server: Router, recording: Recording) -> str:
    """What the agent sees when the conversation does not fit any more: from this it knows that it must shorten it."""
    sent = recording.main[0]
    field = "input" if "input" in sent.body else "messages"
    long = {"role": "user", "content": "the cat " * 70000}
    body = {**sent.body, "model": MODEL, field: [*sent.body[field], long]}
    answer = server.request(sent.method, sent.path, body, sent.headers)
    if answer.status == 200:
        *_, last = events_of(answer.body)
        return f"`{last['type']}` with `{last['response']['error']['code']}`"
    error = answer.json["error"]
    if answer.json.get("type") == "error":
        return f"{answer.status} `{error['message'].partition(':')[0]}`"
    return f"{answer.status} `{error.get('code') if isinstance(error.get('code'), str) else error['type']}`"


def test_the_table_of_the_page(server: Router, observed: dict[str, list[Read]]) -> None:
    """docs/clients.md shows what was observed here."""
    rows = []
    for recording in RECORDINGS:
        first, path = recording.main[0], recording.main[0].path.partition("?")[0]
        _, *later = observed[recording.name]
        comes_back = any(turn.thought for turn in repeated(recording.main[-1].body))
        rows.append(
            (
                f"{NAMES[recording.name]} {recording.version}",
                f"`{path}`",
                str(len(first.body["tools"])),
                f"{THOUGHTS[path]}, {'sent back' if comes_back else 'not sent back'}",
                f"< {math.ceil(20 * max(found.share for found in later)) * 5} %",
                too_long(server, recording),
            )
        )
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    page = (REPOSITORY / "docs" / "clients.md").read_text().partition("## Which client sees what")[2].partition("\n## ")[0]
    assert table in page, f"the page must have this table:\n{table}"


# ---------------------------------------------------------------- the recordings themselves


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_recording_has_no_words_of_the_agent(path: Path) -> None:
    found = json.loads(path.read_text())
    texts = [line for line in found["lines"] if isinstance(line, str)]
    assert all(line in OWN or line.startswith(("<think>", "</think>", "x-anthropic-billing-header: ")) for line in texts)
    strings: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, str):
            strings.append(value)
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                walk(item)

    walk([request["body"] for request in found["requests"]])
    walk(found["parts"])
    assert not [text for text in strings if text not in OWN and not re.fullmatch(r"[\w.$:/#@+*-]*", text) and not text.startswith("{")]


def test_a_shape_keeps_what_is_alike(tmp_path: Path) -> None:
    shapes = Shapes()
    secret = "Some secret words of theirs.\nIn two lines."
    turns = [{"role": "system", "content": secret}, {"role": "user", "content": f"{secret}\nAnd one more."}]
    tool = {"name": "Bash", "description": secret, "input_schema": {"type": "object", "required": ["command"], "default": "not a word"}}
    bodies = [{"messages": turns[:number], "tools": [tool], "id": "abc"} for number in (1, 2)]
    requests = [{"method": "POST", "path": "/x", "headers": {}, "body": shapes.of(body)} for body in bodies]
    write_recording(tmp_path / "some.json", "1.0", shapes, requests)
    text = (tmp_path / "some.json").read_text()
    assert not re.search(r"secret|words|theirs|In two|more|not a|abc", text)
    first, second = read_recording(tmp_path / "some.json").requests
    assert first.body["messages"] == second.body["messages"][:1]
    assert second.body["messages"][1]["content"].startswith(first.body["messages"][0]["content"] + "\n")
    assert first.body["tools"] == second.body["tools"]
    assert first.body["tools"][0]["input_schema"]["required"] == ["command"]
    assert len(first.body["messages"][0]["content"].split("\n")[0]) == 16
