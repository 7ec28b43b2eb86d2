"""Composition root: config -> server (listens at once) -> catalog -> supervisor -> routes; run; drain. The only file that knows all parts.

Invariant: /health answers before the first model file is looked at; nothing outlives `run`.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import Any

import uvloop

from fastrouter import __version__
from fastrouter._core import Request
from fastrouter.api.admin import HEALTH_PATHS, add_routes, health
from fastrouter.api.models import Models
from fastrouter.catalog import Catalog
from fastrouter.config import Config
from fastrouter.errors import ConfigError, FastrouterError, Unavailable
from fastrouter.http.guard import Cors, Guard, is_loopback
from fastrouter.http.protocol import Exchange
from fastrouter.http.routes import Routes
from fastrouter.http.server import Server, address_of, bind
from fastrouter.supervisor.supervisor import Event, Supervisor

log = logging.getLogger("fastrouter")

MAX_LISTED = 20


def run(config: Config, *, nursery_command: list[str] | None = None) -> int:
    """Serve until a signal; the exit code. Raises ConfigError. Tests bring a nursery of their own."""
    _set_up_log(config)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(App(config, nursery_command).run())


def _set_up_log(config: Config) -> None:
    handler = logging.FileHandler(config.log_file) if config.log_file else logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if config.verbose else logging.INFO)


def hosts_of(config: Config) -> list[str]:
    return [host.strip() for host in config.host.split(",") if host.strip()]


class App:
    def __init__(self, config: Config, nursery_command: list[str] | None = None) -> None:
        self._config = config
        self._nursery_command = nursery_command
        hosts = hosts_of(config)
        is_public = not all(is_loopback(host) or host.endswith(".sock") for host in hosts)
        if is_public and not config.api_keys and not config.insecure:
            raise ConfigError(f"--host {config.host} is open to other machines: set --api-key (or LLAMA_API_KEY), or say --insecure")
        self._hosts = hosts
        cors = Cors(config.cors_origins, config.cors_methods, config.cors_headers, config.cors_credentials)
        guard = Guard(config.api_keys, hosts, cors)
        self._routes = Routes(guard, config.api_prefix)
        self._routes.add("GET", HEALTH_PATHS, health, public=True)
        self._server = Server(self._dispatch_early, guard, timeout_s=config.timeout_s)
        self._ready: asyncio.Event = asyncio.Event()
        self._stop: asyncio.Event = asyncio.Event()
        self._supervisor: Supervisor | None = None
        self._models: Models | None = None

    async def run(self) -> int:
        self._listen_to_signals()
        sockets = bind(self._hosts, self._config.port)
        addresses = [address_of(sock) for sock in sockets]
        await self._server.start(sockets)
        print(f"fastrouter {__version__} is listening on {' and '.join(addresses)}", flush=True)
        boot = asyncio.create_task(self._boot(addresses[0]))
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({boot, stop}, return_when=asyncio.FIRST_COMPLETED)
            if boot.done():
                await boot  # raises what ended it
                await stop
        finally:
            for task in (boot, stop):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, FastrouterError):
                    await task
            await self._shut_down()
        return 0

    async def _boot(self, address: str) -> None:
        config = self._config
        # In a thread: a folder of ten thousand files must not keep /health waiting.
        catalog = await asyncio.get_running_loop().run_in_executor(None, Catalog, config)
        self._supervisor = supervisor = Supervisor(config, nursery_command=self._nursery_command, on_event=_log_event)
        await supervisor.start()
        self._models = models = Models(catalog, supervisor, config)
        add_routes(self._routes, models, supervisor, config)
        self._server.dispatch = self._routes.dispatch
        self._ready.set()
        self._announce(catalog, address)
        for spec in catalog.models():
            if spec.load_on_startup or spec == catalog.default:
                try:
                    await supervisor.load(spec)
                except FastrouterError as error:
                    log.error("%s", error.message)

    # ------------------------------------------------------------ requests before and after the time

    def _dispatch_early(self, request: Request, exchange: Exchange) -> Any:
        if request.path.endswith("/health"):
            return self._routes.dispatch(request, exchange)
        return self._when_ready(request, exchange)

    async def _when_ready(self, request: Request, exchange: Exchange) -> bytes | None:
        await self._ready.wait()
        result = self._routes.dispatch(request, exchange)
        return result if result is None or isinstance(result, bytes) else await result

    def _dispatch_late(self, request: Request, exchange: Exchange) -> Any:
        raise Unavailable("the server is stopping")

    # ------------------------------------------------------------ signals

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload_signal)

    def _on_stop_signal(self) -> None:
        if self._stop.is_set():
            log.warning("second signal: ending everything now")
            os._exit(130)  # the workers see the end of their lifeline
        self._stop.set()

    def _on_reload_signal(self) -> None:
        if self._models is None:
            return
        try:
            self._models.reload()
        except FastrouterError as error:
            log.error("reload refused, nothing has changed: %s", error.message)

    async def _shut_down(self) -> None:
        self._server.dispatch = self._dispatch_late
        await self._server.drain(self._config.shutdown_timeout_s)
        if self._supervisor is not None:
            await self._supervisor.stop(self._config.stop_timeout_s)
        self._server.close()

    # ------------------------------------------------------------ what the user reads

    def _announce(self, catalog: Catalog, address: str) -> None:
        models = catalog.models()
        print(f"{len(models)} model{'' if len(models) == 1 else 's'} found{':' if models else ''}")
        for spec in models[:MAX_LISTED]:
            notes = [note for note in ("default" if spec == catalog.default else "", spec.error or "") if note]
            print(f"  {spec.id}{' (' + '; '.join(notes) + ')' if notes else ''}")
        if len(models) > MAX_LISTED:
            print(f"  ... and {len(models) - MAX_LISTED} more")
        usable = [spec for spec in models if not spec.error]
        chosen = catalog.default or (usable[0] if usable else None)
        if chosen is not None:
            print(f"Try it:\n  {curl_line(address, chosen.id, self._config)}")
        else:
            print("Name a folder of GGUF files with --models-dir, or one file with --model")
        sys.stdout.flush()


def curl_line(address: str, model_id: str, config: Config) -> str:
    """A command that works when pasted into a POSIX shell."""
    target = f"{address}{config.api_prefix}/v1/chat/completions"
    if address.startswith("unix://"):
        target = f"--unix-socket {address.removeprefix('unix://')} http://localhost{config.api_prefix}/v1/chat/completions"
    key = ' -H "Authorization: Bearer $LLAMA_API_KEY"' if config.api_keys else ""
    quoted = model_id.replace("\\", "\\\\").replace('"', '\\"').replace("'", "'\\''")
    body = f'{{"model": "{quoted}", "messages": [{{"role": "user", "content": "Say hello."}}]}}'
    return f"curl {target}{key} -H 'Content-Type: application/json' -d '{body}'"


def _log_event(event: Event) -> None:
    status = event.data.get("status")
    if event.event != "model_status" or (event.data.get("progress") or {}).get("value"):
        return
    loaded = event.data.get("info") or {}
    log.info("%s: %s%s", event.model, status, f" in {loaded['load_ms']:.0f} ms" if "load_ms" in loaded else "")
