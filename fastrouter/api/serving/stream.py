"""A streamed answer: records of the ring become events of one client."""

import asyncio
import time
from typing import Any

from fastrouter._core import ERROR, EVENT, FINISH, LAST, PROGRESS, REASONING, TEXT, SseWriter
from fastrouter.api.requests.fields import Ask
from fastrouter.api.serving.answer import Choice, Flavour, Usage, public_error, read_record
from fastrouter.api.serving.timeline import CANCELLED, OK, Timeline
from fastrouter.errors import FastrouterError, from_wire
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import SSE_HEAD, error_response, with_headers
from fastrouter.supervisor.lease import Lease

LEAST_PING_INTERVAL_S = 0.1


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
        due_s = (self.last_sent_ns / 1e9 or self._timeline.arrived) + self._ping_interval_s - time.monotonic()
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
