"""Broken and harmful pictures in every API, beside a running stream: each is shown or refused, and nothing else happens.

`FASTROUTER_PICTURES=2000` sends so many (minutes); without it, a part of them.
"""

import base64
import contextlib
import http.client
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import DEADLINE_S, Router, StartRouter, eventually, text_of
from hostile_pictures import KINDS, files, png_of_zeros
from tiny_models import make_llama
from tiny_projectors import data_url, image_part, make_llava

NUM_FILES = int(os.environ.get("FASTROUTER_PICTURES", "240"))
IS_ALL = NUM_FILES >= 2000
NUM_CLIENTS = 3
SEED = 17
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
STREAM = {"model": "sees", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 1500, "temperature": 0, "stream": True}
WORKER_GROWS_MIB, ROUTER_GROWS_MIB = 32, 24  # at most, from the first part of the files to the last
PEAK_MIB = 1200 if IS_ALL else 500  # a picture of 50 million pixels takes a few times 150 MB while it is decoded
# As many pixels and bytes as are decoded.
LARGE = (png_of_zeros(7000, 7000, 8, 2, 7000 * 21001), png_of_zeros(4000, 4000, 16, 6, 4000 * 32001)) if IS_ALL else ()
ALWAYS_SHOWN, MOSTLY_REFUSED = {"whole"}, {"types", "sizes"}


def _openai(file: bytes) -> tuple[dict[str, Any], str]:
    content = [image_part(file), {"type": "text", "text": "a"}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1}, "messages[0].content[0].image_url"


def _anthropic(file: bytes) -> tuple[dict[str, Any], str]:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(file).decode()}
    content = [{"type": "text", "text": "a"}, {"type": "image", "source": source}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1}, "messages[0].content[1].source"


def _responses(file: bytes) -> tuple[dict[str, Any], str]:
    part = {"type": "input_image", "image_url": data_url(file)}
    return {"input": [{"role": "user", "content": [part]}], "max_output_tokens": 1}, "input[0].content[0].image_url"


def _ollama(file: bytes) -> tuple[dict[str, Any], str]:
    message = {"role": "user", "content": "a", "images": [base64.b64encode(file).decode()]}
    return {"messages": [message], "options": {"num_predict": 1}, "stream": False}, "messages[0].images[0]"


APIS = {"/v1/chat/completions": _openai, "/v1/messages": _anthropic, "/v1/responses": _responses, "/api/chat": _ollama}


@pytest.fixture
def server(router: StartRouter, tmp_path: Path) -> Router:
    folder = tmp_path / "models"
    (folder / "sees").mkdir(parents=True)
    make_llama(folder / "sees" / "sees.gguf", seed=1, chat_template=TEMPLATE)
    make_llava(folder / "sees" / "mmproj-sees.gguf")
    make_llama(folder / "other.gguf", seed=2, chat_template=TEMPLATE)
    return router("-c", "8192", "-np", "4", "--cache-ram", "0", "--park-ram", "0", models_dir=folder)  # neither memory nor files of prompts


class Process:
    """What a process uses, from outside."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def resident_mib(self, field: str = "VmRSS") -> float:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.partition(f"{field}:")[2].split()[0]) / 1024

    def num_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def await_rest(self, most_mib: float, most_descriptors: int) -> None:
        eventually(lambda: self.resident_mib() <= most_mib, f"no more than {most_mib:.0f} MiB in memory")
        eventually(lambda: self.num_descriptors() <= most_descriptors, f"no more than {most_descriptors} descriptors")


class Sender:
    """Sends files over one connection, each in the next API. What is wrong with an answer is noted, not raised."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.statuses: Counter[tuple[str, int]] = Counter()  # by kind of file
        self.problems: list[str] = []

    def send(self, numbered: list[tuple[int, tuple[str, bytes]]]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            for number, (kind, file) in numbered:
                path = list(APIS)[(number + number // len(KINDS)) % len(APIS)]  # other kinds of files for each, in each round
                body, field = APIS[path](file)
                connection.request("POST", path, orjson.dumps({"model": "sees", **body}), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                self._judge(number, kind, answer.status, answer.read(), field)

    def _judge(self, number: int, kind: str, status: int, body: bytes, field: str) -> None:
        self.statuses[kind, status] += 1
        is_right = status == 200 or (status == 400 and f"field '{field}' " in orjson.dumps(orjson.loads(body)).decode())
        if not is_right:
            self.problems.append(f"file {number}, {kind}: {status} {body[:300]!r}")


@contextlib.contextmanager
def streaming(server: Router) -> Iterator[list[str]]:
    """One stream after the other, until the end; their texts."""
    texts: list[str] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            with server.stream("/v1/chat/completions", STREAM) as stream:
                texts.append("".join(map(text_of, stream)))

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            yield texts
        finally:
            is_over.set()
            reading.result()


def send_all(server: Router, numbered: list[tuple[int, tuple[str, bytes]]]) -> Counter[tuple[str, int]]:
    senders = [Sender(server.port) for _ in range(NUM_CLIENTS)]
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        list(pool.map(lambda at: senders[at].send(numbered[at::NUM_CLIENTS]), range(NUM_CLIENTS)))
    assert [problem for sender in senders for problem in sender.problems] == []
    return sum((sender.statuses for sender in senders), Counter())


def test_each_is_shown_or_refused(server: Router) -> None:
    server.load("sees", "other")
    workers = [Process(server.worker_of(model)) for model in ("sees/sees", "other")]
    with server.stream("/v1/chat/completions", STREAM) as stream:
        expected = "".join(map(text_of, stream))
    numbered = list(enumerate(files(NUM_FILES, SEED)))
    first = len(numbered) // 4
    with streaming(server) as texts:
        statuses = send_all(server, numbered[:first])
    processes = [Process(server.process.pid), workers[0]]
    before = [(one.resident_mib(), one.num_descriptors()) for one in processes]
    with streaming(server) as more_texts:
        statuses += send_all(server, numbered[first:])
        if IS_ALL:
            assert send_all(server, list(enumerate(("large", file) for file in LARGE)))["large", 200] == len(LARGE)
    assert {*texts, *more_texts} == {expected}
    assert statuses.total() == NUM_FILES
    shown, refused = ({kind for kind in KINDS if statuses[kind, status]} for status in (200, 400))
    assert shown >= set(KINDS) - MOSTLY_REFUSED, statuses
    assert refused == set(KINDS) - ALWAYS_SHOWN, statuses
    assert all(statuses[kind, 400] > statuses[kind, 200] for kind in MOSTLY_REFUSED), statuses
    assert [server.worker_of(model) for model in ("sees/sees", "other")] == [worker.pid for worker in workers]
    for process, (mib, num_descriptors), most in zip(processes, before, (ROUTER_GROWS_MIB, WORKER_GROWS_MIB), strict=True):
        process.await_rest(mib + most, num_descriptors)
    assert workers[0].resident_mib("VmHWM") < before[1][0] + PEAK_MIB
