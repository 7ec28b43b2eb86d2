"""What is behind the socket: catalog -> supervisor -> routes. It is imported and started after the server listens, see router.py.

Never imports: http.sockets, app.router. Invariant: after `stop` no process of ours is left.
"""

import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastrouter.api.models.access import Models
from fastrouter.api.models.downloads import ModelDownloads
from fastrouter.api.operations.health import Health
from fastrouter.api.response_store import ResponseStore
from fastrouter.api.routes import add_routes
from fastrouter.api.serving.recordings import Recordings
from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.spec import ModelSpec
from fastrouter.catalog.watch import Watch
from fastrouter.config.config import Config
from fastrouter.errors import FastrouterError
from fastrouter.http.routes import Routes
from fastrouter.hub.downloads import Downloads
from fastrouter.supervisor.supervisor import Event, Supervisor
from fastrouter.supervisor.trace_writer import open_trace
from fastrouter.supervisor.workers.fork_server import ForkServer
from fastrouter.supervisor.workers.launch import Launched
from fastrouter.system.words import size_text, utc_time

log = logging.getLogger("fastrouter")

MAX_LISTED = 20
NO_TEMPLATE = "no chat template"


def _open_tools(config: Config) -> Any:
    """ServerTools, which is imported only if a flag asks for it. Raises ConfigError."""
    from fastrouter.api.tools.server_tools import ServerTools

    return ServerTools(config)


class Service:
    def __init__(self, config: Config, catalog: Catalog) -> None:
        self._config = config
        self._catalog = catalog
        self._supervisor: Supervisor | None = None
        self._models: Models | None = None
        self._downloads: Downloads | None = None
        self._model_downloads: ModelDownloads | None = None
        self._store: ResponseStore | None = None
        self._tools = _open_tools(config) if config.tools or config.mcp_servers else None
        self._recordings = Recordings()
        self._trace = open_trace(config.record, utc_time(time.time())) if config.record is not None else None
        self._watch: Watch | None = None
        self._health: Health | None = None

    async def start(self, routes: Routes, launched: Launched, before_reload: Callable[[], None], health: Health) -> None:
        """From here on requests can be answered. `launched`: the fork server. `before_reload`: what else a client's reload does; it may
        refuse. `health` learns how the load of the only model goes."""
        maker = ForkServer(launched=launched)
        supervisor = self._supervisor = Supervisor(
            self._config, maker=maker, on_event=_log_event, trace=self._trace, find=self._catalog.get
        )
        self._health = health
        supervisor.subscribe(self._on_event)
        await supervisor.start()
        downloads = self._downloads = Downloads(supervisor.tell)
        self._models = Models(self._catalog, supervisor, downloads, self._config, before_reload=before_reload)
        self._model_downloads = ModelDownloads(self._models, self._catalog, supervisor, downloads, self._config)
        self._store = ResponseStore(self._config.responses_dir, self._config.responses_mib << 20)
        add_routes(routes, self._models, supervisor, self._model_downloads, self._store, self._tools, self._recordings, self._config)
        if self._tools is not None:
            self._tools.start()
        if self._config.watch:
            self._watch = Watch(self._config, self.reload)

    async def load_wanted(self) -> None:
        """The default model, and those that presets load at the start; models that must be downloaded first begin to."""
        assert self._supervisor is not None
        assert self._model_downloads is not None
        self._model_downloads.fetch_wanted()
        specs = [spec for spec in self._catalog.models() if spec.fault is None]
        wanted = [spec.runner for spec in specs if spec.load_on_startup or spec == self._catalog.default]
        for spec in {spec.id: spec for spec in wanted if spec.wanted is None}.values():
            if self._supervisor.status(spec.id).value == "unloaded":  # otherwise a request came first
                try:
                    await self._supervisor.load(spec)
                except FastrouterError as error:
                    log.error("%s", error.message)
                    if spec == self._catalog.only and self._health is not None:
                        self._health.be_unready(error.message)

    def _on_event(self, event: Event) -> None:
        """/health waits only for the first load of the only model."""
        if event.event == "models_reload":
            self._recordings.keep_models(lambda model_id: self._catalog.get(model_id) is not None)
        only = self._catalog.only
        if only is None or event.model != only.id or self._health is None:
            return
        if event.data.get("status") == "loaded":
            self._health.be_ready()
        elif event.data.get("failed") or event.event == "download_failed":
            self._health.be_unready(f"model name={only.id} failed to load: {event.data.get('error')}")
        elif event.data.get("status") == "loading":
            self._health.be_unready()

    async def reload(self) -> None:
        """Scan again; an error is logged, and then nothing has changed."""
        if self._models is None or self._model_downloads is None:
            return
        try:
            await self._models.reload()
        except FastrouterError as error:
            log.error("reload refused, nothing has changed: %s", error.message)
            return
        self._model_downloads.fetch_wanted()

    def refuse_waiting(self) -> None:
        """The end has come: requests that wait for a model are refused."""
        if self._supervisor is not None:
            self._supervisor.refuse_waiting()

    async def stop(self) -> None:
        if self._watch is not None:
            await self._watch.stop()
        if self._tools is not None:
            await self._tools.stop()
        if self._downloads is not None:
            await self._downloads.stop()
        self._recordings.close()
        if self._supervisor is not None:
            await self._supervisor.stop(self._config.stop_timeout_s)
        if self._trace is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._trace.close)
        if self._store is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._store.close)

    def announce(self, address: str) -> None:
        """What the user reads: the models, and a command to try."""
        models, default = [spec for spec in self._catalog.models() if spec.is_listed], self._catalog.default
        found = f"{len(models)} model{'' if len(models) == 1 else 's'} found"
        for warning in self._catalog.warnings():
            log.warning("%s", warning)
        if self._config.log_format == "json":
            log.info("%s", found, extra={"event": "models", "num_models": len(models)})
            for fault in self._catalog.faults():
                log.warning("%s", fault)
            return
        print(f"{found}{':' if models else ''}")
        for spec in models[:MAX_LISTED]:
            notes = [note for note in ("default" if spec == default else "", spec.error or _lacks(spec)) if note]
            print(f"  {spec.id}{' (' + '; '.join(notes) + ')' if notes else ''}")
        if len(models) > MAX_LISTED:
            print(f"  ... and {len(models) - MAX_LISTED} more")
            for spec in models[MAX_LISTED:]:
                if spec.fault is not None:
                    print(f"  {spec.id} ({spec.fault})")
        chosen = choose_to_try(models, default)
        if chosen is not None:
            print(f"Try it:\n  {curl_line(address, chosen, self._config)}")
        hint = self._next_step(models, has_chosen=chosen is not None)
        if hint:
            print(hint)
        if self._config.ui and not address.startswith("unix://"):
            print(f"The page is at {address}{self._config.api_prefix}/")
        sys.stdout.flush()

    def _next_step(self, models: Sequence[ModelSpec], *, has_chosen: bool) -> str:
        """What to do when the folder is empty, or there is no model to try."""
        folder = os.path.abspath(self._config.models_dir) if self._config.models_dir is not None else None
        if folder is not None and not any(spec.path.startswith(os.path.join(folder, "")) for spec in models):
            more = "" if self._config.watch else ", then GET /models?reload=1,"
            return f"There is no .gguf file in {folder}: put some there{more} or download one: fastrouter pull USER/REPO"
        if has_chosen:
            return ""
        if models:
            return "None of them can be loaded; the reason follows each name"
        return "Name a folder of GGUF files with --models-dir or one file with --model, or download one: fastrouter pull USER/REPO"


def _lacks(spec: ModelSpec) -> str:
    """What a model that can be loaded lacks for chats."""
    if spec.template is not None:
        return spec.template.problem or ""
    return NO_TEMPLATE if "completion" in spec.capabilities else ""


def choose_to_try(models: Sequence[ModelSpec], default: ModelSpec | None) -> ModelSpec | None:
    """The model of the first command that a user tries: one that can chat, the default one first; otherwise the default one; otherwise
    one that continues texts; otherwise any that can be loaded."""
    ready = [spec for spec in models if spec.error is None]
    if default is not None and default.error is None:
        ready = [default, *ready]
    chatting = next((spec for spec in ready if "chat" in spec.capabilities), None)
    if chatting is None and default is not None and default.wanted is not None:
        return default  # it is being downloaded, so its abilities are unknown
    if chatting is None and (default is None or default.error is not None):
        ready.sort(key=lambda spec: "completion" not in spec.capabilities)
    return chatting or next(iter(ready), None)


# What a model can do -> the path to try, and the rest of its body.
_TRIALS = {
    "chat": ("/v1/chat/completions", '"messages": [{"role": "user", "content": "Say hello."}]'),
    "completion": ("/v1/completions", '"prompt": "Once upon a time", "max_tokens": 64'),
    "embedding": ("/v1/embeddings", '"input": "Hello"'),
    "rerank": ("/v1/rerank", '"query": "Hello", "documents": ["Good morning", "Good night"]'),
}


def curl_line(address: str, spec: ModelSpec, config: Config) -> str:
    """A command that works when pasted into a POSIX shell."""
    path, rest = next((trial for ability, trial in _TRIALS.items() if ability in spec.capabilities), _TRIALS["chat"])
    target = f"{address}{config.api_prefix}{path}"
    if address.startswith("unix://"):
        target = f"--unix-socket {address.removeprefix('unix://')} http://localhost{config.api_prefix}{path}"
    elif config.ssl_cert_file is not None:
        target = f"--cacert {shlex.quote(str(config.ssl_cert_file))} {target}"
    key = ' -H "Authorization: Bearer $LLAMA_API_KEY"' if config.api_keys or config.api_key_file else ""
    quoted = spec.id.replace("\\", "\\\\").replace('"', '\\"').replace("'", "'\\''")
    body = f'{{"model": "{quoted}", {rest}}}'
    return f"curl {target}{key} -H 'Content-Type: application/json' -d '{body}'"


def _log_event(event: Event) -> None:
    status = event.data.get("status")
    if event.event != "model_status" or (event.data.get("progress") or {}).get("value"):
        return
    loaded = event.data.get("info") or {}
    if event.data.get("failed"):
        return  # the supervisor has logged the cause as an error
    taken = f" in {loaded['load_ms']:.0f} ms" if "load_ms" in loaded else ""
    reason = event.data.get("reason")
    note = size_text(loaded["size"]) if loaded.get("size") else reason
    extra = {"event": status, "model": event.model, "load_ms": loaded.get("load_ms"), "size_bytes": loaded.get("size"), "reason": reason}
    log.info("%s: %s%s%s", event.model, status, taken, f" ({note})" if note else "", extra=extra)
