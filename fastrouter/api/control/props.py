"""GET /props and /slots of a model: reading without any effect. Never imports: supervisor.lease, supervisor.residency.

Invariant: without `?autoload=true`, nothing here loads, wakes, waits for a load, or changes which model is evicted next.
"""

import asyncio
from typing import Any

from fastrouter._core import Request
from fastrouter.api.flavours.native import settings_of
from fastrouter.api.identity import BUILD_INFO
from fastrouter.api.models.access import Models
from fastrouter.api.requests.pictures import MARKER
from fastrouter.catalog.gguf import GgufError
from fastrouter.catalog.header_cache import template_of
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.errors import FastrouterError, ModelNotLoaded, NotSupported, Unavailable
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, encode_json
from fastrouter.options.builtin_templates import FALLBACK
from fastrouter.supervisor.supervisor import Supervisor


class Props:
    def __init__(self, models: Models, supervisor: Supervisor, config: Config) -> None:
        self._models = models
        self._supervisor = supervisor
        self._has_slots = config.slots_endpoint
        self._reading = asyncio.Lock()
        self._shared: dict[str, Any] = {
            "endpoint_slots": config.slots_endpoint,
            "endpoint_props": config.props_endpoint,
            "endpoint_metrics": config.metrics_endpoint,
            "ui_settings": {},
            "build_info": BUILD_INFO,
            "cors_proxy_enabled": config.ui_mcp_proxy,
            "media_marker": MARKER,
        }

    async def ask(self, request: Request, spec: ModelSpec, method: str) -> Any:
        """The answer of the model's worker; None when the model is not loaded. Raises Unavailable if the worker is too slow."""
        wish = self._models.query(request).get("autoload")
        if wish in ("true", "1"):
            self._models.check_may_load(request.caller, spec)
            with await self._supervisor.acquire(spec, autoload=True):
                return await self._supervisor.peek(spec.runner.id, method)
        if wish is not None and self._supervisor.status(spec.runner.id).value == "unloaded":
            raise ModelNotLoaded(spec.id)  # with an explicit value, it means the same as in llama-server
        return await self._supervisor.peek(spec.runner.id, method)

    # ------------------------------------------------------------ /props

    async def props_of(self, request: Request, spec: ModelSpec) -> dict[str, Any]:
        props = await self.ask(request, spec, "props")
        found = await self._props_of_file(spec) if props is None else {**props, "model_alias": spec.id, "is_loaded": True}
        defaults = found.get("default_generation_settings")
        if isinstance(defaults, dict) and isinstance(defaults.get("params"), dict):
            defaults["params"] = settings_of(defaults["params"])
        modalities = {"vision": "image" in spec.modalities, "video": "video" in spec.modalities, "audio": "audio" in spec.modalities}
        caps = spec.template.to_json() if spec.template is not None else {}
        return {**found, **self._shared, "modalities": modalities, "chat_template_caps": caps}

    async def _template_of_file(self, spec: ModelSpec) -> str:
        """The same template that the worker will use. Empty: the file cannot be read, or its template is too long."""
        if spec.options.chat_template:
            return spec.options.chat_template
        if spec.header is None:
            return ""
        if not spec.header.has_chat_template:
            return FALLBACK
        async with self._reading:  # one at a time: a header may have megabytes, and other work needs threads too
            try:
                text = await asyncio.get_running_loop().run_in_executor(None, template_of, spec.path)
            except GgufError:
                return ""
        return FALLBACK if text == "" else text or ""

    async def _props_of_file(self, spec: ModelSpec) -> dict[str, Any]:
        """The properties from the file and the options."""
        options, header = spec.options, spec.header
        trained = header.context_length if header is not None else None
        settings = {
            **(header.sampling if header is not None else {}),
            **options.sampling,
            "n_predict": options.n_predict,
            "max_tokens": options.n_predict,
        }
        return {
            "default_generation_settings": {"params": settings, "n_ctx": options.num_cells_of_slot(trained or 0)},
            "total_slots": options.num_slots,
            "model_alias": spec.id,
            "model_path": spec.path,
            "n_ctx_train": trained,
            "chat_template": await self._template_of_file(spec),
            "is_sleeping": self._supervisor.status(spec.runner.id).value == "sleeping",
            "is_loaded": False,
        }

    # ------------------------------------------------------------ /slots

    async def slots(self, request: Request, exchange: Exchange) -> Response:
        if not self._has_slots:
            raise NotSupported("This server does not support slots endpoint. Start it with `--slots`")
        spec = self._models.named(request)
        slots = await self._slots_of_all(request) if spec is None else await self.ask(request, spec, "slots") or []
        if self._models.query(request).get("fail_on_no_slot") and slots and all(slot.get("is_processing") for slot in slots):
            raise Unavailable("no slot available")
        return encode_json(slots)

    async def _slots_of_all(self, request: Request) -> list[dict[str, Any]]:
        """If one model does not answer, the others are still shown."""
        running = [instance.spec.id for instance in self._supervisor.instances()]
        model_ids = sorted(model_id for model_id in running if self._models.may_see_id(request.caller, model_id))
        answers = await asyncio.gather(*(self._slots_of(model_id) for model_id in model_ids))
        return [{"model": model_id, **slot} for model_id, slots in zip(model_ids, answers, strict=True) for slot in slots]

    async def _slots_of(self, model_id: str) -> list[dict[str, Any]]:
        try:
            return await self._supervisor.peek(model_id, "slots") or []
        except FastrouterError as error:
            return [{"id": -1, "is_processing": True, "error": error.message}]
