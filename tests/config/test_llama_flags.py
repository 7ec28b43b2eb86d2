"""Flags that llama.cpp obeys itself: what they are read as, and what is said about mistakes."""

import logging
import re
from typing import Any

import pytest

from fastrouter.config.config import parse
from fastrouter.config.forms import load_options, to_arguments, to_section
from fastrouter.config.presets import read_presets
from fastrouter.config.ready_made import READY_MADE
from fastrouter.errors import ConfigError
from fastrouter.options.load import LoadOptions


def options(*argv: str) -> LoadOptions:
    return load_options(parse(argv, {}).command_line)


READ = [
    ("--rope-scaling yarn", "rope_scaling", "yarn"),
    ("--rope-scale 4", "rope_scale", 4.0),
    ("--rope-freq-base 1e6", "rope_freq_base", 1e6),
    ("--rope-freq-scale 0.25", "rope_freq_scale", 0.25),
    ("--yarn-orig-ctx 2048", "yarn_orig_ctx", 2048),
    ("--yarn-ext-factor 0.5", "yarn_ext_factor", 0.5),
    ("--yarn-attn-factor 1.5", "yarn_attn_factor", 1.5),
    ("--yarn-beta-slow 1", "yarn_beta_slow", 1.0),
    ("--yarn-beta-fast 32", "yarn_beta_fast", 32.0),
    ("--check-tensors", "check_tensors", True),
    ("-lzm off", "lazy_mode", "off"),
    ("--rpc a:1,10.0.0.2:50052,a:1", "rpc", ["a:1", "10.0.0.2:50052"]),
    ("-dev none", "devices", ["none"]),
    ("-dev RPC0,RPC1", "devices", ["RPC0", "RPC1"]),
    ("-sm row", "split_mode", "row"),
    ("-ts 3,1", "tensor_split", [3.0, 1.0]),
    ("-ts 3/0.5", "tensor_split", [3.0, 0.5]),
    ("-mg 1", "main_gpu", 1),
    ("-ot blk\\.0\\.=CPU,exps=CPU", "override_tensor", [["blk\\.0\\.", "CPU"], ["exps", "CPU"]]),
    ("-ot a=CPU -ot b=CPU", "override_tensor", [["a", "CPU"], ["b", "CPU"]]),
    ("-cmoe", "cpu_moe", True),
    ("-ncmoe 3", "n_cpu_moe", 3),
    ("-ncffn 2", "n_cpu_ffn", 2),
    ("-nkvo", "kv_offload", False),
    ("--no-op-offload", "op_offload", False),
    ("--no-repack", "repack", False),
    ("--no-host", "no_host", True),
    ("--numa isolate", "numa", "isolate"),
    ("--override-kv a.b=int:-3,c=bool:true", "override_kv", [["a.b", "int", -3], ["c", "bool", True]]),
    ("--override-kv a=float:0.5 --override-kv b=str:x:y=z", "override_kv", [["a", "float", 0.5], ["b", "str", "x:y=z"]]),
    ('--override-kv "a=str:x,y"', "override_kv", [["a", "str", "x,y"]]),
    ("--control-vector v.gguf --control-vector-scaled w.gguf:0.5", "control_vectors", [["v.gguf", 1.0], ["w.gguf", 0.5]]),
    ("--control-vector-layer-range 2 5", "control_vector_layers", [2, 5]),
    ("--control-vector-layer-range=2,5", "control_vector_layers", [2, 5]),
    ("-otd a=CPU", "speculation", {"draft_override_tensor": [["a", "CPU"]]}),
    ("-devd none -ncmoed 2", "speculation", {"draft_devices": ["none"], "draft_n_cpu_moe": 2}),
    ("-Cd f --prio-draft 1 -Cbd 3", "speculation", {"draft_cpu_mask": "f", "draft_prio": 1, "draft_cpu_mask_batch": "3"}),
]


@pytest.mark.parametrize(("argv", "field", "value"), READ)
def test_values(argv: str, field: str, value: Any) -> None:
    assert getattr(options(*argv.split()), field) == value


@pytest.mark.parametrize("argv", [argv for argv, _, _ in READ])
def test_they_say_the_same_when_written_again(argv: str) -> None:
    layer = parse(argv.split(), {}).command_line
    assert load_options(parse(to_arguments(layer.values()), {}).command_line) == load_options(layer)


def test_a_preset_file_has_the_same_keys(tmp_path: Any) -> None:
    layer = parse(
        [
            "-ot",
            "a=CPU",
            "--override-kv",
            '"a=str:x,y",b=int:1',
            "--rope-scale",
            "2",
            "--control-vector-layer-range",
            "1",
            "3",
            "-ts",
            "1,2",
        ],
        {},
    ).command_line
    file = tmp_path / "presets.ini"
    file.write_text(to_section("m", layer))
    presets = read_presets(file)
    assert not presets.problems
    assert load_options(presets.sections["m"]) == load_options(layer)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--override-kv a", "--override-kv a: must be KEY=TYPE:VALUE, comma-separated; TYPE is int, float, bool or str"),
        ("--override-kv a=long:1", "must be KEY=TYPE:VALUE"),
        ("--override-kv a=int:1.5", "must be KEY=TYPE:VALUE"),
        (f"--override-kv a=int:{1 << 63}", "must be KEY=TYPE:VALUE"),
        ("--override-kv a=bool:1", "must be KEY=TYPE:VALUE"),
        (f"--override-kv a=str:{'x' * 128}", "must be KEY=TYPE:VALUE"),
        (f"--override-kv {'k' * 128}=int:1", "must be KEY=TYPE:VALUE"),
        ('--override-kv "a=int:1', "must be KEY=TYPE:VALUE"),
        ("-ot a", "-ot a: must be PATTERN=BUFFER, comma-separated"),
        ("-ot =CPU", "must be PATTERN=BUFFER"),
        ("-ts 0,0", "must be numbers of 0 or more"),
        ("-ts 1,x", "must be numbers of 0 or more"),
        ("-ts 1,-1", "must be numbers of 0 or more"),
        ("-dev none,RPC0", "must be names of devices, comma-separated, or none"),
        ("--control-vector-layer-range 5", "must be two layers, the first and the last, as 4 20"),
        ("--control-vector-layer-range 5 4", "must be two layers"),
        ("--rope-scaling longrope", "must be one of none, linear, yarn"),
        ("--numa x", "must be one of distribute, isolate, numactl"),
        ("--draft-max 3", "--draft-max: llama-server has removed this flag; use --spec-draft-n-max or --spec-ngram-mod-n-max"),
    ],
)
def test_mistakes(argv: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        options(*argv.split())


def test_flags_without_effect_say_what_happens_instead(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert options("--threads-http", "3", "-dt", "0.1") == options()
    assert [record.getMessage() for record in caplog.records] == [
        "--threads-http has no effect: one thread serves all connections",
        "--defrag-thold has no effect: llama.cpp does not need it any more",
    ]


@pytest.mark.parametrize("name", READY_MADE)
def test_ready_made_models(name: str) -> None:
    config = parse([name, "-ub", "7"], {})
    assert config.hf_repo == READY_MADE[name]["--hf-repo"]
    assert config.port == int(READY_MADE[name]["--port"])
    assert load_options(config.command_line).ubatch_size == 7, "other flags win"
    assert load_options(parse(["-ub", "7", name], {}).command_line).ubatch_size == 7


def test_the_draft_model_has_a_place_of_its_own() -> None:
    asked = "-dev A -ot x=CPU -cmoe --override-kv a=int:1 -C f --prio 2 -devd B -otd y=CPU -ncmoed 2 -Cd 3 --rope-scale 2"
    of_draft = options(*asked.split()).of_draft
    assert (of_draft.devices, of_draft.override_tensor, of_draft.cpu_moe, of_draft.n_cpu_moe) == (["B"], [["y", "CPU"]], False, 2)
    assert (of_draft.cpu_mask, of_draft.prio, of_draft.override_kv, of_draft.rope_scale) == ("3", 2, [], 2.0)
    assert options("-dev", "A").of_draft.devices == ["A"]
