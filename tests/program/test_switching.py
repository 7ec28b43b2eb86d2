"""Several models, many clients, workers that die, routers that end: nothing is lost, mixed up or left behind."""

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter, descendants, eventually, is_alive, text_of
from tiny_models import make_llama

from fastrouter.app.router import ONE_SIGNAL_S

NAMES = ("tiny0", "tiny1", "tiny2")
ENDLESS = 131072  # tokens; half a minute of work
# Batches of other sizes change logits by up to 0.003 (the KV cache is F16). With these prompts, the best token of each of the first
# 32 steps of tiny0 to tiny2 is at least 0.07 above the second, so the text must not change.
PROMPTS = ("two to we all", "not the he of all", "we a she", "of you a all", "not all the on", "cat dog a the")


def ask(name: str, prompt: Any, **more: Any) -> dict[str, Any]:
    return {"model": name, "prompt": prompt, "max_tokens": 24, "temperature": 0, **more}


def whole(server: Router, name: str, prompt: str) -> str:
    answer = server.post("/v1/completions", ask(name, prompt))
    assert answer.status == 200, answer
    text: str = answer.json["choices"][0]["text"]
    return text


def read(server: Router, name: str, prompt: str, **more: Any) -> tuple[str, list[Any], bool]:
    """(text, error events, whether it ended correctly)."""
    with server.stream("/v1/completions", ask(name, prompt, stream=True, **more)) as stream:
        if stream.status != 200:
            return "", [stream.status], False
        events = list(stream)
        errors = [event["error"] for event in events if "error" in event]
        if errors:
            assert "error" in events[-1]
            assert events[-1]["choices"][0]["finish_reason"] == "error"
        return "".join(map(text_of, events)), errors, stream.is_whole and stream.is_done


def started_at(pid: int) -> int:
    """Ticks since boot."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def in_threads(actions: list[Callable[[], None]]) -> None:
    """Run them all together; the first failure is raised."""
    failures: list[BaseException] = []

    def run(action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.fixture(scope="module")
def expected(module_router: StartRouter, models: Path) -> dict[tuple[str, str], str]:
    """What each model answers alone, one request at a time, without a cache to reuse."""
    server = module_router("-np", "1", models_dir=models)
    found = {}
    for name in NAMES:
        for prompt in PROMPTS:
            answer = server.post("/v1/completions", ask(name, prompt, cache_prompt=False))
            found[name, prompt] = answer.json["choices"][0]["text"]
    assert len(set(found.values())) == len(found)
    return found


def client_of(server: Router, number: int, expected: dict[tuple[str, str], str], *, rounds: int) -> Callable[[], None]:
    """A client that uses models and prompts in its own order; each answer must equal the one of a request that runs alone."""

    def run() -> None:
        for turn in range(rounds):
            name, prompt = NAMES[(number + turn) % 3], PROMPTS[(number * 5 + turn * 7) % len(PROMPTS)]
            if (number + turn) % 4:
                text, errors, is_complete = read(server, name, prompt)
                assert (errors, is_complete) == ([], True)
            else:
                text = whole(server, name, prompt)
            assert text == expected[name, prompt], (name, prompt)

    return run


def test_many_clients_over_three_models(router: StartRouter, models: Path, expected: dict[tuple[str, str], str]) -> None:
    server = router("--models-max", "2", "-np", "4", models_dir=models)
    resident: list[int] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            statuses = [model["status"]["value"] for model in server.get("/models").json["data"]]
            resident.append(sum(status != "unloaded" for status in statuses))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        in_threads([client_of(server, number, expected, rounds=12) for number in range(8)])
    finally:
        is_over.set()
        watcher.join()
    assert max(resident) == 2


def test_worker_killed_in_the_middle(router: StartRouter, models: Path, tmp_path: Path, expected: dict[tuple[str, str], str]) -> None:
    for seed, name in enumerate(NAMES):
        make_llama(tmp_path / f"{name}.gguf", seed=seed, n_ctx=ENDLESS if name == "tiny1" else 2048)
    server = router("-np", "4", models_dir=tmp_path)
    server.load(*NAMES)
    begun = threading.Barrier(5)
    prompt = PROMPTS[1]

    def victim() -> None:
        usage = {"include_usage": True}
        with server.stream("/v1/completions", ask("tiny1", prompt, max_tokens=1500, stream=True, stream_options=usage)) as stream:
            events = stream.events()
            first = next(events)
            begun.wait(60)
            rest = list(events)
            assert (stream.is_whole, stream.is_done) == (True, True)
        assert not any("error" in event for event in rest)
        text, lone = "".join(map(text_of, [first, *rest])), expected["tiny1", prompt]
        assert text[: len(lone)] == lone
        assert rest[-1]["usage"]["completion_tokens"] == 1500

    def kill() -> None:
        begun.wait(60)
        os.kill(server.worker_of("tiny1"), signal.SIGKILL)

    def others(number: int) -> Callable[[], None]:
        def run() -> None:
            for turn in range(12):
                name, prompt = NAMES[(number + turn) % 2 * 2], PROMPTS[turn % len(PROMPTS)]
                assert read(server, name, prompt) == (expected[name, prompt], [], True)

        return run

    in_threads([*[victim] * 4, *(others(number) for number in range(4)), kill])
    assert "its requests continue on another worker" in server.log
    assert whole(server, "tiny1", PROMPTS[0]) == expected["tiny1", PROMPTS[0]]
    assert server.status("tiny1") == "loaded"


def test_a_failed_stream_is_visibly_incomplete(router: StartRouter, tmp_path: Path) -> None:
    """Its worker dies, and no other one can load the model."""
    paths = ("/v1/chat/completions", "/v1/completions", "/completion")
    for number in range(len(paths)):
        make_llama(tmp_path / f"tiny{number}.gguf", n_ctx=ENDLESS)
    server = router(models_dir=tmp_path)
    for number, path in enumerate(paths):
        body = {"model": f"tiny{number}", "prompt": "the cat", "messages": [{"role": "user", "content": "a"}], "stream": True}
        with server.stream(path, {**body, "max_tokens": ENDLESS - 100, "temperature": 0}) as stream:
            events = iter(stream)
            first = next(events)
            assert "error" not in first
            pid = server.worker_of(f"tiny{number}")
            (tmp_path / f"tiny{number}.gguf").write_bytes(b"")
            os.kill(pid, signal.SIGKILL)
            rest = list(events)
            assert not stream.is_whole, path
            assert not stream.is_done
        assert len([event for event in rest if "error" in event]) == 1
        reason = rest[-1].get("finish_reason") or rest[-1]["choices"][0]["finish_reason"]
        assert reason == "error"


def test_worker_killed_before_the_first_word(router: StartRouter, models: Path, tmp_path: Path) -> None:
    """Nothing was sent yet: the request starts again on a new worker, and its client does not notice."""
    make_llama(tmp_path / "long.gguf", n_ctx=32768)
    server = router("-c", "32768", models_dir=tmp_path)
    prompt = [40 + number % 200 for number in range(8_000)]
    answers: list[Any] = []

    def asks() -> None:
        answers.append(server.post("/completion", ask("long", prompt, n_predict=8)))

    def kill() -> None:
        eventually(lambda: server.is_processing("long"), "the prompt at work")
        os.kill(server.worker_of("long"), signal.SIGKILL)

    in_threads([asks, kill])
    [answer] = answers
    assert answer.status == 200, answer
    assert answer.json["tokens_predicted"] == 8


def test_idle_worker_killed(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models)
    server.load("tiny0", "tiny1")
    os.kill(server.worker_of("tiny0"), signal.SIGKILL)
    server.await_status("tiny0", "unloaded")
    status = server.get("/v1/models/tiny0").json["status"]
    assert (status["failed"], status["exit_code"]) == (True, -signal.SIGKILL)
    assert "SIGKILL" in status["error"]
    assert server.status("tiny1") == "loaded"
    assert server.post("/completion", ask("tiny0", "the cat")).status == 200
    assert "failed" not in server.get("/v1/models/tiny0").json["status"]


def test_fork_server_killed(router: StartRouter, models: Path) -> None:
    """The workers that it made continue, and the next load has a new one."""
    server = router("--models-max", "1", models_dir=models)
    server.load("tiny0")
    worker = server.worker_of("tiny0")
    fork_server = min(descendants(server.process.pid), key=started_at)
    os.kill(fork_server, signal.SIGKILL)
    assert server.post("/completion", ask("tiny0", "the cat")).status == 200
    assert server.worker_of("tiny0") == worker
    for name in ("tiny1", "tiny2", "tiny0"):
        assert server.post("/completion", ask(name, "the cat")).json["model"] == name


# ---------------------------------------------------------------- ends


def start_stream(server: Router, tokens: int, name: str) -> tuple[Any, Any]:
    """A stream that has begun: (its context, its events)."""
    context = server.stream("/v1/completions", ask(name, "the cat", max_tokens=tokens, stream=True))
    stream = context.__enter__()
    events = stream.events()
    assert text_of(next(events)) or text_of(next(events))
    return context, events


def test_sigterm_drains_a_running_stream(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models)
    body = ask("tiny0", "the cat", max_tokens=1800, cache_prompt=False)
    lone = server.post("/v1/completions", body).json["choices"][0]["text"]
    with server.stream("/v1/completions", {**body, "stream": True}) as stream:
        events = stream.events()
        text = text_of(next(events))
        server.process.send_signal(signal.SIGTERM)
        text += "".join(map(text_of, events))
        assert stream.is_whole
        assert stream.is_done
    assert text == lone
    assert server.await_end() == 0


def test_sigterm_with_an_open_feed_and_an_idle_connection(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models)
    server.load("tiny0")
    connection, response = server.open("GET", "/health")
    response.read()
    with server.stream("/models/sse") as feed:
        events = feed.events()
        next(events)
        server.process.send_signal(signal.SIGTERM)
        list(events)
        assert feed.is_whole
    connection.close()
    assert server.await_end() == 0


def await_closed_port(server: Router) -> None:
    def is_refused() -> bool:
        try:
            server.open("GET", "/health")[0].close()
        except (ConnectionRefusedError, ConnectionResetError, http.client.RemoteDisconnected):
            return True
        return False

    eventually(is_refused, "the port is closed")


def test_no_new_requests_while_draining(router: StartRouter, tmp_path: Path) -> None:
    make_llama(tmp_path / "long.gguf", n_ctx=ENDLESS)
    server = router("--shutdown-timeout", "60", models_dir=tmp_path)
    connection, response = server.open("GET", "/health")
    response.read()
    with server.stream("/v1/completions", ask("long", "the cat", max_tokens=ENDLESS - 100, stream=True)) as stream:
        events = stream.events()
        next(events)
        server.process.send_signal(signal.SIGTERM)
        await_closed_port(server)
        assert "error" not in next(events)  # it continues
    connection.close()
    assert server.await_end() == 0  # the stream has no reader any more, so there is nothing to wait for


def test_shutdown_timeout(router: StartRouter, models: Path, tmp_path: Path) -> None:
    make_llama(tmp_path / "long.gguf", n_ctx=65536)
    server = router("-c", "65536", "--shutdown-timeout", "0.3", models_dir=tmp_path)
    with server.stream("/v1/completions", ask("long", "the cat", max_tokens=65000, stream=True)) as stream:
        events = stream.events()
        next(events)
        server.process.send_signal(signal.SIGTERM)
        rest = list(events)
        assert not stream.is_whole
    assert rest[-1]["error"]["type"] == "unavailable_error"
    assert [event for event in rest if "error" in event] == rest[-1:]
    assert server.await_end() == 0


def test_second_signal_ends_everything_now(router: StartRouter, models: Path, tmp_path: Path) -> None:
    make_llama(tmp_path / "long.gguf", n_ctx=65536)
    server = router("-c", "65536", "--shutdown-timeout", "60", models_dir=tmp_path)
    children = descendants(server.process.pid)
    with server.stream("/v1/completions", ask("long", "the cat", max_tokens=65000, stream=True)) as stream:
        events = stream.events()
        next(events)
        children += descendants(server.process.pid)
        server.process.send_signal(signal.SIGINT)
        await_closed_port(server)
        time.sleep(2 * ONE_SIGNAL_S)
        server.process.send_signal(signal.SIGINT)
        list(events)
        assert not stream.is_whole
    assert server.process.wait(60) == 130
    eventually(lambda: not any(is_alive(pid) for pid in children), "the end of all workers")
    server.is_over = True


@pytest.mark.parametrize("is_busy", [False, True])
def test_workers_follow_a_killed_router(router: StartRouter, models: Path, is_busy: bool) -> None:
    server = router(models_dir=models)
    server.load(*NAMES)
    children = descendants(server.process.pid)
    assert len(children) >= 4
    streams = [start_stream(server, 1900, name) for name in NAMES] if is_busy else []
    server.process.kill()
    assert server.process.wait(60) == -signal.SIGKILL
    # A second is promised and 10 ms are usual; a busy machine may take longer to say so.
    eventually(lambda: not any(is_alive(pid) for pid in children), "the end of all workers", 20)
    for context, _ in streams:
        context.__exit__(None, None, None)
    server.is_over = True


# ---------------------------------------------------------------- clients that leave, prompts that are long


@pytest.mark.parametrize("is_stream", [True, False])
def test_client_that_vanishes_frees_its_slot(router: StartRouter, tmp_path: Path, is_stream: bool) -> None:
    make_llama(tmp_path / "long.gguf", n_ctx=131072)
    server = router("-c", "131072", "-np", "1", models_dir=tmp_path)
    server.load("long")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.connect()
    sock = connection.sock
    connection.request("POST", "/completion", _dump(ask("long", "the cat", max_tokens=131000, stream=is_stream)), _JSON)
    eventually(lambda: server.is_processing("long"), "the request at work")
    sock.close()
    connection.close()
    eventually(lambda: not server.is_processing("long"), "its slot is free", 10)
    assert server.post("/completion", ask("long", "the cat")).status == 200


def test_client_that_leaves_the_queue_takes_no_slot_from_others(router: StartRouter, tmp_path: Path) -> None:
    for name in ("busy", "wanted"):
        make_llama(tmp_path / f"{name}.gguf", n_ctx=131072)
    server = router("-c", "131072", "--models-max", "1", models_dir=tmp_path)
    with server.stream("/v1/completions", ask("busy", "the cat", max_tokens=131000, stream=True)) as stream:
        events = stream.events()
        next(events)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/completion", _dump(ask("wanted", "the cat")), _JSON)
        next(events)
        connection.close()
        assert "error" not in next(events)
        assert server.status("busy") == "loaded"
        assert server.status("wanted") == "unloaded"
    assert server.post("/completion", ask("busy", "the cat")).status == 200


def test_waiting_model_gets_its_turn(router: StartRouter, models: Path, expected: dict[tuple[str, str], str]) -> None:
    server = router("--models-max", "1", models_dir=models)
    long, short = ask("tiny0", "the cat", max_tokens=1900, stream=True), PROMPTS[0]
    with server.stream("/v1/completions", long) as stream:
        events = stream.events()
        next(events)
        assert whole(server, "tiny1", short) == expected["tiny1", short]  # waits for the end of the stream
        rest = list(events)
        assert stream.is_done
    assert rest[-1]["usage"]["completion_tokens"] == 1900
    assert server.status("tiny0") == "unloaded"


def test_unload_lets_a_stream_finish(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models)
    with server.stream("/v1/completions", ask("tiny0", "the cat", max_tokens=1900, stream=True)) as stream:
        events = stream.events()
        next(events)
        assert server.post("/models/unload", {"model": "tiny0"}).status == 200
        rest = list(events)
        assert stream.is_done
    assert rest[-1]["usage"]["completion_tokens"] == 1900
    server.await_status("tiny0", "unloaded")


def test_long_prompt_does_not_stall_a_running_stream(router: StartRouter, tmp_path: Path) -> None:
    make_llama(tmp_path / "long.gguf", n_ctx=131072)
    server = router("-c", "131072", "-np", "2", "-kvu", models_dir=tmp_path)
    server.load("long")
    is_prefilling, is_prefilled = threading.Event(), threading.Event()
    during: list[int] = []

    def asks() -> None:
        is_prefilling.set()
        answer = server.post("/completion", ask("long", [40 + n % 200 for n in range(12_000)], n_predict=1))
        is_prefilled.set()
        assert answer.json["timings"]["prompt_n"] == 12_000

    def reads() -> None:
        with server.stream("/v1/completions", ask("long", "the cat", max_tokens=110_000, stream=True)) as stream:
            for event in stream:
                if is_prefilled.is_set():
                    return
                during.append(int(is_prefilling.is_set() and bool(text_of(event))))
                if len(during) == 50:
                    second.start()

    second = threading.Thread(target=asks)
    reads()
    second.join()
    # 12,000 tokens are 24 steps of a batch at least, and each of them carries a token of the stream.
    assert sum(during) >= 20


_JSON = {"Content-Type": "application/json"}


def _dump(body: Any) -> bytes:
    return json.dumps(body).encode()
