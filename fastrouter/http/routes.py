"""(method, path) -> handler. Knows no model; what a handler does is its own affair.

A handler gets (request, exchange) and returns the whole response as bytes, None (it will answer through the exchange later),
or a coroutine of one of the two. Invariant: nothing but `public` routes, the files and OPTIONS is reached without `guard.check`,
and no route that `is_change` with a read-only key. A file never hides a route.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from fastrouter._core import Request
from fastrouter.errors import Forbidden, MethodNotAllowed, NotFound
from fastrouter.http.exchange import Exchange
from fastrouter.http.guard import Guard

Result = bytes | None | Coroutine[Any, Any, bytes | None]
Handler = Callable[[Request, Exchange], Result]
Files = Callable[[Request, str], Coroutine[Any, Any, bytes | None]]  # gets the path below the prefix; None: there is no such file


class Routes:
    def __init__(self, guard: Guard, prefix: str = "") -> None:
        self._guard = guard
        self._prefix = prefix.rstrip("/")
        self._public: dict[tuple[str, str], Handler] = {}
        self._exact: dict[tuple[str, str], Handler] = {}
        self._below: list[tuple[str, str, Handler]] = []
        self.files: Files | None = None
        self.before: Callable[[Request], Awaitable[None] | None] = lambda request: None  # what a handler's call has to wait for
        self.is_change: Callable[[str, str], bool] = lambda method, path: method not in ("GET", "HEAD")

    def add(self, method: str, paths: str | Iterable[str], handler: Handler, *, public: bool = False) -> None:
        """A path that ends with "/*" takes everything below it."""
        for path in [paths] if isinstance(paths, str) else paths:
            path = self._prefix + path
            if path.endswith("/*"):
                self._below.append((method, path[:-1], handler))
            else:
                (self._public if public else self._exact)[method, path] = handler

    def suffix(self, request: Request, path: str) -> str:
        """What follows `path` (given without the prefix) in the request's path."""
        return request.path[len(self._prefix) + len(path) :]

    def dispatch(self, request: Request, exchange: Exchange) -> Result:
        """Raises FastrouterError."""
        method = request.method
        key = (method, request.path)
        handler = self._public.get(key)
        if handler is not None:
            return handler(request, exchange)
        if method == "OPTIONS":
            return self._guard.preflight(request)
        if method == "HEAD":
            key = ("GET", request.path)
            if key in self._public:
                return self._public[key](request, exchange)
        handler = self._exact.get(key) or self._find_below(*key)
        if handler is None and self.files is not None and key[0] == "GET" and request.path.startswith(self._prefix):
            return self._file(self.files, request)
        self._guard.check(request)
        if request.caller is not None and request.caller.is_read_only and self.is_change(method, request.path[len(self._prefix) :]):
            raise Forbidden("a read-only key may not do this")
        if handler is None:
            raise self._missing(request.path)
        waits_for = self.before(request)
        return handler(request, exchange) if waits_for is None else _after(waits_for, handler, request, exchange)

    async def _file(self, files: Files, request: Request) -> bytes:
        """Public: only other machines' names are refused. What is no file is answered as if there were none at all."""
        self._guard.check_host(request)
        response = await files(request, request.path[len(self._prefix) :])
        if response is None:
            self._guard.check(request)
            raise self._missing(request.path)
        return response

    def _find_below(self, method: str, path: str) -> Handler | None:
        for other, prefix, handler in self._below:
            if other == method and path.startswith(prefix) and len(path) > len(prefix):
                return handler
        return None

    def _missing(self, path: str) -> NotFound | MethodNotAllowed:
        methods = {method for method, known in (*self._exact, *self._public) if known == path}
        if methods:
            return MethodNotAllowed(methods)
        return NotFound("File Not Found")


async def _after(waits_for: Awaitable[None], handler: Handler, request: Request, exchange: Exchange) -> bytes | None:
    await waits_for
    result = handler(request, exchange)
    return result if result is None or isinstance(result, bytes) else await result
