"""/infill: prompts and tokens are those of llama-server, whole and streamed; missing tokens are named."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter
from tiny_models import make_llama

# llama-server b11434: -c 512 -np 1 -ctk f32 -ctv f32 -fa off and the flags of each entry; temperature 0, n_predict 8.
RECORDED = json.loads((Path(__file__).parent.parent / "rival" / "recorded" / "infill.json").read_text())
EXACT = ("-c", "512", "-np", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off")
SIDES = {"input_prefix": "the cat is ", "input_suffix": " and the dog is red"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("infill")
    make_llama(folder / "fim3.gguf", fim=("pre", "suf", "mid"))
    make_llama(folder / "fim6.gguf", fim=("pre", "suf", "mid", "pad", "rep", "sep"))
    make_llama(folder / "plain.gguf")
    return folder


@pytest.fixture(scope="module")
def server(module_router: StartRouter, folder: Path) -> Router:
    return module_router(*EXACT, models_dir=folder)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: f"{recorded['model']} {' '.join(recorded['flags'])}")
def test_prompts_and_tokens_are_those_of_llama_server(router: StartRouter, folder: Path, recorded: dict[str, Any]) -> None:
    server = router(*EXACT, *recorded["flags"], models_dir=folder)
    asked = {"model": recorded["model"], "n_predict": 8, "temperature": 0, "return_tokens": True}
    for case in recorded["cases"]:
        body = server.post("/infill", {**case["body"], **asked}).json
        assert body["prompt"].removeprefix(" ") == case["prompt"]  # llama-server drops a blank at the start of a first token
        assert (body["tokens_evaluated"], body["tokens"]) == (case["num_prompt"], case["tokens"])


def test_stream(server: Router) -> None:
    asked = {"model": "fim6", **SIDES, "n_predict": 8, "temperature": 0}
    whole = server.post("/infill", asked).json
    with server.stream("/infill", {**asked, "stream": True, "return_tokens": True}) as stream:
        *events, end = list(stream)
    assert "".join(event["content"] for event in events) == whole["content"]
    assert (end["stop"], end["tokens_predicted"], end["prompt"]) == (True, 8, whole["prompt"])


def test_fields_of_a_completion(server: Router) -> None:
    """All other fields mean the same as in a completion."""
    asked = {"model": "fim6", **SIDES, "n_predict": 8, "temperature": 0}
    assert len(server.post("/infill", {**asked, "n": 2}).json) == 2
    assert set(server.post("/infill", {**asked, "response_fields": ["content"]}).json) == {"content"}
    ruled = server.post("/infill", {**asked, "grammar": 'root ::= "red"'}).json
    assert (ruled["content"], ruled["stop_type"]) == ("red", "eos")
    twice = [server.post("/infill", asked).json["timings"]["cache_n"] for _ in range(2)]
    assert twice[1] > 0
    metrics = server.get("/metrics").body.decode()
    assert 'endpoint="infill"' in metrics or 'flavour="infill"' in metrics


def test_a_model_without_the_tokens(server: Router) -> None:
    answer = server.post("/infill", {"model": "plain", **SIDES})
    assert (answer.status, answer.error["type"]) == (400, "not_supported_error")
    said = "Infill is not supported by this model: prefix token is missing. suffix token is missing. middle token is missing."
    assert answer.error["message"].strip() == said
    assert server.post("/infill", {"model": "plain", **SIDES, "stream": True}).status == 400


def test_a_prompt_that_does_not_fit(server: Router) -> None:
    answer = server.post("/infill", {"model": "fim6", "input_prefix": "cat " * 600, "input_suffix": ""})
    assert (answer.status, answer.error["type"]) == (400, "exceed_context_size_error")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"input_prefix": None}, "input_prefix"),
        ({"input_suffix": None}, "input_suffix"),
        ({"input_suffix": 5}, "input_suffix"),
        ({"input_suffix": {"prompt_string": "x"}}, "input_suffix"),
        ({"input_prefix": ["x", True]}, "input_prefix"),
        ({"input_prefix": [-1]}, "input_prefix"),
        ({"input_prefix": [100_000]}, "Prompt contains invalid tokens"),
        ({"prompt": ["x"]}, "prompt"),
        ({"input_extra": {}}, "input_extra"),
        ({"input_extra": ["x"]}, "input_extra"),
        ({"input_extra": [{"filename": "x"}]}, "input_extra.text"),
        ({"input_extra": [{"filename": 1, "text": "x"}]}, "input_extra.filename"),
        ({"input_extra": [{"text": "x"}] * 1025}, "input_extra"),
    ],
)
def test_mistakes(server: Router, fields: dict[str, Any], name: str) -> None:
    answer = server.post("/infill", {"model": "fim6", **SIDES, **fields})
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert name in answer.error["message"]
