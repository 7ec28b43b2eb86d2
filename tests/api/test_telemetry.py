"""The information for a client while it waits and afterwards: comments in streams, Server-Timing, X-Model, in every flavour.

The workers follow scripts (fake_worker.py), so that loads are slow and prompts long; a real model answers questions that the scripts do
not know.
"""

import contextlib
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import openai
import pytest
from conftest import Router, StartRouter, eventually

FLAVOURS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "completion": "/completion"}
INTERVAL_S = 0.1
LOAD_S = 1.0
WHOLE = "t0 t1 t2 "
MEMORY = {"host_bytes": 1 << 20, "device_bytes": 0}  # a load that reports this is remembered
SLOW: dict[str, Any] = {"progress": [0.0, 0.25, 0.5, 0.75], "load_s": LOAD_S, "meta": {"memory": MEMORY}}
SCRIPTS: dict[str, dict[str, Any]] = {
    "quick": {},
    **{f"slow-{name}": SLOW for name in (*FLAVOURS, "eta", "old", "silent", "asked", "whole", "down")},
    "slow-openai": {**SLOW, "load_s": 2.0},
    "mute-load": {"load_s": 0.5},
    "fails-at-once": {"fail": "no such quantisation"},
    "fails-late": {"load_s": 0.5, "fail": "no such quantisation"},
    "first-decode": {"first_decode": "SIGSEGV"},
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    for name, script in SCRIPTS.items():
        (folder / f"{name}.gguf").write_text(json.dumps(script))
    return folder


@pytest.fixture(scope="module")
def server(module_router: StartRouter, scripts: Path) -> Router:
    flags = ("--models-max", "0", "--sse-ping-interval", str(INTERVAL_S))
    server = module_router(*flags, models_dir=scripts, is_fake=True)
    server.load("quick")
    return server


def body_of(flavour: str, model: str, script: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """`script`: what the worker does with the request."""
    prompt = json.dumps({"tokens": 3, **(script or {})})
    said: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]} if flavour == "chat" else {"prompt": prompt}
    return {"model": model, **said, **more}


class Blocks:
    """One stream's blocks as they come, comments included."""

    def __init__(self, router: Router, flavour: str, body: dict[str, Any]) -> None:
        self.connection, self.response = router.open("POST", FLAVOURS[flavour], {**body, "stream": True})
        self.headers = self.response.headers
        self.is_whole = False

    def __iter__(self) -> Iterator[str]:
        waiting = b""
        with contextlib.suppress(Exception):
            while data := self.response.read1(1 << 16):
                *blocks, waiting = (waiting + data).split(b"\n\n")
                yield from (block.decode() for block in blocks)
            self.is_whole = not waiting
        self.close()

    def next_comment(self, pattern: str) -> str:
        """The next comment that matches; only comments may come before it."""
        for block in self:
            assert block.startswith(":"), block
            if re.fullmatch(pattern, block):
                return block
        raise AssertionError(f"the stream ended before {pattern}")

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def comments_of(blocks: list[str]) -> list[str]:
    return [block for block in blocks if block.startswith(":")]


def events_of(blocks: list[str]) -> list[dict[str, Any]]:
    return [json.loads(block[6:]) for block in blocks if block.startswith("data: {")]


def text_of(events: list[dict[str, Any]]) -> str:
    parts = [event.get("choices", [{}])[0] if "choices" in event else event for event in events]
    return "".join(part.get("delta", {}).get("content") or part.get("text") or part.get("content") or "" for part in parts)


def timing_of(headers: Any) -> dict[str, float]:
    """Server-Timing in milliseconds by name."""
    found = re.findall(r"(\w+);dur=([\d.]+)(?:, |$)", headers["Server-Timing"])
    return {name: float(value) for name, value in found}


# ---------------------------------------------------------------- Server-Timing and X-Model


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_whole_answer_says_where_its_time_went(server: Router, flavour: str) -> None:
    script = {"wait_s": 0.05, "delay_s": 0.03}
    answer = server.post(FLAVOURS[flavour], body_of(flavour, "quick", script))
    assert answer.status == 200
    assert answer.headers["X-Model"] == "quick"
    timing = timing_of(answer.headers)
    assert list(timing) == ["queue", "load", "prefill", "decode"]
    assert timing["prefill"] >= 45
    assert timing["decode"] >= 55
    hot = timing_of(server.post(FLAVOURS[flavour], body_of(flavour, "quick")).headers)
    assert (hot["queue"], hot["load"]) == (0, 0)
    timings = answer.json["timings"]
    assert timings["predicted_n"] == 3
    assert timings["queue_ms"] == pytest.approx(timing["queue"], abs=0.1)
    assert timings["load_ms"] == pytest.approx(timing["load"], abs=0.1)


def test_a_whole_answer_that_waits_for_a_load_says_so(server: Router) -> None:
    begun = time.monotonic()
    answer = server.post(FLAVOURS["chat"], body_of("chat", "slow-whole"))
    took_ms = (time.monotonic() - begun) * 1e3
    timing = timing_of(answer.headers)
    assert timing["load"] >= 1000 * LOAD_S
    assert sum(timing.values()) <= took_ms + 1
    assert answer.json["timings"]["load_ms"] == pytest.approx(timing["load"], abs=0.1)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_streams_head_goes_out_with_its_first_text(server: Router, flavour: str) -> None:
    stream = Blocks(server, flavour, body_of(flavour, "quick", {"wait_s": 0.05}))
    blocks = list(stream)
    assert stream.is_whole
    assert stream.headers["X-Model"] == "quick"
    timing = timing_of(stream.headers)
    assert list(timing) == ["queue", "load", "prefill"]
    assert timing["prefill"] >= 45
    assert {"queue_ms", "load_ms", "predicted_n"} <= set(events_of(blocks)[-1]["timings"])
    assert text_of(events_of(blocks)) == WHOLE


def test_a_worker_that_is_asked(router: StartRouter, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(models / "tiny0.gguf", folder / "tïny 0.gguf")
    server = router(models_dir=folder)
    model = "tïny 0"
    asked = [
        ("/tokenize", {"content": "the cat"}),
        ("/detokenize", {"tokens": [300]}),
        ("/apply-template", {"messages": [{"role": "user", "content": "hi"}]}),
    ]
    for path, body in asked:
        answer = server.post(path, {"model": model, **body})
        assert list(timing_of(answer.headers)) == ["queue", "load"]
        assert answer.headers["X-Model"].isascii()
        assert unquote(answer.headers["X-Model"]) == model
    assert server.post("/tokenize", {"model": model, "content": "the cat"}).json["tokens"]
    answer = server.post("/completion", {"model": model, "prompt": "the", "n_predict": 0})
    assert list(timing_of(answer.headers)) == ["queue", "load", "prefill", "decode"]


def test_errors_carry_them_too(server: Router) -> None:
    refused = server.post("/completion", body_of("completion", "quick", {"error": "no"}))
    assert (refused.status, refused.headers["X-Model"]) == (400, "quick")
    assert "prefill" in timing_of(refused.headers)
    failed = server.post("/completion", body_of("completion", "fails-late"))
    assert failed.status == 400
    assert timing_of(failed.headers)["load"] >= 500
    assert server.post("/completion", body_of("completion", "nobody")).headers["X-Model"] is None


# ---------------------------------------------------------------- comments while a model loads


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_stream_is_told_how_far_the_load_is(server: Router, flavour: str) -> None:
    stream = Blocks(server, flavour, body_of(flavour, f"slow-{flavour}"))
    assert stream.response.status == 200
    assert list(timing_of(stream.headers)) == ["queue", "load"]
    blocks = list(stream)
    said = comments_of(blocks)
    assert stream.is_whole
    assert blocks[: len(said)] == said
    percents = [int(re.fullmatch(r": loading (\d+)%", comment)[1]) for comment in said if "%" in comment]  # type: ignore[index]
    assert len(percents) >= 3
    assert percents == sorted(percents)
    assert percents[-1] in (50, 75)
    assert text_of(events_of(blocks)) == WHOLE
    assert events_of(blocks)[-1]["timings"]["load_ms"] >= 1000 * LOAD_S
    if flavour == "chat":
        assert events_of(blocks)[0]["choices"][0]["delta"]["role"] == "assistant"


def test_the_second_load_has_an_estimate(server: Router) -> None:
    assert not [comment for comment in comments_of(list(Blocks(server, "chat", body_of("chat", "slow-eta")))) if "eta" in comment]
    server.unload("slow-eta")
    said = comments_of(list(Blocks(server, "chat", body_of("chat", "slow-eta"))))
    matches = [re.fullmatch(r": loading \d+% eta (\d+\.\d)s", comment) for comment in said]
    left = [float(match[1]) for match in matches if match]
    assert len(left) >= 3
    assert left == sorted(left, reverse=True)
    assert left[0] <= LOAD_S + 1


def test_a_load_that_says_nothing_of_its_progress(server: Router) -> None:
    assert ": loading" in comments_of(list(Blocks(server, "completion", body_of("completion", "mute-load"))))


def test_http_1_0(server: Router) -> None:
    body = json.dumps(body_of("chat", "slow-old", stream=True)).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(head + body)
        received = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    answer, _, rest = received.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in answer
    blocks = rest.decode().split("\n\n")
    assert blocks[0].startswith(": loading")
    assert blocks[-2:] == ["data: [DONE]", ""]
    assert text_of(events_of(blocks)) == WHOLE


def test_an_openai_client_with_a_short_read_timeout_survives_a_long_load(server: Router) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": '{"tokens": 3}'}]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=openai.Timeout(60, read=1.0)) as client:
        chunks = list(client.chat.completions.create(model="slow-openai", messages=messages, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == WHOLE
        server.unload("slow-openai")
        with pytest.raises(openai.APITimeoutError):  # the load takes longer than this client waits
            client.chat.completions.create(model="slow-openai", messages=messages, stream=True, extra_body={"sse_ping_interval": -1})


def test_a_request_may_choose_its_interval(server: Router) -> None:
    assert not comments_of(list(Blocks(server, "chat", body_of("chat", "slow-silent", sse_ping_interval=-1))))
    said = comments_of(list(Blocks(server, "chat", body_of("chat", "quick", {"wait_s": 0.9}, sse_ping_interval=0.4))))
    assert 1 <= len(said) <= 2
    assert server.post(FLAVOURS["chat"], body_of("chat", "quick", sse_ping_interval="x")).status == 400


def test_comments_off_and_on_request(router: StartRouter, scripts: Path) -> None:
    server = router("--sse-ping-interval", "-1", models_dir=scripts, is_fake=True)
    assert not comments_of(list(Blocks(server, "chat", body_of("chat", "slow-asked"))))
    server.unload("slow-asked")
    assert comments_of(list(Blocks(server, "chat", body_of("chat", "slow-asked", sse_ping_interval=0.2))))


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_load_that_fails_at_once_is_a_true_status(server: Router, flavour: str) -> None:
    stream = Blocks(server, flavour, body_of(flavour, "fails-at-once"))
    assert stream.response.status == 400
    assert stream.headers["X-Model"] == "fails-at-once"
    assert "no such quantisation" in json.loads(stream.response.read())["error"]["message"]
    stream.close()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_load_that_fails_after_a_comment_is_an_event(module_router: StartRouter, tmp_path: Path, flavour: str) -> None:
    (tmp_path / "fails-late.gguf").write_text(json.dumps(SCRIPTS["fails-late"]))
    server = module_router("--sse-ping-interval", "0.2", models_dir=tmp_path, is_fake=True)
    stream = Blocks(server, flavour, body_of(flavour, "fails-late"))
    assert stream.response.status == 200
    blocks = list(stream)
    assert comments_of(blocks)
    [event] = events_of(blocks)
    assert "no such quantisation" in event["error"]["message"]
    assert not stream.is_whole


def test_comments_do_not_keep_a_stream_from_starting_again(server: Router) -> None:
    """The worker dies in its first decode, after a long prefill: the client has seen no part of the answer."""
    stream = Blocks(server, "chat", body_of("chat", "first-decode", {"wait_s": 0.4}))
    blocks = list(stream)
    assert ": prefill" in comments_of(blocks)
    assert text_of(events_of(blocks)) == WHOLE
    assert stream.is_whole
    assert [event["choices"][0]["delta"].get("role") for event in events_of(blocks)].count("assistant") == 1


def test_the_server_stops_while_a_stream_waits(router: StartRouter, scripts: Path) -> None:
    server = router("--sse-ping-interval", "0.2", "--shutdown-timeout", "0", models_dir=scripts, is_fake=True)
    stream = Blocks(server, "chat", body_of("chat", "slow-down"))
    stream.next_comment(": loading.*")
    server.stop()
    [event] = events_of(list(stream))
    assert "stopping" in event["error"]["message"]


# ---------------------------------------------------------------- comments of a stream that runs


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_silent_stream_is_kept_alive(server: Router, flavour: str) -> None:
    script = {"wait_s": 0.4, "delay_s": 0.4}
    blocks = list(Blocks(server, flavour, body_of(flavour, "quick", script)))
    events = events_of(blocks)
    first = next(index for index, block in enumerate(blocks) if "t0 " in block)
    assert set(comments_of(blocks[:first])) == {": prefill"}
    assert set(comments_of(blocks[first:])) == {": ping"}
    assert text_of(events) == WHOLE


def test_a_stream_that_flows_gets_none(server: Router) -> None:
    blocks = list(Blocks(server, "chat", body_of("chat", "quick", {"tokens": 40, "delay_s": 0.02})))
    assert len(events_of(blocks)) >= 40
    assert not comments_of(blocks)


# ---------------------------------------------------------------- the queue


@pytest.fixture
def crowded(router: StartRouter, tmp_path: Path) -> Router:
    """One place, three models."""
    for name in "abc":
        (tmp_path / f"{name}.gguf").write_text("{}")
    return router("--models-max", "1", "--sse-ping-interval", "0.1", models_dir=tmp_path, is_fake=True)


def test_a_queued_stream_is_told_its_place(crowded: Router) -> None:
    busy = Blocks(crowded, "chat", body_of("chat", "a", {"tokens": 1, "die_after": 1, "hang": True}))
    second = Blocks(crowded, "chat", body_of("chat", "b"))
    second.next_comment(": queued 1")
    third = Blocks(crowded, "completion", body_of("completion", "c"))
    assert list(timing_of(third.headers)) == ["queue", "load"]
    third.next_comment(": queued 2")
    busy.close()
    for stream in (second, third):
        blocks = list(stream)
        assert text_of(events_of(blocks)) == WHOLE
        assert events_of(blocks)[-1]["timings"]["queue_ms"] >= 100
        assert stream.is_whole


def test_a_client_that_leaves_while_queued_leaves_the_queue(crowded: Router) -> None:
    busy = Blocks(crowded, "chat", body_of("chat", "a", {"tokens": 1, "die_after": 1, "hang": True}))
    leaves = Blocks(crowded, "chat", body_of("chat", "b"))
    leaves.next_comment(": queued 1")
    stays = Blocks(crowded, "chat", body_of("chat", "c"))
    stays.next_comment(": queued 2")
    leaves.close()
    stays.next_comment(": queued 1")
    busy.close()
    assert text_of(events_of(list(stays))) == WHOLE
    assert "b: loading" not in crowded.log


def test_those_who_do_not_stream_simply_wait(crowded: Router) -> None:
    busy = Blocks(crowded, "chat", body_of("chat", "a", {"tokens": 3, "delay_s": 0.5}))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(crowded.post("/completion", body_of("completion", "b"))))
    thread.start()
    assert text_of(events_of(list(busy))) == WHOLE
    thread.join()
    assert found[0].json["content"] == WHOLE
    assert timing_of(found[0].headers)["queue"] > 0
    eventually(lambda: crowded.status("b") == "loaded", "b loaded")


def test_a_variant_waits_for_its_base_and_is_called_by_its_own_name(router: StartRouter, tmp_path: Path) -> None:
    (tmp_path / "big.gguf").write_text(json.dumps(SLOW))
    preset = tmp_path / "presets.ini"
    preset.write_text("[calm]\nbase = big\ntemp = 0.1\n")
    server = router("--models-preset", str(preset), "--sse-ping-interval", "0.1", models_dir=tmp_path, is_fake=True)
    stream = Blocks(server, "chat", body_of("chat", "calm"))
    blocks = list(stream)
    assert stream.headers["X-Model"] == "calm"
    assert ": loading 25%" in comments_of(blocks)
    assert events_of(blocks)[-1]["timings"]["load_ms"] >= 1000 * LOAD_S
    text = server.get("/metrics").body.decode()
    assert 'fastrouter_requests_total{flavour="chat",model="calm",outcome="ok"} 1.0' in text
    assert 'fastrouter_loads_total{model="big",outcome="ok"} 1.0' in text
