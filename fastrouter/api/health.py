"""GET /health: the server lives. Imports nothing that a start would have to wait for."""

from fastrouter._core import Request
from fastrouter.http.protocol import Exchange
from fastrouter.http.response import encode_json

HEALTH_PATHS = ("/health", "/v1/health")
HEALTHY = encode_json({"status": "ok"})


def health(request: Request, exchange: Exchange) -> bytes:
    return HEALTHY
