"""Runs real coding agents against a router with a scripted model, checks what they do, and records the shape of what they send.

    npm install --prefix FOLDER @anthropic-ai/claude-code @openai/codex opencode-ai @qwen-code/qwen-code
    python tests/agents/record_agents.py FOLDER [claude_code codex opencode qwen_code] [--raw FOLDER]

Everything stays on this machine: telemetry and update checks are off, and the agents see a proxy that leads nowhere. How each agent is
configured is read from docs/clients.md. The router gets the requests as they are recorded, so with other words, of which a tiny model needs
fewer tokens. With --raw, the requests with their own words are written there; never commit those.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "support")]
from agent_model import ANSWER, FILE, NOTE, QUESTIONS, make_agent_model  # noqa: E402
from conftest import REPOSITORY, Router, running  # noqa: E402
from recorded_agents import FOLDER, HEADERS, Shapes, with_words, write_recording  # noqa: E402

MODEL = "agent"
N_CTX = 1 << 16
DEADLINE_S = 240
_HOP_HEADERS = ("host", "content-length", "connection", "transfer-encoding", "accept-encoding")


@dataclass(frozen=True)
class Agent:
    """How an agent is run. Its configuration is on the page."""

    package: str
    section: str  # of docs/clients.md
    first: tuple[str, ...]  # its command line, with {question}
    again: tuple[str, ...]  # the same, to continue the conversation
    config: str = ""  # where the configuration of the page is written, below its home; "": the page shows variables
    quiet: dict[str, str] = field(default_factory=dict)  # variables that keep it from talking to others


AGENTS = {
    "claude_code": Agent(
        "@anthropic-ai/claude-code",
        "Claude Code",
        ("claude", "-p", "{question}", "--allowedTools", "Bash"),
        ("claude", "-p", "{question}", "--allowedTools", "Bash", "--continue"),
        quiet={"DISABLE_TELEMETRY": "1", "DISABLE_AUTOUPDATER": "1", "DISABLE_ERROR_REPORTING": "1"},
    ),
    "codex": Agent(
        "@openai/codex",
        "Codex CLI",
        ("codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "{question}"),
        ("codex", "exec", "resume", "--last", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "{question}"),
        config=".codex/config.toml",
    ),
    "opencode": Agent(
        "opencode-ai",
        "opencode",
        ("opencode", "run", "-m", f"fastrouter/{MODEL}", "{question}"),
        ("opencode", "run", "-m", f"fastrouter/{MODEL}", "--continue", "{question}"),
        config=".config/opencode/opencode.json",
        quiet={"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"},
    ),
    "qwen_code": Agent(
        "@qwen-code/qwen-code",
        "Qwen Code",
        ("qwen", "--yolo", "{question}"),
        ("qwen", "--yolo", "--continue", "{question}"),
        config=".qwen/settings.json",
    ),
}


# ---------------------------------------------------------------- what it sends


@dataclass
class Exchange:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 0
    answer: bytes = b""
    shape: Any = None  # of its body


class Tap:
    """A proxy in front of the router that keeps what goes through."""

    def __init__(self, router: Router) -> None:
        self.exchanges: list[Exchange] = []
        self.shapes = Shapes()
        self._lock = threading.Lock()
        self._router = router
        tap = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()

            def _pass(self) -> None:
                tap.pass_on(self)

            do_GET = do_POST = do_DELETE = do_HEAD = _pass

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        body = _body_of(handler)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        exchange = Exchange(handler.command, handler.path, headers, body)
        self.exchanges.append(exchange)
        connection = http.client.HTTPConnection("127.0.0.1", self._router.port, timeout=DEADLINE_S)
        sent = {name: value for name, value in headers.items() if name not in _HOP_HEADERS}
        if body.startswith(b"{"):
            with self._lock:
                exchange.shape = self.shapes.of(json.loads(body))
            body = json.dumps(with_words(exchange.shape, self.shapes)).encode()
        connection.request(exchange.method, exchange.path, body or None, sent)
        response = connection.getresponse()
        exchange.status = response.status
        handler.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _HOP_HEADERS:
                handler.send_header(name, value)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        while handler.command != "HEAD" and (piece := response.read1(1 << 16)):
            exchange.answer += piece
            handler.wfile.write(piece)
            handler.wfile.flush()
        connection.close()


def _body_of(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    body = b""
    while size := int(handler.rfile.readline().partition(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


# ---------------------------------------------------------------- a run


def configuration(section: str, url: str, model: str = MODEL) -> str:
    """The first block of a section of docs/clients.md, for this router and this model."""
    page = (REPOSITORY / "docs" / "clients.md").read_text()
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    block = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)[0]
    return block.replace("http://127.0.0.1:8080", url).replace("coder", model).replace("smollm2", model).replace("32768", str(N_CTX))


def environment(agent: Agent, packages: Path, home: Path, url: str) -> dict[str, str]:
    found = {
        "PATH": f"{packages}/node_modules/.bin:{os.environ['PATH']}",
        "HOME": str(home),
        "TERM": "dumb",
        "NO_PROXY": "127.0.0.1,localhost",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        **agent.quiet,
    }
    text = configuration(agent.section, url)
    if agent.config:
        path = home / agent.config
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    else:
        found.update(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return found


def ask(agent: Agent, command: tuple[str, ...], question: str, folder: Path, env: dict[str, str]) -> str:
    words = [word.format(question=question) for word in command]
    result = subprocess.run(words, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S)
    output = result.stdout + result.stderr
    if result.returncode != 0 or ANSWER not in output:
        raise SystemExit(f"{agent.package}: exit code {result.returncode}, and no answer in its output:\n{output}")
    return output


def run_agent(agent: Agent, packages: Path, folder: Path, tap: Tap) -> None:
    """Two turns. Each runs a tool."""
    home, project = folder / "home", folder / "project"
    home.mkdir()
    project.mkdir()
    (project / FILE).write_text(NOTE)
    env = environment(agent, packages, home, tap.url)
    for command, question in zip((agent.first, agent.again), QUESTIONS, strict=True):
        before = len(tap.exchanges)
        ask(agent, command, question, project, env)
        bodies = [exchange.body.decode() for exchange in tap.exchanges[before:]]
        assert any(NOTE in body for body in bodies), f"{agent.package}: the tool did not run"


def version_of(packages: Path, package: str) -> str:
    version: str = json.loads((packages / "node_modules" / package / "package.json").read_text())["version"]
    return version


def record(name: str, packages: Path, router: Router, folder: Path, raw: Path | None) -> None:
    agent, tap = AGENTS[name], Tap(router)
    try:
        run_agent(agent, packages, folder, tap)
    finally:
        tap.close()
        if raw is not None:
            _write_raw(raw / f"{name}.json", tap.exchanges)
    FOLDER.mkdir(exist_ok=True)
    requests = [shape_of(exchange) for exchange in tap.exchanges if exchange.shape is not None]
    write_recording(FOLDER / f"{name}.json", version_of(packages, agent.package), tap.shapes, requests)
    for exchange in tap.exchanges:
        print(f"  {exchange.method} {exchange.path} {len(exchange.body)} bytes: {exchange.status}")


def shape_of(exchange: Exchange) -> dict[str, Any]:
    headers = {name: exchange.headers[name] for name in HEADERS if name in exchange.headers}
    return {"method": exchange.method, "path": exchange.path, "headers": headers, "body": exchange.shape}


def _write_raw(path: Path, exchanges: list[Exchange]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [{**vars(exchange), "body": exchange.body.decode(), "answer": exchange.answer.decode()} for exchange in exchanges]
    path.write_text(json.dumps(found, indent=1))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Router]:
    models = folder / "models"
    models.mkdir()
    make_agent_model(models / f"{MODEL}.gguf", n_ctx=N_CTX)
    with running(folder) as start:
        yield start("-c", str(N_CTX), "--temp", "0", models_dir=models)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("packages", type=Path)
    parser.add_argument("agents", nargs="*", default=list(AGENTS))
    parser.add_argument("--raw", type=Path)
    options = parser.parse_args()
    for name in options.agents:
        print(f"{name} {version_of(options.packages, AGENTS[name].package)}")
        with tempfile.TemporaryDirectory(prefix="agents-") as folder, served(Path(folder)) as router:
            record(name, options.packages.resolve(), router, Path(folder), options.raw)


if __name__ == "__main__":
    main()
