"""Request bodies: bytes -> JSON, once; forms too. Of the fields, only `model` and those with token ids are known here. Never imports:
http.routes, api.requests.fields.

Invariant: the values of a body are counted before they become Python objects, so a body needs at most a few times its size in memory. Its
bytes are freed after the parse. Long lists of token ids stay text (`Ids`): a million ids are one object.
"""

import asyncio
import gc
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import orjson

from fastrouter._core import Request, scan_json
from fastrouter.api.requests.forms import is_form, read_form
from fastrouter.errors import InvalidRequest, Unavailable

MAX_VALUES = 1 << 16
MAX_DEPTH = 200  # orjson writes no more than 254 levels, and an answer may repeat a field some levels down
MAX_ID_LISTS = 4096
MAX_MODEL_CHARACTERS = 1024
FORM_PATH = "/audio/transcriptions"  # its bodies are forms
LONG_BODY = 64 << 10  # bytes; a longer body is read in a thread, because it may have thousands of messages
_ID_FIELDS = ("prompt", "input", "content", "tokens", "input_prefix", "input_suffix")
_ID_NAMES = b"".join(name.encode() + b"\0" for name in _ID_FIELDS) + b"\0"
_PLACE = secrets.token_hex(16)  # replaces a list of ids while the rest is parsed; clients cannot know it
_one_by_one = ThreadPoolExecutor(1, "bodies")  # the parse holds the GIL: two at the same time would block the event loop for longer

Ids = orjson.Fragment
T = TypeVar("T")


def parse_json(request: Request) -> Any:
    """The content of the body. Raises InvalidRequest."""
    if request.json is None:
        kind = request.header("content-type") or ""
        is_in_form = is_form(kind) and request.path.endswith(FORM_PATH)
        request.json = read_form(kind, request.take_body()) if is_in_form else _parse(request.take_body())
        name = request.json.get("model") if isinstance(request.json, dict) else None
        request.model = name if isinstance(name, str) and len(name) <= MAX_MODEL_CHARACTERS else None
    return request.json


def parse_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object."""
    value = parse_json(request)
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


def parse_optional(request: Request) -> dict[str, Any]:
    """The same, when a body is optional."""
    return parse_object(request) if request.body or request.json is not None else {}


async def parse_large(request: Request) -> None:
    """`parse_json`, while the event loop continues."""
    await asyncio.get_running_loop().run_in_executor(_one_by_one, _unwatched, partial(parse_json, request))


async def read_long(read: Callable[[], T]) -> T:
    """Reads what was parsed, while the event loop continues."""
    return await asyncio.get_running_loop().run_in_executor(_one_by_one, _unwatched, read)


async def read_parsed(request: Request, read: Callable[[], T]) -> T:
    """Reads what was parsed: a short body now, a long one as `read_long` does."""
    return await read_long(read) if request.num_body_bytes > LONG_BODY else read()


def _unwatched(work: Callable[[], T]) -> T:
    """Without the garbage collector, which would visit all new objects many times. JSON has no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return work()
    finally:
        if was_enabled:
            gc.enable()


def _parse(body: bytes) -> Any:
    if not body:
        raise InvalidRequest("the request body is empty; send a JSON object")
    spans = scan_json(body, _ID_NAMES, max_values=MAX_VALUES, max_depth=MAX_DEPTH)
    if len(spans) > MAX_ID_LISTS:
        raise InvalidRequest(f"the body holds more than {MAX_ID_LISTS} lists of token ids")
    try:
        if not spans:
            return orjson.loads(body)
        return _with_ids(orjson.loads(_without_ids(body, spans)), [Ids(body[start:end]) for start, end in spans])
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    except MemoryError:
        raise Unavailable("there is not enough memory for this body now; try again later") from None


def _without_ids(body: bytes, spans: list[tuple[int, int]]) -> bytes:
    pieces, before = [], 0
    for number, (start, end) in enumerate(spans):
        pieces += [body[before:start], b'["%b %d"]' % (_PLACE.encode(), number)]  # a list too: it may stand only where one may
        before = end
    return b"".join((*pieces, body[before:]))


def _with_ids(value: dict[str, Any], ids: list[Ids]) -> dict[str, Any]:
    """Lists of ids are in these fields, or directly in lists in them."""

    def place(item: Any) -> Any:
        if not isinstance(item, list) or len(item) != 1 or not isinstance(item[0], str) or not item[0].startswith(_PLACE):
            return item
        return ids[int(item[0].rpartition(" ")[2])]

    for name in _ID_FIELDS:
        if name in value:
            item = place(value[name])
            value[name] = [place(each) for each in item] if isinstance(item, list) else item
    return value
