"""Router properties, load, unload, pin and plan."""

from typing import Any

from fastrouter._core import Request
from fastrouter.api.identity import BUILD_INFO
from fastrouter.api.models.access import Models
from fastrouter.api.models.downloads import ModelDownloads
from fastrouter.api.requests.bodies import parse_optional
from fastrouter.api.requests.checks import boolean
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.errors import InvalidRequest, NotFound, NotSupported
from fastrouter.http.api_keys import Caller
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, encode_json
from fastrouter.supervisor.supervisor import Supervisor

_SUCCESS = encode_json({"success": True})


class Admin:
    def __init__(self, models: Models, supervisor: Supervisor, downloads: ModelDownloads, config: Config) -> None:
        self._models = models
        self._supervisor = supervisor
        self._downloads = downloads
        self._config = config

    def router_props(self) -> dict[str, Any]:
        return {
            "role": "router",
            "max_instances": self._config.models_max,
            "models_autoload": self._config.models_autoload,
            "model_alias": "fastrouter",
            "model_path": "none",
            "default_generation_settings": {"params": None, "n_ctx": 0},
            "ui_settings": self._config.ui_settings,
            "build_info": BUILD_INFO,
            "cors_proxy_enabled": self._config.ui_mcp_proxy,
            **({"tools_enabled": True} if self._config.tools or self._config.mcp_servers else {}),
        }

    def change_props(self, request: Request, exchange: Exchange) -> Response:
        """As in llama-server: nothing can be changed yet, but the answer tells whether a change would be allowed."""
        if not self._config.props_endpoint:
            raise NotSupported("This server does not support changing global properties. Start it with `--props`")
        return _SUCCESS

    async def load(self, request: Request, exchange: Exchange) -> Response:
        spec = self._named(request, NotFound)
        await self._supervisor.load(spec)
        return _SUCCESS

    async def unload(self, request: Request, exchange: Exchange) -> Response:
        if not await self._downloads.cancel(request):
            self._supervisor.unload(self._named(request, InvalidRequest).runner.id)
        return _SUCCESS

    def pin(self, request: Request, exchange: Exchange) -> Response:
        """POST /models/pin: `{"model", "pin": true | false}`."""
        spec, wanted = self._named(request, NotFound), parse_optional(request).get("pin")
        self._supervisor.pin(spec, True if wanted is None else boolean("pin", wanted))
        return _SUCCESS

    def drop_parked(self, request: Request, exchange: Exchange) -> Response:
        """DELETE /models/parked: the prompts that were parked for one model (`?model=`), or for all models of this caller."""
        name, parking = self._models.query(request).get("model"), self._supervisor.parking
        if name:
            dropped = {self._models.find(name, request.caller).runner.id}
        else:
            dropped = {model_id for model_id in parking.model_ids() if self._models.may_see_id(request.caller, model_id)}
        num_entries, num_bytes = parking.drop(dropped)
        return encode_json({"entries": num_entries, "bytes": num_bytes})

    def warm(self, request: Request, exchange: Exchange) -> Response:
        """POST /models/warm: `{"model"}`. It will be asked for soon: its file is read ahead, but it is not loaded."""
        self._supervisor.expect(self._named(request, NotFound))
        return _SUCCESS

    def plan(self, request: Request, exchange: Exchange) -> Response:
        """POST /models/plan: what a request for the model would lead to now."""
        spec = self._named(request, NotFound)
        preview = {**self._supervisor.preview(spec), "model": spec.id}
        if request.caller is not None:
            self._hide_others(preview, request.caller)
        return encode_json(preview)

    def _hide_others(self, preview: dict[str, Any], caller: Caller) -> None:
        """Models outside the caller's scope lose their names. Their bytes are kept, so that the plan is still true."""

        def visible(model_ids: list[str]) -> list[str]:
            return [model_id for model_id in model_ids if self._models.may_see_id(caller, model_id)]

        for evicted in preview["evict"]:
            if not visible([evicted["model"]]):
                evicted["model"] = None
        preview["queued_models"] = visible(preview["queued_models"])
        if "waits_for" in preview:
            preview["waits_for"]["models"] = visible(preview["waits_for"]["models"])

    def _named(self, request: Request, unknown: type[NotFound] | type[InvalidRequest]) -> ModelSpec:
        """The model that the body or the query names; there is no default, and no name that means any model."""
        body = parse_optional(request)
        name = self._models.name_in(request, body)
        if not name:
            raise InvalidRequest("model name is missing from the request")
        try:
            self._models.find(name, request.caller)
            return self._models.choose(request, body)[0]
        except InvalidRequest as error:
            raise unknown(error.message) from None
