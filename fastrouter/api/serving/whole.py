"""A whole answer: the records of one request are collected and sent once."""

import time
import weakref
from collections.abc import Iterable, Sequence

import orjson

from fastrouter._core import TextCollector
from fastrouter.api.requests.fields import Ask
from fastrouter.api.serving.answer import Answer, Outlet
from fastrouter.api.serving.flavour import Choice, Flavour, PlainText, ToolCall
from fastrouter.api.serving.timeline import Timeline
from fastrouter.http.response import json_response, text_response
from fastrouter.ipc.records import CallDelta, Delta, Entry, Finish, PromptProgress
from fastrouter.supervisor.lease import Lease


class Collector(TextCollector):
    """The text of one prompt's choices, for a Whole. It does not keep the Whole alive: the memory of a request is freed when it is over."""

    def __init__(self, whole: "Whole", prompt: int) -> None:
        super().__init__()
        self._whole = weakref.ref(whole)
        self._prompt = prompt
        self._events: dict[int, list[Delta]] = {}  # per choice

    def restart(self) -> bool:
        whole = self._whole()
        if whole is None or whole.has_finished(self._prompt):
            return False
        self._events.clear()
        return super().restart()

    def add(self, choice: int, event: Delta) -> None:
        self._events.setdefault(choice, []).append(event)

    def whole_text(self, choice: int) -> str:
        """A choice sends all of its text either as text or in events. Only tool calls are always in events."""
        return self.text(choice).decode("utf-8", "replace") + "".join(event.text for event in self._events.get(choice, ()))

    def whole_reasoning(self, choice: int) -> str:
        return self.reasoning(choice).decode("utf-8", "replace") + "".join(event.reasoning for event in self._events.get(choice, ()))

    def calls(self, choice: int) -> list[ToolCall]:
        return joined_calls(piece for event in self._events.get(choice, ()) for piece in event.calls)

    def probabilities(self, choice: int) -> list[Entry]:
        return [entry for event in self._events.get(choice, ()) for entry in event.probabilities]

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        whole = self._whole()
        if whole is not None:
            whole.take_record(self._prompt, kind, choice, flags, payload)

    def fail(self, error: Exception) -> None:
        whole = self._whole()
        if whole is not None:
            whole.fail(error)


def joined_calls(pieces: Iterable[CallDelta]) -> list[ToolCall]:
    """The calls that consist of these pieces, in the order in which they began."""
    names: dict[int, tuple[str, str]] = {}
    arguments: dict[int, list[str]] = {}
    for piece in pieces:
        names.setdefault(piece.index, (piece.id, piece.name))
        arguments.setdefault(piece.index, []).append(piece.arguments)
    return [ToolCall(*named, "".join(arguments[index])) for index, named in names.items()]


class Whole(Answer):
    """An answer in one piece: all prompts run at the same time."""

    def __init__(self, exchange: Outlet, ask: Ask, flavour: Flavour, timeline: Timeline) -> None:
        super().__init__(exchange, ask, flavour, timeline)
        self._choices: list[Choice] = []
        self._collectors = [Collector(self, prompt) for prompt in range(len(ask.generates))]
        self._num_running = len(self._collectors)

    def __repr__(self) -> str:
        return f"<Whole {self._num_running} of {len(self._collectors)} prompts{' over' if self._is_over else ''}>"

    def sinks(self) -> Sequence[Collector]:
        return self._collectors

    @property
    def num_tokens(self) -> int:
        """The number until now, for the access log. A Stream has it because it is a sink."""
        return sum(collector.num_tokens for collector in self._collectors)

    def has_finished(self, prompt: int) -> bool:
        """Whether at least one of its choices has."""
        return self._num_finished[prompt] > 0

    def _submit(self, lease: Lease) -> None:
        for collector, generate in zip(self._collectors, self.ask.generates, strict=True):
            if not self._is_over:
                lease.submit(generate, collector, self.ask.files)

    def _on_event(self, prompt: int, choice: int, event: Delta) -> None:
        self._collectors[prompt].add(choice, event)

    def _on_progress(self, prompt: int, choice: int, progress: PromptProgress) -> None:
        """Nothing is sent before the end."""

    def _on_finish(self, prompt: int, choice: int, finish: Finish, *, is_last: bool) -> None:
        collector, timings = self._collectors[prompt], self._timeline.timings_of(finish)
        text, reasoning = collector.whole_text(choice), collector.whole_reasoning(choice)
        calls, probabilities = collector.calls(choice), collector.probabilities(choice)
        self._choices.append(Choice(self._index(prompt, choice), finish, timings, text, reasoning, calls, probabilities))
        self._num_running -= is_last
        if not self._num_running:
            self._send()

    def _send(self) -> None:
        self._choices.sort(key=lambda choice: choice.index)
        answer = self._flavour.whole(self._choices, self._usage)
        body = b"" if isinstance(answer, PlainText) else orjson.dumps(answer)
        self._complete()  # after what may fail: an answer that is over can tell its client nothing
        headers = self._timeline.header(self._first_text, time.monotonic())
        self._exchange.send(text_response(answer, headers) if isinstance(answer, PlainText) else json_response(body, headers=headers))

    def pause(self) -> None:
        """Nothing is written before the end."""

    def resume(self) -> None:
        """There is nothing to resume."""
