"""Stands in for Ollama and for llama-swap, as far as bench/others.py talks to them: `stand_in_rival.py ollama|llama-swap ARGUMENTS`.

It answers each chat with a few words. Each says on stderr what it was given, as one JSON object.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LOADED: list[str] = []
WORDS = ("so", " it", " is")


class Handler(BaseHTTPRequestHandler):
    kind = ""
    names: tuple[str, ...] = ()  # of the models that it knows
    at_most = 0  # in memory; 0: no limit

    def do_GET(self) -> None:
        answers: dict[str, Any] = {
            "/api/version": {"version": "0.0.0"},
            "/api/tags": {"models": [{"name": f"{name}:latest"} for name in self._created()]},
            "/api/ps": {"models": [{"name": f"{name}:latest"} for name in LOADED]},
            "/running": {"running": [{"model": name, "state": "ready"} for name in LOADED]},
        }
        if self.kind == "llama-swap" and self.path == "/health":
            self._send(b"OK", "text/plain")
        elif self.path in answers and (self.path == "/running") == (self.kind == "llama-swap"):
            self._send(json.dumps(answers[self.path]).encode())
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if self.path == "/v1/chat/completions":
            self._chat(body)
        elif self.kind == "ollama" and self.path == "/api/generate" and body["keep_alive"] == 0:
            LOADED.remove(body["model"])
            self._send(b"{}")
        elif self.kind == "llama-swap" and self.path.startswith("/api/models/unload/"):
            LOADED.remove(self.path.rpartition("/")[2])
            self._send(b"{}")
        else:
            self.send_error(404)

    def _created(self) -> list[str]:
        folder = Path(os.environ.get("OLLAMA_MODELS", "/nonexistent"))
        return [path.stem for path in folder.glob("*.created")]

    def _chat(self, body: dict[str, Any]) -> None:
        name = body["model"]
        if name not in (self._created() if self.kind == "ollama" else self.names):
            self.send_error(404)
            return
        if name not in LOADED:
            LOADED.append(name)
            del LOADED[: -self.at_most or None]
        chunks = [json.dumps({"choices": [{"delta": {"content": word}}]}, separators=(",", ":")) for word in WORDS]
        self._send("".join(f"data: {chunk}\n\n" for chunk in (*chunks, "[DONE]")).encode(), "text/event-stream")

    def _send(self, content: bytes, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def say(what: Any) -> None:
    print(json.dumps(what), file=sys.stderr, flush=True)


def serve(address: str) -> None:
    host, _, port = address.rpartition(":")
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


def main(kind: str, arguments: list[str]) -> None:
    Handler.kind = kind
    if arguments == ["--version"]:
        print(f"{kind} version 0.0.0")
    elif kind == "llama-swap":
        flag, file, listen, address = arguments
        assert (flag, listen) == ("--config", "--listen")
        configuration = json.loads(Path(file).read_text())
        say(configuration)
        Handler.names = tuple(configuration["models"])
        Handler.at_most = 0 if "groups" in configuration else 1
        serve(address)
    elif arguments == ["serve"]:
        say({name: value for name, value in os.environ.items() if name.startswith("OLLAMA_")})
        Handler.at_most = int(os.environ["OLLAMA_MAX_LOADED_MODELS"])
        serve(os.environ["OLLAMA_HOST"])
    else:
        create, name, flag, file = arguments
        assert (create, flag) == ("create", "-f")
        folder = Path(os.environ["OLLAMA_MODELS"])
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.created").write_text(Path(file).read_text())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
