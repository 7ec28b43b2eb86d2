"""What clients see of a worker's death: a pause, in every API, streamed and whole. Scripted workers.

Each answer is asked for twice: once undisturbed, once with a worker that dies in the middle. Both must be the same, event for event.
"""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter, eventually

# What differs between any two requests.
OWN = {"id", "created", "created_at", "timings", "item_id", "response_id", "completed_at", "load_duration", "total_duration"}
OWN |= {"prompt_eval_duration", "eval_duration", "generation_settings", "system_fingerprint", "signature", "context", "sequence_number"}
PINGS = ("ping", "keepalive")
CHATS = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat")
PATHS = (*CHATS, "/v1/completions", "/completion", "/api/generate")
CALLS = [{"index": 0, "id": "call_1", "name": "add", "arguments": ""}]
SAYS = {
    "text": [{"text": f"t{number} "} for number in range(8)],
    "a thought": [{"thought": "let me "}, {"thought": "see"}, {"text": "it is "}, {"text": "so"}],
    "a call": [
        {"text": "I call "},
        {"text": "it"},
        {"event": {"calls": CALLS}},
        *({"event": {"calls": [{"index": 0, "id": "", "name": "", "arguments": part}]}} for part in ('{"a"', ": 1", "}")),
    ],
}
counted: Counter[str] = Counter()


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("resumed")
    for name, script in (("a", {}), ("slow", {"load_s": 0.6})):
        (folder / f"{name}.gguf").write_text(json.dumps(script))
    return module_router("--sse-ping-interval", "0.1", models_dir=folder, is_fake=True)


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    yield
    print(f"\nresumed over HTTP: {dict(counted)}")


def body_of(path: str, script: dict[str, Any], *, stream: bool, model: str = "a") -> dict[str, Any]:
    prompt = json.dumps(script)
    messages = [{"role": "user", "content": prompt}]
    shapes: dict[str, dict[str, Any]] = {"/v1/responses": {"input": messages}, "/v1/messages": {"messages": messages, "max_tokens": 99}}
    said = shapes.get(path, {"messages": messages} if path in CHATS else {"prompt": prompt})
    return {"model": model, "stream": stream, **said}


def cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: cleaned(item) for key, item in value.items() if key not in OWN}
    return [cleaned(item) for item in value] if isinstance(value, list) else value


def parts_of(body: bytes) -> list[Any]:
    """Events or lines, without comments and pings."""
    found: list[Any] = []
    for line in body.decode().split("\n"):
        text = line.removeprefix("data: ")
        if not text.startswith("{"):
            if text and not text.startswith((":", *(f"event: {ping}" for ping in PINGS))):
                found.append(text)
            continue
        event = json.loads(text)
        if event.get("type") not in PINGS and not _is_empty(event):
            found.append(cleaned(event))
    return found


def _is_empty(event: dict[str, Any]) -> bool:
    """Ollama's ping: a line with empty text."""
    if event.get("done") is not False:
        return False
    message = event.get("message", {})
    return not (event.get("response") or event.get("thinking") or any(message.get(key) for key in ("content", "thinking", "tool_calls")))


def both(server: Router, tmp_path: Path, path: str, say: list[Any], after: int, *, stream: bool, how: str) -> tuple[Any, Any]:
    script = {"say": say, "delay_s": 0.002}
    undisturbed = server.post(path, body_of(path, script, stream=stream))
    deadly = {**script, "die": how, "die_after": after, "once": str(tmp_path / f"{path.replace('/', '_')}-{after}-{stream}")}
    found = server.post(path, body_of(path, deadly, stream=stream))
    assert Path(deadly["once"]).exists(), "the worker died"
    assert (found.status, undisturbed.status) == (200, 200), (found.body, undisturbed.body)
    counted["streamed" if stream else "whole"] += 1
    if stream:
        return parts_of(found.body), parts_of(undisturbed.body)
    return cleaned(found.json), cleaned(undisturbed.json)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_every_api(server: Router, tmp_path: Path, path: str, stream: bool) -> None:
    for name, say in SAYS.items():
        if name == "text" or path in CHATS:
            for after in range(len(say) + 1):
                found, expected = both(server, tmp_path / name.replace(" ", "_"), path, say, after, stream=stream, how="SIGSEGV")
                assert found == expected, (name, after)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    for name in SAYS:
        (tmp_path / name.replace(" ", "_")).mkdir()


def test_a_pause_is_told(server: Router, tmp_path: Path) -> None:
    script = {"tokens": 6, "delay_s": 0.01, "die": "SIGKILL", "die_after": 3, "once": str(tmp_path / "died")}
    for path, pause in (("/v1/chat/completions", b": resuming\n\n"), ("/v1/messages", b"event: ping\n"), ("/api/chat", b'"content":""')):
        Path(script["once"]).unlink(missing_ok=True)  # type: ignore[arg-type]
        body = server.post(path, body_of(path, script, stream=True, model="slow")).body
        before, _, after = body.partition(b"t2 ")
        assert pause in after.partition(b"t3 ")[0], path
        assert b"resuming" not in before
        assert after.count(b"t3 ") == 1


def test_one_role_and_one_id(server: Router, tmp_path: Path) -> None:
    script = {"tokens": 6, "die": "SIGKILL", "die_after": 3, "once": str(tmp_path / "died")}
    body = server.post("/v1/chat/completions", body_of("/v1/chat/completions", script, stream=True)).body
    assert body.count(b'"role":"assistant"') == 1
    assert len(set(re.findall(rb'"id":"([^"]+)"', body))) == 1
    assert body.endswith(b"data: [DONE]\n\n")


def test_the_metrics_count_each_token_once(server: Router, tmp_path: Path) -> None:
    def tokens() -> float:
        found = re.search(r'fastrouter_generated_tokens_total\{model="a"\} (\S+)', server.get("/metrics").body.decode())
        return float(found[1]) if found else 0.0

    before = tokens()
    script = {"tokens": 6, "die": "SIGKILL", "die_after": 3, "once": str(tmp_path / "died")}
    answer = server.post("/v1/completions", body_of("/v1/completions", script, stream=False))
    assert answer.json["usage"]["completion_tokens"] == 6
    assert tokens() == before + 6


def test_a_deadly_request_is_refused_without_a_worker(server: Router) -> None:
    script = {"tokens": 9, "die": "SIGSEGV", "die_after": 2}
    chat = body_of("/v1/chat/completions", script, stream=False)
    answer = server.post("/v1/chat/completions", chat)
    assert (answer.status, answer.error["code"]) == (422, "worker_died")
    deaths = server.log.count("another worker")
    for _ in range(2):
        again = server.post("/v1/chat/completions", chat)
        assert again.status == 422
        assert "refused for a minute" in again.error["message"]
    assert server.log.count("another worker") == deaths
    other = body_of("/v1/chat/completions", {"tokens": 2}, stream=False)
    assert server.post("/v1/chat/completions", other).status == 200


def test_a_client_that_leaves_in_the_pause(server: Router, tmp_path: Path) -> None:
    with server.stream(
        "/v1/completions", body_of("/v1/completions", {"tokens": 500, "delay_s": 0.01}, stream=True, model="slow")
    ) as stream:
        next(iter(stream))
        script = {"tokens": 1, "die": "SIGKILL", "once": str(tmp_path / "died")}
        server.post("/v1/completions", body_of("/v1/completions", script, stream=False, model="slow"))
    eventually(lambda: not server.get("/v1/models/slow").json["status"].get("running"), "nothing runs")
    assert server.post("/v1/completions", body_of("/v1/completions", {"tokens": 2}, stream=False, model="slow")).status == 200


def test_eight_streams_of_one_worker(server: Router, tmp_path: Path) -> None:
    """All APIs at once; one of them kills the worker for all."""
    found: dict[int, bytes] = {}

    def run(number: int) -> None:
        path = PATHS[number % len(PATHS)]
        found[number] = server.post(path, body_of(path, {"tokens": 30 + number, "delay_s": 0.01}, stream=True)).body

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.15)
    script = {"tokens": 3, "die": "SIGSEGV", "die_after": 1, "once": str(tmp_path / "died")}
    assert server.post("/completion", body_of("/completion", script, stream=False)).json["content"] == "t0 t1 t2 "
    for thread in threads:
        thread.join()
    for number, body in found.items():
        whole = "".join(re.findall(r"t\d+ ", "".join(map(json.dumps, parts_of(body)))))
        assert "".join(f"t{i} " for i in range(30 + number)) in whole, number
