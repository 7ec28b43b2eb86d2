"""POST and DELETE /models, and the models that flags and presets want from the hub. Never imports: hub.http_client, hub.fetch.

Invariant: a name from outside is looked up in the catalog or checked as the hub's; it never becomes a path.
"""

import asyncio
import contextlib
import logging
import os

from fastrouter._core import Request
from fastrouter.api.models.access import Models, check_name
from fastrouter.api.requests.bodies import parse_optional
from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.created import CreatedModels
from fastrouter.catalog.sources import Wanted, parse_name
from fastrouter.catalog.spec import ModelSpec
from fastrouter.config.config import Config
from fastrouter.errors import FastrouterError, InvalidRequest, NotFound
from fastrouter.http.api_keys import Caller
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, encode_json
from fastrouter.hub.downloads import Download, Downloads
from fastrouter.hub.job import DownloadJob
from fastrouter.hub.remove import forget_parts, remove, why_it_stays
from fastrouter.supervisor.supervisor import Supervisor

log = logging.getLogger("fastrouter")

KNOWN_TIMEOUT_S = 10.0  # for the hub to answer that it has the model; after that the download counts as started
POLL_S = 0.02
END_TIMEOUT_S = 5.0  # in addition to the model's stop timeout
_SUCCESS = encode_json({"success": True})


class ModelDownloads:
    def __init__(self, models: Models, catalog: Catalog, supervisor: Supervisor, downloads: Downloads, config: Config) -> None:
        self._models = models
        self._catalog = catalog
        self._supervisor = supervisor
        self._downloads = downloads
        self._config = config
        self._created = CreatedModels(config.created_dir)
        self._caches = [os.path.abspath(cache) for cache in config.cache_dirs]
        self._loads: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------ downloads

    async def post(self, request: Request, exchange: Exchange) -> Response:
        """POST /models {"model": "user/repo:quant"}: the download runs in the background."""
        await self.begin(self._name_in(request), request.caller)
        return _SUCCESS

    def find(self, name: str) -> Download | None:
        """The downloads in progress."""
        spec = self._catalog.get(name)
        return self._downloads.find(spec.runner.id if spec else name)

    async def begin(self, name: str, caller: Caller | None) -> Download:
        """Return when it is known that the hub has the model, or after KNOWN_TIMEOUT_S. Raises FastrouterError."""
        if not self._models.may_see_id(caller, name):
            raise self._models.unknown(name, caller)
        spec = self._catalog.get(name)
        if spec is None and self._config.has_one_model:
            raise InvalidRequest("this server has one model: start it with --models-dir or --models-preset to have others")
        if self.find(name) is not None:
            raise InvalidRequest(f"model '{name}' is already downloading")
        if spec is not None and spec.error is None:
            raise InvalidRequest(f"model '{name}' already exists")
        if self._config.offline:
            raise InvalidRequest("--offline forbids downloads")
        if spec is not None and spec.wanted is not None:
            download = self._start(spec.runner.id, spec.wanted)
        else:
            download = self._start(name, Wanted(*parse_name(name), file=None))
        try:
            await asyncio.wait_for(download.is_known.wait(), KNOWN_TIMEOUT_S)
        except TimeoutError:
            return download  # it waits for another download, or for a slow hub
        if download.error is not None:
            raise download.error
        return download

    def fetch_wanted(self) -> None:
        """The models that -hf and presets name and that are not in a cache."""
        if self._config.offline:
            return
        for spec in self._catalog.models():
            if spec.base is None:
                self._fetch(spec)

    def _fetch(self, spec: ModelSpec) -> None:
        if spec.wanted is None or self._downloads.find(spec.id) is not None:
            return
        try:
            self._start(spec.id, spec.wanted)
        except FastrouterError as error:
            log.error("%s: %s", spec.id, error.message)

    def _start(self, name: str, wanted: Wanted) -> Download:
        """Raises InvalidRequest, Unavailable."""
        config = self._config
        if not self._caches:
            raise InvalidRequest("there is no cache folder: set LLAMA_CACHE, HF_HUB_CACHE or HOME")
        job = DownloadJob(
            wanted.repo, wanted.quant, wanted.file, self._caches[0], config.hub_endpoint, config.hf_token, wanted.with_projector
        )
        return self._downloads.start(name, job, self._finished)

    async def _finished(self, download: Download) -> str:
        """Its files are in the cache. Returns the id in the listing."""
        await self._rescan()
        spec = self._catalog.get(f"{download.job.repo}/{download.path}") or self._catalog.get(download.name)
        wanting = self._catalog.get(download.name)  # a preset's section keeps its own name
        if wanting is not None and wanting.wanted is not None and wanting.wanted.repo_and_file != (download.job.repo, download.job.file):
            asyncio.get_running_loop().call_soon(self.fetch_wanted)  # its projector is somewhere else; this download is not over yet
        for found in {found.id: found for found in (wanting, spec) if found is not None}.values():
            if found.load_on_startup and found.error is None and self._supervisor.status(found.id).value == "unloaded":
                load = asyncio.create_task(self._load(found))  # it may have to wait until other models are evicted
                self._loads.add(load)
                load.add_done_callback(self._loads.discard)
            elif found.wanted is not None:  # now its draft model; the download that has ended is forgotten first
                asyncio.get_running_loop().call_soon(self._fetch, found)
        listed = wanting or spec
        return listed.id if listed is not None else download.name

    async def _load(self, spec: ModelSpec) -> None:
        try:
            await self._supervisor.load(spec)
        except FastrouterError as error:
            log.error("%s", error.message)

    async def _rescan(self) -> None:
        await self._models.reload()

    async def cancel(self, request: Request) -> bool:
        """POST /models/unload for a model that is downloading."""
        name = parse_optional(request).get("model") or self._models.query(request).get("model")
        if not isinstance(name, str):
            return False
        spec = self._catalog.get(name)
        if not self._models.may_see_id(request.caller, name):
            return False
        return await self._downloads.cancel(spec.runner.id if spec else name) is not None

    # ------------------------------------------------------------ removal

    async def delete(self, request: Request, exchange: Exchange) -> Response:
        """DELETE /models?model=: delete it from the cache on disk."""
        name = self._models.query(request).get("model") or self._name_in(request)
        if not self._models.may_see_id(request.caller, name):
            raise NotFound(self._models.unknown(name, request.caller).message)
        spec = self._catalog.get(name)
        cancelled = await self._downloads.cancel(spec.runner.id if spec else name)
        if cancelled is not None:
            await asyncio.to_thread(forget_parts, cancelled.parts)
        elif spec is None:
            raise NotFound(self._models.unknown(name, request.caller).message)
        elif spec.wanted is not None:
            raise InvalidRequest(f"model '{name}' is not downloaded")
        if spec is not None and spec.wanted is None:
            if not spec.can_remove:
                raise InvalidRequest(f"model '{name}' is not removable: {why_it_stays(spec)}")
            if spec.source == "created":
                await self._check_unused(spec)
            await self._end(spec)
            await (self._remove_created(spec) if spec.source == "created" else self._remove(spec))
            await self._rescan()
        self._supervisor.tell(spec.id if spec else name, "model_remove", {})
        return _SUCCESS

    async def _check_unused(self, spec: ModelSpec) -> None:
        users = await asyncio.to_thread(self._created.users_of, spec.id)
        if users:
            raise InvalidRequest(f"model '{spec.id}' is not removable: {', '.join(users[:5])} is made from it; remove that first")

    async def _remove_created(self, spec: ModelSpec) -> None:
        await asyncio.to_thread(self._created.remove, spec.id)

    async def _remove(self, spec: ModelSpec) -> None:
        try:
            is_removed = await asyncio.to_thread(remove, self._caches, spec.path)
        except OSError as error:
            raise FastrouterError(f"model '{spec.id}' cannot be removed: {error.filename}: {error.strerror}") from None
        if not is_removed:
            raise InvalidRequest(f"model '{spec.id}' is no longer in a cache")

    async def _end(self, spec: ModelSpec) -> None:
        """Unload it and wait until its process has ended, or until the time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + spec.stop_timeout_s + END_TIMEOUT_S
        while self._supervisor.status(spec.id).value != "unloaded" and loop.time() < deadline:
            with contextlib.suppress(InvalidRequest):  # it is already ending
                self._supervisor.unload(spec.id)
            await asyncio.sleep(POLL_S)

    def _name_in(self, request: Request) -> str:
        body = parse_optional(request)
        name = body.get("model")
        if not isinstance(name, str) or not name:
            raise InvalidRequest("model must be a non-empty string")
        return check_name(name)
