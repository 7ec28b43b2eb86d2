"""The verbs: list, ps, load, unload, chat, logs, over HTTP, HTTPS or a Unix socket. Knows nothing of the router's inside.

Invariant: a failed call ends with the server's own words on stderr and exit code 1, never with a traceback.
"""

import argparse
import http.client
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from fastrouter.cli.logs import show_logs

DEFAULT_URL = "http://127.0.0.1:8080"
LOAD_TIMEOUT_S = 600.0


class CallFailed(Exception):
    """The router refused, or could not be reached; the message is for the user."""


class NoAnswer(CallFailed):
    """There is no router at the address."""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._socket_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)


class Client:
    def __init__(self, url: str, api_key: str | None, *, cacert: str | None = None, insecure: bool = False) -> None:
        """`cacert`: a PEM file of who may have issued the router's certificate; `insecure`: anybody may."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise CallFailed(f"{url} is no http:// address") from None
        self._socket_path, path = _split_socket(unquote(parts.netloc + parts.path)) if parts.scheme == "unix" else ("", parts.path)
        if not self._socket_path and (parts.scheme not in ("http", "https") or not host):
            raise CallFailed(f"{url} is no http:// address")
        self._address = (host or "localhost", port)
        self._trust = _trust(cacert, insecure) if parts.scheme == "https" else None
        self._url = url
        self._path = path.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}

    def _connect(self) -> http.client.HTTPConnection:
        if self._socket_path:
            return UnixConnection(self._socket_path, LOAD_TIMEOUT_S)
        if self._trust is not None:
            return http.client.HTTPSConnection(*self._address, timeout=LOAD_TIMEOUT_S, context=self._trust)
        return http.client.HTTPConnection(*self._address, timeout=LOAD_TIMEOUT_S)

    def _open(self, method: str, path: str, body: Any) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connect()
        try:
            connection.request(method, self._path + path, None if body is None else json.dumps(body), self._headers)
            response = connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise CallFailed(f"{self._url}: {error.verify_message}; name who issued it with --cacert FILE") from None
        except ssl.SSLError as error:
            connection.close()
            raise CallFailed(f"{self._url}: no HTTPS ({error.reason or error}); does the router speak http:// there?") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NoAnswer(f"no answer from {self._url}: {error or type(error).__name__}; is the router running?") from None
        if response.status != 200:
            try:
                raise CallFailed(_message_of(response))
            finally:
                connection.close()
        return connection, response

    def call(self, method: str, path: str, body: Any = None) -> Any:
        connection, response = self._open(method, path, body)
        try:
            return json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise CallFailed(f"the answer broke off: {error}") from None
        finally:
            connection.close()

    def events(self, path: str) -> Iterator[dict[str, Any]]:
        """The events of a feed, which is open when this returns; they end when the server does."""
        connection, response = self._open("GET", path, None)

        def read() -> Iterator[dict[str, Any]]:
            with closing(connection):
                try:
                    for line in response:
                        if line.startswith(b"data: "):
                            yield json.loads(line[6:])
                except (OSError, ValueError, http.client.HTTPException) as error:
                    raise CallFailed(f"the feed broke off: {error}") from None

        return read()

    def lines(self, path: str) -> Iterator[str]:
        """The lines of a text, as they come."""
        connection, response = self._open("GET", path, None)
        try:
            for line in response:
                yield line.decode("utf-8", "replace").rstrip("\n")
        except (OSError, http.client.HTTPException) as error:
            raise CallFailed(f"the answer broke off: {error}") from None
        finally:
            connection.close()

    def stream(self, path: str, body: Any) -> Iterator[dict[str, Any]]:
        """The events of a stream. Raises CallFailed when it ends without [DONE]."""
        connection, response = self._open("POST", path, body)
        try:
            for line in response:
                if not line.startswith(b"data: "):
                    continue
                if line.strip() == b"data: [DONE]":
                    return
                event = json.loads(line[6:])
                if "error" in event:
                    raise CallFailed(event["error"].get("message", "the stream failed"))
                yield event
            raise CallFailed("the stream broke off")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise CallFailed(f"the stream broke off: {error}") from None
        finally:
            connection.close()


def _split_socket(path: str) -> tuple[str, str]:
    """unix:///run/router.sock/prefix: the file, and the --api-prefix."""
    before, end, prefix = path.partition(".sock/")
    return (f"{before}.sock", f"/{prefix}") if end else (path, "")


def _trust(cacert: str | None, insecure: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cacert)
    except OSError as error:  # an SSLError is one
        raise CallFailed(f"--cacert {cacert}: {error.strerror or error}") from None
    if cacert:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the router's own certificate will do, as with curl
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _message_of(response: http.client.HTTPResponse) -> str:
    text = response.read().decode("utf-8", "replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status}: {text[:200]}"


# ---------------------------------------------------------------- verbs


def list_models(client: Client, options: argparse.Namespace) -> None:
    _print_models(client.call("GET", "/v1/models")["data"])


def list_running(client: Client, options: argparse.Namespace) -> None:
    """What is in memory, or on its way, and how it is used; variants are shown with the model whose process they share."""
    rows = [("MODEL", "STATUS", "MEMORY", "CONTEXT", "RUNNING", "WAITING", "UNTIL")]
    for listed in client.call("GET", "/v1/models")["data"]:
        if listed["status"]["value"] == "unloaded" or "base" in listed["status"]:
            continue
        model = client.call("GET", f"/v1/models/{quote(listed['id'])}")
        usage, meta = model["usage"], model.get("meta") or {}
        memory = _size(usage["memory_bytes"] + usage["device_memory_bytes"])
        counts = (str(usage["running"] or ""), str(usage["waiting"] or ""))
        rows.append((model["id"], _status_of(model), memory, str(meta.get("n_ctx") or ""), *counts, _until(usage)))
    print_table(rows)


def _until(usage: dict[str, Any]) -> str:
    """When it is unloaded, if nobody asks."""
    if usage["pinned"]:
        return "pinned"
    return f"{usage['expires_in_s']:.0f} s" if usage["expires_in_s"] is not None else ""


def _print_models(models: list[dict[str, Any]]) -> None:
    rows = [("MODEL", "STATUS", "SIZE", "CONTEXT", "SOURCE")]
    for model in models:
        meta = model.get("meta") or {}
        context = str(meta.get("n_ctx") or meta.get("n_ctx_train") or "")
        rows.append((model["id"], _status_of(model), _size(meta.get("size")), context, model["source"]))
    print_table(rows)


def _status_of(model: dict[str, Any]) -> str:
    status: dict[str, Any] = model["status"]
    if status["value"] == "downloading":
        return f"downloading {_percent_of(status.get('progress') or {})}%"
    return f"{status['value']}{' (failed)' if status.get('failed') else ''}"


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _percent_of(files: dict[str, dict[str, int]]) -> int:
    total = sum(file["total"] for file in files.values())
    return 100 * sum(file["done"] for file in files.values()) // total if total else 0


def _size(num_bytes: int | None) -> str:
    if not num_bytes:
        return ""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def load(client: Client, options: argparse.Namespace) -> None:
    start = time.monotonic()
    client.call("POST", "/models/load", {"model": options.model})
    while time.monotonic() - start < LOAD_TIMEOUT_S:
        status = client.call("GET", f"/v1/models/{quote(options.model)}")["status"]
        if status["value"] in ("loaded", "sleeping"):
            print(f"{options.model} is loaded ({time.monotonic() - start:.2f} s)")
            return
        if status.get("failed") and status["value"] == "unloaded":
            raise CallFailed(f"{options.model} failed to load: {status.get('error') or status.get('exit_code')}")
        time.sleep(0.05)
    raise CallFailed(f"{options.model} did not load in {LOAD_TIMEOUT_S:g} s")


def unload(client: Client, options: argparse.Namespace) -> None:
    client.call("POST", "/models/unload", {"model": options.model})
    print(f"{options.model} is unloading")


def chat(client: Client, options: argparse.Namespace) -> None:
    history: list[dict[str, str]] = [{"role": "system", "content": options.system}] if options.system else []
    if options.prompt:
        _say(client, options, history, " ".join(options.prompt))
        return
    if not sys.stdin.isatty():
        _say(client, options, history, sys.stdin.read())
        return
    import readline  # noqa: F401  # gives input() line editing and its own history

    print(f"Chatting with {options.model}. /clear forgets, Ctrl-C stops an answer, Ctrl-D ends.")
    num_kept = len(history)
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if text == "/clear":
            del history[num_kept:]
        elif text:
            try:
                _say(client, options, history, text)
            except CallFailed as error:
                print(f"fastrouter: {error}", file=sys.stderr)


def _say(client: Client, options: argparse.Namespace, history: list[dict[str, str]], text: str) -> None:
    """One turn; both sides join `history` only when the answer came (also when the user stopped it)."""
    question = {"role": "user", "content": text}
    body: dict[str, Any] = {"model": options.model, "messages": [*history, question], "stream": True}
    for name in ("max_tokens", "temperature", "seed"):
        if getattr(options, name) is not None:
            body[name] = getattr(options, name)
    answer = []
    events = client.stream("/v1/chat/completions", body)
    try:
        for event in events:
            for choice in event["choices"]:
                piece = choice["delta"].get("content")
                if piece:
                    answer.append(piece)
                    print(piece, end="", flush=True)
    except KeyboardInterrupt:
        events.close()  # type: ignore[attr-defined]  # it is a generator; closing it closes the connection
    print()
    history += [question, {"role": "assistant", "content": "".join(answer)}]


# ---------------------------------------------------------------- arguments


def shared_options() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--url", default=os.environ.get("FASTROUTER_URL", DEFAULT_URL), help="http://, https:// or unix:// (FASTROUTER_URL)"
    )
    shared.add_argument("--cacert", metavar="FILE", help="PEM file of the issuer of an https:// router's certificate, or of itself")
    shared.add_argument("--insecure", action="store_true", help="talk to an https:// router whoever it is")
    shared.add_argument("--api-key", default=os.environ.get("LLAMA_API_KEY"), help="better given as LLAMA_API_KEY")
    return shared


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastrouter")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, action, text in (
        ("list", list_models, "all models"),
        ("ps", list_running, "models that are in memory, or on their way"),
        ("load", load, "load a model and wait until it is ready"),
        ("unload", unload, "take a model out of memory"),
        ("chat", chat, "talk to a model"),
        ("logs", show_logs, "what a model's workers have said"),
    ):
        verb = verbs.add_parser(name, parents=[shared_options()], help=text, description=text)
        verb.set_defaults(action=action)
        if name in ("load", "unload", "chat"):
            verb.add_argument("model")
        if name == "logs":
            verb.add_argument("model", nargs="?", help="without it, all models")
            verb.add_argument("-f", "--follow", action="store_true", help="go on with what they say from now on")
            verb.add_argument("-n", "--lines", type=int, help="only the last N lines")
        if name == "chat":
            verb.add_argument("prompt", nargs="*", help="one question; without it, a conversation")
            verb.add_argument("--system", help="system message")
            verb.add_argument("--max-tokens", type=int)
            verb.add_argument("--temperature", type=float)
            verb.add_argument("--seed", type=int)
    return parser


def run_verb(arguments: list[str]) -> int:
    return perform(make_parser().parse_args(arguments))


def perform(options: argparse.Namespace) -> int:
    """The verb's exit code."""
    try:
        client = Client(options.url, options.api_key, cacert=options.cacert, insecure=options.insecure)
        options.action(client, options)
    except CallFailed as error:
        print(f"fastrouter: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone; there is nobody to tell
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
