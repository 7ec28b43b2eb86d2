"""Every field of every route gets bad values: the answer is 200 or an error of the client, as /openapi.json describes it, and no worker
dies. Fields and routes come from the program's own tables.

`FASTROUTER_FIELDS=all` sends every value to every field (minutes); without it, each field gets a part of the values, and over all fields
every value is used.
"""

import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import gguf
import orjson
import pytest
from conftest import Router, StartRouter
from described import Client, Operation, model_for, operations
from hostile_bodies import VALUES, cases
from tiny_encoders import make_bert
from tiny_models import make_llama

from fastrouter.api.openapi import ABOUT, document
from fastrouter.api.requests.fields import FIELDS

IS_ALL = os.environ.get("FASTROUTER_FIELDS") == "all"
SHARE, SHARE_OF_KNOWN = 10, 60  # one of so many values; fields that another route has too get fewer
SHORT = {"max_tokens": 2, "n_predict": 2, "max_output_tokens": 2}
DOCUMENT = document(ABOUT, "")
DESCRIBED = operations(DOCUMENT)
QUERIES = ("", "0", "-1", "1", "true", "x" * 3000, "\0", "\ud800", "é", "99999999999999999999", "nan", "a" * 65, "tiny0", "../..", "%")


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("some")
    make_llama(folder / "tiny0.gguf")
    make_bert(folder / "bert.gguf")
    make_bert(folder / "ranker.gguf", pooling=gguf.PoolingType.RANK)
    slots = tmp_path_factory.mktemp("slots")
    flags = ("-c", "512", "-np", "2", "-n", "4", "--offline", "--props", "--slot-save-path", str(slots))
    return module_router(*flags, models_dir=folder)


@pytest.fixture(scope="module")
def client(server: Router) -> Iterator[Client]:
    client = Client(server.port)
    yield client
    client.close()


def distinct() -> list[Operation]:
    """One path of each operation that has several."""
    seen: dict[Any, Operation] = {}
    for operation in DESCRIBED:
        about = ABOUT[operation.method, re.sub(r"\{name\}.*", "*", operation.path)]
        seen.setdefault((id(about), operation.path.count("/input_items")), operation)
    return list(seen.values())


WITH_BODY = [operation for operation in distinct() if operation.body is not None]


def full_path(operation: Operation) -> str:
    return operation.path.replace("{name}", "0" if operation.path.startswith("/slots") else "tiny0")


def example_of(operation: Operation) -> Any:
    assert operation.body is not None
    example = operation.body.get("example", {})
    if isinstance(example, list):
        return example
    return {**example, **{name: SHORT[name] for name in SHORT if name in example}, "model": model_for(operation.path)}


def chosen(operation: Operation, number: int, field: str) -> Iterator[int]:
    """Numbers of the values that this field gets."""
    is_known = field in FIELDS and operation.path != "/chat/completions"
    share = 1 if IS_ALL else SHARE_OF_KNOWN if is_known else SHARE
    return iter(range(number % share, len(VALUES), share))


@pytest.mark.parametrize("operation", WITH_BODY, ids=repr)
def test_bodies(server: Router, client: Client, operation: Operation) -> None:
    assert operation.body is not None
    path = full_path(operation) + {"/slots/{name}": "?action=save&model=tiny0", "/lora-adapters": "?model=tiny0"}.get(operation.path, "")
    status, kind, answer = client.send(operation.method, path, orjson.dumps(example_of(operation)))
    operation.check(status, kind, answer)
    for number, (field, bodies) in enumerate(cases(operation.body["schema"], example_of(operation))):
        for index in chosen(operation, number, field):
            name, body = bodies[index]
            status, kind, answer = client.send(operation.method, path, body)
            try:
                operation.check(status, kind, answer)
            except (AssertionError, ValueError) as problem:
                raise AssertionError(f"{operation} {field} = {name}: {status} {problem}") from None
    assert_alive(server)


def assert_alive(server: Router) -> None:
    assert server.process.poll() is None
    assert re.findall(r"^fastrouter_worker_deaths_total\{.*\} (?!0(?:\.0)?$).*", server.get("/metrics").body.decode(), re.MULTILINE) == []


@pytest.mark.parametrize("operation", [operation for operation in distinct() if operation.query], ids=repr)
def test_queries(server: Router, client: Client, operation: Operation) -> None:
    body = None if operation.body is None else orjson.dumps(example_of(operation))
    for name in operation.query:
        for value in QUERIES:
            if (name == "follow" and value in ("1", "true")) or operation.path == "/models/sse":
                continue  # a stream without an end
            path = f"{full_path(operation)}?{name}={quote(value, errors='surrogatepass')}"
            status, kind, answer = client.send(operation.method, path, body)
            try:
                operation.check(status, kind, answer)
            except (AssertionError, ValueError) as problem:
                raise AssertionError(f"{path}: {status} {problem}") from None
    assert_alive(server)


NAMES = ("a", "..", "%2e%2e", "a/b/c", "x" * 2000, "%00", "%ff", "%ed%a0%80", "-1", "99999999999999999999", "tiny0", "*", "a%0d%0ab")


@pytest.mark.parametrize("operation", [operation for operation in distinct() if "{name}" in operation.path], ids=repr)
def test_names_in_paths(server: Router, client: Client, operation: Operation) -> None:
    for name in NAMES:
        status, kind, answer = client.send(operation.method, operation.path.replace("{name}", name), b"{}" if operation.body else None)
        assert status < 500, (operation, name, answer)
        assert kind.startswith("application/json"), (operation, name, answer)
    assert_alive(server)
