"""llama-server's own endpoints under a model: /completion, /infill, /tokenize, /detokenize, /apply-template.

Never imports: http.connection. Invariant: a call to a worker holds its lease only during the call.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from fastrouter._core import Request
from fastrouter.api.models.access import Models
from fastrouter.api.requests.bodies import Ids, parse_object, read_parsed
from fastrouter.api.requests.checks import boolean, invalid, token_ids
from fastrouter.api.requests.defaults import with_defaults
from fastrouter.api.requests.fields import Ask, chat_input, read_completion
from fastrouter.api.requests.infill import read_infill
from fastrouter.api.requests.pictures import Pictures
from fastrouter.api.serving.call import Caller
from fastrouter.api.serving.flavour import Choice, Usage
from fastrouter.api.serving.media import Media, may_see
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import FastrouterError
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import OPENAI_ERRORS, SSE_HEADERS, Response
from fastrouter.http.sse import comment, event_parts, json_event
from fastrouter.ipc.messages import Generate
from fastrouter.ipc.records import Delta, PromptProgress
from fastrouter.supervisor.supervisor import Supervisor

# Those of llama-server's `generation_settings` that have only one value here.
_SETTINGS: dict[str, Any] = {
    "n_keep": 0,
    "n_discard": 0,
    "backend_sampling": False,
    "grammar": "",
    "grammar_lazy": False,
    "grammar_triggers": [],
    "preserved_tokens": [],
    "chat_format": "Content-only",
    "reasoning_format": "deepseek",
    "reasoning_in_content": False,
    "generation_prompt": "",
    "speculative.types": "none",
}


def settings_of(found: dict[str, Any], ask: Ask | None = None) -> dict[str, Any]:
    """A worker's settings in llama-server's shape, and those that only the router knows."""
    generate = ask.generates[0] if ask is not None else None
    constraint = generate.constraint if generate is not None else None
    own: dict[str, Any] = {"stream": ask is not None and ask.is_stream}
    own["timings_per_token"] = generate is not None and generate.timings_per_token
    if constraint is not None:
        own["grammar"] = constraint["text"]
    return {**_SETTINGS, **own, **found}


def completion_of(choice: Choice, model_id: str, ask: Ask) -> dict[str, Any]:
    """The final object of /completion; also `__verbose` of the OpenAI shapes."""
    finish = choice.finish
    probabilities = {"completion_probabilities": choice.probabilities} if choice.probabilities else {}
    return {
        "index": choice.index,
        "content": choice.reasoning + choice.text,
        "tokens": [] if ask.is_stream else finish.tokens,
        "id_slot": finish.id_slot,
        "stop": True,
        "model": model_id,
        "tokens_predicted": finish.completion_tokens,
        "tokens_evaluated": finish.prompt_tokens,
        "generation_settings": settings_of(finish.generation_settings, ask),
        "prompt": finish.prompt,
        "has_new_line": "\n" in choice.text,
        "truncated": finish.truncated,
        "stop_type": finish.stop_type,
        "stopping_word": finish.stopping_word,
        "tokens_cached": finish.held_tokens,
        "timings": choice.timings,
        **probabilities,
    }


def pick_fields(answer: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    """`response_fields`: "a/b" brings b of a to the root, under the name "a/b"; missing fields are left out."""
    picked: dict[str, Any] = {}
    for path in paths:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            picked[path] = value
    return picked


def timings_in(record: Delta | PromptProgress) -> dict[str, Any]:
    """The timings for an event, if the record has some."""
    return {"timings": record.timings} if record.timings else {}


def progress_in(progress: PromptProgress) -> dict[str, Any]:
    names = ("total", "cache", "processed", "time_ms")
    return {"prompt_progress": {name: getattr(progress, name) for name in names}}


class Completion:
    """The flavour of POST /completion."""

    name = "completion"
    stream_head = SSE_HEADERS
    errors = OPENAI_ERRORS
    has_blocks = False

    @staticmethod
    def read(body: dict[str, Any]) -> Ask:
        return read_completion(body, is_verbose=True)

    def __init__(self, model_id: str, ask: Ask) -> None:
        self._model_id = model_id
        self._ask = ask
        self._fields = ask.response_fields

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | None:
        return event_parts(b'{"index":%d,"content":"' % choice, b'","tokens":[],"stop":false}')

    def first(self, choice: int) -> bytes:
        return b""

    def event(self, choice: int, event: Delta) -> bytes:
        counts = {"tokens_predicted": event.completion_tokens, "tokens_evaluated": event.prompt_tokens, "id_slot": -1}
        probabilities = {"completion_probabilities": event.probabilities} if event.probabilities else {}
        return self._part(choice, event.text, event.tokens, **counts, **timings_in(event), **probabilities)

    def progress(self, choice: int, progress: PromptProgress) -> bytes:
        return self._part(choice, "", [], **progress_in(progress), **timings_in(progress))

    def _part(self, choice: int, text: str, tokens: list[int], **more: Any) -> bytes:
        return json_event({"index": choice, "content": text, "tokens": tokens, "stop": False, **more})

    def ping(self, text: bytes) -> bytes:
        return comment(text)

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes:
        return json_event(self._answer(choice))

    def done(self) -> bytes:
        return b""

    def error_event(self, error: FastrouterError) -> bytes:
        return json_event({**error.to_json(), "stop": True, "stop_type": "error", "finish_reason": "error"})

    def whole(self, choices: list[Choice], usage: Usage) -> Any:
        answers = [self._answer(choice) for choice in choices]
        return answers[0] if len(answers) == 1 else answers

    def _answer(self, choice: Choice) -> dict[str, Any]:
        answer = completion_of(choice, self._model_id, self._ask)
        return pick_fields(answer, self._fields) if self._fields else answer


class Infill(Completion):
    """The flavour of POST /infill: the same answer."""

    name = "infill"

    @staticmethod
    def read(body: dict[str, Any]) -> Ask:
        return read_infill(body, is_verbose=True)


# The fields of a chat that make its prompt.
_OF_TEMPLATES = (
    *("messages", "tools", "tool_choice", "chat_template_kwargs", "chat_template", "system"),
    *("add_generation_prompt", "continue_final_message", "prefill_is_implied"),
)


class Native:
    """The routes of its calls."""

    def __init__(self, models: Models, supervisor: Supervisor, media: Media | None = None) -> None:
        self._models = models
        self._supervisor = supervisor
        self._caller = Caller(models, supervisor, media=media)

    async def tokenize(self, request: Request, exchange: Exchange) -> Response:
        body = parse_object(request)
        params = {
            "content": await read_parsed(request, partial(_content_of, body)),
            "add_special": _flag(body, "add_special", False),
            "parse_special": _flag(body, "parse_special", True),
            "with_pieces": _flag(body, "with_pieces", False),
        }
        return await self._caller.answer(request, body, "tokenize", params)

    async def detokenize(self, request: Request, exchange: Exchange) -> Response:
        body = parse_object(request)
        tokens = body.get("tokens")
        ids = [] if tokens is None else await read_parsed(request, partial(token_ids, "tokens", tokens))
        return await self._caller.answer(request, body, "detokenize", {"tokens": ids})

    async def apply_template(self, request: Request, exchange: Exchange) -> Response:
        body = parse_object(request)
        pictures = Pictures(shows_markers=True)
        params = await chat_params(self._models, request, partial(chat_input, body, pictures))
        spec, _ = self._models.choose(request, body)
        if pictures.all and not may_see(spec, pictures):
            pictures.hide()
            params["messages"] = pictures.unseen(params["messages"])
        return await self._caller.answer(request, body, "apply_template", params)

    async def count_chat_tokens(self, request: Request, exchange: Exchange) -> Response:
        body = parse_object(request)
        pictures = Pictures()
        params = await chat_params(self._models, request, partial(chat_input, body, pictures))

        async def write(spec: ModelSpec, result: Any) -> bytes:
            return orjson.dumps({"object": "response.input_tokens", **result})

        return await self._caller.answer(request, body, "count_tokens", params, write, pictures)

    async def call(self, request: Request, body: dict[str, Any], method: str, params: dict[str, Any]) -> Any:
        """Call the worker of the model that the request means."""
        spec, is_autoload = self._models.for_use(request, body)
        lease = self._supervisor.acquire_now(spec) or await self._supervisor.acquire(spec, autoload=is_autoload)
        with lease:
            return await lease.call(method, params)


async def chat_params(models: Models, request: Request, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The parameters of a call that applies the template. `read` is `chat_input` for the parsed body."""
    spec, _ = models.choose(request, parse_object(request))
    asked = with_defaults(Generate(**await read_parsed(request, read)), spec.defaults)
    return {name: getattr(asked, name) for name in _OF_TEMPLATES}


def _content_of(body: dict[str, Any]) -> Any:
    """What /tokenize is to make tokens of."""
    content = body.get("content")
    if not isinstance(content, str | list | Ids | None):
        raise invalid("content", "must be a string or a list of strings and token ids")
    if isinstance(content, list):
        return [item if isinstance(item, str) else token_ids("content", [item])[0] for item in content]
    return "" if content is None else content


def _flag(body: dict[str, Any], name: str, default: bool) -> bool:
    value = body.get(name)
    return default if value is None else boolean(name, value)
