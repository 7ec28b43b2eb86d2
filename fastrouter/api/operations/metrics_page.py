"""GET /metrics: all models, or one, for Prometheus. The formats are in exposition.py.

Invariant: a scrape only reads. It does not load or wake a model, does not change the order of eviction, and takes no lease. It blocks the
event loop at most for the samples of one model.
"""

import asyncio
import time
from typing import Any

from fastrouter import metrics
from fastrouter._core import Request
from fastrouter.api.models.access import Models
from fastrouter.config.config import Config
from fastrouter.errors import Forbidden, NotSupported
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response
from fastrouter.supervisor.supervisor import Supervisor
from fastrouter.system.machine import resident_bytes

STARTED_S = int(time.time())  # this file is imported when the service starts


def _import_exposition() -> Any:
    from fastrouter.api.operations import exposition

    return exposition


class MetricsPage:
    def __init__(self, models: Models, supervisor: Supervisor, config: Config) -> None:
        self._models = models
        self._supervisor = supervisor
        self._config = config
        self._module: Any = None  # exposition.py, after the first scrape
        self._expositions: dict[str, Any] = {}  # by content type

    async def show(self, request: Request, exchange: Exchange) -> Response:
        if not self._config.metrics_endpoint:
            raise NotSupported("This server does not support metrics endpoint. Start it with `--metrics`")
        name = self._models.query(request).get("model")
        if not name and request.caller is not None and request.caller.models is not None:
            raise Forbidden("this key is limited to some models: name one, /metrics?model=NAME")
        only = self._models.find(name, request.caller).id if name else None
        if self._module is None:  # in a thread: it takes longer than a stream should wait
            self._module = await asyncio.get_running_loop().run_in_executor(None, _import_exposition)
        module = self._module
        content_type = module.content_type_for(request.header("accept") or "")
        exposition = self._expositions.get(content_type)
        if exposition is None:
            exposition = self._expositions[content_type] = module.Exposition(module.FORMATS[content_type])
        for model_id, counts in list(metrics.by_model().items()):
            if only in (None, model_id) and exposition.refresh(model_id, counts):
                await asyncio.sleep(0)
        parking = self._supervisor.parking
        parked = {model_id: parking.held(model_id) for model_id in sorted(parking.model_ids()) if only in (None, model_id)}
        fleet = module.Fleet(self._residents(module.ResidentFigures, only), self._config.models_max, parked)
        text = exposition.text(fleet, only, has_one_model=self._config.has_one_model)
        headers = f"Process-Start-Time-Unix: {STARTED_S}\r\nContent-Type: {content_type}\r\n"
        return Response(200, headers.encode(), text)

    def _residents(self, resident: Any, only: str | None) -> list[Any]:
        """Models with a process, sleeping models, and models that requests wait for."""
        waiting = self._supervisor.num_waiting()
        found = []
        for instance in self._supervisor.instances():
            model_id = instance.spec.id
            num_waiting = waiting.pop(model_id, 0)
            if only in (None, model_id):
                memory, need = resident_bytes(instance.process.pid), instance.need
                counts = (instance.num_leases, num_waiting, memory, need.host_bytes, need.device_bytes)
                found.append(resident(model_id, instance.state.value, *counts))
        known = {each.model_id for each in found}
        for model_id in (*metrics.by_model(), *waiting):
            is_asleep = self._supervisor.status(model_id).value == "sleeping"
            if only in (None, model_id) and model_id not in known and (is_asleep or model_id in waiting):
                known.add(model_id)
                found.append(resident(model_id, "sleeping" if is_asleep else "", 0, waiting.get(model_id, 0)))
        return found
