"""/v1/embeddings, /embedding(s) and /rerank: texts -> vectors and scores, in the shapes of OpenAI, llama-server, Jina and TEI.

Invariant: a model that cannot do it is refused before it is loaded. A long answer is written piece by piece, so that other clients do not
wait for it.
"""

import asyncio
import base64
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, cast

import orjson

from fastrouter._core import Request
from fastrouter.api.models.access import Models
from fastrouter.api.requests.bodies import Ids, parse_object, read_parsed
from fastrouter.api.requests.checks import boolean, integer, invalid, json_object, string, token_ids
from fastrouter.api.requests.pictures import Pictures
from fastrouter.api.serving.call import Caller
from fastrouter.api.serving.media import Media
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import ModelCannot, ProtocolError
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response
from fastrouter.options.limits import INT32_MAX
from fastrouter.supervisor.supervisor import Supervisor

MAX_TEXTS = 2048  # of one request, as in OpenAI's API
FLOATS_PER_PIECE = 1 << 15  # written without a pause: about 2 ms

_normalize = integer(-1)
_dimensions = integer(1)
_top_n = integer(1)


class Embeddings:
    """The routes."""

    def __init__(self, models: Models, supervisor: Supervisor, media: Media | None = None) -> None:
        self._models = models
        self._caller = Caller(models, supervisor, media=media)

    async def openai(self, request: Request, exchange: Exchange) -> Response:
        """As in llama-server, `content` instead of `input` selects llama-server's own shape."""
        body = parse_object(request)
        if body.get("input") is None and body.get("content") is not None:
            return await self.native(request, exchange)
        check_embeds(self._models, request, body)
        is_base64 = _is_base64(body.get("encoding_format"))
        pictures = Pictures()
        params = {**await read_parsed(request, partial(_embedding_params, body, pictures)), "is_pooled": True}
        exchange.count_generation()

        async def write(spec: ModelSpec, result: Any) -> bytes:
            return await _write_openai(spec.id, Vectors(result, len(params["inputs"]), is_pooled=True), is_base64)

        return await self._caller.answer(request, body, "embed", params, write, pictures)

    async def native(self, request: Request, exchange: Exchange) -> Response:
        body = parse_object(request)
        check_embeds(self._models, request, body)
        pictures = Pictures()
        params = await read_parsed(request, partial(_embedding_params, body, pictures))
        exchange.count_generation()

        async def write(spec: ModelSpec, result: Any) -> bytes:
            return await _write_native(Vectors(result, len(params["inputs"]), is_pooled=False))

        return await self._caller.answer(request, body, "embed", params, write, pictures)

    async def rerank(self, request: Request, exchange: Exchange) -> Response:
        """TEI's shape if there are `texts`, otherwise Jina's."""
        body = parse_object(request)
        _check(self._models, request, body, "rerank", "`--reranking`")
        write = _Ranking(body)
        exchange.count_generation()
        return await self._caller.answer(request, body, "rerank", {"query": write.query, "documents": write.documents}, write)


def check_embeds(models: Models, request: Request, body: dict[str, Any]) -> None:
    """Raises ModelCannot."""
    _check(models, request, body, "embedding", "`--embeddings --pooling mean`")


def _check(models: Models, request: Request, body: dict[str, Any], capability: str, flags: str) -> None:
    """If the header of a model cannot be read, its worker decides."""
    spec, _ = models.choose(request, body)
    if spec.capabilities and capability not in spec.capabilities:
        known = ", ".join(spec.capabilities)
        problem = f"model '{spec.id}' does not support {capability} (it has: {known})"
        raise ModelCannot(f"{problem}. To use it for that, start it with {flags}, as flags or in its preset", model=spec.id)


# ---------------------------------------------------------------- embeddings


def _embedding_params(body: dict[str, Any], pictures: Pictures) -> dict[str, Any]:
    name = "input" if body.get("input") is not None else "content"
    normalize, dimensions = body.get("embd_normalize"), body.get("dimensions")
    return {
        "name": name,
        "inputs": read_inputs(name, body.get(name), pictures),
        "normalize": None if normalize is None else _normalize("embd_normalize", normalize),
        "dimensions": None if dimensions is None else _dimensions("dimensions", dimensions),
    }


def _is_base64(value: Any) -> bool:
    if value not in (None, "float", "base64"):
        raise invalid("encoding_format", 'must be "float" or "base64"')
    return bool(value == "base64")


def read_inputs(name: str, value: Any, pictures: Pictures) -> list[str | list[Any]]:
    """A text, token ids or a mix is one input; a list of texts or of lists is several. `pictures` gets those in them."""
    if value is None:
        raise invalid("input", 'is missing; "input" or "content" must be given')
    if not isinstance(value, list):
        return [_read_input(name, value, pictures)]
    if any(type(item) is int for item in value):
        return [_read_input(name, value, pictures)]
    if not value:
        raise invalid(name, "must not be empty")
    if len(value) > MAX_TEXTS:
        raise invalid(name, f"holds {len(value)} inputs, more than {MAX_TEXTS}")
    return [_read_input(f"{name}[{index}]", item, pictures) for index, item in enumerate(value)]


def _read_input(name: str, value: Any, pictures: Pictures) -> str | list[Any]:
    if isinstance(value, dict):
        has_parts = isinstance(value.get("content"), list) and value["content"]
        value = _text_of(name, value["content"], pictures) if has_parts else _prompt_of(name, value, pictures)
    if isinstance(value, Ids):
        return cast(list[Any], value)
    if not isinstance(value, str | list):
        raise invalid(name, "must be a string, a list of token ids, or a list of these")
    if value == []:
        raise invalid(name, "must not be empty")
    return value if isinstance(value, str) else [item if isinstance(item, str) else token_ids(name, [item])[0] for item in value]


def _prompt_of(name: str, value: dict[str, Any], pictures: Pictures) -> str | None:
    return pictures.add_prompt(name, value) if isinstance(value.get("prompt_string"), str) else None


def _text_of(name: str, parts: list[Any], pictures: Pictures) -> str:
    """The text of a message's parts, with marks for pictures."""
    named = [(f"{name}.content[{index}]", part) for index, part in enumerate(parts)]
    return "".join(_part_of(place, json_object(place, part), pictures) for place, part in named)


def _part_of(name: str, part: dict[str, Any], pictures: Pictures) -> str:
    if part.get("type") == "text":
        return string(f"{name}.text", part.get("text"))
    if part.get("type") == "image_url":
        return pictures.add_part(name, {"type": "image_url", "image_url": part.get("image_url")})
    raise invalid(f"{name}.type", 'must be "text" or "image_url"')


class Vectors:
    """The checked result of the worker for each input. Raises ProtocolError."""

    def __init__(self, result: Any, num_inputs: int, *, is_pooled: bool) -> None:
        try:
            self.width = int(result["width"])
            self.num_tokens = int(result["prompt_tokens"])
            num_rows = [int(rows) for rows in result["num_rows"]]
            values = memoryview(base64.b64decode(result["vectors"], validate=True))
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"a worker sent a broken embedding: {error}") from None
        is_right = len(num_rows) == num_inputs and min(num_rows) >= 1 and (not is_pooled or max(num_rows) == 1)
        if not is_right or self.width < 1 or 4 * self.width * sum(num_rows) != len(values):
            raise ProtocolError("a worker sent a broken embedding: their number or size is wrong")
        ends = [4 * self.width * rows for rows in accumulate(num_rows)]
        self.of_inputs = [values[start:end] for start, end in pairwise([0, *ends])]  # rows of float32


async def _join(pieces: Iterator[bytes], floats_per_piece: int) -> bytes:
    """The pieces with commas between them. Sometimes it pauses, so that other work gets its turn."""
    written: list[bytes] = []
    num_floats = 0
    for piece in pieces:
        written.append(piece)
        num_floats += floats_per_piece
        if num_floats >= FLOATS_PER_PIECE:
            num_floats = 0
            await asyncio.sleep(0)
    return b",".join(written)


async def _write_openai(model_id: str, vectors: Vectors, is_base64: bool) -> bytes:
    dump: Callable[[memoryview], bytes] = _dump_base64 if is_base64 else _dump_floats
    suffix = b',"encoding_format":"base64"}' if is_base64 else b"}"
    entries = (b'{"object":"embedding","index":%d,"embedding":%b%b' % (i, dump(one), suffix) for i, one in enumerate(vectors.of_inputs))
    written = await _join(entries, vectors.width)
    usage = {"prompt_tokens": vectors.num_tokens, "total_tokens": vectors.num_tokens}
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (written, orjson.dumps(model_id), orjson.dumps(usage))


async def write_vectors(vectors: Vectors) -> bytes:
    """One list of numbers for each input, with commas between them."""
    return await _join(map(_dump_floats, vectors.of_inputs), vectors.width)


def _dump_base64(vector: memoryview) -> bytes:
    return b'"%b"' % base64.b64encode(vector)


def _dump_floats(vector: memoryview) -> bytes:
    return orjson.dumps(vector.cast("f").tolist())


async def _write_native(vectors: Vectors) -> bytes:
    """Each input has a list of vectors: one, or one per token when there is no pooling."""
    row_bytes = 4 * vectors.width
    entries = []
    for index, one in enumerate(vectors.of_inputs):
        rows = (_dump_floats(one[start : start + row_bytes]) for start in range(0, len(one), row_bytes))
        entries.append(b'{"index":%d,"embedding":[%b]}' % (index, await _join(rows, vectors.width)))
        if index % 16 == 15:
            await asyncio.sleep(0)
    return b"[%b]" % b",".join(entries)


# ---------------------------------------------------------------- reranking


class _Ranking:
    """One request: the query, the documents, and the shape of the answer."""

    def __init__(self, body: dict[str, Any]) -> None:
        if body.get("query") is None:
            raise invalid("query", "is missing")
        self.query = string("query", body["query"])
        self._is_tei = body.get("texts") is not None
        name = "texts" if self._is_tei else "documents"
        given = body.get(name)
        if not isinstance(given, list) or not given:
            raise invalid(name, "must be a list of strings that is not empty")
        if len(given) > MAX_TEXTS:
            raise invalid(name, f"holds {len(given)} texts, more than {MAX_TEXTS}")
        self.documents = [_read_document(f"{name}[{index}]", item) for index, item in enumerate(given)]
        top_n = body.get("top_n")
        self._top_n = INT32_MAX if top_n is None else _top_n("top_n", top_n)
        self._has_text = _flag(body, "return_text") or _flag(body, "return_documents")

    async def __call__(self, spec: ModelSpec, result: Any) -> bytes:
        scores, num_tokens = _read_scores(result, len(self.documents))
        order = sorted(range(len(scores)), key=lambda index: _order(scores[index]), reverse=True)
        results = [self._entry(index, scores[index]) for index in order[: self._top_n]]
        if self._is_tei:
            return orjson.dumps(results)
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return orjson.dumps({"model": spec.id, "object": "list", "usage": usage, "results": results})

    def _entry(self, index: int, score: float | None) -> dict[str, Any]:
        entry: dict[str, Any] = {"index": index, "score" if self._is_tei else "relevance_score": score}
        if self._has_text:
            text = self.documents[index]
            entry |= {"text": text} if self._is_tei else {"document": {"text": text}}
        return entry


def _read_scores(result: Any, num_documents: int) -> tuple[list[float | None], int]:
    try:
        scores = [None if score is None else float(score) for score in result["scores"]]
        num_tokens = int(result["prompt_tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"a worker sent a broken ranking: {error}") from None
    if len(scores) != num_documents:
        raise ProtocolError("a worker sent a broken ranking: its scores do not match the documents")
    return scores, num_tokens


def _order(score: float | None) -> float:
    """A missing or invalid score comes last."""
    return -math.inf if score is None or math.isnan(score) else score


def _read_document(name: str, value: Any) -> str:
    """Jina's documents may also be objects."""
    return string(name, value.get("text") if isinstance(value, dict) else value)


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    return value is not None and boolean(name, value)
