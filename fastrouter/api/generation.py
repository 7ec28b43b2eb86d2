"""One generation over HTTP: model -> lease -> sinks -> answer, streamed or whole. Knows no API flavour's field names.

Invariant: the lease is released exactly once, whether the answer ended, failed, or the client left; nothing is sent before
the first record or the first interval of silence, so an error that comes earlier is a true status.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from itertools import count
from typing import Any

import orjson

from fastrouter._core import ERROR, EVENT, FINISH, LAST, PROGRESS, REASONING, TEXT, Request, SseWriter, TextCollector
from fastrouter.api.flavour import Choice, Flavour, Usage, public_error, read_record
from fastrouter.api.models import Models
from fastrouter.api.schema import Ask
from fastrouter.api.timeline import CANCELLED, OK, Timeline
from fastrouter.errors import FastrouterError, from_wire
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import SSE_HEAD, error_response, json_response, with_headers
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.supervisor import Supervisor

log = logging.getLogger("fastrouter.api")

LEAST_PING_INTERVAL_S = 0.1


class Generator:
    """Starts what a request asks for."""

    def __init__(self, models: Models, supervisor: Supervisor, *, ping_interval_s: float) -> None:
        """`ping_interval_s`: a stream that was silent so long gets a comment; 0 or less: never."""
        self._models = models
        self._supervisor = supervisor
        self._ping_interval_s = ping_interval_s
        self._numbers = count(1)  # of requests

    def start(
        self, request: Request, exchange: Exchange, body: dict[str, Any], ask: Ask, make_flavour: Callable[[str, Ask], Flavour]
    ) -> Coroutine[Any, Any, None] | None:
        """`make_flavour(model_id, ask)`. Without a task when the model is there; else a coroutine that waits for it."""
        spec, is_autoload = self._models.for_use(request, body)
        exchange.count_generation()
        if spec.defaults.is_some:
            ask.generates = [spec.defaults.apply(generate) for generate in ask.generates]
        caller, number = id(request.caller) if request.caller is not None else 0, next(self._numbers)
        ask.generates = [replace(generate, caller=caller, exchange=number) for generate in ask.generates]
        flavour = make_flavour(spec.id, ask)
        timeline = Timeline(spec, flavour.name, self._supervisor.prospect)
        answer: Stream | Whole
        if ask.is_stream:
            interval_s = self._ping_interval_s if ask.ping_interval_s is None else ask.ping_interval_s
            answer = Stream(exchange, ask, flavour, timeline, interval_s)
        else:
            answer = Whole(exchange, ask, flavour, timeline)
        exchange.responder = answer
        lease = self._supervisor.acquire_now(spec)
        if lease is None:
            return self._queue(spec, is_autoload, exchange, answer)
        _begin(answer, lease)
        return None

    async def _queue(self, spec: Any, is_autoload: bool, exchange: Exchange, answer: "Stream | Whole") -> None:
        answer.wait()
        try:
            lease = await self._supervisor.acquire(spec, autoload=is_autoload, priority=answer.ask.priority)
        except Exception as error:  # whatever it was: the head may be out, so only the answer knows how to say it
            if not isinstance(error, FastrouterError):
                log.exception("waiting for %s", spec.id)
            answer.fail(error)
            return
        if exchange.is_over:
            lease.release()
        else:
            _begin(answer, lease)


def _begin(answer: "Stream | Whole", lease: Lease) -> None:
    try:
        if answer.ask.keep_alive_s is not None:
            lease.keep_alive(answer.ask.keep_alive_s)
        answer.begin(lease)
    except Exception as error:  # whatever it was: the lease must not leak, and the client must be told
        if not isinstance(error, FastrouterError):
            log.exception("an answer could not be begun")
        answer.fail(error)


class Stream(SseWriter):
    """Text straight into events. Several prompts run one after the other, so that one writer can frame them all."""

    def __init__(self, exchange: Exchange, ask: Ask, flavour: Flavour, timeline: Timeline, ping_interval_s: float) -> None:
        super().__init__(exchange.transport, SSE_HEAD, chunked=exchange.is_chunked)
        self._exchange = exchange
        self._lease: Lease | None = None  # while it waits
        self.ask = ask
        self._flavour = flavour
        self._timeline = timeline
        self._usage = Usage()
        self._prompt = 0  # index of the prompt that runs
        self._num_finished = 0  # choices of that prompt
        self._is_over = False
        self._ping_interval_s = max(ping_interval_s, LEAST_PING_INTERVAL_S) if ping_interval_s > 0 else 0.0
        self._ping_timer: asyncio.TimerHandle | None = None
        self.itl = timeline.itl

    def __repr__(self) -> str:
        return f"<Stream {self.request_id} prompt {self._prompt + 1}/{len(self.ask.generates)}{' over' if self._is_over else ''}>"

    def make_head(self, head: bytes) -> bytes:
        return self._exchange.stream_head(head + self._timeline.header(self.first_text_ns))

    def wait(self) -> None:
        """For a lease."""
        self._timeline.wait()
        self._ping_in(self._ping_interval_s)

    def begin(self, lease: Lease) -> None:
        self._lease = lease
        self._timeline.grant()
        self._begin_prompt(lease)
        self._timeline.submit()
        if self._ping_timer is None:
            self._ping_in(self._ping_interval_s)

    def _begin_prompt(self, lease: Lease) -> None:
        generate = self.ask.generates[self._prompt]
        for choice in range(generate.n):
            index = self._prompt * generate.n + choice
            self.set_first(choice, self._flavour.first(index))
            for kind in (TEXT, REASONING):
                template = self._flavour.template(kind, index)
                if template is not None:
                    self.set_template(kind, choice, *template)
        lease.submit(generate, self)

    # ------------------------------------------------------------ comments

    def _ping_in(self, delay_s: float) -> None:
        if delay_s > 0:
            self._ping_timer = asyncio.get_running_loop().call_later(delay_s, self._ping)

    def _ping(self) -> None:
        """Nothing is noted per token: the timer looks at the time of the last byte and comes again when that makes a whole interval."""
        due_s = (self.last_sent_ns / 1e9 or self._timeline.asked) + self._ping_interval_s - time.monotonic()
        if due_s <= 0.001:  # the event loop's clock is that coarse
            self.write_comment(self._comment())
            due_s = self._ping_interval_s
        self._ping_in(due_s)

    def _comment(self) -> bytes:
        if self._lease is None or self._lease.resubmitted:
            return self._timeline.comment()
        return b"ping" if self.first_text_ns else b"prefill"

    # ------------------------------------------------------------ records

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        if self._is_over:
            return
        try:
            if kind == FINISH:
                self._finish_choice(choice, read_record(payload), bool(flags & LAST))
            elif kind == EVENT:
                self._open(choice)
                self.write_event(self._flavour.event(self._index(choice), read_record(payload)))
            elif kind == PROGRESS:
                self.write_event(self._flavour.event(self._index(choice), read_record(payload)), is_answer=False)
            elif kind == ERROR:
                self.fail(from_wire(read_record(payload)))
        except FastrouterError as error:
            self.fail(error)

    def _index(self, choice: int) -> int:
        return self._prompt * self.ask.generates[self._prompt].n + choice

    def _open(self, choice: int) -> None:
        """The choice's first event, if no text has brought it yet."""
        first = self.take_first(choice)
        if first:
            self.write_event(first)

    def _finish_choice(self, choice: int, finish: dict[str, Any], is_last: bool) -> None:
        self._open(choice)
        self._timeline.add_to(finish)
        self._timeline.count_tokens(finish, is_new_prompt=self._num_finished == 0)
        self._usage.add(finish, is_new_prompt=self._num_finished == 0)
        self._num_finished += 1
        is_end = is_last and self._prompt + 1 == len(self.ask.generates)
        self.write_event(self._flavour.finish(Choice(self._index(choice), "", "", finish), self._usage, is_last=is_end))
        if is_end:
            self._end()
        elif is_last:
            self._prompt += 1
            self._num_finished = 0
            asyncio.get_running_loop().call_soon(self._next_prompt)  # the ring still holds this sink for the prompt that ends

    def _next_prompt(self) -> None:
        if not self._is_over and self._lease is not None:
            try:
                self._begin_prompt(self._lease)
            except FastrouterError as error:
                self.fail(error)

    # ------------------------------------------------------------ the end

    def _end(self) -> None:
        done = self._flavour.done()
        if done:
            self.write_event(done)
        self.finish()
        self._give_back()
        self._timeline.end(OK, self.first_text_ns)
        self._exchange.end_stream()

    def fail(self, error: Exception) -> None:
        """An error before the first byte is a status; after it, one last event, and the body stays visibly incomplete."""
        if self._is_over:
            return
        self._lose()
        public = public_error(error)
        self._timeline.fail(public, self.first_text_ns)
        if not self.is_started:
            self._exchange.send(with_headers(error_response(public), self._timeline.header(self.first_text_ns)))
            return
        self.write_event(self._flavour.error(public))
        self.cut()
        self._exchange.end(is_whole=False)

    def disconnect(self) -> None:
        if not self._is_over:
            self._lose()
            self._timeline.end(CANCELLED, self.first_text_ns)

    def on_overflow(self) -> None:
        if not self._is_over:
            self.disconnect()
            self._exchange.abort()

    def _lose(self) -> None:
        """It ends before its time."""
        self._timeline.count_lost(self.num_tokens - self._usage.completion_tokens)
        self._give_back()

    def _give_back(self) -> None:
        """Also stops what still runs."""
        self._is_over = True
        if self._ping_timer is not None:
            self._ping_timer.cancel()
            self._ping_timer = None
        if self._lease is not None:
            if self.request_id:
                self._lease.abort(self.request_id)
            self._lease.release()


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
