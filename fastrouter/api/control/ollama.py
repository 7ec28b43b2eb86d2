"""The routes of Ollama's API without embeddings. Generation is in the flavours; models are handled by the same code as in our own API.

Invariant: a model is known by its id or alias. Ollama's clients add ":latest" to names; it is removed unless a model has this exact name.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from fastrouter import __version__
from fastrouter._core import Request
from fastrouter.api.flavours.ollama import Chat, Generate, iso_now
from fastrouter.api.models.access import Models, is_read_only
from fastrouter.api.models.downloads import ModelDownloads
from fastrouter.api.models.lines import LineStream
from fastrouter.api.models.ollama_shapes import NEVER, details, digest, entry, shown
from fastrouter.api.requests.bodies import parse_object
from fastrouter.api.requests.checks import boolean, invalid, string
from fastrouter.api.requests.fields import read_terms
from fastrouter.api.requests.ollama_bodies import is_load
from fastrouter.api.serving.start import Generator
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import Forbidden, InvalidRequest
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, encode_json
from fastrouter.http.routes import Handler, Result
from fastrouter.hub.downloads import Download
from fastrouter.supervisor.supervisor import Supervisor
from fastrouter.system.words import utc_time

API_VERSION = "0.13.0"  # the version of Ollama that has this API; clients compare it
RUNNING = "Ollama is running"
PULL_POLL_S = 0.25
_HOSTS = ("https://", "http://", "hf.co/", "huggingface.co/")  # prefixes before the name of a repository


def is_probe(request: Request) -> bool:
    """Whether the client of GET or HEAD / is not a browser. A client without an Accept header gets the page."""
    accept = request.header("accept")
    return accept is not None and "text/html" not in accept.lower()


class Ollama:
    def __init__(self, models: Models, supervisor: Supervisor, downloads: ModelDownloads, generator: Generator) -> None:
        self._models = models
        self._supervisor = supervisor
        self._downloads = downloads
        self._handlers = {"message": generator.handler(Chat), "response": generator.handler(Generate)}

    # ------------------------------------------------------------ generation

    def chat(self, request: Request, exchange: Exchange) -> Result:
        return self._generate(request, exchange, "message", {"role": "assistant", "content": ""})

    def generate(self, request: Request, exchange: Exchange) -> Result:
        return self._generate(request, exchange, "response", "")

    def _generate(self, request: Request, exchange: Exchange, name: str, nothing: Any) -> Result:
        body = self._body(request)
        if is_load(body):
            return self._load(request, body, {name: nothing})
        return self._handlers[name](request, exchange)

    def named(self, handler: Handler) -> Handler:
        """`handler` for a body in which the model's name is written as in Ollama's clients."""

        def handle(request: Request, exchange: Exchange) -> Result:
            self._body(request)
            return handler(request, exchange)

        return handle

    def _body(self, request: Request) -> dict[str, Any]:
        """The request's body, with the corrected model name."""
        body = parse_object(request)
        name = body.get("model") or body.get("name")
        if isinstance(name, str):
            body["model"] = name if self._models.knows(name) else name.removesuffix(":latest")
        return body

    async def _load(self, request: Request, body: dict[str, Any], content: dict[str, Any]) -> Response:
        """Load the model or, if it should not stay, unload it."""
        spec, is_autoload = self._models.for_use(request, body)
        priority, keep_alive_s = read_terms(body)
        if keep_alive_s == 0:
            self._unload(request, spec)
        else:
            lease = self._supervisor.acquire_now(spec) or await self._supervisor.acquire(spec, autoload=is_autoload, priority=priority)
            with lease:
                if keep_alive_s is not None and not is_read_only(request):
                    lease.keep_alive(keep_alive_s)
        reason = "unload" if keep_alive_s == 0 else "load"
        return encode_json({"model": spec.id, "created_at": iso_now(), **content, "done": True, "done_reason": reason})

    def _unload(self, request: Request, spec: ModelSpec) -> None:
        if is_read_only(request):
            raise Forbidden("this key is read-only: unloading a model needs a key without `read-only`")
        with contextlib.suppress(InvalidRequest):  # it is not loaded
            self._supervisor.unload(spec.runner.id)

    # ------------------------------------------------------------ listings

    def version(self, request: Request, exchange: Exchange) -> Response:
        return encode_json({"version": API_VERSION, "fastrouter": __version__})

    def tags(self, request: Request, exchange: Exchange) -> Response:
        return encode_json({"models": [entry(spec, self._meta(spec)) for spec in self._models.listed(request.caller)]})

    def show(self, request: Request, exchange: Exchange) -> Response:
        spec, _ = self._models.choose(request, self._body(request))
        return encode_json(shown(spec, self._meta(spec)))

    def ps(self, request: Request, exchange: Exchange) -> Response:
        loaded = [spec for spec in self._models.listed(request.caller) if self._supervisor.status(spec.runner.id).value == "loaded"]
        return encode_json({"models": [self._running(spec) for spec in loaded]})

    def _running(self, spec: ModelSpec) -> dict[str, Any]:
        state, meta = self._supervisor.status(spec.runner.id), self._meta(spec)
        return {
            "name": spec.id,
            "model": spec.id,
            "size": state.need.host_bytes + state.need.device_bytes,
            "size_vram": state.need.device_bytes,
            "digest": digest(spec),
            "details": details(spec, meta),
            "expires_at": _expiry(state.expires_in_s),
            "context_length": meta.get("n_ctx", 0),
        }

    def _meta(self, spec: ModelSpec) -> dict[str, Any]:
        return self._models.describe(spec)["meta"] or {}

    # ------------------------------------------------------------ changes of the catalog

    async def pull(self, request: Request, exchange: Exchange) -> Response | None:
        """Download a model of the hub, named user/repo:quant. If it is already here, the answer is only a success."""
        body = self._body(request)
        name = string("model", body.get("model"))
        for host in _HOSTS:
            name = name.removeprefix(host)
        stream = body.get("stream")
        is_stream = True if stream is None else boolean("stream", stream)
        download = None if self._models.is_here(name, request.caller) else await self._begin(name, request)
        lines = _progress(download)
        if is_stream:
            LineStream(exchange, lines)
            return None
        async for line in lines:
            last = line
        return encode_json(last)

    async def _begin(self, name: str, request: Request) -> Download:
        if "/" not in name:
            raise invalid(
                "model", f"must be a model of Hugging Face, as hf.co/USER/REPO:QUANT, but is {name!r}. Ollama's own library cannot be used"
            )
        running = self._downloads.find(name) if self._models.may_see_id(request.caller, name) else None
        return running or await self._downloads.begin(name, request.caller)

    async def delete(self, request: Request, exchange: Exchange) -> Response:
        self._body(request)
        return await self._downloads.delete(request, exchange)

    def refuse_push(self, request: Request, exchange: Exchange) -> Response:
        raise InvalidRequest("models cannot be uploaded from this server")


async def _progress(download: Download | None) -> AsyncIterator[dict[str, Any]]:
    """The lines of Ollama's answer to a pull. Raises FastrouterError if the download fails."""
    yield {"status": "pulling manifest"}
    while download is not None and not download.is_over:
        for url, file in list(download.files.items()):
            name = url.rpartition("/")[2]
            yield {"status": f"pulling {name}", "digest": name, "total": file["total"], "completed": file["done"]}
        await asyncio.sleep(PULL_POLL_S)
    if download is not None and download.error is not None:
        raise download.error
    yield {"status": "success"}


def _expiry(expires_in_s: float | None) -> str:
    """None: never. A time that has no date is as far away."""
    try:
        return NEVER if expires_in_s is None else utc_time(time.time() + expires_in_s)
    except (OverflowError, ValueError):
        return NEVER
