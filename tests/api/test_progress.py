"""`return_progress` on a real model: llama-server's chunks in each API, at most one for each engine step, and none without the field."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter

PROMPT = "the cat and the dog " * 30
Event = dict[str, Any]


@pytest.fixture(scope="module")
def server(module_router: StartRouter, models: Path) -> Router:
    return module_router("-c", "4096", "-np", "2", "-ub", "32", models_dir=models)


def ask(server: Router, path: str, **fields: Any) -> list[Event]:
    asked = {"model": "tiny0", "max_tokens": 4, "temperature": 0, "stream": True, "return_progress": True, "cache_prompt": False}
    with server.stream(path, {**asked, **fields}) as stream:
        events = list(stream)
    assert stream.is_whole
    return events


def check(found: list[Event], total: int, cached: int = 0) -> None:
    """From what was cached to the whole prompt, in steps of a micro-batch."""
    assert all(set(progress) == {"total", "cache", "processed", "time_ms"} for progress in found)
    processed = [progress["processed"] for progress in found]
    steps = [after - before for before, after in pairwise(processed)]
    assert (processed[0], processed[-1]) == (cached, total)
    assert all(0 < step <= 32 for step in steps)
    assert {(progress["total"], progress["cache"]) for progress in found} == {(total, cached)}
    times = [progress["time_ms"] for progress in found]
    assert times == sorted(times)


def test_native(server: Router) -> None:
    events = ask(server, "/completion", prompt=PROMPT)
    found = [event for event in events if "prompt_progress" in event]
    assert events[: len(found)] == found
    assert all((event["index"], event["content"], event["tokens"], event["stop"]) == (0, "", [], False) for event in found)
    assert len(found) >= 4
    check([event["prompt_progress"] for event in found], events[-1]["tokens_evaluated"])


def test_what_is_cached(server: Router) -> None:
    first = ask(server, "/completion", prompt=PROMPT, id_slot=1, cache_prompt=True)
    again = ask(server, "/completion", prompt=PROMPT + "red dog", id_slot=1, cache_prompt=True)
    shared = first[-1]["tokens_evaluated"] - 1
    found = [event["prompt_progress"] for event in again if "prompt_progress" in event]
    check(found, again[-1]["tokens_evaluated"], found[0]["cache"])
    assert found[0]["cache"] >= shared - 1


def test_chat(server: Router) -> None:
    events = ask(server, "/v1/chat/completions", messages=[{"role": "user", "content": PROMPT}], stream_options={"include_usage": True})
    found = [event for event in events if "prompt_progress" in event]
    assert events[: len(found)] == found
    for event in found:
        assert event["choices"] == [{"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}}]
    assert events[len(found)]["choices"][0]["delta"] == {"role": "assistant", "content": None}  # once more, as in llama-server
    check([event["prompt_progress"] for event in found], events[-1]["usage"]["prompt_tokens"])


def test_text_completions(server: Router) -> None:
    events = ask(server, "/v1/completions", prompt=PROMPT, timings_per_token=True)
    found = [event for event in events if "prompt_progress" in event]
    assert events[: len(found)] == found
    for event in found:
        assert event["choices"] == [{"finish_reason": None, "index": 0, "text": "", "logprobs": None}]
        assert event["timings"]["predicted_n"] == 0
    check([event["prompt_progress"] for event in found], events[-1]["usage"]["prompt_tokens"])


def test_choices_share_their_progress(server: Router) -> None:
    events = ask(server, "/completion", prompt=PROMPT, n=2)
    found = [event for event in events if "prompt_progress" in event]
    assert {event["index"] for event in found} == {0}
    check([event["prompt_progress"] for event in found], events[-1]["tokens_evaluated"])


def test_without_being_asked(server: Router) -> None:
    assert not [event for event in ask(server, "/completion", prompt=PROMPT, return_progress=False) if "prompt_progress" in event]
    body = server.post("/completion", {"model": "tiny0", "prompt": PROMPT, "n_predict": 2, "return_progress": True}).json
    assert "prompt_progress" not in body
    refused = server.post("/completion", {"model": "tiny0", "prompt": PROMPT, "return_progress": 1})
    assert (refused.status, "return_progress" in refused.error["message"]) == (400, True)


def test_progress_is_no_first_text(server: Router) -> None:
    """It does not end the time to the first text."""
    before = num_first_texts(server)
    ask(server, "/completion", prompt=PROMPT, max_tokens=0)
    assert num_first_texts(server) == before
    ask(server, "/completion", prompt=PROMPT, max_tokens=1)
    assert num_first_texts(server) == before + 1


def num_first_texts(server: Router) -> int:
    lines = server.get("/metrics").body.decode().splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith("fastrouter_ttft_seconds_count{"))


def test_tokens_of_a_stream(server: Router) -> None:
    """Each event has the tokens of its text, the end has none: as in llama-server."""
    asked = {"model": "tiny0", "prompt": PROMPT, "n_predict": 12, "temperature": 0, "return_tokens": True}
    whole = server.post("/completion", asked).json["tokens"]
    with server.stream("/completion", {**asked, "stream": True, "timings_per_token": True}) as stream:
        *events, end = list(stream)
    assert [token for event in events for token in event["tokens"]] == whole
    assert [event["timings"]["predicted_n"] for event in events] == list(range(1, 13))
    assert (len(whole), end["tokens"]) == (12, [])
    ended = {**asked, "stream": True, "logit_bias": [[2, 1000.0]]}
    with server.stream("/completion", ended) as stream:
        *events, end = list(stream)
    assert [(event["content"], event["tokens"]) for event in events] == [("", [2])]
    for path in ("/v1/completions", "/v1/chat/completions"):
        chat = {"messages": [{"role": "user", "content": "a"}]} if "chat" in path else {}
        with server.stream(path, {**asked, **chat, "stream": True}) as stream:
            assert not [event for event in stream if "tokens" in event]
