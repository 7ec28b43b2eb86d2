"""What a streamed and a whole answer share: the lease, the times, the usage, and how they end. stream.py and whole.py make the bytes.

Invariant: an answer ends once: it is complete, it has failed, or its client has left. Then its lease is released, which stops
everything that still runs. Each finish is counted once.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from fastrouter._core import ERROR, EVENT, FINISH, LAST, PROGRESS, REASONING, TEXT, Sink
from fastrouter.api.requests.fields import Ask
from fastrouter.api.serving.flavour import Flavour, Usage
from fastrouter.api.serving.timeline import CANCELLED, OK, Timeline
from fastrouter.errors import FastrouterError
from fastrouter.http.response import Response, error_response
from fastrouter.ipc.records import Delta, Failure, Finish, PromptProgress
from fastrouter.supervisor.lease import Lease


class Writable(Protocol):
    def write(self, data: bytes, /) -> None: ...


class Outlet(Protocol):
    """Where an answer goes: to the exchange of its client, or to a recording."""

    @property
    def transport(self) -> Writable: ...
    @property
    def is_chunked(self) -> bool: ...
    def stream_head(self, headers: bytes) -> bytes: ...
    def send(self, response: Response) -> None: ...
    def end_stream(self) -> None: ...
    def end(self, *, is_whole: bool = True) -> None: ...
    def abort(self) -> None: ...


class Answer(ABC):
    """The answer to one request, from the wait for a lease to the last byte."""

    def __init__(self, exchange: Outlet, ask: Ask, flavour: Flavour, timeline: Timeline) -> None:
        self.ask = ask
        self._exchange = exchange
        self._flavour = flavour
        self._timeline = timeline
        self._usage = Usage()
        self._lease: Lease | None = None  # while it waits for one
        self._num_finished = [0] * len(ask.generates)  # choices of each prompt
        self._is_over = False

    # ------------------------------------------------------------ what differs between the two

    @abstractmethod
    def sinks(self) -> Sequence[Sink]:
        """The objects that get the records."""

    @abstractmethod
    def _submit(self, lease: Lease) -> None: ...
    @abstractmethod
    def _on_event(self, prompt: int, choice: int, event: Delta) -> None: ...
    @abstractmethod
    def _on_progress(self, prompt: int, choice: int, progress: PromptProgress) -> None: ...
    @abstractmethod
    def _on_finish(self, prompt: int, choice: int, finish: Finish, *, is_last: bool) -> None:
        """`is_last`: it is the last choice of its prompt that ends."""

    # ------------------------------------------------------------ from the wait for a lease to the last record

    def wait(self) -> None:
        """The answer waits for a lease."""
        self._timeline.wait()

    def begin(self, lease: Lease) -> None:
        self._lease = lease
        self._timeline.grant()
        for sink in self.sinks():
            sink.itl = self._timeline.itl
        self._submit(lease)
        self._timeline.submit()

    def take_record(self, prompt: int, kind: int, choice: int, flags: int, payload: bytes) -> None:
        """A record that has more than text, or whose text has no template."""
        if self._is_over:
            return
        try:
            if kind == FINISH:
                finish = Finish.from_payload(payload)
                self._count(prompt, finish)
                self._on_finish(prompt, choice, finish, is_last=bool(flags & LAST))
            elif kind == EVENT:
                self._on_event(prompt, choice, Delta.from_payload(payload))
            elif kind == TEXT:
                self._on_event(prompt, choice, Delta(text=payload.decode("utf-8", "replace")))
            elif kind == REASONING:
                self._on_event(prompt, choice, Delta(reasoning=payload.decode("utf-8", "replace")))
            elif kind == PROGRESS:
                self._on_progress(prompt, choice, PromptProgress.from_payload(payload))
            elif kind == ERROR:
                self._on_error(Failure.from_payload(payload).error)
        except FastrouterError as error:
            self.fail(error)

    def _on_error(self, error: FastrouterError) -> None:
        if self.ask.shorten(error) and all(sink.restart() for sink in self.sinks()):
            asyncio.get_running_loop().call_soon(self._submit_again)  # the ring still holds the sinks
        else:
            self.fail(error)

    def _submit_again(self) -> None:
        if not self._is_over and self._lease is not None:
            try:
                self._submit(self._lease)
            except FastrouterError as error:
                self.fail(error)

    def _count(self, prompt: int, finish: Finish) -> None:
        is_new_prompt = not self._num_finished[prompt]
        self._num_finished[prompt] += 1
        self._timeline.count_tokens(finish, is_new_prompt=is_new_prompt)
        if is_new_prompt and self._lease is not None:
            self._lease.count_prompt(finish.prompt_tokens, finish.cached_tokens)
        self._usage.add(finish, is_new_prompt=is_new_prompt)

    def _index(self, prompt: int, choice: int) -> int:
        """The index of a choice in the choices of all prompts."""
        return prompt * self.ask.generates[prompt].n + choice

    @property
    def _first_text(self) -> int:
        """Monotonic time of the first text in ns; 0 before it."""
        return min((sink.first_text_ns for sink in self.sinks() if sink.first_text_ns), default=0)

    async def end_thought(self) -> bool:
        """End the thought, so that the answer begins now. False when there is no thought that can be ended."""
        return self._lease is not None and not self._is_over and await self._lease.end_thoughts()

    @property
    def is_over(self) -> bool:
        return self._is_over

    # ------------------------------------------------------------ the end

    def fail(self, error: Exception) -> None:
        if self._is_over:
            return
        self._lose()
        public = error if isinstance(error, FastrouterError) else FastrouterError(f"{type(error).__name__}: {error}")
        self._timeline.fail(public, self._first_text)
        self._send_error(public)

    def cancel(self, error: FastrouterError) -> None:
        """A client has stopped it."""
        if not self._is_over:
            self._lose()
            self._timeline.end(CANCELLED, self._first_text)
            self._send_error(error)

    def disconnect(self) -> None:
        """The client has left."""
        if not self._is_over:
            self._lose()
            self._timeline.end(CANCELLED, self._first_text)

    def _complete(self) -> None:
        self._give_back()
        self._timeline.end(OK, self._first_text)

    def _send_error(self, error: FastrouterError) -> None:
        """Send a response with the error's status. Nothing has been sent before it."""
        self._exchange.send(error_response(error, self._flavour.errors, self._timeline.header(self._first_text)))

    def _lose(self) -> None:
        """End the answer too early."""
        num_tokens = sum(sink.num_tokens for sink in self.sinks())
        self._timeline.count_lost(num_tokens - self._usage.completion_tokens)
        self._give_back()

    def _give_back(self) -> None:
        self._is_over = True
        if self._lease is not None:
            self._lease.release()
