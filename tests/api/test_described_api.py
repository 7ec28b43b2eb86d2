"""schemathesis against /openapi.json: for any input that it makes, no answer is a 5xx, and every answer is as the document says.

There are few examples of each operation, the same ones in each run; `FASTROUTER_API_EXAMPLES=500` (as in `make fuzz-api`) tries more.
"""

import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import gguf
import pytest
import requests
import schemathesis
from conftest import Router, StartRouter
from described import Client, Operation, model_for
from hypothesis import HealthCheck, Phase, settings
from tiny_encoders import make_bert
from tiny_models import make_llama

from fastrouter.api.openapi import ABOUT, document

FEW = 6
EXAMPLES = int(os.environ.get("FASTROUTER_API_EXAMPLES", FEW))
DOCUMENT = document(ABOUT, "")
SEEN: dict[int, str] = {}
OTHER_PATHS = {path for (_, path), about in ABOUT.items() if SEEN.setdefault(id(about), path) != path}  # of the same operations
SCHEMA = (
    schemathesis.openapi.from_dict(DOCUMENT)
    .exclude(path="/models/sse")  # a stream without an end
    .exclude(lambda context: EXAMPLES <= FEW and context.operation.path in OTHER_PATHS)
)
NO_MODEL = ("/models", "/api/create", "/api/copy", "/api/delete", "/api/pull", "/api/push")  # what they do with any name is of interest


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("some")
    make_llama(folder / "tiny0.gguf")
    make_bert(folder / "bert.gguf")
    make_bert(folder / "ranker.gguf", pooling=gguf.PoolingType.RANK)
    flags = ("-c", "512", "-np", "2", "-n", "4", "--offline", "--props", "--slot-save-path", str(tmp_path_factory.mktemp("slots")))
    return module_router(*flags, "--created-dir", str(tmp_path_factory.mktemp("created")), models_dir=folder)


@pytest.fixture(scope="module")
def client(server: Router) -> Iterator[Client]:
    client = Client(server.port)
    yield client
    client.close()


@SCHEMA.parametrize()  # type: ignore[untyped-decorator]
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate] if EXAMPLES <= FEW else [Phase.explicit, Phase.generate],  # explicit: schemathesis' own boundary values
    suppress_health_check=list(HealthCheck),
)
def test_any_input(case: Any, server: Router, client: Client) -> None:
    if case.method.lower() not in DOCUMENT["paths"][case.path]:  # it tries other methods too
        assert client.send(case.method, "/v1/models")[0] in (200, 400, 405, 501)
        return
    operation = Operation(DOCUMENT, case.method.lower(), case.path)
    body: Any = case.body if operation.body is not None else None
    if isinstance(body, dict) and not case.path.startswith(NO_MODEL):
        body = {**body, "model": model_for(case.path)}  # otherwise nearly all names would be unknown
    request = case.as_transport_kwargs(base_url="http://127.0.0.1")
    data = json.dumps(body).encode() if isinstance(body, dict | list) else b"{}"
    parsed = urlsplit(requests.Request(case.method, request["url"], params=request.get("params")).prepare().url)
    path = parsed.path + (f"?{parsed.query}" if parsed.query else "")
    status, kind, answer = client.send(case.method, path, data if operation.body is not None else None)
    operation.check(status, kind, answer)
    assert server.process.poll() is None
