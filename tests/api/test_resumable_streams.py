"""Streams that go on when their client leaves: X-Conversation-Id, /v1/stream, /v1/streams/lookup, as clients use them."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import Answer, Router, StartRouter, eventually

CHAT = "/v1/chat/completions"
LOADING = {"progress": [0.2, 0.4, 0.6, 0.8], "load_s": 2.0}
KEYS = "all\nann name=ann concurrency=1\nbob name=bob\nlook read-only\n"


@pytest.fixture(scope="module")
def served(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("streams")
    scripts: dict[str, Any] = {"calm": {}, "slow": LOADING, "slower": LOADING, "slowest": LOADING, "bad": {"fail": "no", "load_s": 0.5}}
    for name, script in scripts.items():
        (folder / f"{name}.gguf").write_text(json.dumps(script))
    return module_router("--sse-ping-interval", "0.1", models_dir=folder, is_fake=True)


@pytest.fixture(scope="module")
def locked(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("locked")
    (folder / "calm.gguf").write_text("{}")
    (folder / "keys").write_text(KEYS)
    return module_router("--api-key-file", str(folder / "keys"), models_dir=folder, is_fake=True)


def body_of(script: dict[str, Any], model: str = "calm", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": json.dumps(script)}], "stream": True, **fields}


def path_of(name: str, start: int = 0, more: str = "") -> str:
    return f"/v1/stream?conv_id={quote(name, safe='')}&from={start}{more}"


@contextlib.contextmanager
def asking(router: Router, name: str, body: Any, *, path: str = CHAT, key: str = "") -> Iterator[http.client.HTTPResponse]:
    connection, response = router.open("POST", path, body, headers_of(key) | {"X-Conversation-Id": name})
    with contextlib.closing(connection), response:
        yield response


def headers_of(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def leave(router: Router, name: str, body: Any, key: str = "") -> bytes:
    """The client goes when it has some of the answer. Returns what it has."""
    with asking(router, name, body, key=key) as response:
        got = response.read1(100)
        while b"t1 " not in got:
            got += response.read1(100)
        return got


def lookup(router: Router, *names: str, key: str = "") -> dict[str, Any]:
    answer = router.post("/v1/streams/lookup", {"conversation_ids": list(names)}, headers_of(key))
    assert answer.status == 200, answer
    return {each["conversation_id"]: each for each in answer.json}


def await_end(router: Router, name: str, key: str = "") -> dict[str, Any]:
    found: dict[str, Any] = eventually(lambda: (found := lookup(router, name, key=key)[name])["is_done"] and found, "its end")
    return found


def text_of(stream: bytes) -> str:
    events = [json.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: {")]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event.get("choices"))


def said(num_tokens: int) -> str:
    return "".join(f"t{number} " for number in range(num_tokens))


# ---------------------------------------------------------------- resuming


def test_it_goes_on_when_its_client_leaves_and_comes_back(served: Router) -> None:
    got = leave(served, "one", body_of({"tokens": 60, "delay_s": 0.01}))
    rest = served.get(path_of("one", len(got)))
    assert (rest.status, rest.headers["content-type"], rest.headers["x-model"]) == (200, "text/event-stream", "calm")
    assert text_of(got + rest.body) == said(60)
    assert rest.body.endswith(b"data: [DONE]\n\n")
    whole = served.get(path_of("one")).body
    assert whole == got + rest.body
    assert served.get(path_of("one", len(whole))).body == b""


def test_the_answer_is_generated_to_its_end_without_any_client(served: Router) -> None:
    leave(served, "alone", body_of({"tokens": 60, "delay_s": 0.01}))
    found = await_end(served, "alone")
    assert found["completed_at"] >= found["started_at"] > time.time() - 100
    assert served.get("/v1/models/calm").json["usage"]["running"] == 0  # only the bytes are kept
    assert len(served.get(path_of("alone")).body) == found["total_bytes"]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (CHAT, {}),
        ("/v1/completions", {"prompt": '{"tokens": 9, "delay_s": 0.01}'}),
        ("/completion", {"prompt": '{"tokens": 9, "delay_s": 0.01}'}),
        ("/v1/messages", {"max_tokens": 9}),
        ("/v1/responses", {"input": '{"tokens": 9, "delay_s": 0.01}'}),
        ("/api/chat", {}),
    ],
)
def test_every_api_has_its_own_bytes(served: Router, path: str, more: dict[str, Any]) -> None:
    body = body_of({"tokens": 9, "delay_s": 0.01}, **more)
    with asking(served, path, body, path=path) as response:
        kind, whole = response.headers["content-type"], response.read()
    assert b"t8 " in whole
    again = served.get(path_of(path))
    assert (again.headers["content-type"], again.body) == (kind, whole)


def test_many_clients_read_one_stream(served: Router) -> None:
    with asking(served, "many", body_of({"tokens": 60, "delay_s": 0.01})) as first:
        begun = first.read1(10)
        with served.stream(path_of("many")) as second:
            events = list(second)
            assert (second.is_done, second.is_whole) == (True, True)
        whole = begun + first.read()
    assert text_of(whole) == said(60)
    assert [event for event in events if "choices" in event] != []
    assert whole == served.get(path_of("many")).body


def test_a_client_that_does_not_read_stops_nothing(served: Router) -> None:
    """The usual limit of a slow client is far smaller than this answer."""
    body = json.dumps(body_of({"tokens": 100, "text": "x" * 60_000})).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", served.port))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Conversation-Id: lazy\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        eventually(lambda: "lazy" in lookup(served, "lazy"), "the stream")
        found = await_end(served, "lazy")
    assert found["total_bytes"] > 6_000_000
    assert len(text_of(served.get(path_of("lazy")).body)) == 6_000_000


def test_an_answer_that_fails_on_the_way_is_read_as_it_was(served: Router) -> None:
    with served.stream(CHAT, body_of({"tokens": 9, "die_after": 3, "error": "so be it"})) as stream:
        plain = list(stream)
        assert not stream.is_whole
    with (
        asking(served, "failing", body_of({"tokens": 9, "die_after": 3, "error": "so be it"})) as response,
        pytest.raises(http.client.IncompleteRead),
    ):
        response.read()
    with served.stream(path_of("failing")) as stream:
        again = list(stream)
        assert not stream.is_whole
    assert again[-1]["error"] == plain[-1]["error"]
    assert plain[-1]["error"]["message"] == "so be it"


def test_an_answer_without_a_stream_has_no_name(served: Router) -> None:
    answer = served.post(CHAT, body_of({"tokens": 2}, stream=False), {"X-Conversation-Id": "whole"})
    assert answer.json["choices"][0]["message"]["content"] == said(2)
    assert served.get(path_of("whole")).status == 404


def test_a_request_that_is_refused_leaves_nothing(served: Router) -> None:
    for body in (body_of({"tokens": 2}, temperature="hot"), body_of({"error": "no"}), body_of({}, model="unknown")):
        assert served.post(CHAT, body, {"X-Conversation-Id": "refused"}).status in (400, 404)
        assert served.get(path_of("refused")).status == 404
    assert served.post(CHAT, body_of({}), {"X-Conversation-Id": "x" * 600}).error["message"].startswith("field 'X-Conversation-Id'")


# ---------------------------------------------------------------- while the model loads


def test_a_client_comes_back_while_the_model_loads(served: Router) -> None:
    body = json.dumps(body_of({"tokens": 3}, model="slow", sse_ping_interval=-1)).encode()
    with socket.create_connection(("127.0.0.1", served.port)) as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Conversation-Id: early\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        eventually(lambda: "early" in lookup(served, "early"), "the stream")
    refused = served.get(path_of("early"))
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert text_of(served.get(path_of("early", more="&wait=1")).body) == said(3)
    assert text_of(served.get(path_of("early")).body) == said(3)


def test_a_stop_while_the_model_loads_ends_the_request(served: Router) -> None:
    with contextlib.ExitStack() as stack:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        stack.callback(connection.close)
        body = json.dumps(body_of({"tokens": 3}, model="slower", sse_ping_interval=-1))
        connection.request("POST", CHAT, body, {"X-Conversation-Id": "parked::slower"})
        eventually(lambda: lookup(served, "parked"), "the stream")
        assert served.request("DELETE", path_of("parked::slower")).status == 204
        response = connection.getresponse()
        assert response.status == 400
        assert "cancelled" in json.loads(response.read())["error"]["message"]
    assert served.get(path_of("parked::slower")).status == 404
    assert served.get("/v1/models/slower").json["usage"]["waiting"] == 0


def test_who_comes_back_after_a_failed_load_learns_why(served: Router) -> None:
    body = json.dumps(body_of({"tokens": 3}, model="bad", sse_ping_interval=-1)).encode()
    with socket.create_connection(("127.0.0.1", served.port)) as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Conversation-Id: bad\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        eventually(lambda: "bad" in lookup(served, "bad"), "the stream")
    await_end(served, "bad")
    answer = served.get(path_of("bad"))
    assert (answer.status, "failed to load" in answer.error["message"]) == (400, True)


# ---------------------------------------------------------------- stopping, replacing, looking


def test_a_stop_ends_the_generation_and_forgets_it(served: Router) -> None:
    with asking(served, "endless", body_of({"tokens": 1, "hang": True, "die_after": 1})) as response:
        while b"t0 " not in response.read1(1000):
            pass
        assert served.is_processing("calm")
        assert served.request("DELETE", path_of("endless")).body == b""
        with pytest.raises(http.client.IncompleteRead) as cut:
            response.read()
        event = json.loads(cut.value.partial.split(b"data: ")[-1])
        assert (event["error"]["type"], "cancelled" in event["error"]["message"]) == ("cancelled_error", True)
    eventually(lambda: not served.is_processing("calm"), "the end of the generation")
    assert served.get(path_of("endless")).status == 404
    assert served.request("DELETE", path_of("endless")).status == 204


def test_a_name_means_the_last_request_that_has_it(served: Router) -> None:
    leave(served, "same", body_of({"tokens": 2, "hang": True, "die_after": 2}))
    leave(served, "same", body_of({"tokens": 2}))
    await_end(served, "same")
    assert text_of(served.get(path_of("same")).body) == said(2)
    eventually(lambda: not served.is_processing("calm"), "the end of the first")


def test_a_lookup_finds_names_and_what_begins_with_them(served: Router) -> None:
    for name in ("talk", "talk::calm", "talk::org/model:Q4", "talker"):
        leave(served, name, body_of({"tokens": 3}))
    assert set(lookup(served, "talk")) == {"talk", "talk::calm", "talk::org/model:Q4"}
    assert set(lookup(served, "talk::calm", "none", "")) == {"talk::calm"}
    assert lookup(served) == {}
    assert served.post("/v1/streams/lookup", {}).json == []
    assert text_of(served.get(path_of("talk::org/model:Q4")).body) == said(3)
    for wrong in ("talk", [1], ["x"] * 1001):
        answer = served.post("/v1/streams/lookup", {"conversation_ids": wrong})
        assert (answer.status, "conversation_ids" in answer.error["message"]) == (400, True)


def test_a_bad_query_is_named(served: Router) -> None:
    leave(served, "known", body_of({"tokens": 3}))
    size = await_end(served, "known")["total_bytes"]
    expected = {"/v1/stream": "conv_id", "/v1/stream?conv_id=": "conv_id"}
    expected |= {f"/v1/stream?conv_id=known&from={wrong}": "from" for wrong in ("-1", "x", "1.5", "9" * 30, str(size + 1), "%C2%B2")}
    for path, name in expected.items():
        answer = served.get(path)
        assert (answer.status, name in answer.error["message"]) == (400, True), path
    assert served.request("DELETE", "/v1/stream").status == 400
    assert served.get(path_of("unknown")).status == 404
    head = served.request("HEAD", path_of("known"))
    assert (head.status, head.headers["content-type"], head.body) == (200, "text/event-stream", b"")


# ---------------------------------------------------------------- keys, models, the end


def test_a_key_finds_only_its_own_streams(locked: Router) -> None:
    leave(locked, "private", body_of({"tokens": 9, "delay_s": 0.01}), key="ann")
    for other in ("bob", "all", "look"):
        assert locked.get(path_of("private"), headers_of(other)).status == 404
        assert lookup(locked, "private", key=other) == {}
        assert locked.request("DELETE", path_of("private"), headers=headers_of(other)).status == 204
    await_end(locked, "private", key="ann")
    assert text_of(locked.get(path_of("private"), headers_of("ann")).body) == said(9)
    assert locked.get(path_of("private")).status == 401


def test_a_generation_without_a_client_counts_for_its_key(locked: Router) -> None:
    leave(locked, "running", body_of({"tokens": 2, "hang": True, "die_after": 2}), key="ann")
    assert locked.post(CHAT, body_of({"tokens": 1}), headers_of("ann")).status == 429
    assert locked.request("DELETE", path_of("running"), headers=headers_of("ann")).status == 204
    for number in range(3):
        leave(locked, f"again{number}", body_of({"tokens": 2}), key="ann")
        await_end(locked, f"again{number}", key="ann")


def test_a_read_only_key_may_stop_its_stream(locked: Router) -> None:
    if locked.get("/v1/models/calm", headers_of("all")).json["status"]["value"] != "loaded":
        leave(locked, "warm", body_of({"tokens": 2}), key="all")
    leave(locked, "looked", body_of({"tokens": 2, "hang": True, "die_after": 2}), key="look")
    assert locked.request("DELETE", path_of("looked"), headers=headers_of("look")).status == 204
    assert locked.get(path_of("looked"), headers_of("look")).status == 404


def test_it_goes_with_its_model(router: StartRouter, tmp_path: Path) -> None:
    for name in ("stays", "goes"):
        (tmp_path / f"{name}.gguf").write_text("{}")
    served = router(models_dir=tmp_path, is_fake=True)
    for name in ("stays", "goes"):
        leave(served, name, body_of({"tokens": 2, "hang": True, "die_after": 2}, model=name))
    (tmp_path / "goes.gguf").unlink()
    assert served.get("/models?reload=1").status == 200
    found = {name: served.get(path_of(name), {"Range": "x"}) if name == "goes" else lookup(served, name) for name in ("stays", "goes")}
    assert isinstance(found["goes"], Answer)
    assert found["goes"].status == 404
    assert set(found["stays"]) == {"stays"}


def test_a_stopping_router_does_not_wait_for_it(router: StartRouter, tmp_path: Path) -> None:
    (tmp_path / "calm.gguf").write_text("{}")
    served = router("--stop-timeout", "600", models_dir=tmp_path, is_fake=True)
    leave(served, "left", body_of({"tokens": 2, "hang": True, "die_after": 2}))
    assert served.stop() == 0
