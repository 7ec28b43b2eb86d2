"""What /openapi.json promises, and whether an answer keeps the promise."""

import http.client
import json
from typing import Any

import jsonschema

MODELS = {"/v1/embeddings": "bert", "/embedding": "bert", "/embeddings": "bert", "/api/embed": "bert", "/api/embeddings": "bert"}
_RANK = ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking")


def model_for(path: str) -> str:
    return "ranker" if path in _RANK else MODELS.get(path, "tiny0")


class Operation:
    def __init__(self, document: dict[str, Any], method: str, path: str) -> None:
        self.method = method.upper()
        self.path = path
        self._about = document["paths"][path][method]
        self._components = document["components"]
        self._validators: dict[str, jsonschema.Draft202012Validator] = {}

    def __repr__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def body(self) -> dict[str, Any] | None:
        """Its schema and example; None: it has no body of JSON."""
        found: dict[str, Any] | None = self._about.get("requestBody", {}).get("content", {}).get("application/json")
        return found

    @property
    def query(self) -> list[str]:
        return [given["name"] for given in self._about.get("parameters", ()) if given["in"] == "query"]

    @property
    def kinds(self) -> set[str]:
        """Media types of its answer."""
        return set(self._about["responses"].get("200", {"content": ()})["content"])

    def check(self, status: int, kind: str, body: bytes) -> None:
        """Raises AssertionError."""
        assert status < 500, body
        found = str(status) if str(status) in self._about["responses"] else "default"
        if status == 204:
            assert not body
            assert "204" in self._about["responses"]
            return
        kind = kind.partition(";")[0]
        content = self._about["responses"][found]["content"]
        assert kind in content, (kind, body[:200])
        if kind == "application/json":
            self._validate(found, content[kind]["schema"], json.loads(body))
        elif kind == "text/event-stream":
            _check_events(body)

    def _validate(self, name: str, schema: dict[str, Any], value: Any) -> None:
        if name not in self._validators:
            whole = {**schema, "components": self._components}
            self._validators[name] = jsonschema.Draft202012Validator(whole)
        problem = jsonschema.exceptions.best_match(self._validators[name].iter_errors(value))
        assert problem is None, f"{problem.json_path}: {problem.message[:300]}"


def _check_events(body: bytes) -> None:
    """All events are whole, and none reports a mistake of the server."""
    assert body.endswith(b"\n\n"), body[-100:]
    for line in body.split(b"\n"):
        if line.startswith(b"data: ") and line != b"data: [DONE]":
            error = json.loads(line[6:]).get("error")
            assert not (isinstance(error, dict) and error.get("type") in ("server_error", "api_error")), line


def operations(document: dict[str, Any]) -> list[Operation]:
    return [Operation(document, method, path) for path, found in document["paths"].items() for method in found]


class Client:
    """Keeps its connection where the server does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, str, bytes]:
        """(status, type, body)"""
        for is_last in (False, True):
            try:
                self._connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
                response = self._connection.getresponse()
                return response.status, response.headers.get("Content-Type", ""), response.read()
            except (http.client.RemoteDisconnected, ConnectionError):  # the server closed a connection that was idle
                self._connection.close()
                if is_last:
                    raise
        raise AssertionError

    def close(self) -> None:
        self._connection.close()
