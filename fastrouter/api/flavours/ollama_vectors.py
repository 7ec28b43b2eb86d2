"""Ollama's embeddings: /api/embed, and the older /api/embeddings."""

import time
from typing import Any

import orjson

from fastrouter._core import Request
from fastrouter.api.flavours.ollama import OLLAMA_ERRORS
from fastrouter.api.flavours.vectors import Vectors, check_embeds, read_inputs, write_vectors
from fastrouter.api.models.access import Models
from fastrouter.api.requests.bodies import parse_object
from fastrouter.api.requests.checks import integer, string
from fastrouter.api.requests.pictures import Pictures
from fastrouter.api.serving.call import Caller
from fastrouter.api.serving.media import Media
from fastrouter.catalog.spec import ModelSpec
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response
from fastrouter.supervisor.supervisor import Supervisor

_dimensions = integer(1)


class OllamaEmbeddings:
    """The routes."""

    def __init__(self, models: Models, supervisor: Supervisor, media: Media | None = None) -> None:
        self._models = models
        self._caller = Caller(models, supervisor, OLLAMA_ERRORS, media)

    async def embed(self, request: Request, exchange: Exchange) -> Response:
        body, pictures = parse_object(request), Pictures()
        dimensions = body.get("dimensions")
        inputs = read_inputs("input", body.get("input"), pictures)
        params = _params("input", inputs, None if not dimensions else _dimensions("dimensions", dimensions))
        began_ns = time.monotonic_ns()

        async def write(spec: ModelSpec, result: Any) -> bytes:
            vectors = Vectors(result, len(inputs), is_pooled=True)
            written = await write_vectors(vectors)
            counts = (time.monotonic_ns() - began_ns, vectors.num_tokens)
            return b'{"model":%b,"embeddings":[%b],"total_duration":%d,"load_duration":0,"prompt_eval_count":%d}' % (
                orjson.dumps(spec.id),
                written,
                *counts,
            )

        return await self._answer(request, exchange, body, params, write, pictures)

    async def embeddings(self, request: Request, exchange: Exchange) -> Response:
        body = parse_object(request)
        params = _params("prompt", [string("prompt", body.get("prompt"))], None)

        async def write(spec: ModelSpec, result: Any) -> bytes:
            return b'{"embedding":%b}' % await write_vectors(Vectors(result, 1, is_pooled=True))

        return await self._answer(request, exchange, body, params, write)

    async def _answer(
        self,
        request: Request,
        exchange: Exchange,
        body: dict[str, Any],
        params: dict[str, Any],
        write: Any,
        pictures: Pictures | None = None,
    ) -> Response:
        check_embeds(self._models, request, body)
        exchange.count_generation()
        return await self._caller.answer(request, body, "embed", params, write, pictures)


def _params(name: str, inputs: list[Any], dimensions: int | None) -> dict[str, Any]:
    return {"name": name, "inputs": inputs, "normalize": None, "dimensions": dimensions, "is_pooled": True}
