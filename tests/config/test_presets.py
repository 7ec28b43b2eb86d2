"""Preset files: every rule of the INI format, and the message for every mistake."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_llama

from fastrouter.cli.presets import run_preset
from fastrouter.config.config import parse
from fastrouter.config.flag import Kind, Scope
from fastrouter.config.forms import load_options, to_arguments, to_section
from fastrouter.config.layers import merge
from fastrouter.config.preset_values import read_value, write_value
from fastrouter.config.presets import Presets, first_of, read_presets
from fastrouter.config.table import TABLE
from fastrouter.config.values import ALL_LAYERS
from fastrouter.errors import ConfigError


def read(tmp_path: Path, text: str | bytes) -> Presets:
    path = tmp_path / "presets.ini"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_presets(path)


def presets_of(tmp_path: Path, text: str | bytes) -> Presets:
    presets = read(tmp_path, text)
    assert (presets.problems, presets.faults) == ((), {})
    return presets


def values_of(tmp_path: Path, text: str | bytes, section: str = "a") -> dict[str, Any]:
    return {target: setting.value for target, setting in presets_of(tmp_path, text).sections[section].items()}


def problems_of(tmp_path: Path, text: str) -> list[str]:
    return [problem.replace(f"{tmp_path}/", "") for problem in all_of(read(tmp_path, text))]


def all_of(presets: Presets) -> list[str]:
    return [*presets.problems, *itertools.chain(*presets.faults.values())]


# ---------------------------------------------------------------- what is followed


def test_a_preset_file(tmp_path: Path) -> None:
    presets = presets_of(
        tmp_path,
        "\ufeffversion = 1\n; a comment\n# another\n[*]\nctx-size = 100 ; of all\nc = 200\n\n"
        "[user/repo:q4]   # with a comment\nno-mmap = true\nno-jinja = off\nLLAMA_ARG_TEMPERATURE = .5\nngl=all\n"
        "chat-template = {{ a }};b#c\nmlock = on\n"
        "load-on-startup = 1\nstop-timeout = 3\ndedup-cache-models = 1\nversion = 3\nalias = a,b\n",
    )
    layer = presets.sections["user/repo:q4"]
    loaded = load_options(merge(presets.shared, layer))
    assert (loaded.ctx_size, loaded.mmap, loaded.jinja, loaded.mlock, loaded.gpu_layers) == (200, False, True, True, ALL_LAYERS)
    assert loaded.chat_template == "{{ a }};b#c"
    assert loaded.sampling == {"temperature": 0.5}
    assert (layer["load_on_startup"].value, layer["stop_timeout_s"].value, layer["aliases"].value) == (True, 3.0, ("a", "b"))
    assert presets.lines == {"*": 4, "user/repo:q4": 8}
    assert presets.where("user/repo:q4") == f"{tmp_path}/presets.ini:8 [user/repo:q4]"


@pytest.mark.parametrize(
    ("line", "target", "value"),
    [
        ("ctx-size = 5", "ctx_size", 5),
        ("ctx-size=5", "ctx_size", 5),
        ("\t ctx-size \t=\t 5 \t", "ctx_size", 5),
        ("c = 5", "ctx_size", 5),
        ("--ctx-size = 5", "ctx_size", 5),  # better than llama-server, which wants no dashes
        ("ctx_size = 5", "ctx_size", 5),
        ("LLAMA_ARG_CTX_SIZE = 5", "ctx_size", 5),
        ("ctx-size = 5;6", "ctx_size", None),
        ("ctx-size = 5 ; six", "ctx_size", 5),
        ("ctx-size = 5\t# six", "ctx_size", 5),
        ("chat-template = a;b#c", "chat_template", "a;b#c"),
        ("chat-template = a = b", "chat_template", "a = b"),
        ("chat-template = [x]", "chat_template", "[x]"),
        ('chat-template = "x y"', "chat_template", "x y"),  # better than llama-server, where no value can hold a comment mark
        ("chat-template = 'x ; \"y\" # z' ; comment", "chat_template", 'x ; "y" # z'),
        ('chat-template = "x \\"y\\" # z"', "chat_template", 'x "y" # z'),
        ('chat-template = "x" y # z', "chat_template", '"x" y'),
        ('alias = "x, y ;z"', "aliases", ("x", "y ;z")),
        ('reverse-prompt = " ;\\n"', "stop", (" ;\\n",)),
        ("chat-template = {{ x }} # y", "chat_template", "{{ x }}"),
        ("chat-template = '{# x #}{{ y }}'", "chat_template", "{# x #}{{ y }}"),
        ("chat-template = \u2028x", "chat_template", "x"),
        ("chat-template =", "chat_template", ""),
        ("mmap = on", "mmap", True),
        ("mmap = TRUE", "mmap", True),
        ("mmap = enabled", "mmap", True),
        ("mmap = 0", "mmap", False),
        ("mmap = disabled", "mmap", False),
        ("no-mmap = 1", "mmap", False),
        ("no-mmap = false", "mmap", True),
        ("LLAMA_ARG_MMAP = off", "mmap", False),
        ("LLAMA_ARG_NO_MMAP = on", "mmap", False),
        ("no-kv-unified = true", "kv_unified", False),
        ("nocb = 1", "cont_batching", False),
        ("fa = off", "flash_attn", "off"),
        ("ngl = all", "gpu_layers", ALL_LAYERS),
        ("s = 7", "seed", 7),
        ("temp = 0", "temperature", 0.0),
        ("hf = user/repo:q4", "hf_repo", "user/repo:q4"),
        ("alias = x, y", "aliases", ("x", "y")),
        ("tags =", "tags", ()),
        ('chat-template-kwargs = {"a": [1, 2]}', "chat_template_kwargs", {"a": [1, 2]}),
        ('chat-template-kwargs = {"a":"b;c # d"}', "chat_template_kwargs", {"a": "b;c # d"}),
        ('chat-template-kwargs = {"a": "b ; c"} # d', "chat_template_kwargs", {"a": "b ; c"}),
        ('chat-template-kwargs = \'{"a": "\\\\d # e"}\'', "chat_template_kwargs", {"a": "\\d # e"}),
        ("load-on-startup = yes", "load_on_startup", None),
        ("load-on-startup = on", "load_on_startup", True),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_keys_and_values(tmp_path: Path, line: str, target: str, value: Any, newline: str) -> None:
    text = newline.join(["; first", "[a]", line, ""])
    if value is None:
        assert len(problems_of(tmp_path, text)) == 1
    else:
        assert values_of(tmp_path, text) == {target: value}


@pytest.mark.parametrize("heading", ["[a]", "[ a ]", "  [a]", "[a] ; x", "[a];x", "[a]#x", "[a]  ", "\t[\ta\t]\t"])
def test_headings(tmp_path: Path, heading: str) -> None:
    assert values_of(tmp_path, f"{heading}\nc = 1") == {"ctx_size": 1}


def test_names_may_hold_what_file_names_hold(tmp_path: Path) -> None:
    for name in ("user/repo:Q4_K_M", "with space", "ünïcode", "a;b#c", "a=b", "*x"):
        assert values_of(tmp_path, f"[{name}]\nc = 1", name) == {"ctx_size": 1}


def test_the_last_one_of_a_key_counts(tmp_path: Path) -> None:
    text = "[a]\nc = 1\nctx-size = 2\nLLAMA_ARG_CTX_SIZE = 3\nmmap = on\nno-mmap = on\nalias = x\nalias = y,z\n"
    assert values_of(tmp_path, text) == {"ctx_size": 3, "mmap": False, "aliases": ("y", "z")}


def test_files_without_anything(tmp_path: Path) -> None:
    for text in ("", "\ufeff", "\n\n", ";", "# x\r\n", "version = 1", "[*]"):
        assert presets_of(tmp_path, text).sections == {}
    assert presets_of(tmp_path, "[a]\n[b]").sections == {"a": {}, "b": {}}


def test_a_section_is_written_as_it_was_read(tmp_path: Path) -> None:
    text = "[a]\nctx-size = 5\nmmap = false\ntemp = 0.5\nalias = x,y\nload-on-startup = true\n"
    assert to_section("a", presets_of(tmp_path, text).sections["a"]) == text


def test_sampling_is_written_as_it_was_read(tmp_path: Path) -> None:
    text = (
        "[a]\nsamplers = top_k;temperature\ndry-sequence-breaker = \\n\ndry-sequence-breaker = :\nlogit-bias = 5-1.5\nlogit-bias = 6+2\n"
        "[b]\ndry-sequence-breaker = none\nsampling-seq = kt\n"
    )
    sections = presets_of(tmp_path, text).sections
    sampling = load_options(sections["a"]).sampling
    assert sampling["samplers"] == ("top_k", "temperature")
    assert sampling["dry_sequence_breakers"] == ("\n", ":")
    assert sampling["logit_bias"] == ((5, -1.5), (6, 2.0))
    assert to_section("a", sections["a"]) + to_section("b", sections["b"]) == text


def test_adapters_are_written_as_one_list(tmp_path: Path) -> None:
    for name in ("x.gguf", "y,z.gguf", "w # v.gguf"):
        (tmp_path / name).touch()
    text = '[a]\nlora = x.gguf,"y,z.gguf"\nlora-scaled = "w # v.gguf:0.25" ; quotes of the list itself\n'
    layer = presets_of(tmp_path, text).sections["a"]
    written = f"""[a]\nlora-scaled = '{tmp_path}/x.gguf:1,"{tmp_path}/y,z.gguf:1",{tmp_path}/w # v.gguf:0.25'\n"""
    assert to_section("a", layer) == written
    assert load_options(presets_of(tmp_path, to_section("a", layer)).sections["a"]) == load_options(layer)
    assert load_options(parse(to_arguments(layer.values()), {}).command_line) == load_options(layer)


@pytest.mark.parametrize("flag", [flag for flag in TABLE if flag.scope in (Scope.MODEL, Scope.SAMPLING) and flag.kind is Kind.SWITCH])
def test_every_switch_works_in_a_preset(tmp_path: Path, flag: Any) -> None:
    section = presets_of(tmp_path, f"[a]\n{flag.name} = off\n").sections["a"]
    assert section[flag.target].value is False


@pytest.mark.parametrize("flag", [flag for flag in TABLE if flag.scope is Scope.ROUTER], ids=lambda flag: flag.name)
def test_what_belongs_to_the_router_is_refused(tmp_path: Path, flag: Any) -> None:
    for name in [word.lstrip("-") for word in flag.names + flag.off_names] + ([flag.env] if flag.env else []):
        assert problems_of(tmp_path, f"[a]\n{name} = 1\n") == [
            f"presets.ini:2 [a]: {name} belongs to the router and cannot be set for a model"
        ]


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nctx-sise = 1", "presets.ini:2 [a]: unknown key ctx-sise, did you mean ctx-size?"),
        ("[a]\nctx-size = x", "presets.ini:2 [a] ctx-size = x: must be a whole number"),
        ("[a]\nctx-size = -1", "presets.ini:2 [a] ctx-size = -1: must be between 0 and"),
        ("[a]\nctx-size =", "presets.ini:2 [a] ctx-size = : must be a whole number"),
        ("[a]\nmmap = perhaps", "presets.ini:2 [a] mmap = perhaps: must be one of"),
        ("[a]\nport = 1", "presets.ini:2 [a]: port belongs to the router"),
        ("[a]\nLLAMA_API_KEY = 1", "presets.ini:2 [a]: LLAMA_API_KEY belongs to the router"),
        ("[a]\nmodels-dir = x", "models-dir belongs to the router"),
        ("[a]\ntools-runtime = x", "presets.ini:2 [a] tools-runtime = x: not possible here"),
        ("[a]\n\n# x\n-- = 1", "presets.ini:4 [a]: unknown key --"),
        ("ctx-size = 1", "presets.ini:1: ctx-size is before the first [section]"),
        ("[a]\nnonsense", "presets.ini:2 [a]: expected `key = value`, found 'nonsense'"),
        ("[a]\nno-mmap", "presets.ini:2 [a]: expected `key = value`, as in `no-mmap = true`"),
        ("[a]\n= 5", "presets.ini:2 [a]: expected `key = value`"),
        ("[*]\nalias = x", "presets.ini:2 [*]: alias is for one model"),
        ("[*]\nmodel = presets.ini", "presets.ini:2 [*]: model is for one model"),
        ('[a]\nchat-template-kwargs = {"a": b ; c}', "must be a JSON object; the comment `; c}` ends the value here"),
        ("[a\n", "presets.ini:1: not a section"),
        ("[]\n", "presets.ini:1: not a section"),
        ("[a] b\n", "presets.ini:1: not a section"),
        ("[a]\n[b]\n[a]", "presets.ini:3: section [a] appears twice, first in line 1"),
    ],
)
def test_mistakes_name_file_line_section_and_key(tmp_path: Path, text: str, message: str) -> None:
    [problem] = problems_of(tmp_path, text)
    assert message in problem


def test_all_mistakes_are_found_at_once(tmp_path: Path) -> None:
    text = "[a]\nctx-sise = 1\nc = 2\n[b\nc = x\n[a]\nt = y\n[c]\nt = 3\n"
    presets = read(tmp_path, text)
    assert presets.problems == ()
    lines = {name: [re.sub(r".*presets\.ini:(\d+).*", r"\1", fault) for fault in said] for name, said in presets.faults.items()}
    assert lines == {"a": ["2", "6", "7"], "[b": ["4", "5"]}
    assert presets.sections["a"]["ctx_size"].value == 2
    assert presets.sections["c"]["threads"].value == 3


def test_what_is_wrong_for_all_models_concerns_all(tmp_path: Path) -> None:
    presets = read(tmp_path, "c = 1\n[a]\nt = x\n[*]\nt = y\nport = 1\n")
    assert [problem.partition(".ini:")[2][:5] for problem in presets.problems] == ["1: c ", "5 [*]", "6 [*]"]
    assert list(presets.faults) == ["a"]
    said = first_of(presets.problems, "x.ini")
    assert said.endswith("put keys for all models below [*] (and 2 more: `fastrouter preset check x.ini` shows all)")
    assert first_of(presets.problems[:1], "x.ini") == presets.problems[0]


# ---------------------------------------------------------------- values and files


@pytest.mark.parametrize(
    "line",
    [
        "chat-template = {% if x %}{# note #}{% endif %}",
        'system-prompt = "a ; b',
        "system-prompt = 'a # b",
        "system-prompt = 'it''s # b'",
        "r = [ ; {",
    ],
)
def test_a_comment_that_was_hardly_meant(tmp_path: Path, line: str) -> None:
    [warning] = presets_of(tmp_path, f"[a]\n{line}\n").warnings
    assert "presets.ini:2 [a]" in warning
    assert "in quotes, or write it as JSON" in warning


@given(st.text(st.sampled_from("ab \"'{}[];#\\,:")), st.booleans())
def test_values_are_read_as_they_were_written(text: str, keeps_quotes: bool) -> None:
    written = write_value(text, keeps_quotes=keeps_quotes)
    can_be_written = read_value(written, keeps_quotes=keeps_quotes).text == text
    assert can_be_written or "\\" in text or keeps_quotes or ('"' in text and "'" in text)


def test_files_are_looked_for_in_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder of the preset file, in --models-dir, in the working directory; the same for every key that names files."""
    beside, models, here = tmp_path / "beside", tmp_path / "models", tmp_path / "here"
    for folder, names in ((beside, "a"), (models, "ab"), (here, "abc")):
        for name in names:
            (folder / "sub" / name).mkdir(parents=True)
            (folder / "sub" / f"{name}.txt").touch()
    monkeypatch.chdir(here)
    path = beside / "p.ini"
    keys = [flag for flag in TABLE if flag.kind in (Kind.PATH, Kind.FILES, Kind.SCALED_FILES) and flag.scope is not Scope.ROUTER]
    assert len(keys) > 6
    for flag in keys:
        scale = ":1" if flag.kind is Kind.SCALED_FILES else ""
        for name, folder in (("a", beside), ("b", models), ("c", here)):
            path.write_text(f"[x]\n{flag.name} = sub/{name}.txt{scale}\n")
            presets = read_presets(path, [str(models)])
            assert (presets.problems, presets.faults) == ((), {})
            assert str(folder / "sub" / f"{name}.txt") in to_section("x", presets.sections["x"])
        path.write_text(f"[x]\n{flag.name} = sub/d.txt{scale}\n")
        [[fault]] = read_presets(path, ["../models"]).faults.values()
        assert fault.startswith(f"{path}:2 [x] {flag.name} = sub/d.txt{scale}: there is no such file; looked for ")
        assert fault.endswith(f"{beside}/sub/d.txt, {models}/sub/d.txt and {here}/sub/d.txt")
    path.write_text("[x]\nslot-save-path = sub/b\n")
    assert read_presets(path, [str(models)]).sections["x"]["slot_save_path"].value == str(models / "sub" / "b")


def test_what_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 4"):
        read(tmp_path, b"[a]\n\xff")
    with pytest.raises(ConfigError, match="is a folder, not a file"):
        read_presets(tmp_path)
    with pytest.raises(ConfigError, match="is larger than 4 MiB"):
        read(tmp_path, b"#" * (5 << 20))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(["[", "]", "a", "=", ";", "#", " ", "\n", "\r", "ctx-size", "mmap", "1", "\0", "\x85", "ü", "*", "no-"])))
def test_any_text_ends_in_presets(tmp_path_factory: pytest.TempPathFactory, pieces: list[str]) -> None:
    text = "".join(pieces)
    presets = read(tmp_path_factory.getbasetemp(), text)
    lines = re.split(r"\r\n|\n|\r", text)
    assert all(0 < number <= len(lines) for number in presets.lines.values())


# ---------------------------------------------------------------- fastrouter preset check


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "none"))
    (tmp_path / "models").mkdir()
    make_llama(tmp_path / "models" / "tiny.gguf", chat_template="{% if tools %}{{ tools }}{% endif %}{{ messages }}")
    (tmp_path / "models" / "broken.gguf").write_bytes(b"GGUF")
    return tmp_path


def test_a_good_file_is_explained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "p.ini").write_text(
        "[*]\nctx-size = 4096\n[tiny]\ntemp = 0.2\nalias = small, mini\ntags = t\n[calm]\nbase = tiny\ntemp = 0\n"
        "[other]\nmodel = models/tiny.gguf\n"
    )
    assert run_preset(["preset", "check", "p.ini", "--models-dir", "models", "--threads", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "[tiny]",
        f"    model: {folder}/models/tiny.gguf",
        "    aliases: small mini",
        "    tags: t",
        "    flags: --ctx-size 4096 --temp 0.2 --threads 3",
        "    can: completion chat tools",
        "[calm]",
        "    variant of: tiny",
        "    tags: t",
        "    flags: --ctx-size 4096 --temp 0.2 --threads 3",
        "    over them: base=tiny temp=0.0",
        "    can: completion chat tools",
        "[other]",
        f"    model: {folder}/models/tiny.gguf",
        "    flags: --ctx-size 4096 --threads 3",
        "    can: completion chat tools",
        "3 sections, 0 problems",
    ]


def test_all_problems_of_a_file_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "p.ini").write_text(
        "[tiny]\nctx-sise = 1\nalias = x\n[gone]\nc = 1\n[file]\nmodel = models/none.gguf\nalias = x\n[broken]\nport = 1\n"
        "[tiny.gguf]\nc = 1\n[v]\nbase = nobody\n[w]\nbase = tiny\nc = 1\n[z]\nbase = w\n"
        "[t]\nmodel = models/tiny.gguf\nchat-template-file = none.jinja\n"
    )

    def tried(path: str) -> str:
        return f"{folder}/{path} and {folder}/models/{path}"

    assert run_preset(["preset", "check", "p.ini", "--models-dir", "models"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("problem: ")] == [
        "problem: p.ini:2 [tiny]: unknown key ctx-sise, did you mean ctx-size?",
        "problem: p.ini:4 [gone]: there is no such model; name its file with `model = PATH` or `hf-repo = user/repo:quant`",
        f"problem: p.ini:7 [file] model = models/none.gguf: there is no such file; looked for {tried('models/none.gguf')}",
        "problem: p.ini:8 [file]: the alias x of file already means tiny; choose another one",
        f"problem: p.ini:9 [broken]: {folder}/models/broken.gguf: the file ends at byte 4, inside the version at byte 4; "
        "get another copy of the file, or remove it",
        "problem: p.ini:10 [broken]: port belongs to the router and cannot be set for a model",
        "problem: p.ini:14 [v] base = nobody: there is no such model",
        "problem: p.ini:17 [w] ctx-size: a variant shares its base's process, so set this in the base",
        "problem: p.ini:19 [z] base: w cannot be used "
        "(p.ini:17 [w] ctx-size: a variant shares its base's process, so set this in the base)",
        f"problem: p.ini:22 [t] chat-template-file = none.jinja: there is no such file; looked for {tried('none.jinja')}",
    ]
    assert lines[-1] == "9 sections, 10 problems"


def test_templates_are_parsed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.jinja").write_text("{% if x %}")
    text = "[tiny]\nchat-template = {% if %}\n[file]\nmodel = models/tiny.gguf\nchat-template-file = bad.jinja\n"
    (folder / "p.ini").write_text(text + "[v]\nbase = file\nchat-template = {{ messages }}\n")
    assert run_preset(["preset", "check", "p.ini", "--models-dir", "models"]) == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: ")]
    assert [line.partition(": chat template")[0] for line in problems] == ["problem: p.ini:2 [tiny]", "problem: p.ini:5 [file]"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "usage: fastrouter preset check FILE"),
        (["chek", "p.ini"], 2, "usage:"),
        (["check"], 2, "usage:"),
        (["check", "--help"], 0, "usage:"),
        (["check", "no.ini"], 1, "--models-preset no.ini: there is no such file"),
        (["check", "p.ini", "--models-dir", "none"], 1, "--models-dir none: there is no such folder"),
        (["check", "p.ini", "--nonsense"], 1, "unknown flag --nonsense"),
    ],
)
def test_what_the_verb_says(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str) -> None:
    (folder / "p.ini").write_text("[tiny]\n")
    assert run_preset(["preset", *words]) == code
    captured = capsys.readouterr()
    assert said in captured.out + captured.err
