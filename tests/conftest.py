"""A router as its users have it: a real process on a loopback port, tiny models, a plain HTTP client. Uses no internals.

Invariant: every router started here ends with SIGTERM, exit code 0, no process left behind and no traceback in its log.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tiny_models import make_llama

REPOSITORY = Path(__file__).parent.parent
for number in (signal.SIGINT, signal.SIGHUP):  # a shell's background jobs ignore these, and so do all their child processes
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in workers: engines inside a test share the cores with routers of others
# What is tested: the package of this environment, or the executable (its unpacked folder's program, which starts without unpacking).
IS_PACKAGE = "FASTROUTER_PROGRAM" not in os.environ
FASTROUTER = [sys.executable, "-m", "fastrouter"] if IS_PACKAGE else [os.environ["FASTROUTER_PROGRAM"]]
hypothesis.settings.register_profile("patient", deadline=None)  # a timing never fails a test
hypothesis.settings.load_profile("patient")
DEADLINE_S = 60.0  # for actions that take milliseconds on a quiet machine


def eventually(is_so: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Poll until it is true; returns the value."""
    end = time.monotonic() + deadline_s
    while True:
        value = is_so()
        if value:
            return value
        assert time.monotonic() < end, f"{what}: still not so after {deadline_s:g} s"
        time.sleep(0.01)


# ---------------------------------------------------------------- processes


def parents() -> dict[int, int]:
    """Parent by pid of every process; zombies count."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{entry}/stat").read_text()
                found[int(entry)] = int(text.rpartition(")")[2].split()[1])
    return found


def descendants(pid: int) -> list[int]:
    by_pid = parents()
    found = [pid]
    for parent in found:  # grows meanwhile
        found += [child for child, of in by_pid.items() if of == parent]
    return found[1:]


def is_alive(pid: int) -> bool:
    """A zombie is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def environ_of(pid: int) -> bytes:
    """Empty for a process that has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def descendants_that_run(pid: int, words: bytes) -> list[int]:
    """Those with these words in their command line."""
    found = []
    for each in descendants(pid):
        with contextlib.suppress(OSError):
            if words in Path(f"/proc/{each}/cmdline").read_bytes():
                found.append(each)
    return found


def has_mapped(pid: int, path: Path) -> bool:
    try:
        return str(path) in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


# ---------------------------------------------------------------- HTTP


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object; its code is the status unless it has a name."""
        error: dict[str, Any] = self.json["error"]
        assert set(error) >= {"code", "message", "type"}, error
        assert error["code"] == self.status or isinstance(error["code"], str), error
        return error


class EventStream:
    """Server-sent events as they come. After the iteration `is_whole` says whether the body had its proper end."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers = response.headers
        self.is_whole = False
        self.is_done = False  # [DONE] came

    def __iter__(self) -> Iterator[Any]:
        return self.events()

    def events(self) -> Iterator[Any]:
        """JSON of each `data:` line; comments and [DONE] are left out."""
        waiting = b""
        try:
            while data := self._response.read1(1 << 16):
                *blocks, waiting = (waiting + data).split(b"\n\n")
                for block in blocks:
                    yield from self._read(block)
            self.is_whole = True
        except (http.client.IncompleteRead, ConnectionResetError):
            self.is_whole = False
        assert not waiting.strip(), f"half an event: {waiting!r}"

    def _read(self, block: bytes) -> Iterator[Any]:
        for line in block.split(b"\n"):
            assert not self.is_done, f"after [DONE]: {line!r}"
            if line == b"data: [DONE]":
                self.is_done = True
            elif line.startswith(b"data: "):
                yield json.loads(line[6:])
            else:
                assert not line or line.startswith((b":", b"event:")), line

    def close(self) -> None:
        """Like a client that has seen enough: the connection is closed immediately."""
        self._response.close()
        self._connection.close()


def text_of(event: dict[str, Any], choice: int = 0) -> str:
    """The text in an event of any flavour."""
    if "content" in event:
        return str(event["content"]) if event.get("index", 0) == choice else ""
    parts = [c.get("text") or c.get("delta", {}).get("content") or "" for c in event.get("choices", []) if c["index"] == choice]
    return "".join(parts)


class Router:
    """One running router, from outside."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path, out: Path, models: Path) -> None:
        self.process = process
        self.port = port
        self.log_path = log
        self.out_path = out
        self.models = models
        self.url = f"http://127.0.0.1:{port}"
        self.exits_with = 0  # what the fixture expects at the end
        self.is_over = False  # a test has ended it and checked its end

    def __repr__(self) -> str:
        return f"<Router {self.process.pid} on {self.port}>"

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def out(self) -> str:
        return self.out_path.read_text()

    # ------------------------------------------------------------ requests

    def open(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            return connection, connection.getresponse()
        except BaseException:  # whatever it is, no one else closes the connection
            connection.close()
            raise

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection, response = self.open(method, path, body, headers)
        with contextlib.closing(connection), response:
            return Answer(response.status, response.headers, response.read())

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.request("GET", path, None, headers)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        return self.request("POST", path, body, headers)

    @contextlib.contextmanager
    def stream(self, path: str, body: Any = None) -> Iterator[EventStream]:
        """POST with a body, GET without."""
        connection, response = self.open("GET" if body is None else "POST", path, body)
        events = EventStream(connection, response)
        try:
            yield events
        finally:
            events.close()

    # ------------------------------------------------------------ its own reports

    def status(self, model: str) -> str:
        value: str = self.get(f"/v1/models/{model}").json["status"]["value"]
        return value

    def await_status(self, model: str, status: str) -> None:
        eventually(lambda: self.status(model) == status, f"{model} {status}")

    def load(self, *models: str) -> None:
        for model in models:
            answer = self.post("/models/load", {"model": model})
            assert (answer.status, answer.body) == (200, b'{"success":true}'), answer
        for model in models:
            self.await_status(model, "loaded")

    def unload(self, model: str) -> None:
        assert self.post("/models/unload", {"model": model}).status == 200
        self.await_status(model, "unloaded")

    def is_processing(self, model: str) -> bool:
        return any(slot["is_processing"] for slot in self.get(f"/slots?model={model}").json)

    def worker_of(self, model: str) -> int:
        """Pid of the process that has the model's file in its memory."""
        path = self.models / f"{model}.gguf"
        [pid] = [pid for pid in descendants(self.process.pid) if has_mapped(pid, path)]
        return pid

    # ------------------------------------------------------------ its end

    def stop(self) -> int:
        """SIGTERM, then `await_end`."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.await_end()

    def await_end(self) -> int:
        """After a signal: wait, check what is left. Returns the exit code."""
        children = descendants(self.process.pid)
        code = self.process.wait(DEADLINE_S)
        self.is_over = True
        eventually(lambda: not [pid for pid in children if is_alive(pid)], "the end of all workers")
        return code


StartRouter = Callable[..., Router]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """No flags and no caches of the user who runs the tests."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "HF_", "FASTROUTER_", "XDG_"))}
    empty = folder / "no-cache"
    empty.mkdir(exist_ok=True)
    return {**ours, "LLAMA_CACHE": str(empty), "HF_HOME": str(empty), "HF_HUB_CACHE": str(empty), "HOME": str(empty), **more}


@contextlib.contextmanager
def running(folder: Path) -> Iterator[StartRouter]:
    """A function that starts routers; at the end they are stopped and checked."""
    started: list[Router] = []

    def start(
        *flags: str, models_dir: Path | None = None, env: dict[str, str] | None = None, is_fake: bool = False, can_wait: bool = True
    ) -> Router:
        """`can_wait`: until the model has been loaded, when there is only one."""
        here = folder / f"router{len(started)}"
        here.mkdir()
        program = [sys.executable, str(REPOSITORY / "tests" / "support" / "fake_router.py")] if is_fake else FASTROUTER
        command = [*program, "--port", "0", *flags]
        if models_dir is not None:
            command += ["--models-dir", str(models_dir)]
        log, out = here / "log", here / "out"
        with log.open("wb") as stderr, out.open("wb") as stdout:
            process = subprocess.Popen(
                command, cwd=here, env=environment(here, **(env or {})), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        router = Router(process, 0, log, out, models_dir or here)
        started.append(router)

        def port() -> int:
            assert process.poll() is None, f"the router ended: {router.log}"
            line = r"fastrouter \S+ is listening on http://127\.0\.0\.1:(\d+)"
            found = re.match(line, router.out) or re.search(line, router.log)
            return int(found[1]) if found else 0

        router.port = eventually(port, "the first line of the router")
        router.url = f"http://127.0.0.1:{router.port}"
        prefix = flags[flags.index("--api-prefix") + 1] if "--api-prefix" in flags else ""

        def is_settled() -> bool:
            return not can_wait or b"Loading model" not in router.get(f"{prefix}/health").body

        eventually(is_settled, "a model that is loaded, or cannot be")
        return router

    try:
        yield start
    finally:
        try:
            for router in started:
                if not router.is_over:
                    code = router.stop()
                    assert code == router.exits_with, f"exit code {code}: {router.log}"
        finally:
            for router in started:
                if router.process.poll() is None:
                    router.process.kill()
                    router.process.wait()
        for router in started:
            assert "Traceback" not in router.log, router.log


# ---------------------------------------------------------------- fixtures


@pytest.fixture(scope="session", autouse=True)
def _nobodys_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Facts that the tested code stores in this process must not go to the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny0, tiny1 and tiny2, which no test changes."""
    folder = tmp_path_factory.mktemp("models")
    for seed in range(3):
        make_llama(folder / f"tiny{seed}.gguf", seed=seed)
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A real chat model: SmolLM2-135M-Instruct."""
    found = subprocess.run([sys.executable, REPOSITORY / "packaging" / "demo_model.py"], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


@pytest.fixture
def router(tmp_path: Path) -> Iterator[StartRouter]:
    """`router(*flags, models_dir=..., env=..., is_fake=...)` starts one for this test; fake workers follow scripts (fake_worker.py)."""
    with running(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def module_router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartRouter]:
    """Like `router`, for fixtures that serve a whole file."""
    with running(tmp_path_factory.mktemp("module")) as start:
        yield start


@pytest.fixture(scope="module")  # not longer: while it lives, Playwright's event loop is this thread's, and asyncio.run would fail
def chromium() -> Iterator[Any]:
    """A real browser for a file of tests of the page; they are skipped when there is none."""
    from browser import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    """An empty tab (browser.Tab). At the end it must have sent requests only to its router, and have thrown no error."""
    from browser import Tab

    opened = Tab(chromium)
    try:
        yield opened
    finally:
        opened.close()
