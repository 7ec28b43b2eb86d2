"""GET /models/logs: the output of a model's workers, as text, or live as events. Never imports: app, supervisor.workers.process.

Invariant: reading a log does not load or wake a model, and does not change the order of eviction.
"""

import time
from typing import Any

from fastrouter._core import Request
from fastrouter.api.models.access import Models
from fastrouter.api.models.live import LiveStream
from fastrouter.api.requests.checks import invalid
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, text_response
from fastrouter.supervisor.supervisor import Supervisor
from fastrouter.supervisor.workers.worker_log import MAX_LINES, Line
from fastrouter.system.words import iso_time


class WorkerLogs:
    def __init__(self, models: Models, supervisor: Supervisor) -> None:
        self._models = models
        self._logs = supervisor.logs

    def show(self, request: Request, exchange: Exchange) -> Response | None:
        query = self._models.query(request)
        name = query.get("model")
        model_id = self._models.find(name, request.caller).runner.id if name else None

        def is_wanted(line: Line) -> bool:
            return line.model == model_id if model_id is not None else self._models.may_see_id(request.caller, line.model)

        count = _tail(query)
        lines = [line for line in self._logs.lines(model_id) if is_wanted(line)][-count:] if count else []
        accepted = request.header("accept") or ""
        is_live = query.get("follow") in ("1", "true") or "text/event-stream" in accepted
        if not is_live or request.method == "HEAD":
            return text_response("".join(_text_of(line, is_named=model_id is None) for line in lines))
        stream = LiveStream(exchange)
        for line in lines:
            stream.send(_event_of(line))
        stream.start(self._logs.listen(lambda line: stream.send(_event_of(line)) if is_wanted(line) else None))
        return None


def _tail(query: dict[str, str]) -> int:
    text = query.get("tail", str(MAX_LINES))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise invalid("tail", "must be a number of lines")
    return int(text)


def _text_of(line: Line, *, is_named: bool) -> str:
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.time))
    return f"{clock} {line.model + ': ' if is_named else ''}{line.text}\n"


def _event_of(line: Line) -> dict[str, Any]:
    return {"time": iso_time(line.time), "model": line.model, "line": line.text}
