"""Flags, environment, presets: which one wins, and the message for a mistake."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastrouter.config.config import parse
from fastrouter.config.forms import load_options, to_arguments
from fastrouter.config.layers import merge
from fastrouter.config.table import TABLE
from fastrouter.config.values import ALL_LAYERS, BY_ENV, BY_NAME
from fastrouter.errors import ConfigError


def options(*argv: str, **environ: str) -> Any:
    config = parse(argv, environ)
    return load_options(merge(config.environment, config.command_line))


def test_defaults_are_those_of_llama_server() -> None:
    config = parse([], {"HOME": "/home/someone"})
    assert (config.hosts, config.port, config.models_max, config.models_autoload) == (("127.0.0.1",), 8080, 4, True)
    assert (config.api_keys, config.insecure, config.slots_endpoint, config.props_endpoint) == ((), False, True, False)
    assert [str(path) for path in config.cache_dirs] == ["/home/someone/.cache/huggingface/hub", "/home/someone/.cache/llama.cpp"]
    assert options() == load_options({})


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--port", "0"], "port", 0),
        (["--port=81"], "port", 81),
        (["--models_max", "2"], "models_max", 2),
        (["--no-models-autoload"], "models_autoload", False),
        (["--no-slots"], "slots_endpoint", False),
        (["-to", "5"], "timeout_s", 5.0),
        (["--api-key", "a, b", "--api-key", "c"], "api_keys", ("a", "b", "c")),
        (["--api-prefix", "/x/"], "api_prefix", "/x"),
        (["--api-prefix", ""], "api_prefix", ""),
        (["-lv", "5"], "verbose", True),
        (["-v"], "verbose", True),
        (["-v", "-lv", "1"], "verbosity", 5),
        (["-lv", "2"], "verbosity", 2),
        (["-lv", "3"], "verbose", False),
        ([], "verbosity", 3),
        (["--log-jsonl"], "log_format", "json"),
        (["--no-log-jsonl"], "log_format", "text"),
        (["--log-jsonl", "--log-format", "text"], "log_format", "text"),
        (["--log-colors", "off"], "log_colors", "off"),
        (["--no-log-prefix"], "log_prefix", False),
        (["--no-log-timestamps"], "log_timestamps", False),
        (["--log-disable"], "log_disable", True),
        (["-a", "a,b", "--tags", "t"], "aliases", ("a", "b")),
        (["--insecure"], "insecure", True),
        (["--no-cors-credentials"], "cors_credentials", False),
        (["--port", "1", "--port", "2"], "port", 2),
    ],
)
def test_router_flags(argv: list[str], field: str, value: Any) -> None:
    assert getattr(parse(argv, {}), field) == value


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["-c", "4096"], "ctx_size", 4096),
        (["-ngl", "auto"], "gpu_layers", -1),
        (["-ngl", "all"], "gpu_layers", ALL_LAYERS),
        (["--n-gpu-layers", "7"], "gpu_layers", 7),
        (["-fa", "1"], "flash_attn", "on"),
        (["-fa", "auto"], "flash_attn", "auto"),
        (["--no-mmap"], "mmap", False),
        (["-lm", "mmap+mlock"], "mlock", True),
        (["-lm", "none"], "mmap", False),
        (["-lm", "dio"], "mmap", False),
        (["-lm", "dio"], "direct_io", True),
        (["-lm", "dio", "-lm", "auto"], "direct_io", False),
        (["--direct-io"], "direct_io", True),
        (["--direct-io"], "mmap", False),
        (["--no-direct-io"], "mmap", True),
        (["--mlock"], "mlock", True),
        (["-no-kvu"], "kv_unified", False),
        (["-nocb"], "cont_batching", False),
        (["--embeddings"], "embedding", True),
        (["--rerank"], "reranking", True),
        (["--embd-normalize", "-1"], "embd_normalize", -1),
        (["--no-jinja"], "jinja", False),
        (["--chat-template-kwargs", '{"a": 1}'], "chat_template_kwargs", {"a": 1}),
        (["--temp", "0.25", "--seed", "-1"], "sampling", {"temperature": 0.25, "seed": -1}),
        (["--ignore-eos"], "sampling", {"ignore_eos": True}),
        (["-n", "-1"], "n_predict", -1),
        (["-ctk", "q8_0"], "cache_type_k", "q8_0"),
        (["--lora", "a.gguf, b:1.gguf", "--lora", "c"], "lora", [["a.gguf", 1.0], ["b:1.gguf", 1.0], ["c", 1.0]]),
        (["--lora-scaled", "a:0.5,d:e:-2", "--lora", '"x,y"'], "lora", [["a", 0.5], ["d:e", -2.0], ["x,y", 1.0]]),
        (["--lora-init-without-apply"], "lora_init_without_apply", True),
        (["-cram", "100"], "cache_ram_mib", 100),
        (["--cache-ram", "-1"], "cache_ram_mib", -1),
        (["--cache-idle-slots"], "cache_idle_slots", True),
        (["--cache-reuse", "256"], "cache_reuse", 256),
        (["--no-cache-prompt"], "cache_prompt", False),
        (["-sps", "0"], "slot_prompt_similarity", 0.0),
        (["--swa-full"], "swa_full", True),
        (["--swa-checkpoints", "3"], "ctx_checkpoints", 3),
        (["-cms", "0"], "checkpoint_min_step", 0),
        (["--slot-save-path", "/tmp/."], "slot_save_path", "/tmp"),
    ],
)
def test_model_flags(argv: list[str], field: str, value: Any) -> None:
    assert getattr(options(*argv), field) == value


def test_what_is_done_anyway_is_accepted() -> None:
    argv = "--no-context-shift --no-cache-idle-slots --no-ui --webui --no-perf --cache-reuse 0 --spec-type none"
    assert options(*argv.split()) == load_options({})


@pytest.mark.parametrize(
    ("argv", "notice"),
    [
        (["--perf"], "--perf has no effect: the times of loads and answers are always measured"),
        (["-lcs", "x"], "--lookup-cache-static has no effect: ngram-cache looks into the conversation's own tokens only"),
        (["-bs"], "--backend-sampling has no effect: tokens are sampled on the CPU"),
        (
            ["--spec-draft-sampling", "probabilistic"],
            "--spec-draft-sampling has no effect: the draft model's guess is its most likely token",
        ),
        (["--no-perf", "--spec-draft-sampling", "greedy", "--no-spec-draft-backend-sampling"], ""),
    ],
)
def test_what_has_no_effect_is_said_once(argv: list[str], notice: str, caplog: pytest.LogCaptureFixture) -> None:
    assert options(*argv) == load_options({})
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == bool(notice)
    assert "".join(found).startswith(notice)


def test_escapes_in_texts() -> None:
    asked = ("-r", "a\\nb", "--dry-sequence-breaker", "\\t")
    for flags, stop, breakers in (((), "a\nb", "\t"), (("--no-escape",), "a\\nb", "\\t")):
        found = options(*asked, *flags)
        assert (found.stop, found.sampling["dry_sequence_breakers"]) == ([stop], (breakers,))


def test_what_says_that_nothing_may_become_smaller() -> None:
    assert [options(*argv).has_full_context for argv in ((), ("-c", "0"), ("-c", "4096"))] == [False, True, False]
    assert [options(*argv).keeps_cache_types for argv in ((), ("-ctk", "f16"), ("-ctv", "q8_0"))] == [False, True, True]
    assert options("-fitt", "10,20", "-fitc", "512", "--fit", "off").fit_target == [10, 20]


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        (["--prt", "1"], {}, "unknown flag --prt, did you mean --port?"),
        (["--load-on-startup"], {}, "unknown flag --load-on-startup"),
        (["load"], {}, "unexpected argument 'load'"),
        (["x.gguf"], {}, "did you mean --model x.gguf?"),
        (["--port"], {}, "--port: a value is missing"),
        (["--port", "-5"], {}, "--port -5: must be between 0 and 65535"),
        (["--port", "1_0"], {}, "--port 1_0: must be a whole number"),
        (["-c", "abc"], {}, "-c abc: must be a whole number"),
        (["--temp", "nan"], {}, "--temp nan: must be a number"),
        (["--top-p", "1.5"], {}, "--top-p 1.5: must be between 0 and 1"),
        (["-ctk", "q9"], {}, "-ctk q9: must be one of f32"),
        (["-fa", "maybe"], {}, "-fa maybe: must be on, off or auto"),
        (["--mmap=1"], {}, "--mmap takes no value"),
        (["--chat-template-kwargs", "[1]"], {}, "must be a JSON object"),
        (["--chat-template-file", "/nowhere/t"], {}, "--chat-template-file /nowhere/t: there is no such file"),
        (["--rpc", "x"], {}, "--rpc x: must be HOST:PORT of servers"),
        (["--slot-save-path", "/nowhere"], {}, "--slot-save-path /nowhere: must be an existing folder"),
        (["-cram", "-2"], {}, "-cram -2: must be between -1 and"),
        (["--tools-runtime", "ssh:x"], {}, "--tools-runtime: not possible here: tools run on this machine"),
        (["--spec-synth-len", "3"], {}, "--spec-synth-len: not possible here: it makes up which guesses are right"),
        (["--fit", "perhaps"], {}, "--fit perhaps: must be on, off or auto"),
        (["--fit-target", "1,x"], {}, "--fit-target 1,x: must be whole numbers of 0 or more, comma-separated"),
        (["-m", "x", "-mu", "y", "-dr", "z"], {}, "--model-url and --docker-repo all name the default model; give one of them"),
        (["--lora", ""], {}, "--lora : must be a comma-separated list of files"),
        (["--lora", "a,,b"], {}, "--lora a,,b: must be a comma-separated list of files"),
        (["--lora", "\udcff"], {}, "must be a comma-separated list of files"),
        (["--lora", '"a'], {}, "must be a comma-separated list of files"),
        (["--lora-scaled", "a.gguf"], {}, "--lora-scaled a.gguf: must be a comma-separated list of FILE:SCALE"),
        (["--lora-scaled", "a:x"], {}, "must be a comma-separated list of FILE:SCALE"),
        (["--lora-scaled", "a:nan"], {}, "must be a comma-separated list of FILE:SCALE"),
        (["--lora-scaled", "a:1001"], {}, "must be a comma-separated list of FILE:SCALE"),
        (["--lora-scaled", ":1"], {}, "must be a comma-separated list of FILE:SCALE"),
        (["--mmproj", "x"], {}, "--mmproj x: it belongs to one model, so --model is missing"),
        (["--media-path", "/nowhere"], {}, "--media-path /nowhere: there is no such folder"),
        (["--image-max-tokens", "0"], {}, "--image-max-tokens 0"),
        (["--api-key", ","], {}, "--api-key is empty"),
        (["--api-prefix", "x"], {}, "--api-prefix x: must be a path"),
        (["--host", ","], {}, "--host is empty"),
        (["-m", "/nowhere/x.gguf"], {}, "--model /nowhere/x.gguf: there is no such file"),
        (["-hff", "x"], {}, "--hf-repo is missing"),
        (["-m", "a", "-hf", "b/c"], {}, "both name the default model"),
        (["--models-dir", "/nowhere"], {}, "--models-dir /nowhere: there is no such folder"),
        (["--models-dir", __file__], {}, "test_config.py: is a file, not a folder"),
        (["-m", "nowhere.gguf"], {}, f"--model nowhere.gguf: there is no such file; looked for {os.getcwd()}/nowhere.gguf"),
        (["-m", "/"], {}, "--model /: is a folder, not a file; a folder of models is named with --models-dir"),
        (["--models-preset", "/"], {}, "--models-preset /: is a folder, not a file"),
        (["--models-preset", "/nowhere"], {}, "--models-preset /nowhere: there is no such file"),
        ([], {"LLAMA_ARG_PORT": "x"}, "LLAMA_ARG_PORT=x: must be a whole number"),
        ([], {"LLAMA_ARG_MMAP": "perhaps"}, "LLAMA_ARG_MMAP=perhaps: must be one of 1, true"),
        ([], {"LLAMA_ARG_CACHE_RAM": "5x"}, "LLAMA_ARG_CACHE_RAM=5x: must be a whole number"),
        ([], {"LLAMA_ARG_SSL_KEY_FILE": "k"}, "--ssl-key-file and --ssl-cert-file belong together"),
        ([], {"LLAMA_ARG_RPC": "9"}, "LLAMA_ARG_RPC=9: must be HOST:PORT of servers"),
    ],
)
def test_mistakes_are_named(argv: list[str], environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(argv, environ)


@pytest.mark.parametrize(
    ("environ", "mmap"),
    [
        ({"LLAMA_ARG_MMAP": "off"}, False),
        ({"LLAMA_ARG_MMAP": "Disabled"}, False),
        ({"LLAMA_ARG_NO_MMAP": "1"}, False),
        ({"LLAMA_ARG_NO_MMAP": "false"}, True),
        ({"LLAMA_ARG_MMAP": "enabled"}, True),
        ({"LLAMA_ARG_MMAP": ""}, True),
    ],
)
def test_switches_in_the_environment(environ: dict[str, str], mmap: bool) -> None:
    assert options(**environ).mmap is mmap


def test_command_line_wins_over_environment() -> None:
    config = parse(
        ["--port", "1", "-c", "3"], {"LLAMA_ARG_PORT": "2", "LLAMA_ARG_HOST": "::1", "LLAMA_ARG_CTX_SIZE": "4", "LLAMA_API_KEY": "k"}
    )
    assert (config.port, config.hosts, config.api_keys) == (1, ("::1",), ("k",))
    assert config.command_line["ctx_size"].value == 3
    assert config.environment["ctx_size"].value == 4
    assert "port" not in config.command_line


def test_secrets_are_not_in_messages() -> None:
    with pytest.raises(ConfigError) as caught:
        parse([], {"LLAMA_API_KEY": " , "})
    assert " , " not in caught.value.message


def test_key_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# mine\n\none\ntwo \n")
    config = parse(["--api-key-file", str(path), "--api-key", "zero"], {})
    assert (config.api_keys, config.api_key_file) == (("zero",), path)  # test_api_keys.py tests how it is read


@pytest.mark.parametrize(
    ("environ", "folders"),
    [
        ({"LLAMA_CACHE": "/l", "HF_HOME": "/h", "HOME": "/u"}, ["/l"]),
        ({"HF_HUB_CACHE": "/b", "HF_HOME": "/h", "HOME": "/u"}, ["/b", "/u/.cache/llama.cpp"]),
        ({"HF_HOME": "/h"}, ["/h/hub"]),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/u"}, ["/x/huggingface/hub", "/x/llama.cpp"]),
        ({}, []),
    ],
)
def test_cache_folders(environ: dict[str, str], folders: list[str]) -> None:
    assert [str(path) for path in parse([], environ).cache_dirs] == folders


def test_help_and_version_end_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--help"], ["-c", "1", "-h"], ["--version"]):
        with pytest.raises(SystemExit) as caught:
            parse(argv, {})
        assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("--models-dir", "LLAMA_ARG_CTX_SIZE", "Not possible here", "--lora", "fastrouter 0."))


def test_the_table_has_no_name_twice() -> None:
    names = [name for flag in TABLE for name in flag.names + flag.off_names]
    assert len(names) == len(set(names)) == len(BY_NAME)
    assert len(TABLE) > 250
    assert {"LLAMA_ARG_NO_MMAP", "LLAMA_API_KEY", "LLAMA_ARG_HF_REPO"} <= set(BY_ENV)


def test_arguments_say_the_same_when_read_again() -> None:
    argv = [
        "-c",
        "5",
        "--no-mmap",
        "--mlock",
        "--temp",
        "0.5",
        "-ngl",
        "all",
        "--chat-template-kwargs",
        '{"a": "ü"}',
        "-fa",
        "off",
        "-a",
        "x,y",
    ]
    layer = parse(argv, {}).command_line
    assert load_options(parse(to_arguments(layer.values()), {}).command_line) == load_options(layer)


SAMPLING = [
    (["--samplers", "top_k;temp;penalties"], {"samplers": ("top_k", "temperature", "penalties")}),
    (["--sampler-seq", "kt"], {"samplers": ("top_k", "temperature")}),
    (["--mirostat", "2", "--mirostat-lr", "0.2", "--mirostat-ent", "4"], {"mirostat": 2, "mirostat_eta": 0.2, "mirostat_tau": 4.0}),
    (["--top-nsigma", "1.5", "--typical", "0.9"], {"top_n_sigma": 1.5, "typical_p": 0.9}),
    (["--xtc-probability", "0.5", "--xtc-threshold", "0.2"], {"xtc_probability": 0.5, "xtc_threshold": 0.2}),
    (["--dynatemp-range", "0.5", "--dynatemp-exp", "2"], {"dynatemp_range": 0.5, "dynatemp_exponent": 2.0}),
    (
        ["--dry-multiplier", "0.8", "--dry-base", "2", "--dry-allowed-length", "3", "--dry-penalty-last-n", "-1"],
        {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 3, "dry_penalty_last_n": -1},
    ),
    (["--dry-sequence-breaker", "\\n", "--dry-sequence-breaker", "a\\\\nb"], {"dry_sequence_breakers": ("\n", "a\\nb")}),
    (["--dry-sequence-breaker", "x", "--dry-sequence-breaker", "none"], {"dry_sequence_breakers": ()}),
    (["-l", "15043-1", "--logit-bias", "7+2.5"], {"logit_bias": ((15043, -1.0), (7, 2.5))}),
]


@pytest.mark.parametrize(("argv", "sampling"), SAMPLING)
def test_sampling(argv: list[str], sampling: dict[str, Any]) -> None:
    layer = parse(argv, {}).command_line
    assert load_options(layer).sampling == sampling
    assert load_options(parse(to_arguments(layer.values()), {}).command_line) == load_options(layer)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--samplers", "top_k;top_q"], "--samplers top_k;top_q: must be one of penalties, dry, .* but 'top_q' is not one of them"),
        (["--sampler-seq", "kz"], "--sampler-seq kz: must be one of .* but 'z' is not one of them"),
        (["--samplers", "infill"], "--samplers infill: .*infill is not supported yet"),
        (["--mirostat", "3"], "--mirostat 3: must be between 0 and 2"),
        (["-l", "x+1"], "-l x\\+1: must be a token id and a signed bias"),
        (["-l", "5+nan"], "must be a token id and a signed bias"),
    ],
)
def test_what_is_wrong_with_sampling(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(argv, {})


def test_parse_is_quick_to_import() -> None:
    code = (
        "import sys, fastrouter.config.config; print([name for name in ('asyncio', 'difflib', 'numpy', 'argparse') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ---------------------------------------------------------------- the hub


def test_the_hub_and_its_token() -> None:
    assert (parse([], {}).hub_endpoint, parse([], {}).hf_token) == ("https://huggingface.co", None)
    environ = {"HF_ENDPOINT": "http://127.0.0.1:9/mirror/", "HF_TOKEN": "hf_abc"}
    config = parse([], environ)
    assert (config.hub_endpoint, config.hf_token) == ("http://127.0.0.1:9/mirror", "hf_abc")
    assert "hf_abc" not in repr(config)
    assert parse(["-hft", "hf_xyz"], environ).hf_token == "hf_xyz"
    assert parse([], {"MODEL_ENDPOINT": "https://m.example", **environ}).hub_endpoint == "https://m.example"
    for bad in ("ftp://x", "https://user:secret@x", "x", "https://x?y"):
        with pytest.raises(ConfigError, match=r"HF_ENDPOINT=.*must be an address like"):
            parse([], {"HF_ENDPOINT": bad})
    with pytest.raises(ConfigError, match=r"--hf-token \(HF_TOKEN\) is not a token") as caught:
        parse(["--hf-token", "hf_a\nb"], {})
    assert "hf_a" not in str(caught.value)
