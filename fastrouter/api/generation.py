"""One generation over HTTP: model -> lease -> sinks -> answer, streamed or whole. Knows no API flavour's field names.

Invariant: the lease is released exactly once, whether the answer ended, failed, or the client left; nothing is sent before
the first record, so an error that comes first is a true status.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from fastrouter._core import ERROR, EVENT, FINISH, LAST, REASONING, TEXT, Request, SseWriter, TextCollector
from fastrouter.api.models import Models
from fastrouter.api.schema import Ask
from fastrouter.errors import FastrouterError, ProtocolError, from_wire
from fastrouter.http.protocol import Exchange
from fastrouter.http.response import SSE_HEAD, json_response
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.supervisor import Supervisor


@dataclass(slots=True)
class Choice:
    """One finished choice: its text and what the worker said of it."""

    index: int
    text: str
    reasoning: str
    finish: dict[str, Any]


@dataclass(slots=True)
class Usage:
    """Prompts count once, however many choices they had."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def add(self, finish: dict[str, Any], *, is_new_prompt: bool) -> None:
        self.completion_tokens += count_of(finish, "completion_tokens")
        if is_new_prompt:
            self.prompt_tokens += count_of(finish, "prompt_tokens")
            self.cached_tokens += count_of(finish, "cached_tokens")

    def to_json(self) -> dict[str, Any]:
        return {
            "completion_tokens": self.completion_tokens,
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.completion_tokens + self.prompt_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class Flavour(Protocol):
    """The JSON of one API, for one request of it. Events are whole SSE messages, ended by a blank line."""

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | None:
        """What stands before and after the escaped text in an event."""

    def first(self, choice: int) -> bytes:
        """The event before a choice's first text; may be empty."""

    def event(self, choice: int, event: dict[str, Any]) -> bytes:
        """A text event that carries more than text."""

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes: ...
    def done(self) -> bytes: ...
    def error(self, error: FastrouterError) -> bytes: ...
    def whole(self, choices: list[Choice], usage: Usage) -> Any: ...


def count_of(finish: dict[str, Any], name: str) -> int:
    value = finish.get(name)
    return value if type(value) is int else 0


def read_record(payload: bytes) -> dict[str, Any]:
    """A JSON record from a worker, which may lie."""
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"a worker sent a broken record: {error}") from None
    if not isinstance(value, dict):
        raise ProtocolError("a worker sent a record that is no object")
    return value


def public_error(error: BaseException) -> FastrouterError:
    return error if isinstance(error, FastrouterError) else FastrouterError(f"{type(error).__name__}: {error}")


class Generator:
    """Starts what a request asks for."""

    def __init__(self, models: Models, supervisor: Supervisor) -> None:
        self._models = models
        self._supervisor = supervisor

    def start(
        self, request: Request, exchange: Exchange, body: dict[str, Any], ask: Ask, make_flavour: Callable[[str, Ask], Flavour]
    ) -> Coroutine[Any, Any, None] | None:
        """`make_flavour(model_id, ask)`. Without a task when the model is there; else a coroutine that waits for it."""
        spec, is_autoload = self._models.choose(request, body)
        if spec.defaults.is_some:
            ask.generates = [spec.defaults.apply(generate) for generate in ask.generates]
        flavour = make_flavour(spec.id, ask)
        lease = self._supervisor.acquire_now(spec)
        if lease is None:
            return self._queue(spec, is_autoload, exchange, ask, flavour)
        self._begin(lease, exchange, ask, flavour)
        return None

    async def _queue(self, spec: Any, is_autoload: bool, exchange: Exchange, ask: Ask, flavour: Flavour) -> None:
        lease = await self._supervisor.acquire(spec, autoload=is_autoload, priority=ask.priority)
        if exchange.is_over:
            lease.release()
        else:
            self._begin(lease, exchange, ask, flavour)

    def _begin(self, lease: Lease, exchange: Exchange, ask: Ask, flavour: Flavour) -> None:
        answer = Stream(exchange, lease, ask, flavour) if ask.is_stream else Whole(exchange, lease, ask, flavour)
        exchange.responder = answer
        if ask.keep_alive_s is not None:
            lease.keep_alive(ask.keep_alive_s)
        try:
            answer.begin()
        except BaseException:  # whatever it was goes on up; the lease must not leak
            exchange.responder = None
            lease.release()
            raise


class Stream(SseWriter):
    """Text straight into events. Several prompts run one after the other, so that one writer can frame them all."""

    def __init__(self, exchange: Exchange, lease: Lease, ask: Ask, flavour: Flavour) -> None:
        super().__init__(exchange.transport, exchange.stream_head(SSE_HEAD), chunked=exchange.is_chunked)
        self._exchange = exchange
        self._lease = lease
        self._ask = ask
        self._flavour = flavour
        self._usage = Usage()
        self._prompt = 0  # index of the prompt that runs
        self._num_finished = 0  # choices of that prompt
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Stream {self.request_id} prompt {self._prompt + 1}/{len(self._ask.generates)}{' over' if self._is_over else ''}>"

    def begin(self) -> None:
        generate = self._ask.generates[self._prompt]
        for choice in range(generate.n):
            index = self._prompt * generate.n + choice
            self.set_first(choice, self._flavour.first(index))
            for kind in (TEXT, REASONING):
                template = self._flavour.template(kind, index)
                if template is not None:
                    self.set_template(kind, choice, *template)
        self._lease.submit(generate, self)

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        if self._is_over:
            return
        try:
            if kind == FINISH:
                self._finish_choice(choice, read_record(payload), bool(flags & LAST))
            elif kind == EVENT:
                self._open(choice)
                self.write_event(self._flavour.event(self._index(choice), read_record(payload)))
            elif kind == ERROR:
                self.fail(from_wire(read_record(payload)))
        except FastrouterError as error:
            self.fail(error)

    def _index(self, choice: int) -> int:
        return self._prompt * self._ask.generates[self._prompt].n + choice

    def _open(self, choice: int) -> None:
        """The choice's first event, if no text has brought it yet."""
        first = self.take_first(choice)
        if first:
            self.write_event(first)

    def _finish_choice(self, choice: int, finish: dict[str, Any], is_last: bool) -> None:
        self._open(choice)
        self._usage.add(finish, is_new_prompt=self._num_finished == 0)
        self._num_finished += 1
        is_end = is_last and self._prompt + 1 == len(self._ask.generates)
        self.write_event(self._flavour.finish(Choice(self._index(choice), "", "", finish), self._usage, is_last=is_end))
        if is_end:
            self._end()
        elif is_last:
            self._prompt += 1
            self._num_finished = 0
            asyncio.get_running_loop().call_soon(self._next_prompt)  # the ring still holds this sink for the prompt that ends

    def _next_prompt(self) -> None:
        if not self._is_over:
            try:
                self.begin()
            except FastrouterError as error:
                self.fail(error)

    def _end(self) -> None:
        self._is_over = True
        done = self._flavour.done()
        if done:
            self.write_event(done)
        self.finish()
        self._lease.release()
        self._exchange.end_stream()

    def fail(self, error: Exception) -> None:
        """An error before the first byte is a status; after it, one last event, and the body stays visibly incomplete."""
        if self._is_over:
            return
        self._give_back()
        public = public_error(error)
        if not self.is_started:
            self._exchange.send_error(public)
            return
        self.write_event(self._flavour.error(public))
        self.cut()
        self._exchange.end(is_whole=False)

    def disconnect(self) -> None:
        if not self._is_over:
            self._give_back()

    def on_overflow(self) -> None:
        if not self._is_over:
            self._give_back()
            self._exchange.abort()

    def _give_back(self) -> None:
        self._is_over = True
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

    def restart(self) -> bool:
        return not self.num_finished and super().restart()

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        try:
            if kind == FINISH:
                self._whole.finish_choice(self, choice, read_record(payload), bool(flags & LAST))
            elif kind == ERROR:
                self._whole.fail(from_wire(read_record(payload)))
        except FastrouterError as error:
            self._whole.fail(error)

    def fail(self, error: Exception) -> None:
        self._whole.fail(error)


class Whole:
    """An answer in one piece: all prompts run at once."""

    def __init__(self, exchange: Exchange, lease: Lease, ask: Ask, flavour: Flavour) -> None:
        self._exchange = exchange
        self._lease = lease
        self._ask = ask
        self._flavour = flavour
        self._usage = Usage()
        self._choices: list[Choice] = []
        self._collectors = [Collector(self, prompt) for prompt in range(len(ask.generates))]
        self._num_running = len(self._collectors)
        self._is_over = False

    @property
    def num_tokens(self) -> int:
        return sum(collector.num_tokens for collector in self._collectors)

    def begin(self) -> None:
        for collector, generate in zip(self._collectors, self._ask.generates, strict=True):
            if not self._is_over:
                self._lease.submit(generate, collector)

    def finish_choice(self, collector: Collector, choice: int, finish: dict[str, Any], is_last: bool) -> None:
        if self._is_over:
            return
        index = collector.prompt * self._ask.generates[collector.prompt].n + choice
        self._usage.add(finish, is_new_prompt=collector.num_finished == 0)
        collector.num_finished += 1
        text = collector.text(choice).decode("utf-8", "replace")
        self._choices.append(Choice(index, text, collector.reasoning(choice).decode("utf-8", "replace"), finish))
        if is_last:
            self._num_running -= 1
            if not self._num_running:
                self._send()

    def _send(self) -> None:
        self._is_over = True
        self._lease.release()
        self._choices.sort(key=lambda choice: choice.index)
        self._exchange.send(json_response(orjson.dumps(self._flavour.whole(self._choices, self._usage))))

    def fail(self, error: Exception) -> None:
        if not self._is_over:
            self._give_back()
            self._exchange.send_error(public_error(error))

    def disconnect(self) -> None:
        if not self._is_over:
            self._give_back()

    def pause(self) -> None:
        """Nothing is written before the end."""

    def resume(self) -> None:
        """Nothing was held."""

    def _give_back(self) -> None:
        self._is_over = True
        for collector in self._collectors:
            if collector.request_id:
                self._lease.abort(collector.request_id)
        self._lease.release()
