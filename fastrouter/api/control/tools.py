"""GET and POST /tools: what models may use on this machine.

Invariant: these routes exist only if a flag turned them on, and then the router is closed to other machines, or has keys (app/router.py).
A key that is limited to some models may not use tools.
"""

from collections.abc import AsyncIterator
from typing import Any

import orjson

from fastrouter._core import Request
from fastrouter.api.models.lines import EventLines
from fastrouter.api.requests.bodies import parse_object
from fastrouter.api.requests.checks import boolean, invalid, string
from fastrouter.api.tools.job import ToolJob
from fastrouter.api.tools.server_tools import ServerTools
from fastrouter.errors import FastrouterError, Forbidden, InvalidRequest
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, encode_json, json_response

_OF_HEADERS = ("cwd", "runtime", "resp_type")  # of built-in tools: a client sets them, not a model


class ToolRoutes:
    def __init__(self, tools: ServerTools) -> None:
        self._tools = tools

    async def list(self, request: Request, exchange: Exchange) -> Response:
        return encode_json(await self._tools.list() if _may_use(request) else [])

    async def call(self, request: Request, exchange: Exchange) -> Response | None:
        if not _may_use(request):
            raise Forbidden("this key is limited to some models: it may not use tools")
        job = self._job_of(request)
        if job.is_stream:
            EventLines(exchange, _events(self._tools.follow(job)))
            return None
        return json_response(orjson.dumps(await self._tools.call(job)))

    def _job_of(self, request: Request) -> ToolJob:
        body = parse_object(request)
        name, params = string("tool", body.get("tool")), body.get("params") or {}
        if not isinstance(params, dict):
            raise invalid("params", "must be an object")
        is_stream = boolean("stream", body.get("stream") or False)
        cwd = _header(request, "x-tool-cwd")
        if not self._tools.is_built_in(name):
            return self._tools.job(name, params, "", is_stream=is_stream)
        if request.header("x-tool-runtime"):
            raise InvalidRequest("unknown tool runtime: the header x-tool-runtime is not supported, and nothing was run")
        plain = {key: value for key, value in params.items() if key not in _OF_HEADERS}
        kind = _header(request, "x-resp-type")
        return self._tools.job(name, {**plain, **({"resp_type": kind} if kind else {})}, cwd, is_stream=is_stream)


def _may_use(request: Request) -> bool:
    return request.caller is None or request.caller.models is None


def _header(request: Request, name: str) -> str:
    """In UTF-8, as clients send paths."""
    return (request.header(name) or "").encode("latin-1").decode("utf-8", "replace")


async def _events(reports: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """llama-server's: pieces, then the end, with the error if there is one."""
    try:
        async for report in reports:
            if "chunk" in report:
                yield {"chunk": report["chunk"]}
            else:
                error = report["result"].get("error")
                yield {"done": True, **({"error": error} if error else {})}
    except FastrouterError as error:
        yield {"done": True, "error": error.message}
