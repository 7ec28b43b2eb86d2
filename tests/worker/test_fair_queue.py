"""Who gets the next slot: callers and requests share them."""

import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import StartRouter

from fastrouter.worker.engine.fair_queue import FairQueue

_numbers: Iterator[int] = count(1)


def made(name: str, request_id: int, exchange: int = 0, caller: int = 0) -> Any:
    generate = SimpleNamespace(caller=caller, exchange=exchange)
    return SimpleNamespace(name=name, number=next(_numbers), request=SimpleNamespace(id=request_id, generate=generate))


class Slots:
    """A few of them, which a queue fills; `free` ends the oldest one."""

    def __init__(self, num_slots: int) -> None:
        self.queue = FairQueue()
        self.num_slots = num_slots
        self.running: list[Any] = []
        self.order = ""

    def add(self, *sequences: Any) -> None:
        for sequence in sequences:
            self.queue.add(sequence)
            self.fill()

    def fill(self) -> None:
        while len(self.running) < self.num_slots and (heads := self.queue.heads()):
            self.queue.start(heads[0])
            self.running.append(heads[0])
            self.order += heads[0].name

    def free(self) -> None:
        self.queue.end(self.running.pop(0))
        self.fill()

    def finish(self) -> str:
        while self.running:
            self.free()
        assert not self.queue
        assert not len(self.queue)
        assert not self.queue._requests
        assert not self.queue._callers
        return self.order


def test_first_come_first_served_where_each_asks_once() -> None:
    slots = Slots(2)
    slots.add(*(made(name, number) for number, name in enumerate("abcdef", 1)))
    assert slots.finish() == "abcdef"


@pytest.mark.parametrize(("num_slots", "expected"), [(1, "abcaaaa"), (2, "aabcaaa"), (4, "aaaabca")])
def test_many_prompts_of_one_request_let_others_in(num_slots: int, expected: str) -> None:
    slots = Slots(num_slots)
    slots.add(*(made("a", number, exchange=1) for number in range(1, 6)))
    slots.add(made("b", 10, exchange=2), made("c", 11, exchange=3))
    assert slots.finish() == expected


def test_choices_wait_behind_the_first_ones_of_others() -> None:
    slots = Slots(1)
    first = made("a", 1)
    slots.add(first, made("b", 2))
    slots.queue.add_first([made("A", 1), made("a", 1)])  # its siblings
    assert slots.finish() == "abAa"


def test_later_requests_keep_none_waiting_for_ever() -> None:
    slots = Slots(1)
    slots.add(*(made("a", 1, exchange=1) for _ in range(3)))
    for number in range(2, 8):
        slots.add(made("b", number, exchange=number))
        slots.free()
        slots.add(made("b", number + 10, exchange=number + 10))
    order = slots.finish()
    assert order.count("a") == 3
    assert order[order.rindex("a") :].count("b") > 5, "not behind all that came later"


def test_keys_share_before_their_requests_do() -> None:
    slots = Slots(2)
    slots.add(*(made("a", number, exchange=number, caller=1) for number in range(1, 7)))
    slots.add(made("b", 20, exchange=20, caller=2), made("b", 21, exchange=21, caller=2))
    assert slots.finish() == "aababaaa"


def test_what_has_begun_goes_first_and_the_oldest_before_all() -> None:
    slots = Slots(2)
    one, two = made("1", 1), made("2", 2)
    slots.add(one, two, made("c", 3))
    for sequence in (two, one):
        slots.running.remove(sequence)
        slots.queue.put_back(sequence)
    assert slots.queue.has_begun
    assert [head.name for head in slots.queue.heads()] == ["1", "2", "c"]
    slots.fill()
    assert slots.finish() == "1212c"


def test_what_is_forgotten_leaves_no_trace() -> None:
    slots = Slots(1)
    slots.add(*(made("a", number, exchange=1) for number in (1, 2, 2, 3)), made("b", 4))
    slots.queue.forget(2)
    slots.queue.forget(99)
    assert len(slots.queue) == 2
    assert slots.finish() == "aba"


def test_over_http(router: StartRouter, models: Path) -> None:
    server = router("-np", "2", models_dir=models)
    server.load("tiny0")
    body = {"model": "tiny0", "prompt": ["the cat and the dog"] * 12, "n": 12, "max_tokens": 100, "ignore_eos": True}
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(server.post("/v1/completions", body)))
    thread.start()
    while not any(slot["is_processing"] for slot in server.get("/slots?model=tiny0").json):
        pass
    assert server.post("/v1/completions", {"model": "tiny0", "prompt": "a red house", "max_tokens": 4}).status == 200
    assert thread.is_alive(), "the other one was answered first"
    thread.join()
    assert len(answers[0].json["choices"]) == 12 * 12
