"""(method, path) -> handler.

A handler gets (request, exchange) and returns a Response, None (it answers later through the exchange), or a coroutine of one of the two.
Invariant: only `public` routes, the files and OPTIONS can be reached without `guard.check`. A read-only key never reaches a route that
`is_change`. A request that is refused because of its head is refused before any byte of its body is kept. A file never hides a route.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, NamedTuple

from fastrouter._core import Request
from fastrouter.errors import BodyTooLarge, FastrouterError, Forbidden, MethodNotAllowed, NotFound
from fastrouter.http.exchange import Exchange, Sink
from fastrouter.http.guard import Guard
from fastrouter.http.response import OPENAI_ERRORS, ErrorShape, Response

SMALL_BODY = 64 << 10
MAX_BODY = 8 << 20  # a million tokens of text; more would block the event loop for more than 20 ms
MAX_FORM = 25 << 20  # as in OpenAI's API for audio files; its content is bytes, not JSON
LARGE_BODY = 256 << 10  # parsing a longer body would delay other clients

Result = Response | None | Coroutine[Any, Any, Response | None]
Handler = Callable[[Request, Exchange], Result]
MakeSink = Callable[[Request, int], Sink]  # gets the announced length, or -1; raises FastrouterError
Files = Callable[[Request, str], Coroutine[Any, Any, Response | None]]  # gets the path below the prefix; None: there is no such file


class Route(NamedTuple):
    handler: Handler
    max_body: int
    is_public: bool
    errors: ErrorShape
    sink: "MakeSink | None" = None  # takes the body of each request, whatever its length


class Routes:
    def __init__(self, guard: Guard, prefix: str = "") -> None:
        self._guard = guard
        self._prefix = prefix.rstrip("/")
        self._exact: dict[tuple[str, str], Route] = {}
        self._below: list[tuple[str, str, Route]] = []
        self.is_complete = True  # False: more routes will be added, so a missing path may exist later
        self.files: Files | None = None
        self.before: Callable[[Request], Awaitable[None] | None] = lambda request: None  # what a call of the handler must wait for
        self.is_change: Callable[[str, str], bool] = lambda method, path: method not in ("GET", "HEAD")
        self.prepare: Callable[[Request], Coroutine[Any, Any, None]] | None = None  # awaited before the handler, with a large body
        self.hint: Callable[[str, Iterable[str]], str] = lambda path, known: ""  # a hint about an unknown path, from the paths that exist

    def add(
        self,
        method: str,
        paths: str | Iterable[str],
        handler: Handler,
        *,
        public: bool = False,
        max_body: int = SMALL_BODY,
        errors: ErrorShape = OPENAI_ERRORS,
        sink: MakeSink | None = None,
    ) -> None:
        """A path that ends with "/*" includes everything below it. `max_body` 0: a body is dropped. `errors`: the shape of its errors.
        `sink`: where a body goes that is too large for memory."""
        route = Route(handler, max_body, public, errors, sink)
        for path in [paths] if isinstance(paths, str) else paths:
            path = self._prefix + path
            if path.endswith("/*"):
                self._below.append((method, path[:-1], route))
            else:
                self._exact[method, path] = route

    def served(self) -> list[tuple[str, str]]:
        """(method, path without the prefix) of all current routes."""
        found = [*self._exact, *((method, f"{path}*") for method, path, _ in self._below)]
        return [(method, path.removeprefix(self._prefix)) for method, path in found]

    def suffix(self, request: Request, path: str) -> str:
        """The part of the request's path after `path` (which is given without the prefix)."""
        return request.path[len(self._prefix) + len(path) :]

    # ------------------------------------------------------------ at the end of a head that announces a body

    def admit(self, request: Request, num_bytes: int) -> int:
        """A RequestParser's gate: how large the body may be. When the body is not wanted, `denied` has the reason."""
        try:
            return self._admit(request, num_bytes)
        except FastrouterError as error:
            request.denied = error.with_traceback(None)  # its frames would keep the request in memory
            return 0

    def _admit(self, request: Request, num_bytes: int) -> int:
        if request.method == "OPTIONS":
            return SMALL_BODY
        limit = self._max_body_of(request)
        route = self._find(request)
        if route is not None and route.sink is not None:
            request.sink = route.sink(request, num_bytes)
            return 0
        if num_bytes > limit or not limit:
            raise BodyTooLarge(limit) if limit else _Dropped()
        return limit

    def _max_body_of(self, request: Request) -> int:
        """Also checks the caller."""
        route = self._find(request)
        if route is not None:
            if not route.is_public:
                self._check(request)
            return route.max_body
        if self._may_be_file(request):
            return SMALL_BODY
        if self.is_complete:
            self._check(request)
            raise self._missing(request)
        self._guard.check(request)  # whether a read-only key may do it is known later
        return MAX_BODY

    # ------------------------------------------------------------ when the body has arrived

    def dispatch(self, request: Request, exchange: Exchange) -> Result:
        """Raises FastrouterError."""
        route = self._find(request)
        if route is not None:
            exchange.errors = route.errors
        if request.denied is not None and not isinstance(request.denied, _Dropped):
            raise _take_denial(request)
        if route is not None and route.is_public:
            return route.handler(request, exchange)
        if request.method == "OPTIONS":
            return self._guard.preflight(request)
        if route is None and self.files is not None and self._may_be_file(request):
            return self._file(self.files, request)
        self._check(request)
        if route is None:
            raise self._missing(request)
        if request.body and route.sink is not None:  # it arrived before all routes were known
            request.sink = route.sink(request, len(request.body))
            request.sink.write(request.take_body())
        if len(request.body) > route.max_body:  # the same
            raise BodyTooLarge(route.max_body)
        if self.prepare is not None and len(request.body) > LARGE_BODY:
            return self._handle_prepared(self.prepare(request), route.handler, request, exchange)
        waits_for = self.before(request)
        if waits_for is not None:
            return self._handle_after(waits_for, route.handler, request, exchange)
        return route.handler(request, exchange)

    async def _handle_prepared(
        self, preparation: Coroutine[Any, Any, None], handler: Handler, request: Request, exchange: Exchange
    ) -> Response | None:
        await preparation
        return await self._handle_after(self.before(request), handler, request, exchange)

    async def _handle_after(
        self, waits_for: Awaitable[None] | None, handler: Handler, request: Request, exchange: Exchange
    ) -> Response | None:
        if waits_for is not None:
            await waits_for
        result = handler(request, exchange)
        return result if result is None or isinstance(result, Response) else await result

    def _check(self, request: Request) -> None:
        """Check the caller and what it may do. Raises FastrouterError."""
        if request.is_checked:
            return
        self._guard.check(request)
        caller = request.caller
        if caller is not None and caller.is_read_only and self.is_change(request.method, request.path[len(self._prefix) :]):
            raise Forbidden("this key is read-only: a request that changes something needs a key without `read-only`")
        request.is_checked = True

    def _may_be_file(self, request: Request) -> bool:
        return self.files is not None and request.method in ("GET", "HEAD") and request.path.startswith(self._prefix)

    async def _file(self, files: Files, request: Request) -> Response:
        """Files are public: only Host names of other machines are refused. A missing file gets the same answer as without any files."""
        self._guard.check_host(request)
        response = await files(request, request.path[len(self._prefix) :])
        if response is None:
            self._check(request)
            raise self._missing(request)
        return response

    def _find(self, request: Request) -> Route | None:
        """Doubled and trailing slashes make no difference, except to files."""
        method = "GET" if request.method == "HEAD" else request.method
        path = request.path
        route = self._exact.get((method, path))
        if route is None and ("//" in path or path.endswith("/")):
            plain = _plain(path)
            route = self._exact.get((method, plain)) or self._find_below(method, plain)
            if route is not None:
                request.path = plain
        return route or self._find_below(method, path)

    def _find_below(self, method: str, path: str) -> Route | None:
        for other, prefix, route in self._below:
            if other == method and path.startswith(prefix) and len(path) > len(prefix):
                return route
        return None

    def _missing(self, request: Request) -> NotFound | MethodNotAllowed:
        path = _plain(request.path)
        methods = {method for method, known in self._exact if known == path}
        if methods:
            return MethodNotAllowed(methods)
        if not path.startswith(self._prefix):
            return NotFound(f"File Not Found: all paths of this server begin with {self._prefix}")
        known = [path.removeprefix(self._prefix) for _, path in self._exact]
        hint = self.hint(path.removeprefix(self._prefix), known)
        return NotFound(f"File Not Found: {hint}" if hint else "File Not Found")


class _Dropped(FastrouterError):
    """For a body that its route does not read: the request is answered without it."""

    def __init__(self) -> None:
        super().__init__("the body is not read")


def _take_denial(request: Request) -> FastrouterError:
    error, request.denied = request.denied, None
    assert error is not None
    return error


def _plain(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part)
