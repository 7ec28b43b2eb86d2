"""GET /health: ok when the router knows its models and, with only one model, when that has been loaded. Its imports are fast.

Invariant: after the first "ok" the answer is always "ok", also when models fail.
"""

from fastrouter._core import Request
from fastrouter.errors import Unavailable
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Rendered, Response, encode_json

HEALTH_PATHS = ("/health", "/v1/health")
HEALTHY = Rendered.of(encode_json({"status": "ok"}))
STARTING = "the router is starting: it reads its preset file and its folders"
LOADING = "Loading model"


class Health:
    def __init__(self) -> None:
        self._why_not: str | None = STARTING

    def show(self, request: Request, exchange: Exchange) -> Response:
        if self._why_not is not None:
            raise Unavailable(self._why_not)
        return HEALTHY

    def be_ready(self) -> None:
        self._why_not = None

    def be_unready(self, why: str = LOADING) -> None:
        """No effect after `be_ready`."""
        if self._why_not is not None:
            self._why_not = why
