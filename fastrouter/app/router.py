"""The program: listen immediately, read which models there are, start the service behind the socket, handle signals, drain. service.py
connects the other parts.

Invariant: /health is 200, and the address is printed, when the preset file and the folders have been read, before the service is
imported; nothing outlives `run`.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import uvloop

from fastrouter import __version__
from fastrouter._core import Request
from fastrouter.api.operations.health import HEALTH_PATHS, Health
from fastrouter.app.logs import announce, finish, speaking
from fastrouter.app.systemd import Notifier
from fastrouter.config.config import Config
from fastrouter.errors import ConfigError, FastrouterError, Unavailable
from fastrouter.http.access_log import Dispatch, logged
from fastrouter.http.api_keys import KeyRing
from fastrouter.http.exchange import Exchange
from fastrouter.http.guard import Guard, is_loopback
from fastrouter.http.response import Response
from fastrouter.http.routes import Routes
from fastrouter.http.server import Server
from fastrouter.http.sockets import SocketFile, address_of, bind, inherited, is_unix
from fastrouter.http.tls import Certificate
from fastrouter.options.cors import Cors
from fastrouter.supervisor.workers.launch import Launched
from fastrouter.system.heap import keep_large_blocks_apart
from fastrouter.system.standard_streams import Terminal

log = logging.getLogger("fastrouter")

LAST_WORDS_S = 0.2  # for a log without a reader, when everything has to end now
ONE_SIGNAL_S = 0.1  # a signal that comes so soon after the first is the same one: timeout(1) sends it to the process and to its group


class Backend(Protocol):
    """service.Service, which this file must not import before it listens."""

    async def start(self, routes: Routes, launched: Launched, before_reload: Callable[[], None], health: Health) -> None: ...
    async def load_wanted(self) -> None: ...
    async def reload(self) -> None: ...
    def announce(self, address: str) -> None: ...
    def refuse_waiting(self) -> None: ...
    async def stop(self) -> None: ...


def _read_catalog(config: Config) -> Any:
    """Raises ConfigError."""
    from fastrouter.catalog.catalog import Catalog

    return Catalog(config)


def _open_service(config: Config, catalog: Any) -> Backend:
    from fastrouter.app.service import Service

    return Service(config, catalog)


def run(config: Config, launched: Launched) -> int:
    """Serve until a signal; returns the exit code. Raises ConfigError. `launched`: the fork server, which is closed at the end."""
    keep_large_blocks_apart()
    with contextlib.closing(launched), speaking(config), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(App(config, launched).run())


def hosts_of(config: Config) -> list[str]:
    return [host.strip().removeprefix("[").removesuffix("]") for host in config.host.split(",") if host.strip()]


def check_closed(config: Config, hosts: Sequence[str], *, has_foreign_sockets: bool) -> None:
    """Without a key, tools are for this machine only: not for other machines, a proxy, or pages of other sites. Raises ConfigError."""
    names = {origin.strip() for origin in config.cors_origins.split(",")} - {""}
    reasons = {
        "--host has an address that other machines can reach": not all(map(is_loopback, hosts)),
        "systemd has passed a Unix socket on": has_foreign_sockets,
        "--allowed-hosts lets a proxy in": bool(config.allowed_hosts),
        "--cors-origins lets pages of other sites in": bool(names - {"localhost"}),
    }
    reason = next((reason for reason, is_so in reasons.items() if is_so), None)
    if reason is not None:
        raise ConfigError(f"tools and MCP servers need an API key here, because {reason}: set --api-key-file or LLAMA_API_KEY")


class App:
    def __init__(self, config: Config, launched: Launched) -> None:
        self._config = config
        self._launched = launched
        self._inherited = inherited(os.environ)
        self._notifier = Notifier(os.environ)
        self._terminal = Terminal()
        hosts = [host for host in hosts_of(config) if not is_unix(host)]
        if self._inherited:
            hosts = [str(sock.getsockname()[0]) for sock in self._inherited if sock.family != socket.AF_UNIX]
        self._keys = KeyRing(config.api_keys, config.api_key_file)
        if not all(map(is_loopback, hosts)) and not self._keys and not config.insecure:
            where = ",".join(hosts)
            raise ConfigError(f"--host {where} is open to other machines: set --api-key (or LLAMA_API_KEY), or say --insecure")
        if (config.tools or config.mcp_servers or config.ui_mcp_proxy) and not self._keys:
            check_closed(config, hosts, has_foreign_sockets=any(sock.family == socket.AF_UNIX for sock in self._inherited))
        self._certificate: Certificate | None = None
        if config.ssl_cert_file is not None and config.ssl_key_file is not None:
            self._certificate = Certificate(config.ssl_cert_file, config.ssl_key_file)
        self._files: list[SocketFile] = []
        cors = Cors(config.cors_origins, config.cors_methods, config.cors_headers, config.cors_credentials)
        guard = Guard(self._keys, hosts, cors, config.allowed_hosts)
        self._routes = Routes(guard, config.api_prefix)
        self._routes.is_complete = False  # until the service has added its routes
        self._health = Health()
        self._routes.add("GET", HEALTH_PATHS, self._health.show, public=True)
        self._server = Server(self._logged(self._dispatch_early), guard, admit=self._routes.admit, timeout_s=config.timeout_s)
        self._ready: asyncio.Event = asyncio.Event()
        self._stop: asyncio.Event = asyncio.Event()
        self._stopped_at = 0.0  # when a signal came
        self._is_over = False  # nothing will become ready any more
        self._service: Backend | None = None
        self._status = ""
        self._reloads: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        self._listen_to_signals()
        sockets = [*(self._inherited or self._bind()), *self._bind_for_ollama()]
        addresses = [address_of(sock, is_tls=self._certificate is not None) for sock in sockets]
        await self._server.start(sockets, self._certificate)
        self._notifier.start_watchdog()
        self._status = f"listening on {' and '.join(addresses)}"
        boot = asyncio.create_task(self._boot(addresses))
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({boot, stop}, return_when=asyncio.FIRST_COMPLETED)
            if boot.done():
                await boot  # raises the error that ended it
                await stop
        finally:
            for task in (boot, stop):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, FastrouterError):
                    await task
            await self._shut_down()
        return 0

    def _bind(self) -> list[socket.socket]:
        config = self._config
        sockets = bind(hosts_of(config), config.port, reuse_port=config.reuse_port)
        self._files = [SocketFile(sock) for sock in sockets if sock.family == socket.AF_UNIX]
        return sockets

    def _bind_for_ollama(self) -> list[socket.socket]:
        """On the same addresses. Its clients use no Unix sockets."""
        config = self._config
        if config.ollama_port is None:
            return []
        return bind([host for host in hosts_of(config) if not is_unix(host)], config.ollama_port, reuse_port=config.reuse_port)

    async def _boot(self, addresses: list[str]) -> None:
        # In a thread: imports, or a folder of ten thousand files, must not block the loop.
        in_thread = partial(asyncio.get_running_loop().run_in_executor, None)
        catalog = await in_thread(_read_catalog, self._config)
        if self._config.has_one_model:
            self._health.be_unready()  # until the model has been loaded
        else:
            self._health.be_ready()
        announce(self._config, f"fastrouter {__version__} is {self._status}", event="listening", addresses=addresses, version=__version__)
        service = self._service = await in_thread(_open_service, self._config, catalog)
        await service.start(self._routes, self._launched, self._reload_doors, self._health)
        self._routes.is_complete = True
        self._server.dispatch = self._logged(self._routes.dispatch)
        self._ready.set()
        self._notifier.ready(self._status)
        service.announce(addresses[0])
        await service.load_wanted()

    # ------------------------------------------------------------ requests before the start and after the end

    def _logged(self, dispatch: Dispatch) -> Dispatch:
        if self._config.log_requests or self._config.verbose:
            return logged(dispatch, logging.INFO if self._config.log_requests else logging.DEBUG)
        return dispatch

    def _dispatch_early(self, request: Request, exchange: Exchange) -> Any:
        if request.path.endswith("/health"):
            return self._routes.dispatch(request, exchange)
        return self._when_ready(request, exchange)

    async def _when_ready(self, request: Request, exchange: Exchange) -> Response | None:
        await self._ready.wait()
        if self._is_over:
            self._dispatch_late(request, exchange)
        result = self._routes.dispatch(request, exchange)
        return result if result is None or isinstance(result, Response) else await result

    def _dispatch_late(self, request: Request, exchange: Exchange) -> Any:
        raise Unavailable("the server is stopping")

    # ------------------------------------------------------------ signals

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup_signal)

    def _on_stop_signal(self) -> None:
        if self._stop.is_set() and time.monotonic() - self._stopped_at < ONE_SIGNAL_S:
            return
        if self._stop.is_set():
            log.warning("second signal: ending everything now")
            finish(LAST_WORDS_S)
            os._exit(130)  # the workers notice the end of their lifeline
        self._stopped_at = time.monotonic()
        self._stop.set()

    def _on_hangup_signal(self) -> None:
        """From a terminal that was closed, or from a user who wants a reload."""
        if not self._terminal.is_gone:
            self._reload()
        elif not self._stop.is_set():
            log.warning("the terminal was closed")
            self._stop.set()

    def _reload(self) -> None:
        try:
            self._reload_doors()
        except FastrouterError as error:
            log.error("reload refused, nothing has changed: %s", error.message)
        if self._service is not None and self._ready.is_set():
            self._notifier.reloading()
            task = asyncio.get_running_loop().create_task(self._service.reload())
            self._reloads.add(task)  # the loop does not keep tasks alive
            task.add_done_callback(self._on_reloaded)

    def _on_reloaded(self, task: "asyncio.Task[None]") -> None:
        self._reloads.discard(task)
        if not self._reloads and not self._stop.is_set():
            self._notifier.ready(self._status)

    def _reload_doors(self) -> None:
        """Reads keys and certificate again. Raises ConfigError."""
        self._keys.reload()
        if self._certificate is not None:
            self._certificate.reload()

    async def _shut_down(self) -> None:
        self._notifier.stopping()
        self._server.dispatch = self._logged(self._dispatch_late)
        self._is_over = not self._ready.is_set()
        self._ready.set()  # tasks that wait for the start notice the end
        if self._service is not None:
            self._service.refuse_waiting()
        await self._server.drain(self._config.shutdown_timeout_s)
        if self._service is not None:
            await self._service.stop()
        self._server.close()
        for file in self._files:
            file.remove()
        self._notifier.close()
