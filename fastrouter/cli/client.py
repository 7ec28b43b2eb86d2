"""A running router over HTTP, HTTPS or a Unix socket, and how a verb ends. Never imports: http, supervisor, api.

Invariant: a failed call ends with the server's message on stderr and exit code 1, never with a traceback.
"""

import argparse
import http.client
import json
import os
import socket
import ssl
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

from fastrouter.cli.sse import read_events

DEFAULT_URL = "http://127.0.0.1:8080"
LOAD_TIMEOUT_S = 600.0
KEY_HINT = "; here, give it with --api-key or in LLAMA_API_KEY"


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
        """`cacert`: a PEM file with the issuer of the router's certificate; `insecure`: any issuer is accepted."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise CallFailed(f"{url} is not an http:// address") from None
        self._socket_path, path = _split_socket(unquote(parts.netloc + parts.path)) if parts.scheme == "unix" else ("", parts.path)
        if not self._socket_path and (parts.scheme not in ("http", "https") or not host):
            raise CallFailed(f"{url} is not an http:// address")
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
            raise CallFailed(f"{self._url}: {error.verify_message}; give the issuer's certificate with --cacert FILE") from None
        except ssl.SSLError as error:
            connection.close()
            raise CallFailed(f"{self._url}: no HTTPS ({error.reason or error}); does the router speak http:// there?") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            why = (isinstance(error, OSError) and error.strerror) or error or type(error).__name__
            raise NoAnswer(f"no answer from {self._url}: {why}; is the router running? --url or FASTROUTER_URL names another one") from None
        if response.status != 200:
            try:
                hint = KEY_HINT if response.status == HTTPStatus.UNAUTHORIZED else ""
                raise CallFailed(_message_of(response) + hint)
            finally:
                connection.close()
        return connection, response

    def call(self, method: str, path: str, body: Any = None) -> Any:
        connection, response = self._open(method, path, body)
        try:
            return json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise CallFailed(f"the answer ended too early: {error}") from None
        finally:
            connection.close()

    def events(self, path: str) -> Iterator[dict[str, Any]]:
        """The events of a stream, which is open when this returns; they end when the server ends."""
        connection, response = self._open("GET", path, None)

        def read() -> Iterator[dict[str, Any]]:
            with closing(connection):
                try:
                    yield from filter(None, read_events(response))
                except (OSError, ValueError, http.client.HTTPException) as error:
                    raise CallFailed(f"the event stream ended too early: {error}") from None

        return read()

    def lines(self, path: str) -> Iterator[str]:
        """The lines of a text, as they come."""
        connection, response = self._open("GET", path, None)
        try:
            for line in response:
                yield line.decode("utf-8", "replace").rstrip("\n")
        except (OSError, http.client.HTTPException) as error:
            raise CallFailed(f"the answer ended too early: {error}") from None
        finally:
            connection.close()

    def stream(self, path: str, body: Any, on_comment: Callable[[str], None] = lambda _: None) -> Generator[dict[str, Any], None, None]:
        """The events of a stream; its comments say what it waits for. Raises CallFailed when it ends without [DONE]."""
        connection, response = self._open("POST", path, body)
        try:
            for event in read_events(response, on_comment):
                if event is None:
                    return
                if "error" in event:
                    raise CallFailed(event["error"].get("message", "the stream failed"))
                yield event
            raise CallFailed("the stream ended too early")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise CallFailed(f"the stream ended too early: {error}") from None
        finally:
            connection.close()


def _split_socket(path: str) -> tuple[str, str]:
    """unix:///run/router.sock/prefix: the file, and the --api-prefix."""
    before, end, prefix = path.partition(".sock/")
    return (f"{before}.sock", f"/{prefix}") if end else (path, "")


def _trust(cacert: str | None, insecure: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cacert)
    except OSError as error:  # this includes SSLError
        raise CallFailed(f"--cacert {cacert}: {error.strerror or error}") from None
    if cacert:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the router's own certificate is enough, as with curl
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


# ---------------------------------------------------------------- for all verbs


def shared_options() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--url", default=os.environ.get("FASTROUTER_URL", DEFAULT_URL), help="http://, https:// or unix:// (FASTROUTER_URL)"
    )
    shared.add_argument("--cacert", metavar="FILE", help="PEM file with the issuer's certificate of an https:// router, or its own")
    shared.add_argument("--insecure", action="store_true", help="do not check the certificate of an https:// router")
    shared.add_argument("--api-key", default=os.environ.get("LLAMA_API_KEY"), help="key of the router; LLAMA_API_KEY is safer")
    return shared


def perform(options: argparse.Namespace) -> int:
    """Returns the verb's exit code."""
    try:
        client = Client(options.url, options.api_key, cacert=options.cacert, insecure=options.insecure)
        options.action(client, options)
    except CallFailed as error:
        print(f"fastrouter: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, so no message is possible
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
