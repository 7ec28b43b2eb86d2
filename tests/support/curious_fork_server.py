"""A fork server whose workers answer `props` with what they reach."""

import socket
import sys
from typing import Any

from fastrouter.worker.__main__ import main
from fastrouter.worker.loading import LoadedModel

_ask = LoadedModel.ask


def _reach(self: LoadedModel, method: str, params: dict[str, Any]) -> Any:
    if method != "props" or "paths" not in params:
        return _ask(self, method, params)
    return {"files": [_can(lambda path=path: open(path, "rb").read(1)) for path in params["paths"]], "network": _can(socket.socket)}


def _can(action: Any) -> bool:
    try:
        action()
    except PermissionError:
        return False
    return True


LoadedModel.ask = _reach  # type: ignore[method-assign]
sys.exit(main(sys.argv[1:]))
