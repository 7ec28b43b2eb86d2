"""The paths of the Responses API: the stored conversation is read before a response is made, and responses are read later by their id.

Invariant: a key sees only responses that were made with it. A key that may do everything sees all.
"""

from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import orjson

from fastrouter._core import Request
from fastrouter.api.flavours.native import chat_params
from fastrouter.api.flavours.response_items import COMPLETED, Item, new_id
from fastrouter.api.flavours.responses import RESPONSE_ERRORS, Responses
from fastrouter.api.models.access import Models, client_of
from fastrouter.api.requests.bodies import parse_object
from fastrouter.api.requests.checks import integer, invalid, string
from fastrouter.api.requests.pictures import Pictures
from fastrouter.api.requests.response_items import kind_of
from fastrouter.api.requests.responses import ResponseAsk, chat_input_of
from fastrouter.api.response_store import ResponseStore, Stored
from fastrouter.api.serving.call import Caller
from fastrouter.api.serving.media import Media
from fastrouter.api.serving.start import Generator
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import InvalidRequest, NotFound
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, encode_json
from fastrouter.supervisor.supervisor import Supervisor

MAX_LISTED = 100
_DEFAULT_LISTED = 20
_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "local_shell_call": "lsh",
    "local_shell_call_output": "lsho",
}


class ResponseRoutes:
    def __init__(
        self, models: Models, supervisor: Supervisor, generator: Generator, store: ResponseStore, media: Media | None = None
    ) -> None:
        self._models = models
        self._generator = generator
        self._store = store
        self._caller = Caller(models, supervisor, RESPONSE_ERRORS, media)
        self._growing: WeakValueDictionary[tuple[str, str], Responses] = WeakValueDictionary()  # by owner and id

    # ------------------------------------------------------------ a new response

    def create(self, request: Request, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        body = parse_object(request)
        if _needs_store(body):
            return self._create_from_store(request, exchange, body)
        return self._start(request, exchange, body)

    async def _create_from_store(self, request: Request, exchange: Exchange, body: dict[str, Any]) -> None:
        body, earlier = await self._from_store(request, body)
        waits = self._start(request, exchange, body, earlier)
        if waits is not None:
            await waits

    def _start(
        self, request: Request, exchange: Exchange, body: dict[str, Any], earlier: Sequence[Item] = ()
    ) -> Coroutine[Any, Any, None] | None:
        owner, num_bytes = client_of(request), request.num_body_bytes

        def keep(ask: ResponseAsk, response: dict[str, Any]) -> None:
            self._store.put(owner, response, lambda: [_with_id(item) for item in ask.items], num_bytes)

        def make(model_id: str, ask: ResponseAsk) -> Responses:
            made = Responses(model_id, ask, keep)
            self._growing[owner, made.id] = made
            return made

        return self._generator.read_and_start(request, exchange, partial(Responses.read, body, earlier), make)

    async def count(self, request: Request, exchange: Exchange) -> Response:
        """POST /v1/responses/input_tokens"""
        body, earlier = await self._from_store(request, parse_object(request))
        pictures = Pictures()
        params = await chat_params(self._models, request, partial(chat_input_of, body, earlier, pictures))

        async def write(spec: ModelSpec, result: Any) -> bytes:
            return orjson.dumps({"object": "response.input_tokens", **result})

        return await self._caller.answer(request, body, "count_tokens", params, write, pictures)

    async def _from_store(self, request: Request, body: dict[str, Any]) -> tuple[dict[str, Any], list[Item]]:
        """The body with items in place of references, and the items of the conversation before."""
        owner, previous = client_of(request), body.get("previous_response_id")
        earlier: list[Item] | None = []
        if previous is not None:
            earlier = await self._store.conversation(owner, string("previous_response_id", previous))
        if earlier is None:
            raise self._not_stored(str(previous))
        if _has_references(body):
            body = {**body, "input": await self._without_references(owner, body["input"])}
        return body, earlier

    async def _without_references(self, owner: str, items: list[Any]) -> list[Any]:
        wanted = {index: string(f"input[{index}].id", item.get("id")) for index, item in enumerate(items) if _is_reference(item)}
        found = await self._store.items(owner, list(wanted.values()))
        for index, item_id in wanted.items():
            if item_id not in found:
                raise invalid(f"input[{index}].id", f"is not the id of a stored item: {item_id}. Send the item itself")
        return [found[wanted[index]] if index in wanted else item for index, item in enumerate(items)]

    def _not_stored(self, response_id: str) -> InvalidRequest:
        why = "it was deleted, or others took its place" if self._store.is_on else "--responses-mib 0 keeps no responses"
        message = f"previous response with id '{response_id}' not found ({why}); send the whole conversation as `input`"
        return InvalidRequest(message, param="previous_response_id", code="previous_response_not_found")

    # ------------------------------------------------------------ stored responses

    async def show(self, request: Request, exchange: Exchange) -> Response:
        """GET /v1/responses/{id} and {id}/input_items"""
        response_id, _, rest = _path_of(request).partition("/")
        query = self._models.query(request)
        if query.get("stream") in ("true", "1"):
            raise invalid("stream", "is not supported here: a stored response is whole")
        stored = await self._store.get(client_of(request), response_id)
        if stored is None or rest not in ("", "input_items"):
            raise _missing(response_id)
        return encode_json(_listed(stored, query) if rest else stored.response)

    async def delete(self, request: Request, exchange: Exchange) -> Response:
        """A response that is not complete yet is generated to its end, and not stored."""
        response_id, caller = _path_of(request), client_of(request)
        growing = (made for (owner, name), made in self._growing.items() if name == response_id and caller in (owner, ""))
        if not any(made.forget() for made in growing) and not await self._store.delete(caller, response_id):
            raise _missing(response_id)
        return encode_json({"id": response_id, "object": "response", "deleted": True})


def _path_of(request: Request) -> str:
    return request.path.partition("/responses/")[2]


def _missing(response_id: str) -> NotFound:
    return NotFound(f"response with id '{response_id[:100]}' not found")


def _is_reference(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "item_reference"


def _has_references(body: dict[str, Any]) -> bool:
    given = body.get("input")
    return isinstance(given, list) and any(map(_is_reference, given))


def _needs_store(body: dict[str, Any]) -> bool:
    return body.get("previous_response_id") is not None or _has_references(body)


def _with_id(item: Item) -> Item:
    """As it is shown later: with an id, a status, and a message's text in parts."""
    kind = kind_of("input", item)
    shown = {**item, "type": kind, "id": item.get("id") or new_id(_PREFIXES.get(kind, "item"))}
    if kind == "message":
        content = item.get("content")
        sort = "output_text" if item.get("role") == "assistant" else "input_text"
        shown.update(status=COMPLETED, content=[{"type": sort, "text": content}] if isinstance(content, str) else content)
    return shown


_limit = integer(1, MAX_LISTED)


def _listed(stored: Stored, query: dict[str, str]) -> dict[str, Any]:
    """One page of the items of its turn; the newest first, unless `order` says otherwise."""
    limit = query.get("limit", "")
    count = _limit("limit", int(limit)) if limit.isascii() and limit.isdigit() and len(limit) < 8 else _DEFAULT_LISTED
    items = stored.input if query.get("order") == "asc" else stored.input[::-1]
    names = [item["id"] for item in items]
    start = names.index(query["after"]) + 1 if query.get("after") in names else 0
    page = items[start : start + count]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return {"object": "list", "data": page, **ends, "has_more": start + count < len(items)}
