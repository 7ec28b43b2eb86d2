"""Flags for settings of requests: --grammar and --json-schema with their files, --reverse-prompt, --special."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import StartRouter
from tiny_models import make_llama

from fastrouter.config.config import parse
from fastrouter.config.forms import load_options, to_arguments
from fastrouter.errors import ConfigError

GBNF = 'root ::= "red" | "dog"\n'
SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
CHAT = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 200}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "red.gbnf").write_text(GBNF)
    (tmp_path / "n.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "deep.gbnf").write_text(f'root ::= {"(" * 100}"a"{")" * 100}')
    (tmp_path / "undefined.gbnf").write_text("root ::= nothing")
    return tmp_path


def options_of(*argv: str) -> Any:
    config = parse(argv, {})
    return load_options(config.command_line)


def test_the_last_one_counts(files: Path) -> None:
    """As in llama-server, where all four set one value."""
    path = str(files / "red.gbnf")
    assert options_of("--grammar-file", path).constraint == {"kind": "gbnf", "field": f"--grammar-file {path}", "text": GBNF}
    options = options_of("--grammar", GBNF, "-j", json.dumps(SCHEMA))
    assert (options.constraint["kind"], options.constraint["field"]) == ("json_schema", "--json-schema")
    assert json.loads(options.constraint["text"]) == SCHEMA
    assert options_of("-j", "{}", "-jf", str(files / "n.json")).constraint["field"].startswith("--json-schema-file /")
    assert options_of("-j", "{}").constraint["text"] == '{"type":"object"}'
    assert options_of().constraint is None
    assert "constraint" not in options.sampling


def test_arguments_that_say_the_same() -> None:
    config = parse(["-j", json.dumps(SCHEMA), "-r", "a\\nb", "-r", "c", "-sp"], {})
    again = parse(to_arguments(config.command_line.values()), {})
    assert load_options(again.command_line) == load_options(config.command_line)
    assert (load_options(again.command_line).stop, load_options(again.command_line).special) == (["a\nb", "c"], True)


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--grammar-file", "/nowhere/x"], "--grammar-file /nowhere/x: there is no such file"),
        (["-jf", "{}/broken.json"], "broken.json: Expecting property name"),
        (["-jf", "{}/list.json"], "list.json: must be a JSON object"),
        (["-j", "[]"], "must be a JSON object"),
        (["--grammar-file", "{}/deep.gbnf"], "deep.gbnf: has parentheses nested deeper than 64 levels"),
        (["--grammar", "x" * 70_000], "is larger than 64 KiB"),
    ],
)
def test_mistakes_end_the_start(files: Path, argv: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse([word.replace("{}/", f"{files}/") for word in argv], {})
    assert problem in caught.value.message
    assert caught.value.message.startswith("-")


def test_every_answer_follows(router: StartRouter, models: Path, files: Path) -> None:
    server = router("--grammar-file", str(files / "red.gbnf"), models_dir=models)
    for seed in range(3):
        body = server.post("/completion", {"model": "tiny0", "prompt": "we", "seed": seed}).json
        assert (body["content"] in ("red", "dog"), body["stop_type"]) == (True, "eos")
        settings = body["generation_settings"]
        assert (settings["grammar"], settings["grammar_lazy"], settings["grammar_triggers"]) == (GBNF, False, [])
        [choice] = server.post("/v1/chat/completions", {"model": "tiny0", **CHAT, "seed": seed}).json["choices"]
        assert choice["message"]["content"] in ("red", "dog")
    own = server.post("/completion", {"model": "tiny0", "prompt": "we", "grammar": 'root ::= "cat"'}).json
    assert (own["content"], own["generation_settings"]["grammar"]) == ("cat", 'root ::= "cat"')
    schema = server.post("/completion", {"model": "tiny0", "prompt": "we", "json_schema": SCHEMA, "logit_bias": [["}", 4]]}).json
    assert json.loads(schema["content"])["n"] in (1, 2)
    assert (schema["generation_settings"]["grammar"], schema["generation_settings"]["json_schema"]) == ("", SCHEMA)
    props = server.get("/props?model=tiny0").json["default_generation_settings"]["params"]
    assert (props["grammar"], props["n_keep"], props["stop"]) == (GBNF, 0, [])


def test_presets_and_variants(router: StartRouter, models: Path, files: Path) -> None:
    (files / "p.ini").write_text(
        f"[plain]\nmodel = {models}/tiny0.gguf\n"
        f"[ruled]\nmodel = {models}/tiny1.gguf\njson-schema-file = {files}/n.json\n"
        '[words]\nbase = plain\ngrammar = root ::= "dog"\n'
        f"[wrong]\nmodel = {models}/tiny2.gguf\ngrammar-file = {files}/undefined.gbnf\n"
    )
    server = router("--models-preset", str(files / "p.ini"))
    answers = {
        name: server.post("/completion", {"model": name, "prompt": "we", "n_predict": 30}).json for name in ("plain", "ruled", "words")
    }
    assert json.loads(answers["ruled"]["content"])["n"] in (1, 2)
    assert (answers["words"]["content"], answers["words"]["stop_type"]) == ("dog", "eos")
    assert (answers["plain"]["stop_type"], answers["plain"]["generation_settings"]["grammar"]) == ("limit", "")
    failed = server.post("/completion", {"model": "wrong", "prompt": "we"})
    assert failed.status == 400
    assert f"--grammar-file {files}/undefined.gbnf cannot be followed" in failed.error["message"]


def test_reverse_prompt(router: StartRouter, models: Path) -> None:
    plain = {"model": "tiny0", "prompt": "two to we all", "temperature": 0, "n_predict": 24}
    text = router(models_dir=models).post("/completion", plain).json["content"]
    word = text[8:11]
    server = router("-r", word, "-r", "never", models_dir=models)
    body = server.post("/completion", plain).json
    assert (body["content"], body["stop_type"], body["stopping_word"]) == (text[: text.index(word)], "word", word)
    assert body["generation_settings"]["stop"] == [word, "never"]
    assert server.post("/completion", {**plain, "stop": ["never"]}).json["content"] == text
    assert server.post("/completion", {**plain, "stop": []}).json["stopping_word"] == word


def test_special(router: StartRouter, tmp_path: Path) -> None:
    make_llama(tmp_path / "shown.gguf", fim=("pre", "suf", "mid"))
    asked = {"model": "shown", "prompt": "we", "temperature": 0, "n_predict": 3}
    fim_pre, eos = ["<fim_pre>", 1000.0], [2, 1000.0]
    for flags, shown, ended in (((), "", ""), (("--special",), "<fim_pre>" * 3, "</s>")):
        server = router(*flags, models_dir=tmp_path)
        tokens = server.post("/tokenize", {"model": "shown", "content": "<fim_pre>"}).json["tokens"]
        fim_pre[0] = tokens[-1]
        assert server.post("/completion", {**asked, "logit_bias": [fim_pre]}).json["content"] == shown
        body = server.post("/completion", {**asked, "logit_bias": [eos]}).json
        assert (body["content"], body["stop_type"]) == (ended, "eos")
