"""/v1/embeddings, /embedding(s) and /rerank: texts -> vectors and scores, in the shapes of OpenAI, llama-server, Jina and TEI.

Knows no token and no vector's meaning. Invariant: a model that cannot do it is refused before it is loaded, and a long answer is written
piece by piece, so that other clients are not kept waiting by it.
"""

import asyncio
import base64
import binascii
import math
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import orjson

from fastrouter._core import Request
from fastrouter.api.calls import Caller
from fastrouter.api.fields import INT32_MAX, boolean, integer, invalid, string, token_ids
from fastrouter.api.models import Models
from fastrouter.api.schema import parse_object
from fastrouter.errors import NotSupported, ProtocolError
from fastrouter.http.protocol import Exchange
from fastrouter.spec import ModelSpec
from fastrouter.supervisor.supervisor import Supervisor

MAX_TEXTS = 2048  # of one request, as OpenAI has it
FLOATS_PER_PIECE = 1 << 15  # written without a pause: about 2 ms

_normalize = integer(-1)
_dimensions = integer(1)
_top_n = integer(1)


class Embeddings:
    """The routes."""

    def __init__(self, models: Models, supervisor: Supervisor) -> None:
        self._models = models
        self._caller = Caller(models, supervisor)

    async def openai(self, request: Request, exchange: Exchange) -> bytes:
        """As in llama-server, `content` instead of `input` asks for its own shape."""
        body = parse_object(request.body)
        if body.get("input") is None and body.get("content") is not None:
            return await self.native(request, exchange)
        self._check(request, body, "embedding", "--embeddings")
        is_base64 = _is_base64(body.get("encoding_format"))
        params = {**_embedding_params(body), "is_pooled": True}
        exchange.count_generation()
        return await self._caller.answer(request, body, "embed", params, lambda spec, result: _write_openai(spec, result, is_base64))

    async def native(self, request: Request, exchange: Exchange) -> bytes:
        body = parse_object(request.body)
        self._check(request, body, "embedding", "--embeddings")
        params = _embedding_params(body)
        exchange.count_generation()
        return await self._caller.answer(request, body, "embed", params, _write_native)

    async def rerank(self, request: Request, exchange: Exchange) -> bytes:
        """TEI's shape when there are `texts`, else Jina's."""
        body = parse_object(request.body)
        self._check(request, body, "rerank", "--reranking")
        write = _Ranking(body)
        exchange.count_generation()
        return await self._caller.answer(request, body, "rerank", {"query": write.query, "documents": write.documents}, write)

    def _check(self, request: Request, body: dict[str, Any], capability: str, flag: str) -> None:
        """Of a model whose header cannot be read, its worker has the last word."""
        spec, _ = self._models.choose(request, body)
        if spec.capabilities and capability not in spec.capabilities:
            known = ", ".join(spec.capabilities)
            raise NotSupported(f"model '{spec.id}' does not support {capability} (it has: {known}). Load it with `{flag}`", model=spec.id)


# ---------------------------------------------------------------- embeddings


def _embedding_params(body: dict[str, Any]) -> dict[str, Any]:
    name = "input" if body.get("input") is not None else "content"
    normalize, dimensions = body.get("embd_normalize"), body.get("dimensions")
    return {
        "name": name,
        "inputs": read_inputs(name, body.get(name)),
        "normalize": None if normalize is None else _normalize("embd_normalize", normalize),
        "dimensions": None if dimensions is None else _dimensions("dimensions", dimensions),
    }


def _is_base64(value: Any) -> bool:
    if value not in (None, "float", "base64"):
        raise invalid("encoding_format", 'must be "float" or "base64"')
    return bool(value == "base64")


def read_inputs(name: str, value: Any) -> list[str | list[Any]]:
    """A text, token ids or a mix is one input; a list of texts or of lists is several."""
    if value is None:
        raise invalid("input", 'is missing; "input" or "content" must be given')
    if not isinstance(value, list):
        return [_read_input(name, value)]
    if any(type(item) is int for item in value):
        return [_read_input(name, value)]
    if not value:
        raise invalid(name, "must not be empty")
    if len(value) > MAX_TEXTS:
        raise invalid(name, f"holds {len(value)} inputs, more than {MAX_TEXTS}")
    return [_read_input(f"{name}[{index}]", item) for index, item in enumerate(value)]


def _read_input(name: str, value: Any) -> str | list[Any]:
    if isinstance(value, dict) and isinstance(value.get("prompt_string"), str):
        value = value["prompt_string"]
    if not isinstance(value, str | list):
        raise invalid(name, "must be a string, a list of token ids, or a list of these")
    if not value:
        raise invalid(name, "must not be empty")
    return value if isinstance(value, str) else [item if isinstance(item, str) else token_ids(name, [item])[0] for item in value]


def _read_vectors(result: dict[str, Any]) -> tuple[list[memoryview], int]:
    """The bytes of each input's rows, float32, and how many values a row has."""
    try:
        width, num_rows = result["width"], result["num_rows"]
        vectors = memoryview(base64.b64decode(result["vectors"], validate=True))
        ends = [4 * width * rows for rows in accumulate(num_rows)] if width > 0 else []
        if not ends or ends[-1] != len(vectors):
            raise ValueError("its vectors have another length")
        return [vectors[end - 4 * width * rows : end] for end, rows in zip(ends, num_rows, strict=True)], width
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ProtocolError(f"a worker sent a broken embedding: {error}") from None


async def _join(pieces: Iterator[bytes], floats_per_piece: int) -> bytes:
    """The pieces with commas between them; now and then others have their turn."""
    written: list[bytes] = []
    num_floats = 0
    for piece in pieces:
        written.append(piece)
        num_floats += floats_per_piece
        if num_floats >= FLOATS_PER_PIECE:
            num_floats = 0
            await asyncio.sleep(0)
    return b",".join(written)


async def _write_openai(spec: ModelSpec, result: dict[str, Any], is_base64: bool) -> bytes:
    vectors, width = _read_vectors(result)
    dump: Callable[[memoryview], bytes] = _dump_base64 if is_base64 else _dump_floats
    suffix = b',"encoding_format":"base64"}' if is_base64 else b"}"
    pieces = (b'{"object":"embedding","index":%d,"embedding":%b%b' % (index, dump(one), suffix) for index, one in enumerate(vectors))
    data = await _join(pieces, width)
    num_tokens = result["prompt_tokens"]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (data, orjson.dumps(spec.id), orjson.dumps(usage))


def _dump_base64(vector: memoryview) -> bytes:
    return b'"%b"' % base64.b64encode(vector)


def _dump_floats(vector: memoryview) -> bytes:
    return orjson.dumps(vector.cast("f").tolist())


async def _write_native(spec: ModelSpec, result: dict[str, Any]) -> bytes:
    """Each input has a list of vectors: one, or one per token when there is no pooling."""
    vectors, width = _read_vectors(result)
    inputs = []
    for index, one in enumerate(vectors):
        rows = (_dump_floats(one[start : start + 4 * width]) for start in range(0, len(one), 4 * width))
        inputs.append(b'{"index":%d,"embedding":[%b]}' % (index, await _join(rows, width)))
        if index % 16 == 15:
            await asyncio.sleep(0)
    return b"[%b]" % b",".join(inputs)


# ---------------------------------------------------------------- reranking


class _Ranking:
    """One request: what is asked, and how its answer looks."""

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

    async def __call__(self, spec: ModelSpec, result: dict[str, Any]) -> bytes:
        scores = result.get("scores")
        if not isinstance(scores, list) or len(scores) != len(self.documents):
            raise ProtocolError("a worker sent a broken ranking")
        # A score that is no number comes last.
        order = sorted(range(len(scores)), key=lambda index: -math.inf if scores[index] is None else scores[index], reverse=True)
        results = [self._entry(index, scores[index]) for index in order[: self._top_n]]
        if self._is_tei:
            return orjson.dumps(results)
        num_tokens = result["prompt_tokens"]
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return orjson.dumps({"model": spec.id, "object": "list", "usage": usage, "results": results})

    def _entry(self, index: int, score: float | None) -> dict[str, Any]:
        entry: dict[str, Any] = {"index": index, "score" if self._is_tei else "relevance_score": score}
        if self._has_text:
            text = self.documents[index]
            entry |= {"text": text} if self._is_tei else {"document": {"text": text}}
        return entry


def _read_document(name: str, value: Any) -> str:
    """Jina's documents may be objects."""
    return string(name, value.get("text") if isinstance(value, dict) else value)


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    return value is not None and boolean(name, value)
