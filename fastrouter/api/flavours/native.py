"""llama-server's own endpoints under a model: /completion, /infill, /tokenize, /detokenize, /apply-template.

Knows no lease's inside, no ring, no connection. Invariant: a call to a worker holds its lease no longer than the call.
"""

from collections.abc import Coroutine
from typing import Any

import orjson

from fastrouter._core import Request
from fastrouter.api.models.access import Models
from fastrouter.api.requests.bodies import Ids, parse_object
from fastrouter.api.requests.checks import boolean, invalid, token_ids
from fastrouter.api.requests.defaults import with_defaults
from fastrouter.api.requests.fields import Ask, chat_input, read_completion
from fastrouter.api.requests.infill import read_infill
from fastrouter.api.serving.answer import Choice, Usage, count_of
from fastrouter.api.serving.call import Caller
from fastrouter.api.serving.start import Generator
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import FastrouterError
from fastrouter.http.exchange import Exchange
from fastrouter.ipc.messages import Generate
from fastrouter.supervisor.supervisor import Supervisor

# Of llama-server's `generation_settings`, what here has one value only.
_SETTINGS: dict[str, Any] = {
    "adaptive_target": -1.0,
    "adaptive_decay": 0.9,
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
    """A worker's settings in llama-server's shape; with those that only the router knows."""
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
    predicted = count_of(finish, "completion_tokens")
    evaluated = count_of(finish, "prompt_tokens")
    probabilities = {"completion_probabilities": choice.probabilities} if choice.probabilities else {}
    return {
        "index": choice.index,
        "content": choice.reasoning + choice.text,
        "tokens": [] if ask.is_stream else finish.get("tokens", []),
        "id_slot": finish.get("id_slot", -1),
        "stop": True,
        "model": model_id,
        "tokens_predicted": predicted,
        "tokens_evaluated": evaluated,
        "generation_settings": settings_of(finish.get("generation_settings", {}), ask),
        "prompt": finish.get("prompt", ""),
        "has_new_line": finish.get("has_new_line", "\n" in choice.text),
        "truncated": finish.get("truncated", False),
        "stop_type": finish.get("stop_type", "none"),
        "stopping_word": finish.get("stopping_word", ""),
        "tokens_cached": count_of(finish, "held_tokens"),
        "timings": finish.get("timings", {}),
        **probabilities,
    }


def pick_fields(answer: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    """`response_fields`: "a/b" brings b of a to the root, under the name "a/b"; what is not there is left out."""
    picked: dict[str, Any] = {}
    for path in paths:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            picked[path] = value
    return picked


class Completion:
    """The flavour of POST /completion."""

    name = "completion"

    def __init__(self, model_id: str, ask: Ask) -> None:
        self._model_id = model_id
        self._ask = ask
        self._fields = ask.response_fields

    def template(self, kind: int, choice: int) -> tuple[bytes, bytes] | None:
        return b'data: {"index":%d,"content":"' % choice, b'","tokens":[],"stop":false}\n\n'

    def first(self, choice: int) -> bytes:
        return b""

    def event(self, choice: int, event: dict[str, Any]) -> bytes:
        if "probabilities" in event:
            event["completion_probabilities"] = event.pop("probabilities")
        partial = {"index": choice, "content": event.pop("text", ""), "tokens": event.pop("tokens", []), "stop": False, **event}
        return b"data: " + orjson.dumps(partial) + b"\n\n"

    def finish(self, choice: Choice, usage: Usage, *, is_last: bool) -> bytes:
        return b"data: " + orjson.dumps(self._answer(choice)) + b"\n\n"

    def done(self) -> bytes:
        return b""

    def error(self, error: FastrouterError) -> bytes:
        return b"data: " + orjson.dumps({**error.to_json(), "stop": True, "stop_type": "error", "finish_reason": "error"}) + b"\n\n"

    def whole(self, choices: list[Choice], usage: Usage) -> Any:
        answers = [self._answer(choice) for choice in choices]
        return answers[0] if len(answers) == 1 else answers

    def _answer(self, choice: Choice) -> dict[str, Any]:
        answer = completion_of(choice, self._model_id, self._ask)
        return pick_fields(answer, self._fields) if self._fields else answer


class Infill(Completion):
    """The flavour of POST /infill: the same answer."""

    name = "infill"


# The fields of a chat that make its prompt.
_OF_TEMPLATES = (
    *("messages", "tools", "tool_choice", "chat_template_kwargs", "chat_template", "system"),
    *("add_generation_prompt", "continue_final_message"),
)


class Native:
    """The routes."""

    def __init__(self, models: Models, supervisor: Supervisor, generator: Generator) -> None:
        self._models = models
        self._supervisor = supervisor
        self._generator = generator
        self._caller = Caller(models, supervisor)

    def completion(self, request: Request, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        body = parse_object(request)
        ask = read_completion({**body, "verbose": True})
        return self._generator.start(request, exchange, body, ask, Completion)

    def infill(self, request: Request, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        body = parse_object(request)
        return self._generator.start(request, exchange, body, read_infill({**body, "verbose": True}), Infill)

    async def tokenize(self, request: Request, exchange: Exchange) -> bytes:
        body = parse_object(request)
        content = body.get("content")
        if not isinstance(content, str | list | Ids | None):
            raise invalid("content", "must be a string or a list of strings and token ids")
        if isinstance(content, list):
            content = [item if isinstance(item, str) else token_ids("content", [item])[0] for item in content]
        params = {
            "content": "" if content is None else content,
            "add_special": _flag(body, "add_special", False),
            "parse_special": _flag(body, "parse_special", True),
            "with_pieces": _flag(body, "with_pieces", False),
        }
        return await self._caller.answer(request, body, "tokenize", params)

    async def detokenize(self, request: Request, exchange: Exchange) -> bytes:
        body = parse_object(request)
        tokens = body.get("tokens")
        params = {"tokens": [] if tokens is None else token_ids("tokens", tokens)}
        return await self._caller.answer(request, body, "detokenize", params)

    async def apply_template(self, request: Request, exchange: Exchange) -> bytes:
        body = parse_object(request)
        return await self._caller.answer(request, body, "apply_template", self._chat_params(request, body))

    async def count_chat_tokens(self, request: Request, exchange: Exchange) -> bytes:
        body = parse_object(request)
        params = self._chat_params(request, body)

        async def write(spec: ModelSpec, result: Any) -> bytes:
            return orjson.dumps({"object": "response.input_tokens", **result})

        return await self._caller.answer(request, body, "count_tokens", params, write)

    def _chat_params(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        spec, _ = self._models.choose(request, body)
        asked = with_defaults(Generate(0, **chat_input(body)), spec.defaults)
        return {name: getattr(asked, name) for name in _OF_TEMPLATES}

    async def call(self, request: Request, body: dict[str, Any], method: str, params: dict[str, Any]) -> Any:
        """Ask the worker of the model that the request means."""
        spec, is_autoload = self._models.for_use(request, body)
        lease = self._supervisor.acquire_now(spec) or await self._supervisor.acquire(spec, autoload=is_autoload)
        with lease:
            return await lease.call(method, params)


def _flag(body: dict[str, Any], name: str, default: bool) -> bool:
    value = body.get(name)
    return default if value is None else boolean(name, value)
