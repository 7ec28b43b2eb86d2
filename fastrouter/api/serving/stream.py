"""A streamed answer: records of the ring become events of one client."""

import asyncio
import time
from collections.abc import Sequence

from fastrouter._core import REASONING, TEXT, Sink, SseWriter
from fastrouter.api.requests.fields import Ask
from fastrouter.api.serving.answer import Answer, Outlet
from fastrouter.api.serving.flavour import Choice, Flavour
from fastrouter.api.serving.timeline import Timeline
from fastrouter.errors import FastrouterError
from fastrouter.ipc.records import Delta, Finish, PromptProgress
from fastrouter.supervisor.lease import Lease

LEAST_PING_INTERVAL_S = 0.1


class Stream(Answer, SseWriter):
    """Writes text directly into events. Several prompts run one after the other, so that one writer can frame all of them."""

    def __init__(self, exchange: Outlet, ask: Ask, flavour: Flavour, timeline: Timeline, ping_interval_s: float) -> None:
        SseWriter.__init__(self, exchange.transport, flavour.stream_head, chunked=exchange.is_chunked)
        Answer.__init__(self, exchange, ask, flavour, timeline)
        self._prompt = 0  # index of the running prompt
        self._ping_interval_s = max(ping_interval_s, LEAST_PING_INTERVAL_S) if ping_interval_s > 0 else 0.0
        self._ping_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Stream {self.request_id} prompt {self._prompt + 1}/{len(self.ask.generates)}{' over' if self._is_over else ''}>"

    def sinks(self) -> Sequence[Sink]:
        return (self,)

    def make_head(self, head: bytes) -> bytes:
        return self._exchange.stream_head(head + self._timeline.header(self.first_text_ns))

    def wait(self) -> None:
        super().wait()
        self._ping_in(self._ping_interval_s)

    def begin(self, lease: Lease) -> None:
        super().begin(lease)
        if self._ping_timer is None:
            self._ping_in(self._ping_interval_s)

    def _submit(self, lease: Lease) -> None:
        """The current prompt."""
        generate = self.ask.generates[self._prompt]
        for choice in range(generate.n):
            index = self._index(self._prompt, choice)
            self.set_first(choice, self._flavour.first(index))
            self._set_templates(choice)
        lease.submit(generate, self, self.ask.files)

    def _set_templates(self, choice: int) -> None:
        """Text without a template arrives as a record and goes through the flavour's `event`."""
        for kind in (TEXT, REASONING):
            template = self._flavour.template(kind, self._index(self._prompt, choice))
            if template is None:
                self.drop_template(kind, choice)
            else:
                self.set_template(kind, choice, *template)

    # ------------------------------------------------------------ pings

    def _ping_in(self, delay_s: float) -> None:
        if delay_s > 0:
            self._ping_timer = asyncio.get_running_loop().call_later(delay_s, self._ping)

    def _ping(self) -> None:
        """Nothing is stored per token: the timer reads the time of the last byte and runs again when a whole interval will have passed."""
        due_s = (self.last_sent_ns / 1e9 or self._timeline.arrived) + self._ping_interval_s - time.monotonic()
        if due_s <= 0.001:  # the resolution of the event loop's clock
            self.write_ping(self._flavour.ping(self._comment()))
            due_s = self._ping_interval_s
        self._ping_in(due_s)

    def suspend(self) -> None:
        if self._ping_timer is not None and self.first_text_ns:
            self.write_ping(self._flavour.ping(b"resuming"))

    def _comment(self) -> bytes:
        if self._lease is None or (self._lease.resumed and not self.first_text_ns):
            return self._timeline.comment()
        if self._lease.resumed:
            return b"resuming"
        return b"ping" if self.first_text_ns else b"prefill"

    # ------------------------------------------------------------ records

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        self.take_record(self._prompt, kind, choice, flags, payload)

    def _open(self, choice: int) -> None:
        """The choice's first event, if no text has sent it yet."""
        first = self.take_first(choice)
        if first:
            self.write_event(first)

    def _on_event(self, prompt: int, choice: int, event: Delta) -> None:
        self._open(choice)
        self.write_event(self._flavour.event(self._index(prompt, choice), event))
        if self._flavour.has_blocks:
            self._set_templates(choice)

    def _on_progress(self, prompt: int, choice: int, progress: PromptProgress) -> None:
        self.write_event(self._flavour.progress(self._index(prompt, choice), progress), is_answer=False)

    def _on_finish(self, prompt: int, choice: int, finish: Finish, *, is_last: bool) -> None:
        self._open(choice)
        is_end = is_last and prompt + 1 == len(self.ask.generates)
        ended = Choice(self._index(prompt, choice), finish, self._timeline.timings_of(finish))
        self.write_event(self._flavour.finish(ended, self._usage, is_last=is_end))
        if is_end:
            self._end()
        elif is_last:
            self._prompt += 1
            asyncio.get_running_loop().call_soon(self._submit_again)  # the ring still has this sink for the prompt that ends

    # ------------------------------------------------------------ the end

    def _end(self) -> None:
        self.write_event(self._flavour.done())
        self.finish()
        self._complete()
        self._exchange.end_stream()

    def _send_error(self, error: FastrouterError) -> None:
        """Before the first byte, the error is a status. After it, the error is the last event, and in most APIs the body is not ended."""
        shape = self._flavour.errors
        if not self.is_started and not isinstance(error, shape.events):
            super()._send_error(error)
            return
        self.write_event(self._flavour.error_event(error))
        if shape.ends_stream:
            self.finish()
            self._exchange.end_stream()
        else:
            self.cut()
            self._exchange.end(is_whole=False)

    def on_overflow(self) -> None:
        if not self._is_over:
            self.disconnect()
            self._exchange.abort()

    def _give_back(self) -> None:
        super()._give_back()
        if self._ping_timer is not None:
            self._ping_timer.cancel()
            self._ping_timer = None
