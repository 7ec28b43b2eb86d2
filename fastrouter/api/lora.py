"""GET and POST /lora-adapters: the adapters of one model, and the scales that its requests get when they name none.

Knows no lease and no worker. What a POST sets lasts until the model is unloaded; running requests keep what they began with.
"""

from fastrouter._core import Request
from fastrouter.api.fields import adapter_scales
from fastrouter.api.native import Native
from fastrouter.api.schema import parse_json
from fastrouter.errors import InvalidRequest
from fastrouter.http.protocol import Exchange
from fastrouter.http.response import encode_json


class Lora:
    """The routes."""

    def __init__(self, native: Native) -> None:
        self._native = native

    async def list(self, request: Request, exchange: Exchange) -> bytes:
        return encode_json(await self._native.call(request, {}, "lora_adapters", {}))

    async def change(self, request: Request, exchange: Exchange) -> bytes:
        """The body is a list, so the model is named in the query."""
        entries = parse_json(request.body)
        if not isinstance(entries, list):
            raise InvalidRequest("the body must be a JSON array; the model is named in the query: /lora-adapters?model=NAME")
        return encode_json(await self._native.call(request, {}, "set_lora", {"lora": adapter_scales("lora", entries)}))
