"""GET and POST /lora-adapters: the adapters of one model, and the scales of requests that set none.

Never imports: supervisor.lease, supervisor.workers. What a POST sets lasts until the model is unloaded; running requests keep their
scales.
"""

from typing import Any

from fastrouter._core import Request
from fastrouter.api.control.props import Props
from fastrouter.api.flavours.native import Native
from fastrouter.api.models.access import Models
from fastrouter.api.requests.bodies import parse_json
from fastrouter.api.requests.checks import adapter_scales
from fastrouter.errors import InvalidRequest
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, encode_json
from fastrouter.options.load import LoadOptions


class Lora:
    """The routes."""

    def __init__(self, native: Native, peek: Props, models: Models) -> None:
        self._native = native
        self._peek = peek
        self._models = models

    async def list(self, request: Request, exchange: Exchange) -> Response:
        """For a model that is not loaded: the adapters that it would be loaded with."""
        spec, _ = self._models.choose(request, {})
        adapters = await self._peek.ask(request, spec, "lora_adapters")
        return encode_json(_adapters_of(spec.runner.options) if adapters is None else adapters)

    async def change(self, request: Request, exchange: Exchange) -> Response:
        """The body is a list, so the query names the model."""
        entries = parse_json(request)
        if not isinstance(entries, list):
            raise InvalidRequest("the body must be a JSON array; the model is named in the query: /lora-adapters?model=NAME")
        return encode_json(await self._native.call(request, {}, "set_lora", {"lora": adapter_scales("lora", entries)}))


def _adapters_of(options: LoadOptions) -> list[dict[str, Any]]:
    is_applied = not options.lora_init_without_apply
    return [{"id": index, "path": path, "scale": scale if is_applied else 0.0} for index, (path, scale) in enumerate(options.lora)]
