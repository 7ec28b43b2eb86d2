"""Flavours served over a real socket, by a supervisor whose workers follow a script."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from house import House, run_house
from raw_http import Site

from fastrouter._core import Request
from fastrouter.api.serving.flavour import Flavour
from fastrouter.api.serving.start import Generator
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import ModelNotFound
from fastrouter.http.api_keys import KeyRing
from fastrouter.http.guard import Guard
from fastrouter.http.routes import Routes
from fastrouter.http.server import Server
from fastrouter.http.sockets import bind

KEY = "secret"
Served = Mapping[str, tuple[type[Flavour], float]]  # by path: the flavour, and seconds between its pings


class FewModels:
    """All that the generator asks of the models. There is one: a."""

    def __init__(self, here: House) -> None:
        self._here = here

    def for_use(self, request: Request, body: dict[str, Any]) -> tuple[ModelSpec, bool]:
        if body.get("model") != "a":
            raise ModelNotFound(str(body.get("model")))
        return self._here.spec("a"), True


@asynccontextmanager
async def serving(here: House, served: Served) -> AsyncIterator[Site]:
    guard = Guard(KeyRing((KEY,)), ("127.0.0.1",), None)
    routes = Routes(guard)
    for path, (flavour, ping_interval_s) in served.items():
        generator = Generator(cast(Any, FewModels(here)), here.supervisor, ping_interval_s=ping_interval_s)
        routes.add("POST", path, generator.handler(flavour), errors=flavour.errors)
    async with listening(routes, guard) as site:
        yield site


@asynccontextmanager
async def listening(routes: Routes, guard: Guard) -> AsyncIterator[Site]:
    """A real server with these routes."""
    server = Server(routes.dispatch, guard, admit=routes.admit)
    sockets = bind(["127.0.0.1"], 0)
    await server.start(sockets, None)
    try:
        yield Site(server, sockets[0].getsockname()[1])
    finally:
        await server.drain(0)
        server.close()
        while server.connections:
            await asyncio.sleep(0.005)


def run_site(folder: Path, served: Served, test: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
    async def body(here: House) -> None:
        async with serving(here, served) as site:
            await test(site)

    run_house(folder, body)
