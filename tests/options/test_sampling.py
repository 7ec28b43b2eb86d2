"""The sampling table: each row is a flag, a preset key, a request field and a key of GGUF files, with one range, and is shown."""

import re
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import StartRouter
from sampling_examples import EXAMPLES, VALUES, as_json

from fastrouter._core import SAMPLER_SETTINGS, LogitSampler
from fastrouter.api.requests.fields import read_completion
from fastrouter.config.config import parse
from fastrouter.config.forms import load_options
from fastrouter.config.layers import merge
from fastrouter.config.presets import read_presets
from fastrouter.config.values import BY_NAME
from fastrouter.errors import ConfigError, InvalidRequest
from fastrouter.options.limits import FLOAT_MAX
from fastrouter.options.samplers import OF_FILES, defaults_of
from fastrouter.options.sampling import SAMPLING, Outside, SamplingField, Shape, defaults

ROWS = [pytest.param(field, id=field.name) for field in SAMPLING]
RANGES = [pytest.param(field, id=field.name) for field in SAMPLING if field.shape in (Shape.NUMBER, Shape.WHOLE)]
DOCS = Path(__file__).parent.parent.parent / "docs" / "requests.md"


def asked(**fields: Any) -> dict[str, Any]:
    return read_completion({"prompt": "x", **fields}).generates[0].sampling


def configured(*argv: str, **environ: str) -> Any:
    config = parse(argv, environ)
    return as_json(load_options(merge(config.environment, config.command_line)).sampling)


def preset(tmp_path: Path, key: str, text: str) -> Any:
    presets = read_presets(tmp_path / "p.ini", text=f"[a]\n{key} = {text}\n")
    assert (presets.problems, presets.faults) == ((), {})
    return as_json(load_options(presets.sections["a"]).sampling)


def in_file(field: SamplingField, value: Any) -> dict[str, Any]:
    return defaults_of({OF_FILES + field.file_key: value}.get)


# ---------------------------------------------------------------- each row is reachable


@pytest.mark.parametrize("field", [row for row in ROWS if cast(SamplingField, row.values[0]).flag])
def test_a_flag_a_preset_key_and_a_variable(field: SamplingField, tmp_path: Path) -> None:
    value, text = EXAMPLES[field.name]
    for name in field.flag.split():
        argv = [name] if field.shape is Shape.SWITCH else [name, text]
        assert configured(*argv) == preset(tmp_path, name.lstrip("-"), text) == {field.name: value}
    if field.env:
        assert configured(**{f"LLAMA_ARG_{field.env}": text}) == {field.name: value}
    flag, _ = BY_NAME[field.flag.split()[-1]]
    if field.shape in (Shape.NUMBER, Shape.WHOLE, Shape.SEED):
        assert f"({field.default:g}" in flag.help


@pytest.mark.parametrize("field", [row for row in ROWS if cast(SamplingField, row.values[0]).file_key])
def test_a_file(field: SamplingField) -> None:
    value, text = EXAMPLES[field.name]
    assert in_file(field, text) == {field.name: value}
    for bad in (None, "", [], "x;y", float("nan"), float("inf"), {}):
        assert in_file(field, bad) == {}


def test_what_llama_server_has_no_name_for() -> None:
    """These lists are llama-server's. A row without a name is forgotten, unless it is here."""
    assert {field.name for field in SAMPLING if not field.flag} == {"min_keep", "n_probs", "post_sampling_probs"}
    assert {field.name for field in SAMPLING if field.env} == {
        "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty",
    }  # fmt: skip
    assert {field.file_key for field in SAMPLING} - {""} == {
        "temp", "top_k", "top_p", "min_p", "xtc_probability", "xtc_threshold", "penalty_last_n", "penalty_repeat", "mirostat",
        "mirostat_tau", "mirostat_eta", "sequence",
    }  # fmt: skip


def test_the_core_has_its_part_of_the_table() -> None:
    names = {field.name for field in SAMPLING}
    assert len(names) == len(SAMPLING)
    of_the_worker = {
        "seed", "samplers", "dry_sequence_breakers", "logit_bias", "ignore_eos", "n_probs", "post_sampling_probs",
    }  # fmt: skip
    assert names - set(SAMPLER_SETTINGS) == of_the_worker
    assert set(SAMPLER_SETTINGS) <= names
    for name in SAMPLER_SETTINGS:
        rest = {other: value for other, value in defaults().items() if other != name}
        with pytest.raises(ValueError, match=f"'{name}'"):
            LogitSampler(10, rest, seed=1, bias=[])


def test_the_document_names_each_row() -> None:
    text = re.sub(r"^```.*?^```$", "", DOCS.read_text(), flags=re.S | re.M)
    words = set(re.findall(r"`([^`]+)`", text))
    assert {field.name for field in SAMPLING} - words == set()
    assert {field.file_key for field in SAMPLING if field.file_key} - words == set()


# ---------------------------------------------------------------- one range


@pytest.mark.parametrize("field", RANGES)
def test_the_ends_of_a_range_are_inside(field: SamplingField) -> None:
    for end in (field.low, field.high):
        assert asked(**{field.name: end}) == {field.name: end}
        if field.flag:
            assert configured(f"{field.flag.split()[-1]}={end}") == {field.name: end}
        if field.file_key:
            assert in_file(field, end) == {field.name: end}


@pytest.mark.parametrize("field", RANGES)
def test_a_request_outside_of_a_range(field: SamplingField) -> None:
    for value, end in ((field.low - 1, field.low), (2 * field.high + 1, field.high)):
        if field.outside is Outside.CLAMPED:
            assert asked(**{field.name: value}) == {field.name: end}
        elif field.outside is Outside.ABSENT_BELOW and value < field.low:
            assert asked(**{field.name: value}) == {}
        else:
            with pytest.raises(InvalidRequest, match=f"field '{field.name}' must be between .*, but is "):
                asked(**{field.name: value})
    for bad in ("7", True, [], {}):
        with pytest.raises(InvalidRequest, match=f"field '{field.name}' must be a (whole )?number"):
            asked(**{field.name: bad})


@pytest.mark.parametrize("field", [row for row in RANGES if cast(SamplingField, row.values[0]).flag])
def test_a_flag_and_a_file_outside_of_a_range(field: SamplingField) -> None:
    name = field.flag.split()[-1]
    low = field.low if field.flag_low is None else field.flag_low
    for value in (low - 1, 2 * field.high + 1):
        with pytest.raises(ConfigError) as caught:
            configured(f"{name}={value}")
        is_open = field.high == FLOAT_MAX and value < low
        limits = f"{low:g} or more" if is_open else f"between {low:g} and {field.high:.15g}"
        assert caught.value.message == f"{name} {value}: must be {limits}"
        assert not field.file_key or in_file(field, value) == {}


def test_top_k_of_a_flag_may_be_minus_one() -> None:
    assert configured("--top-k", "-1") == {"top_k": -1}  # off, as 0


# ---------------------------------------------------------------- through the whole program


def test_generation_settings(router: StartRouter, models: Path, tmp_path: Path) -> None:
    keys = [(field.flag.split()[-1].lstrip("-"), EXAMPLES[field.name].text) for field in SAMPLING if field.flag]
    (tmp_path / "p.ini").write_text(
        f"[plain]\nmodel = {models}/tiny0.gguf\n[keys]\nbase = plain\n" + "".join(f"{key} = {text}\n" for key, text in keys)
    )
    server = router("--models-preset", str(tmp_path / "p.ini"))

    def settings(model: str, **fields: Any) -> dict[str, Any]:
        answer = server.post("/completion", {"model": model, "prompt": "we", "n_predict": 1, **fields}).json
        found: dict[str, Any] = {name: answer["generation_settings"][name] for name in VALUES}
        found["logit_bias"] = [[entry["token"], entry["bias"]] for entry in found["logit_bias"][:1]]
        return found

    plain = settings("plain")
    assert {**plain, "seed": -1} == defaults()
    assert settings("plain", **VALUES) == VALUES
    assert settings("keys") == {**VALUES, **{field.name: field.default for field in SAMPLING if not field.flag}}
