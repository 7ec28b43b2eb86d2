"""Command line and environment -> one frozen Config; layers of settings -> LoadOptions. Must never know which models exist.

Invariant: precedence is decided here only: command line, then a preset's section, then its [*], then the environment, then the default.
A value that makes no sense ends in a ConfigError that names where it was said.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from fastrouter.config.flag import Flag, Kind, Scope
from fastrouter.config.help import help_text
from fastrouter.config.preset_values import write_value
from fastrouter.config.values import BY_ENV, convert, find_argument, refuse_not_yet
from fastrouter.errors import ConfigError
from fastrouter.options.constraint_text import check_grammar, schema_text
from fastrouter.options.guess_types import DEFAULT
from fastrouter.options.limits import DEFAULT_PATIENCE_S, DEFAULT_POLL
from fastrouter.options.load import QUIET, LoadOptions
from fastrouter.options.samplers import letters_of
from fastrouter.system.fact_file import cache_folder
from fastrouter.system.text_file import read_text, why_no_file, why_no_folder

EVERYTHING = 5  # verbosity
DEFAULT_HUB = "https://huggingface.co"
_ESCAPED = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_MODEL_HINT, _MODELS_HINT = "; one model is named with --model", "; a folder of models is named with --models-dir"
_SECRETS = ("api_keys", "hf_token")  # targets whose values are never repeated


class Setting(NamedTuple):
    flag: Flag
    value: Any


_OF_MODELS = (Scope.MODEL, Scope.SAMPLING, Scope.SPECULATION, Scope.SOURCE, Scope.LIFETIME)

Layer = Mapping[str, Setting]  # by the flag's target: two flags with one target (a template and its file) replace each other


@dataclass(frozen=True, slots=True)
class Config:
    host: str = "127.0.0.1"
    port: int = 8080
    api_prefix: str = ""
    api_keys: tuple[str, ...] = ()
    api_key_file: Path | None = None  # http/keys.py reads it, now and whenever it changes
    ssl_key_file: Path | None = None
    ssl_cert_file: Path | None = None
    reuse_port: bool = False
    insecure: bool = False
    timeout_s: float | None = None  # of clients that read nothing or are idle; None: the server knows
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: str = "localhost"
    cors_methods: str = "GET, POST, DELETE, OPTIONS"
    cors_headers: str = "*"
    cors_credentials: bool = True
    slots_endpoint: bool = True
    props_endpoint: bool = False
    metrics_endpoint: bool = True
    ui: bool = True
    responses_dir: Path | None = None  # of stored responses; None: they are in memory
    responses_mib: int = 256  # 0: none is stored
    static_path: Path | None = None  # None: the page that comes with fastrouter
    ui_settings: dict[str, Any] = field(default_factory=dict)  # passed on to the page
    sse_ping_interval_s: float = 3.0  # below the read timeouts that clients have; 0 or less: no comments
    log_file: str | None = None
    log_format: str = "text"  # text | json
    log_colors: str = "auto"  # on | off | auto
    log_timestamps: bool = True
    log_prefix: bool = True
    log_disable: bool = False
    log_requests: bool = False
    verbosity: int = QUIET  # llama-server's: 0 nothing, 1 errors, 2 warnings, 3 what happens, 4 more, 5 everything
    verbose: bool = False
    shutdown_timeout_s: float = 10.0
    stop_timeout_s: float = 10.0
    models_dir: Path | None = None
    models_preset: Path | None = None
    models_max: int = 4
    models_memory_mib: int = -1  # -1: what the machine has; 0: no limit
    models_memory_device_mib: int = -1
    poll: int = DEFAULT_POLL
    queue_timeout_s: float = 0.0  # 0: none
    queue_patience_s: float = DEFAULT_PATIENCE_S
    models_autoload: bool = True
    strict: bool = False  # a preset's section that is wrong ends the start
    watch: bool = False
    offline: bool = False
    hub_endpoint: str = DEFAULT_HUB
    hf_token: str | None = field(default=None, repr=False)
    cache_dirs: tuple[Path, ...] = ()  # each in the Hugging Face layout or flat
    model: str | None = None
    hf_repo: str | None = None
    hf_file: str | None = None
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    command_line: Layer = field(default_factory=dict)  # what concerns models, not the router
    environment: Layer = field(default_factory=dict)

    @property
    def has_one_model(self) -> bool:
        """--model or --hf-repo, and no folder and no preset: it is the only model, whatever name a request says."""
        return (self.model or self.hf_repo) is not None and self.models_dir is None and self.models_preset is None


# ---------------------------------------------------------------- command line and environment


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Raises ConfigError. --help and --version print and raise SystemExit(0)."""
    command_line = read_arguments(argv)
    environment = read_environment(environ)
    both = merge(environment, command_line)
    fields = {target: value for target, (flag, value) in both.items() if flag.scope is Scope.ROUTER}
    fields |= {target: value for target, (flag, value) in both.items() if flag.scope is Scope.SOURCE and target != "mmproj_auto"}
    if fields.get("verbose"):
        fields["verbosity"] = EVERYTHING
    fields["verbose"] = fields.get("verbosity", QUIET) > QUIET
    if "log_jsonl" in fields:
        fields.setdefault("log_format", "json" if fields.pop("log_jsonl") else "text")
        fields.pop("log_jsonl", None)
    for name in ("models_dir", "models_preset", "api_key_file", "ssl_key_file", "ssl_cert_file", "static_path", "responses_dir"):
        if name in fields:
            fields[name] = Path(fields[name])
    fields.setdefault("responses_dir", cache_folder(environ))
    if isinstance(fields.get("ui_settings"), str):
        fields["ui_settings"] = _read_settings(fields["ui_settings"])
    fields["api_prefix"] = _check_prefix(fields.get("api_prefix", ""))
    config = Config(
        **fields,
        hub_endpoint=_hub_endpoint(environ),
        cache_dirs=_cache_dirs(environ),
        command_line=_about_models(command_line),
        environment=_about_models(environment),
    )
    if "api_keys" in both and not config.api_keys:
        raise ConfigError("--api-key is empty")
    _check(config)
    return config


def read_arguments(argv: Sequence[str]) -> dict[str, Setting]:
    layer: dict[str, Setting] = {}
    words = iter(argv)
    for word in words:
        if word in ("-h", "--help", "--usage"):
            print(help_text(), flush=True)
            raise SystemExit(0)
        if word == "--version":
            from fastrouter.system.build import version_text  # 15 ms that a start need not wait for

            print(version_text())
            raise SystemExit(0)
        if not word.startswith("-") or word == "-":
            hint = f", did you mean --model {word}?" if word.endswith(".gguf") else "; flags begin with a dash, and a verb comes first"
            raise ConfigError(f"unexpected argument {word!r}{hint}")
        name, equals, text = word.partition("=") if word.startswith("--") else (word, "", "")
        flag, is_on = find_argument(name)
        if flag.kind is Kind.SWITCH:
            if equals:
                raise ConfigError(f"{word}: {name} takes no value")
            refuse_not_yet(flag, name, is_on)
            add_setting(layer, flag, is_on)
            continue
        if not flag.only:
            refuse_not_yet(flag, name)
        value = text if equals else next(words, None)
        if value is None:
            raise ConfigError(f"{name}: a value is missing")
        add_setting(layer, flag, convert(flag, value, name if flag.target in _SECRETS else f"{name} {value}"))
    return layer


def read_environment(environ: Mapping[str, str]) -> dict[str, Setting]:
    layer: dict[str, Setting] = {}
    for name, (flag, is_on) in BY_ENV.items():
        text = environ.get(name)
        if not text:
            continue
        said = name if flag.target in _SECRETS else f"{name}={text}"
        said = f"{flag.names[-1]} ({said})" if flag.scope is Scope.NOT_YET else said
        add_setting(layer, flag, convert(flag, text, said, is_on=is_on))
    return layer


def add_setting(layer: dict[str, Setting], flag: Flag, value: Any) -> None:
    """Later words win; lists given again grow."""
    if not flag.target:
        return
    if flag.target == "load_mode":
        for name, is_on in (("mmap", value in ("auto", "mmap", "mmap+mlock")), ("mlock", "mlock" in value)):
            layer[name] = Setting(find_argument(f"--{name}")[0], is_on)
        return
    if flag.target == "spec_default":
        flag, value = find_argument("--spec-type")[0], (DEFAULT,) if value else ()
    if flag.kind is Kind.FILES:
        flag = find_argument("--lora-scaled")[0]  # both make one list, in the order they are given
    is_list = flag.kind in (Kind.LIST, Kind.SCALED_FILES, Kind.GUESSERS) or (flag.is_repeated and value)
    if is_list and flag.target in layer:
        value = layer[flag.target].value + value
    layer[flag.target] = Setting(flag, value)


def merge(*layers: Layer) -> dict[str, Setting]:
    """Later layers win."""
    return {target: setting for layer in layers for target, setting in layer.items()}


def _about_models(layer: Layer) -> Layer:
    return {target: setting for target, setting in layer.items() if setting.flag.scope in _OF_MODELS}


def _check_prefix(prefix: str) -> str:
    prefix = prefix.rstrip("/")
    if prefix and (not prefix.startswith("/") or re.search(r"[\s?#]|//", prefix)):
        raise ConfigError(f"--api-prefix {prefix}: must be a path like /router")
    return prefix


def _read_settings(path: str) -> dict[str, Any]:
    said = f"--ui-config-file {path}"
    return cast(dict[str, Any], convert(find_argument("--ui-config")[0], read_text(Path(path), said), said))


def _check(config: Config) -> None:
    if not config.host.replace(",", "").strip():
        raise ConfigError("--host is empty")
    if (config.ssl_key_file is None) != (config.ssl_cert_file is None):
        raise ConfigError("--ssl-key-file and --ssl-cert-file belong together; one of them is missing")
    if config.models_dir is not None and not config.models_dir.is_dir():
        hint = _MODEL_HINT if config.models_dir.is_file() else ""
        raise ConfigError(f"--models-dir {config.models_dir}: {why_no_folder(config.models_dir)}{hint}")
    if config.static_path is not None and not config.static_path.is_dir():
        raise ConfigError(f"--path {config.static_path}: {why_no_folder(config.static_path)}")
    if config.models_preset is not None and not config.models_preset.is_file():
        raise ConfigError(f"--models-preset {config.models_preset}: {why_no_file(config.models_preset)}")
    if config.model is not None and config.hf_repo is None and not Path(config.model).is_file():
        hint = _MODELS_HINT if os.path.isdir(config.model) else ""
        raise ConfigError(f"--model {config.model}: {why_no_file(Path(config.model))}{hint}")
    if config.model is not None and config.hf_repo is not None:
        raise ConfigError("--model and --hf-repo both name the default model; give one of them")
    if config.hf_token is not None and not re.fullmatch(r"[!-~]+", config.hf_token):
        raise ConfigError("--hf-token (HF_TOKEN) is not a token: it has blanks or other characters that cannot be sent")
    if config.hf_file is not None and config.hf_repo is None:
        raise ConfigError(f"--hf-file {config.hf_file}: --hf-repo is missing")
    load_options(merge(config.environment, config.command_line))


def check_adapters(config: Config) -> None:
    """Before the start: those that the command line names are for every model. Raises ConfigError."""
    models = merge(config.environment, config.command_line)
    for path, _ in models["lora"].value if "lora" in models else ():
        _check_file(path, f"--lora {path}")


def _hub_endpoint(environ: Mapping[str, str]) -> str:
    """Without a slash at its end."""
    for name in ("MODEL_ENDPOINT", "HF_ENDPOINT"):
        endpoint = environ.get(name, "").rstrip("/")
        if endpoint:
            if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", endpoint):
                raise ConfigError(f"{name}={endpoint}: must be an address like {DEFAULT_HUB}")
            return endpoint
    return DEFAULT_HUB


def _cache_dirs(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """LLAMA_CACHE alone; else the Hugging Face hub folder, then llama.cpp's older flat one."""
    if environ.get("LLAMA_CACHE"):
        return (Path(environ["LLAMA_CACHE"]),)
    cache = Path(environ["XDG_CACHE_HOME"]) if environ.get("XDG_CACHE_HOME") else None
    if cache is None and environ.get("HOME"):
        cache = Path(environ["HOME"], ".cache")
    found: list[Path] = []
    for name, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if environ.get(name):
            found.append(Path(environ[name], below))
            break
    else:
        found += [cache / "huggingface" / "hub"] if cache else []
    return (*found, cache / "llama.cpp") if cache else tuple(found)


# ---------------------------------------------------------------- settings -> what others need


def load_options(layer: Layer) -> LoadOptions:
    fields: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    speculation: dict[str, Any] = {}
    for target, (flag, value) in layer.items():
        if target == "constraint":
            fields[target] = constraint_of(Setting(flag, value))
        elif flag.scope is Scope.SAMPLING:
            sampling[target] = value
        elif flag.scope is Scope.SPECULATION:
            if flag.kind is Kind.PATH:
                _check_file(value, f"{flag.names[-1]} {value}")
            if value != ():  # none
                speculation[target] = list(value) if isinstance(value, tuple) else value
        elif flag.scope is Scope.MODEL:
            if flag.kind is Kind.PATH:
                value = read_text(Path(value), f"{flag.names[-1]} {value}")
            elif flag.kind is Kind.SCALED_FILES:
                value = [list(pair) for pair in value]
            elif flag.kind is Kind.TEXTS:
                value = list(value)
            fields[target] = value
    return LoadOptions(**fields, sampling=sampling, speculation=speculation)


def _check_file(path: str, said: str) -> None:
    if not Path(path).is_file():
        raise ConfigError(f"{said}: {why_no_file(Path(path))}")
    if path.encode("utf-8", "replace") != os.fsencode(path):
        raise ConfigError(f"{said}: the path is not UTF-8: rename it")


def constraint_of(setting: Setting) -> dict[str, str]:
    """What answers must look like, as Generate.constraint. Raises ConfigError."""
    flag, value = setting
    said = flag.names[-1]
    try:
        if flag.kind is Kind.PATH:
            said = f"{said} {value}"
            value = read_text(Path(value), said)
        if "schema" not in flag.name:
            check_grammar(value)
            return {"kind": "gbnf", "field": said, "text": value}
        schema = json.loads(value) if isinstance(value, str) else value
        if not isinstance(schema, dict):
            raise ConfigError(f"{said}: must be a JSON object")
        return {"kind": "json_schema", "field": said, "text": schema_text(schema)}
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"{said}: {problem}") from None


def _texts_of(setting: Setting) -> list[str]:
    """More than one where the flag is said once for each value."""
    if setting.flag.kind is Kind.TEXTS:
        return [text.translate(_ESCAPED) for text in setting.value] or ["none"]
    if setting.flag.kind is Kind.BIAS:
        return [f"{token}{bias:+g}" for token, bias in setting.value]
    return [_text_of(setting)]


def _text_of(setting: Setting) -> str:
    if setting.flag.kind in (Kind.SAMPLERS, Kind.LETTERS):
        return ";".join(setting.value) if setting.flag.kind is Kind.SAMPLERS else letters_of(setting.value)
    if setting.flag.kind is Kind.SCALED_FILES:
        texts = [f"{path}:{scale:g}" for path, scale in setting.value]
        return ",".join('"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text for text in texts)
    if isinstance(setting.value, tuple):
        return ",".join(setting.value)
    if isinstance(setting.value, dict):
        return json.dumps(setting.value, ensure_ascii=False)
    return str(setting.value).lower() if isinstance(setting.value, bool) else str(setting.value)


def to_arguments(settings: Iterable[Setting]) -> tuple[str, ...]:
    """The command line that says the same."""
    words: list[str] = []
    for setting in settings:
        flag = setting.flag
        if flag.kind is not Kind.SWITCH:
            words += [word for text in _texts_of(setting) for word in (flag.names[-1], text)]
        elif setting.value:
            words.append(flag.names[-1])
        elif flag.off_names:
            words.append(flag.off_names[-1])
    return tuple(words)


def to_section(name: str, layer: Layer) -> str:
    """The preset file's section that says the same."""
    lines = [
        f"{setting.flag.name} = {write_value(text, keeps_quotes=setting.flag.keeps_quotes)}\n"
        for setting in layer.values()
        for text in _texts_of(setting)
    ]
    return "".join([f"[{name}]\n", *lines])
