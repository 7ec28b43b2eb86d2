"""A whole answer: the records of one request are collected and sent once."""

import time
from typing import Any

import orjson

from fastrouter._core import ERROR, EVENT, FINISH, LAST, TextCollector
from fastrouter.api.requests.fields import Ask
from fastrouter.api.serving.answer import Choice, Flavour, Usage, public_error, read_record
from fastrouter.api.serving.timeline import CANCELLED, OK, Timeline
from fastrouter.errors import FastrouterError, from_wire
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import error_response, json_response, with_headers
from fastrouter.supervisor.lease import Lease


class Collector(TextCollector):
    """The text of one prompt's choices, for a Whole."""

    def __init__(self, whole: "Whole", prompt: int) -> None:
        super().__init__()
        self._whole = whole
        self.prompt = prompt
        self.num_finished = 0  # choices
        self._events: dict[int, list[dict[str, Any]]] = {}  # per choice

    def restart(self) -> bool:
        if self.num_finished:
            return False
        self._events.clear()
        return super().restart()

    def whole_text(self, choice: int) -> str:
        """A choice sends all of its text as such, or all of it in events."""
        pieces = [event.get("text", "") for event in self._events.get(choice, ())]
        return self.text(choice).decode("utf-8", "replace") + "".join(pieces)

    def probabilities(self, choice: int) -> list[dict[str, Any]]:
        return [entry for event in self._events.get(choice, ()) for entry in event.get("probabilities", ())]

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        try:
            if kind == FINISH:
                self._whole.finish_choice(self, choice, read_record(payload), bool(flags & LAST))
            elif kind == EVENT:
                self._events.setdefault(choice, []).append(read_record(payload))
            elif kind == ERROR:
                self._whole.fail(from_wire(read_record(payload)))
        except FastrouterError as error:
            self._whole.fail(error)

    def fail(self, error: Exception) -> None:
        self._whole.fail(error)


class Whole:
    """An answer in one piece: all prompts run at once."""

    def __init__(self, exchange: Exchange, ask: Ask, flavour: Flavour, timeline: Timeline) -> None:
        self._exchange = exchange
        self._lease: Lease | None = None  # while it waits
        self.ask = ask
        self._flavour = flavour
        self._timeline = timeline
        self._usage = Usage()
        self._choices: list[Choice] = []
        self._collectors = [Collector(self, prompt) for prompt in range(len(ask.generates))]
        self._num_running = len(self._collectors)
        self._is_over = False

    @property
    def num_tokens(self) -> int:
        return sum(collector.num_tokens for collector in self._collectors)

    def __repr__(self) -> str:
        return f"<Whole {self._num_running} of {len(self._collectors)} prompts{' over' if self._is_over else ''}>"

    @property
    def _first_text_ns(self) -> int:
        return min((collector.first_text_ns for collector in self._collectors if collector.first_text_ns), default=0)

    def wait(self) -> None:
        """For a lease."""
        self._timeline.wait()

    def begin(self, lease: Lease) -> None:
        self._lease = lease
        self._timeline.grant()
        for collector, generate in zip(self._collectors, self.ask.generates, strict=True):
            if not self._is_over:
                collector.itl = self._timeline.itl
                lease.submit(generate, collector)
        self._timeline.submit()

    def finish_choice(self, collector: Collector, choice: int, finish: dict[str, Any], is_last: bool) -> None:
        if self._is_over:
            return
        index = collector.prompt * self.ask.generates[collector.prompt].n + choice
        self._timeline.add_to(finish)
        self._timeline.count_tokens(finish, is_new_prompt=collector.num_finished == 0)
        self._usage.add(finish, is_new_prompt=collector.num_finished == 0)
        collector.num_finished += 1
        reasoning = collector.reasoning(choice).decode("utf-8", "replace")
        self._choices.append(Choice(index, collector.whole_text(choice), reasoning, finish, collector.probabilities(choice)))
        if is_last:
            self._num_running -= 1
            if not self._num_running:
                self._send()

    def _send(self) -> None:
        first_text_ns = self._first_text_ns
        self._give_back()
        self._timeline.end(OK, first_text_ns)
        self._choices.sort(key=lambda choice: choice.index)
        body = orjson.dumps(self._flavour.whole(self._choices, self._usage))
        self._exchange.send(json_response(body, headers=self._timeline.header(first_text_ns, time.monotonic())))

    def fail(self, error: Exception) -> None:
        if self._is_over:
            return
        self._lose()
        public, first_text_ns = public_error(error), self._first_text_ns
        self._timeline.fail(public, first_text_ns)
        self._exchange.send(with_headers(error_response(public), self._timeline.header(first_text_ns)))

    def disconnect(self) -> None:
        if not self._is_over:
            self._lose()
            self._timeline.end(CANCELLED, self._first_text_ns)

    def pause(self) -> None:
        """Nothing is written before the end."""

    def resume(self) -> None:
        """Nothing was held."""

    def _lose(self) -> None:
        """It ends before its time."""
        self._timeline.count_lost(self.num_tokens - self._usage.completion_tokens)
        self._give_back()

    def _give_back(self) -> None:
        """Also stops what still runs."""
        self._is_over = True
        if self._lease is not None:
            for collector in self._collectors:
                if collector.request_id:
                    self._lease.abort(collector.request_id)
            self._lease.release()
