"""/openapi.json lists the served routes, and answers name the fields that were ignored."""

from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter
from openapi_spec_validator import OpenAPIV31SpecValidator
from sampling_examples import VALUES

from fastrouter.api.openapi import ABOUT, document
from fastrouter.api.requests.fields import FIELDS
from fastrouter.api.requests.known import CHAT, COMPLETION, INFILL, MAX_NAMED, RESPONSES, ignored_header

CHAT_PATH = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "tiny0", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def server(module_router: StartRouter, models: Path) -> Router:
    return module_router("--api-prefix", "/router", models_dir=models)


def served(server: Router) -> Any:
    return server.get("/router/openapi.json").json


def test_it_is_valid(server: Router) -> None:
    OpenAPIV31SpecValidator(served(server)).validate()
    OpenAPIV31SpecValidator(document([("GET", "/of-tomorrow"), ("GET", "/of-tomorrow/*")], "")).validate()


def test_it_names_what_is_served(server: Router) -> None:
    found = served(server)
    assert found["servers"] == [{"url": "/router"}]
    described = {(method.upper(), path) for path, operations in found["paths"].items() for method in operations}
    for method, path in ABOUT:
        assert (method, path.replace("/*", "/{name}")) in described, (method, path)
    assert ("GET", "/v1/responses/{name}/input_items") in described
    for method, path in described:
        if method == "POST" and "{" not in path:  # it exists, and needs more than an empty object
            assert server.post(f"/router{path}", {}).status != 404, path
        elif "{" not in path and path not in (
            "/models/sse",
            "/models/logs",
            "/slots",
            "/lora-adapters",
            "/tools",
            "/cors-proxy",
            "/v1/stream",
        ):
            assert method == "DELETE" or server.get(f"/router{path}").status == 200, path


def test_fields_have_types() -> None:
    for fields in (CHAT, COMPLETION, RESPONSES):
        assert set(FIELDS) <= set(fields)
        assert {name for name, schema in fields.items() if name in FIELDS and "type" not in schema} == set()
    types = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    for name, value in VALUES.items():
        kinds = CHAT[name]["type"]
        assert types[type(value)] in kinds or (type(value) is int and "number" in kinds), name


# ---------------------------------------------------------------- ignored fields


def test_a_misspelt_field_is_named(server: Router) -> None:
    misspelt = {**HELLO, "temprature": 0.5, "colour": "red"}
    for fields in (misspelt, {**misspelt, "stream": True}, {**misspelt, "model": "no-such"}):
        answer = server.post(f"/router{CHAT_PATH}", fields)
        assert answer.headers["X-Fastrouter-Ignored"] == "temprature (did you mean temperature?), colour"
    assert server.post(f"/router{CHAT_PATH}", HELLO).headers["X-Fastrouter-Ignored"] is None
    embedded = server.post("/router/v1/embeddings", {"model": "tiny0", "inptu": "x"})
    assert (embedded.status, embedded.headers["X-Fastrouter-Ignored"]) == (400, "inptu (did you mean input?)")


def test_fields_of_openai_are_known() -> None:
    openai = dict.fromkeys(("user", "metadata", "store", "service_tier", "prediction", "seed", "n", "modalities", "verbosity"))
    assert ignored_header({**HELLO, **openai}, CHAT) == b""
    assert ignored_header({"prompt": "x", "suffix": "y", "best_of": 1, "echo": True, "logprobs": 1, "user": "me"}, COMPLETION) == b""


def test_a_hint_is_a_field_of_the_same_path() -> None:
    assert ignored_header({"input_prefx": 1}, INFILL) == b"X-Fastrouter-Ignored: input_prefx (did you mean input_prefix?)\r\n"
    assert b"did you mean" not in ignored_header({"input_prefx": 1}, CHAT)


def test_a_header_cannot_be_broken_by_a_name() -> None:
    line = ignored_header({"a\r\nb: c": 1, "é;,": 1, "x" * 1000: 1, "": 1}, CHAT)
    assert line.count(b"\r\n") == 1
    assert line.startswith(b"X-Fastrouter-Ignored: a??b: c, ???, " + b"x" * 64 + b", ")
    many = ignored_header({f"of-nobody-{number}": 1 for number in range(1000)}, CHAT)
    assert many.endswith(f"and {1000 - MAX_NAMED} more\r\n".encode())
