"""One generation over HTTP: model -> lease -> sinks -> answer, streamed or whole. Never imports: api.flavours.

Invariant: the lease is released exactly once, also when the answer fails or the client leaves. Nothing is sent before the first record
or the first interval of silence, so an earlier error can still have its own status.
"""

import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from itertools import count
from random import getrandbits
from typing import Any
from weakref import WeakValueDictionary

from fastrouter._core import Request
from fastrouter.api.models.access import Models, client_of, is_read_only
from fastrouter.api.requests.bodies import LONG_BODY, parse_object, read_long
from fastrouter.api.requests.checks import invalid
from fastrouter.api.requests.defaults import with_defaults
from fastrouter.api.requests.fields import Ask
from fastrouter.api.requests.pictures import Pictures
from fastrouter.api.serving.answer import Answer, Outlet
from fastrouter.api.serving.flavour import Flavour
from fastrouter.api.serving.media import Media
from fastrouter.api.serving.recording import Recording
from fastrouter.api.serving.recordings import HEADER, Recordings
from fastrouter.api.serving.stream import Stream
from fastrouter.api.serving.timeline import Timeline
from fastrouter.api.serving.whole import Whole
from fastrouter.errors import FastrouterError
from fastrouter.http.exchange import Exchange
from fastrouter.http.routes import Handler
from fastrouter.ipc.messages import Generate
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.supervisor import Supervisor

log = logging.getLogger("fastrouter.api")

MAX_NAME_CHARACTERS = 512  # of a recording


class Generator:
    """Starts the generation that a request asks for."""

    def __init__(
        self,
        models: Models,
        supervisor: Supervisor,
        *,
        ping_interval_s: float,
        is_verbose: bool = False,
        recordings: Recordings | None = None,
        media: Media | None = None,
    ) -> None:
        """`ping_interval_s`: a stream that was silent for this time gets a comment; 0 or less: never. `is_verbose`: as if each request
        had asked for `verbose`. `recordings` has the streams that other requests can find."""
        self._models = models
        self._supervisor = supervisor
        self._ping_interval_s = ping_interval_s
        self._is_verbose = is_verbose
        self._recordings = recordings or Recordings()
        self._media = media or Media()
        self._numbers = count(1)  # of requests
        self._answers: WeakValueDictionary[str, Answer] = WeakValueDictionary()  # by the ids that their clients see

    def answer(self, answer_id: str) -> Answer | None:
        """An answer that is not over."""
        found = self._answers.get(answer_id)
        return None if found is None or found.is_over else found

    def handler(self, flavour_type: type[Flavour]) -> Handler:
        """A handler for the routes of an API."""
        return lambda request, exchange: self._start(request, exchange, flavour_type)

    def _start(self, request: Request, exchange: Exchange, flavour_type: type[Flavour]) -> Coroutine[Any, Any, None] | None:
        return self.read_and_start(request, exchange, partial(flavour_type.read, parse_object(request)), flavour_type)

    def read_and_start(
        self, request: Request, exchange: Exchange, read: Callable[[], Ask], make_flavour: Callable[[str, Any], Flavour]
    ) -> Coroutine[Any, Any, None] | None:
        """`start` with what `read` makes of the parsed body."""
        if request.num_body_bytes > LONG_BODY:
            return self._start_long(request, exchange, read, make_flavour)
        ask = read()
        if ask.pictures.all:
            return self._start_long(request, exchange, lambda: ask, make_flavour)
        return self.start(request, exchange, ask, make_flavour)

    async def _start_long(
        self, request: Request, exchange: Exchange, read: Callable[[], Ask], make_flavour: Callable[[str, Any], Flavour]
    ) -> None:
        ask = await read_long(read)
        if ask.pictures.all:
            spec, _ = self._models.for_use(request, parse_object(request))
            ask.files = await self._media.attach(spec, ask.pictures)
            if ask.pictures.hidden:
                ask.generates = [_unseen(generate, ask.pictures) for generate in ask.generates]
        waits = self.start(request, exchange, ask, make_flavour)
        if waits is not None:
            await waits

    def start(
        self, request: Request, exchange: Exchange, ask: Ask, make_flavour: Callable[[str, Any], Flavour]
    ) -> Coroutine[Any, Any, None] | None:
        """Starts without a task when the model is loaded. Otherwise returns a coroutine that waits for it. `make_flavour` gets the model's
        id and the ask."""
        if self._is_verbose:
            ask.is_verbose = True
            ask.generates = [replace(generate, verbose=True) for generate in ask.generates]
        spec, is_autoload = self._models.for_use(request, parse_object(request))
        if is_read_only(request):
            ask.keep_alive_s = None
        if ask.next_model:
            self._models.expect(ask.next_model, request.caller)
        self._supervisor.note_turn(spec, client_of(request))
        exchange.count_generation()
        if spec.defaults.is_some:
            ask.generates = [with_defaults(generate, spec.defaults) for generate in ask.generates]
        caller, number = id(request.caller) if request.caller is not None else 0, next(self._numbers)
        self._supervisor.check(spec, ask.generates)
        asked_at = time.time()
        ask.generates = [
            replace(generate, caller=caller, exchange=number, chance=getrandbits(48) | 1, asked_at=asked_at) for generate in ask.generates
        ]
        flavour = make_flavour(spec.id, ask)
        timeline = Timeline(spec, flavour.name, self._supervisor.wait_preview)
        outlet = self._outlet(request, exchange, spec.id) if ask.is_stream else exchange
        answer = outlet.responder = self._answer(outlet, ask, flavour, timeline)
        if ask.id:
            self._answers[ask.id] = answer
        client = client_of(request)
        lease = self._supervisor.acquire_now(spec, client, ask.priority)
        if lease is not None:
            _begin(answer, lease)
        elif isinstance(outlet, Exchange):
            return self._queue(spec, is_autoload, answer, client)
        else:
            outlet.run(self._queue(spec, is_autoload, answer, client))
        return None

    def _outlet(self, request: Request, exchange: Exchange, model_id: str) -> Exchange | Recording:
        """A stream with a name goes on when its client leaves."""
        name = request.header(HEADER)
        if not name:
            return exchange
        if len(name) > MAX_NAME_CHARACTERS:
            raise invalid("X-Conversation-Id", f"is longer than {MAX_NAME_CHARACTERS} characters")
        recording = self._recordings.start(client_of(request), name, model_id)
        recording.end_count = exchange.pass_count()
        recording.attach(exchange, 0)
        return recording

    def _answer(self, outlet: Outlet, ask: Ask, flavour: Flavour, timeline: Timeline) -> Stream | Whole:
        if not ask.is_stream:
            return Whole(outlet, ask, flavour, timeline)
        interval_s = self._ping_interval_s if ask.ping_interval_s is None else ask.ping_interval_s
        return Stream(outlet, ask, flavour, timeline, interval_s)

    async def _queue(self, spec: Any, is_autoload: bool, answer: Answer, client: str) -> None:
        answer.wait()
        try:
            lease = await self._supervisor.acquire(spec, is_autoload, answer.ask.priority, client)
        except Exception as error:  # any error: the head may be sent already, so only the answer can report the error
            if not isinstance(error, FastrouterError):
                log.exception("waiting for %s", spec.id)
            answer.fail(error)
            return
        if answer.is_over:
            lease.release()
        else:
            _begin(answer, lease)


def _unseen(generate: Generate, files: Pictures) -> Generate:
    """For a model that cannot see."""
    return replace(generate, messages=files.unseen(generate.messages or []), pictures=files.marks)


def _begin(answer: Answer, lease: Lease) -> None:
    try:
        if answer.ask.keep_alive_s is not None:
            lease.keep_alive(answer.ask.keep_alive_s)
        answer.begin(lease)
    except Exception as error:  # any error: the lease must not leak, and the client must get the error
        if not isinstance(error, FastrouterError):
            log.exception("an answer could not be started")
        answer.fail(error)
