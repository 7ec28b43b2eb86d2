"""POST /slots/{id}?action=save|restore|erase of a model that has --slot-save-path.

Invariant: a name that reaches a worker belongs to one file in that folder, on any file system: llama-server's rules.
"""

import re
from typing import Any

from fastrouter._core import Request
from fastrouter.api.flavours.native import Native
from fastrouter.api.models.access import Models
from fastrouter.api.requests.bodies import parse_optional
from fastrouter.api.requests.checks import invalid
from fastrouter.errors import InvalidRequest, NotSupported
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, encode_json
from fastrouter.http.routes import Routes

PATH = "/slots/"
MAX_NAME_BYTES = 255
_MAX_SLOT_ID = 1 << 20
# Control characters; characters that Windows refuses; characters that look like a dot or a slash, or are invalid.
_FORBIDDEN = re.compile('[\x00-\x1f\x7f-\x9f/\\\\:*?"<>|\uff0e\u2215\u2216\ufffd\ufeff\ud800-\udfff]')


def is_file_name(name: str) -> bool:
    """Whether the name means the same file on every system, and never a file in another folder."""
    is_odd = name != name.strip(" ") or name.endswith(".") or ".." in name or _FORBIDDEN.search(name)
    return bool(name) and not is_odd and len(name.encode()) <= MAX_NAME_BYTES


class SlotActions:
    """The route."""

    def __init__(self, native: Native, models: Models, routes: Routes) -> None:
        self._native = native
        self._models = models
        self._routes = routes

    async def act(self, request: Request, exchange: Exchange) -> Response:
        body = parse_optional(request)
        spec, _ = self._models.choose(request, body)
        if spec.runner.options.slot_save_path is None:
            raise NotSupported("This server does not support slots action. Start it with `--slot-save-path`")
        text = self._routes.suffix(request, PATH)
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) > _MAX_SLOT_ID:
            raise InvalidRequest("Invalid slot ID")
        params: dict[str, Any] = {"id_slot": int(text)}
        action = self._models.query(request).get("action")
        if action not in ("save", "restore", "erase"):
            raise InvalidRequest("Invalid action")
        if action != "erase":
            params["filename"] = _file_name(body)
        return encode_json(await self._native.call(request, body, f"slot_{action}", params))


def _file_name(body: dict[str, Any]) -> str:
    name = body.get("filename")
    if not isinstance(name, str):
        raise invalid("filename", "must be a string")
    if not is_file_name(name):
        raise InvalidRequest("Invalid filename")
    return name
