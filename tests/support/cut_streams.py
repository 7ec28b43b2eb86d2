"""Streams whose worker dies: an engine ends in the middle of an answer, and another one continues it, as the router would let it.

Invariant: the client sees records until one chosen record, and nothing of what the first engine did after it.
"""

import time
from typing import Any

import orjson
from engine_bench import Bench, Client

from fastrouter._core import EVENT, FINISH, TokenRing
from fastrouter.ipc.messages import Generate
from fastrouter.supervisor.workers.stream import WorkerStream

_OWN = ("timings", "id_slot", "num_decodes", "num_busy_decodes", "num_guesses", "held_tokens")  # what differs from run to run
_EVENT_OWN = ("timings",)


class Cut(Client):
    """A client that outlives the engines that serve it."""

    def __init__(self) -> None:
        super().__init__()
        self.most = -1  # records with text until the engine dies; -1: it lives
        self.num_text = 0
        self.ring: TokenRing | None = None
        self.kinds: dict[int, list[int]] = {}  # of the records of each choice

    @property
    def is_cut(self) -> bool:
        return self.num_text == self.most

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        super().on_record(kind, choice, flags, payload)
        self.num_text += kind <= EVENT
        if kind <= EVENT or kind == FINISH:
            self.kinds.setdefault(choice, []).append(kind)
        if self.is_cut and self.ring is not None and not self.is_over:
            self.ring.detach(self.request_id)

    def shown(self) -> dict[str, Any]:
        """All that a client can see of it."""
        assert self.error is None, self.error
        finishes = {choice: {k: v for k, v in finish.items() if k not in _OWN} for choice, finish in self.finishes.items()}
        events = [orjson.dumps(_rounded({k: v for k, v in event.items() if k not in _EVENT_OWN})) for event in self.events]
        return {"texts": self.texts, "thoughts": self.thoughts, "finishes": finishes, "events": sorted(events), "kinds": self.kinds}


def _rounded(value: Any) -> Any:
    """Probabilities differ in their last digits, because more tokens are computed together."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


def generate(prompt: Any = None, max_tokens: int = 40, **more: Any) -> Generate:
    fields = {"cache_prompt": False, "chance": 7, "asked_at": 1e9, **more}
    fields["sampling"] = {"temperature": 0, **fields.get("sampling", {})}
    return Generate(prompt=prompt, max_tokens=max_tokens, **fields)


def start(bench: Bench, client: Cut, asked: Generate, most: int = -1) -> None:
    """`most`: how many records with text may come."""
    client.most = most if most < 0 else client.num_text + most
    client.ring = bench.ring
    resumed = WorkerStream(asked, client, None).begin()
    bench.engine.submit(bench.ring.attach(client), asked, resumed)


def run(bench: Bench, *clients: Cut) -> None:
    """Until all are over or cut; then the engine knows none of them any more."""
    numbers = [client.request_id for client in clients]
    while bench.engine.is_compiling:
        time.sleep(0.001)
        bench.step()
    bench.step_until(lambda: all(client.is_over or client.is_cut for client in clients))
    for number in numbers:
        bench.ring.detach(number)
        bench.engine.abort(number)
    bench.ring.drain()


def undisturbed(bench: Bench, asked: Generate) -> Cut:
    client = Cut()
    start(bench, client, asked)
    run(bench, client)
    return client


def disturbed(benches: list[Bench], asked: Generate, cuts: list[int]) -> Cut:
    """After each of `cuts` records another engine continues."""
    client = Cut()
    for number, most in enumerate([*cuts, -1]):
        start(benches[number % len(benches)], client, asked, most)
        run(benches[number % len(benches)], client)
        if client.is_over:
            break
    return client
