"""Variants: several presets over one loaded file. What they may set, and that switching between them loads nothing."""

from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter, descendants, eventually, has_mapped
from tiny_models import make_llama, make_lora

from fastrouter.api.requests.defaults import with_defaults
from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.variants import NO_DEFAULTS, RequestDefaults
from fastrouter.config.config import Config, parse
from fastrouter.ipc.messages import Generate

HELLO = [{"role": "user", "content": "the cat is on it"}]
PRESETS = """
[*]
system-prompt = you are all one
[tiny]
alias = main
temp = 0
n-predict = 6
[bold]
base = main
alias = brave
temp = 1.5
seed = 7
system-prompt = you are not in it
[bolder]
base = bold
n-predict = 3
tags = x, y
chat-template-kwargs = {"mood": "red"}
"""


def catalog_of(folder: Path, presets: str, *flags: str) -> Catalog:
    models = folder / "models"
    models.mkdir(exist_ok=True)
    if not (models / "tiny.gguf").exists():
        make_llama(models / "tiny.gguf")
    path = folder / "presets.ini"
    path.write_text(presets)
    return Catalog(parse(["--models-dir", str(models), "--models-preset", str(path), *flags], {}))


def test_a_variant_is_its_base_with_other_defaults(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, PRESETS)
    base, bold, bolder = (catalog.get(name) for name in ("tiny", "bold", "bolder"))
    assert base
    assert bold
    assert bolder
    assert [spec.id for spec in catalog.models()] == ["bold", "bolder", "tiny"]
    assert catalog.get("brave") is bold
    assert bold.runner is base
    assert bolder.runner is base
    assert base.runner is base
    assert (bold.path, bold.options, bold.size_bytes) == (base.path, base.options, base.size_bytes)
    assert base.defaults == RequestDefaults(system="you are all one")
    assert bold.defaults == RequestDefaults({"temperature": 1.5, "seed": 7}, system="you are not in it")
    assert bolder.defaults == RequestDefaults(
        {"temperature": 1.5, "seed": 7}, 3, chat_template_kwargs={"mood": "red"}, system="you are not in it"
    )
    assert (bold.aliases, bolder.aliases, bolder.tags, bold.source) == (("brave",), (), ("x", "y"), "preset")


def test_the_command_line_wins(tmp_path: Path) -> None:
    bold = catalog_of(tmp_path, PRESETS, "--temp", "0.3").get("bold")
    assert bold
    assert bold.defaults.sampling == {"seed": 7}
    assert bold.options.sampling == {"temperature": 0.3}


@pytest.mark.parametrize(
    ("presets", "words"),
    [
        ("[v]\nbase = nobody", ["[v]", "base = nobody", "no such model"]),
        ("[v]\nbase = tiny\nctx-size = 99", ["[v]", "ctx-size", "set this in the base"]),
        ("[v]\nbase = tiny\nttl = 99", ["[v]", "ttl", "set this in the base"]),
        ("[v]\nbase = tiny\nmodel = x.gguf", ["[v]", "model", "set this in the base"]),
        ("[v]\nbase = w\n[w]\nbase = v", ["[v]", "v -> w -> v", "circle"]),
        ("[v]\nbase = v", ["v -> v"]),
        ("[tiny]\nbase = tiny", ["[tiny]", "already the name of another model"]),
        ("[v]\nbase = tiny\nalias = tiny", ["alias tiny of v", "already means tiny"]),
        ("[v]\nbase = tiny\nsystem-prompt-file = /nowhere", ["/nowhere", "no such file"]),
    ],
)
def test_what_a_variant_may_not_say(tmp_path: Path, presets: str, words: list[str]) -> None:
    [spec] = [spec for spec in catalog_of(tmp_path, presets).models() if spec.fault is not None and spec.id != "w"]
    for word in words:
        assert word in (spec.fault or "")


def test_a_change_of_a_variant_ends_nothing(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, PRESETS)
    (tmp_path / "presets.ini").write_text(PRESETS.replace("temp = 1.5", "temp = 0.7"))
    assert catalog.reload() == []
    bold = catalog.get("bold")
    assert bold
    assert bold.defaults.sampling["temperature"] == 0.7


def test_defaults_are_for_what_a_request_does_not_say() -> None:
    defaults = RequestDefaults({"temperature": 1.0, "top_k": 3}, 9, "T", {"a": 1, "b": 1}, "S")
    asked = Generate(messages=HELLO, sampling={"top_k": 5}, chat_template_kwargs={"b": 2})
    given = with_defaults(asked, defaults)
    assert (given.sampling, given.max_tokens, given.chat_template) == ({"temperature": 1.0, "top_k": 5}, 9, "T")
    assert (given.chat_template_kwargs, given.system) == ({"a": 1, "b": 2}, "S")
    assert with_defaults(Generate(prompt="x", max_tokens=2), defaults).max_tokens == 2
    assert with_defaults(Generate(prompt="x"), defaults).system is None, "a text has no messages"
    assert with_defaults(asked, NO_DEFAULTS) is asked
    assert not NO_DEFAULTS.is_some


# ---------------------------------------------------------------- a running router


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory) -> Router:
    folder = tmp_path_factory.mktemp("variants")
    models = folder / "models"
    models.mkdir()
    make_llama(models / "tiny.gguf")
    (folder / "presets.ini").write_text(PRESETS)
    return module_router("--models-preset", str(folder / "presets.ini"), "--models-max", "1", models_dir=models)


def say(server: Router, model: str, **more: Any) -> dict[str, Any]:
    answer = server.post("/v1/chat/completions", {"model": model, "messages": HELLO, **more})
    assert answer.status == 200, answer
    body: dict[str, Any] = answer.json
    return body


def test_one_process_for_all(server: Router) -> None:
    said = {model: say(server, model) for model in ("tiny", "bold", "bolder", "brave")}
    assert [said[model]["model"] for model in ("tiny", "bold", "bolder")] == ["tiny", "bold", "bolder"]
    assert [said[model]["usage"]["completion_tokens"] for model in ("tiny", "bold", "bolder")] == [6, 6, 3]
    text = {model: body["choices"][0]["message"]["content"] for model, body in said.items()}
    assert text["tiny"] != text["bold"]
    assert text["bold"] == text["brave"]
    assert text["bold"].startswith(text["bolder"]), "the same seed and prompt, cut earlier"
    workers = [pid for pid in descendants(server.process.pid) if has_mapped(pid, server.models / "tiny.gguf")]
    assert len(workers) == 1
    eventually(lambda: server.log.count("tiny: loaded") == 1, "switching between them loads nothing")
    again = say(server, "bolder")
    assert again["timings"]["cache_n"] > 0, "one KV cache"


def test_the_system_prompt_is_in_the_prompt(server: Router) -> None:
    verbose = say(server, "bold", verbose=True)["__verbose"]
    assert "you are not in it" in verbose["prompt"]
    assert "you are all one" in say(server, "tiny", verbose=True)["__verbose"]["prompt"]
    own = [{"role": "system", "content": "one two"}, *HELLO]
    prompt = say(server, "bold", verbose=True, messages=own)["__verbose"]["prompt"]
    assert "one two" in prompt
    assert "you are" not in prompt


def test_a_request_wins(server: Router) -> None:
    assert say(server, "bolder", max_tokens=5)["usage"]["completion_tokens"] == 5
    greedy = say(server, "bold", temperature=0)["choices"][0]["message"]["content"]
    assert greedy == say(server, "bold", temperature=0, seed=99)["choices"][0]["message"]["content"]


def test_listing_and_lifecycle(server: Router) -> None:
    say(server, "bold")
    listed = {model["id"]: model for model in server.get("/v1/models").json["data"]}
    assert {name: model["status"]["value"] for name, model in listed.items()} == dict.fromkeys(("bold", "bolder", "tiny"), "loaded")
    assert listed["bold"]["status"]["base"] == "tiny"
    assert "base" not in listed["tiny"]["status"]
    assert server.post("/models/load", {"model": "bold"}).error["message"] == "model is already running"
    assert server.post("/models/plan", {"model": "bolder"}).json["action"] == "use"
    server.unload("brave")
    assert server.status("tiny") == "unloaded"
    server.load("bolder")
    assert server.status("tiny") == "loaded"


def test_events_come_under_every_name(server: Router) -> None:
    say(server, "bold")
    with server.stream("/models/sse") as stream:
        events = iter(stream)
        first = [next(events) for _ in range(3)]
        assert {(event["model"], event["data"]["status"]) for event in first} == {(name, "loaded") for name in ("tiny", "bold", "bolder")}
        server.unload("bold")
        after = [next(events) for _ in range(3)]
    assert {(event["model"], event["data"]["status"]) for event in after} == {(name, "unloaded") for name in ("tiny", "bold", "bolder")}


def test_load_on_startup_of_a_variant_loads_its_base(router: StartRouter, tmp_path: Path) -> None:
    catalog_of(tmp_path, "[v]\nbase = tiny\nload-on-startup = true\n[w]\nbase = v\nload-on-startup = true")
    server = router("--models-preset", str(tmp_path / "presets.ini"), models_dir=tmp_path / "models")
    server.await_status("tiny", "loaded")
    eventually(lambda: server.log.count("loaded in") == 1, "its line in the log")
    assert "already running" not in server.log


def test_variants_that_are_adapters(router: StartRouter, tmp_path: Path) -> None:
    """Each with its own LoRA over one set of weights; the base does not change."""
    for seed in range(3):
        make_lora(tmp_path / f"lora{seed}.gguf", seed=seed)
    lora = [f"lora = {tmp_path / f'lora{seed}.gguf'}" for seed in range(3)]
    presets = f"[tiny]\n{lora[0]}\n[one]\nbase = tiny\n{lora[1]}\n[half]\nbase = one\nlora-scaled = {tmp_path / 'lora2.gguf'}:0.5\n"
    catalog = catalog_of(tmp_path, presets)
    tiny, one, half = (catalog.get(name) for name in ("tiny", "one", "half"))
    assert tiny
    assert one
    assert half
    assert [(Path(path).name, scale) for path, scale in tiny.options.lora] == [
        ("lora0.gguf", 1.0),
        ("lora1.gguf", 0.0),
        ("lora2.gguf", 0.0),
    ]
    assert (tiny.defaults.lora, one.defaults.lora, half.defaults.lora) == (None, ((1, 1.0),), ((2, 0.5),))
    server = router("--models-preset", str(tmp_path / "presets.ini"), "--temp", "0", models_dir=tmp_path / "models")
    said = {model: say(server, model, max_tokens=24)["choices"][0]["message"]["content"] for model in ("tiny", "one", "half", "tiny")}
    assert len(set(said.values())) == 3
    by_hand = say(server, "tiny", max_tokens=24, lora=[{"id": 1, "scale": 1.0}])["choices"][0]["message"]["content"]
    assert by_hand == said["one"]
    eventually(lambda: server.log.count("tiny: loaded") == 1, "its line in the log")


def test_apply_template_of_a_variant(server: Router) -> None:
    prompt = server.post("/apply-template", {"model": "bold", "messages": HELLO}).json["prompt"]
    assert "you are not in it" in prompt


def test_without_presets_nothing_is_a_variant(tmp_path: Path) -> None:
    make_llama(tmp_path / "a.gguf")
    [spec] = Catalog(Config(models_dir=tmp_path)).models()
    assert (spec.base, spec.defaults) == (None, NO_DEFAULTS)
