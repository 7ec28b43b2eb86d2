"""A call to a model's worker that has one answer: tokenize, apply_template ... The meaning of the call is not known here.

Invariant: a call holds its lease only until the worker has answered. It is timed and counted like a generation.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import orjson

from fastrouter._core import Request
from fastrouter.api.models.access import Models, client_of, is_read_only
from fastrouter.api.requests.fields import read_terms
from fastrouter.api.requests.pictures import Pictures
from fastrouter.api.serving.media import Media
from fastrouter.api.serving.timeline import CANCELLED, OK, Timeline
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import FastrouterError, WorkerDied
from fastrouter.http.response import OPENAI_ERRORS, ErrorShape, Response, error_response, json_response
from fastrouter.ipc.attached_files import AttachedFiles
from fastrouter.ipc.messages import DECODING_CALLS
from fastrouter.ipc.records import Finish, count_of
from fastrouter.supervisor.supervisor import Supervisor

Writer = Callable[[ModelSpec, Any], Awaitable[bytes]]


async def _write_json(spec: ModelSpec, result: Any) -> bytes:
    return orjson.dumps(result)


class _Terms(NamedTuple):
    """How a request gets its lease."""

    is_autoload: bool
    priority: int
    keep_alive_s: float | None
    client: str | None  # None: its models are not a turn


class Caller:
    def __init__(self, models: Models, supervisor: Supervisor, errors: ErrorShape = OPENAI_ERRORS, media: Media | None = None) -> None:
        """`errors`: the same as in a Flavour."""
        self._models = models
        self._media = media or Media()
        self._errors = errors
        self._supervisor = supervisor

    async def answer(
        self,
        request: Request,
        body: dict[str, Any],
        method: str,
        params: dict[str, Any],
        write: Writer = _write_json,
        pictures: Pictures | None = None,
    ) -> Response:
        """The whole response. It may load the model. `method` is also the flavour in the metrics. `write(spec, result)` makes the
        body, and an error in it is the worker's fault. Token counts in the result are counted as prompts. `pictures`: those in `params`."""
        spec, is_autoload = self._models.for_use(request, body)
        files = None
        if pictures is not None and pictures.all:
            files = await self._media.attach(spec, pictures)
            unseen = {"messages": pictures.unseen(params["messages"])} if pictures.hidden else {}
            params = {**params, **unseen, "pictures": pictures.marks}
        client = client_of(request) if method in DECODING_CALLS else None
        if client is not None:
            self._supervisor.note_turn(spec, client)
        priority, keep_alive_s = read_terms(body)
        terms = _Terms(is_autoload, priority, None if is_read_only(request) else keep_alive_s, client)
        timeline = Timeline(spec, method, self._supervisor.wait_preview)
        try:
            try:
                result = await self._ask(spec, terms, timeline, method, params, files)
            except WorkerDied:  # the client has received nothing yet: try again on a new worker
                result = await self._ask(spec, terms, timeline, method, params, files)
            answer = await write(spec, result)
            if isinstance(result, dict) and "prompt_tokens" in result:
                num_decodes = count_of(result, "num_decodes")
                counts = Finish(prompt_tokens=count_of(result, "prompt_tokens"), num_decodes=num_decodes, num_busy_decodes=num_decodes)
                timeline.count_tokens(counts, is_new_prompt=True)
        except FastrouterError as error:
            timeline.fail(error)
            return error_response(error, self._errors, timeline.header())
        except BaseException:  # the client has left, or our own bug
            timeline.end(CANCELLED)
            raise
        timeline.end(OK)
        return json_response(answer, headers=timeline.header())

    async def _ask(
        self, spec: ModelSpec, terms: _Terms, timeline: Timeline, method: str, params: dict[str, Any], files: AttachedFiles | None
    ) -> Any:
        lease = self._supervisor.acquire_now(spec, terms.client, terms.priority)
        if lease is None:
            timeline.wait()
            lease = await self._supervisor.acquire(spec, terms.is_autoload, terms.priority, terms.client)
        with lease:
            if terms.keep_alive_s is not None:
                lease.keep_alive(terms.keep_alive_s)
            timeline.grant()
            if method in DECODING_CALLS:
                timeline.submit()
            return await lease.call(method, params, files)
