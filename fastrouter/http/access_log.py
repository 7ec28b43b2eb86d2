"""One log line for each request: its path and model, how it ended, how long it took, and how many tokens its answer had.

Invariant: when this log is off, a request costs only one empty field.
"""

import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from fastrouter._core import Request
from fastrouter.http.exchange import CLIENT_LEFT, Exchange

log = logging.getLogger("fastrouter.http")

Dispatch = Callable[[Request, Exchange], Any]


def logged(dispatch: Dispatch, level: int) -> Dispatch:
    """`dispatch`, with a line when an exchange is over. Probes of /health are logged at level debug: they come every few seconds."""

    def run(request: Request, exchange: Exchange) -> Any:
        begun = time.monotonic()
        quiet = logging.DEBUG if request.path.endswith("/health") else level
        exchange.on_over = lambda over, status: _write(quiet, over, status, time.monotonic() - begun)
        return dispatch(request, exchange)

    return run


def _write(level: int, exchange: Exchange, status: int | None, taken_s: float) -> None:
    if not log.isEnabledFor(level):
        return
    request = exchange.request
    model = request.model or (parse_qs(request.query).get("model", [""])[0] if request.query else "")
    num_tokens = getattr(exchange.responder, "num_tokens", 0)
    end = {None: "cut off", CLIENT_LEFT: "the client left"}.get(status, str(status))
    about = f" {model}" if model else ""
    tokens = f", {num_tokens} token{'' if num_tokens == 1 else 's'}" if num_tokens else ""
    peer = exchange.transport.get_extra_info("peername")
    extra = {
        "event": "request",
        "method": request.method,
        "path": request.path,
        "model": model or None,
        "status": status,
        "ms": round(1e3 * taken_s, 1),
        "tokens": num_tokens or None,
        "client": peer[0] if isinstance(peer, tuple) else None,  # a Unix socket has none
    }
    log.log(level, "%s %s%s: %s in %.0f ms%s", request.method, request.path, about, end, 1e3 * taken_s, tokens, extra=extra)
