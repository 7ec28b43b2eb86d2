"""Command line, environment and configuration files -> one frozen Config, and the settings of models in layers.

Invariant: precedence is decided only here: command line, then a preset's section, then its [*], then the environment, then the user's
configuration file, then the system's, then the default. An invalid value ends in a ConfigError that names its place.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from fastrouter.config.config_files import CHOOSERS, SECRETS, ConfigFiles, read_config_files
from fastrouter.config.flag import Kind, Layer, Scope, Setting
from fastrouter.config.forms import check_file, load_options
from fastrouter.config.help import help_text
from fastrouter.config.layers import add_setting, merge
from fastrouter.config.tools import McpServer, check_tools, read_tool_fields
from fastrouter.config.values import BY_ENV, convert, find_argument, refuse_missing
from fastrouter.errors import ConfigError
from fastrouter.options.cors import Cors
from fastrouter.options.limits import DEFAULT_PATIENCE_S, DEFAULT_POLL
from fastrouter.options.load import QUIET
from fastrouter.system.fact_file import cache_folder, data_folder
from fastrouter.system.text_file import read_text, why_no_file, why_no_folder

EVERYTHING = 5  # verbosity
REMOTE_PRESET = "hf:"  # --models-preset hf:user/repo
DEFAULT_HUB = "https://huggingface.co"
_MODEL_HINT, _MODELS_HINT = "; one model is named with --model", "; a folder of models is named with --models-dir"
_PATHS = (
    *("models_dir", "models_preset", "api_key_file", "ssl_key_file", "ssl_cert_file", "static_path", "media_path"),
    *("responses_dir", "created_dir", "park_dir"),
)

_OF_MODELS = (Scope.MODEL, Scope.SAMPLING, Scope.SPECULATION, Scope.SOURCE, Scope.LIFETIME)


@dataclass(frozen=True, slots=True)
class Config:
    hosts: tuple[str, ...] = ("127.0.0.1",)  # addresses, and paths that end with .sock
    port: int = 8080
    ollama_port: int | None = None  # a second port with the same API
    api_prefix: str = ""
    api_keys: tuple[str, ...] = ()
    api_key_file: Path | None = None  # http/api_keys.py reads it, now and after each change
    ssl_key_file: Path | None = None
    ssl_cert_file: Path | None = None
    reuse_port: bool = False
    insecure: bool = False
    timeout_s: float | None = None  # of clients that stop reading or are idle; None: the server's default
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: str = Cors.origins
    cors_methods: str = Cors.methods
    cors_headers: str = Cors.headers
    cors_credentials: bool = Cors.credentials
    slots_endpoint: bool = True
    props_endpoint: bool = False
    metrics_endpoint: bool = True
    ui: bool = True
    responses_dir: Path | None = None  # of stored responses; None: they are in memory
    responses_mib: int = 256  # 0: none is stored
    tools: tuple[str, ...] = ()  # built-in ones; none: the server has no tools
    tools_dir: str = ""  # the folder that they may use
    mcp_servers: tuple[McpServer, ...] = field(default=(), repr=False)
    ui_mcp_proxy: bool = False
    created_dir: Path | None = None  # of models that clients have made; None: they cannot make any
    blobs_mib: int = 64 << 10  # for files that clients upload; 0: none
    media_path: Path | None = None  # folder of pictures that requests may name; None: they may not
    static_path: Path | None = None  # None: the page that comes with fastrouter
    ui_settings: dict[str, Any] = field(default_factory=dict)  # passed on to the page
    sse_ping_interval_s: float = 3.0  # below the read timeouts of clients; 0 or less: no comments
    log_file: str | None = None
    log_format: str = "text"  # text | json
    log_colors: str = "auto"  # on | off | auto
    log_timestamps: bool = True
    log_prefix: bool = True
    log_disable: bool = False
    log_requests: bool = False
    verbosity: int = QUIET  # llama-server's levels: 0 nothing, 1 errors, 2 warnings, 3 events, 4 more, 5 everything
    verbose: bool = False
    list_devices: bool = False  # print them, and do not start
    record: str | None = None  # the file of a trace for `fastrouter simulate`
    shutdown_timeout_s: float = 10.0
    stop_timeout_s: float = 10.0
    models_dir: Path | None = None
    models_preset: Path | None = None
    remote_preset: str = ""  # the repository on the hub that `models_preset` is from
    model_url: str | None = None
    mmproj_url: str | None = None
    docker_repo: str | None = None
    models_max: int = 4
    models_memory_mib: int = -1  # -1: what the machine has; 0: no limit
    models_memory_device_mib: int = -1  # of all devices together
    models_memory_devices: tuple[tuple[str, int], ...] = ()  # MiB of single ones
    park_ram_mib: int = -1  # of prompts of models that have left; -1: what the machine can spare; 0: none
    park_dir: Path | None = None  # where parked prompts survive a restart; None: nowhere
    park_disk_mib: int = 8192
    poll: int = DEFAULT_POLL
    worker_hang_timeout_s: float = 30.0  # 0: hung workers are not looked for
    queue_timeout_s: float = 0.0  # 0: no limit
    queue_patience_s: float = DEFAULT_PATIENCE_S
    models_autoload: bool = True
    foresee: bool = True
    confine_workers: bool = True
    read_ahead_mib: int = -1  # -1: half of the free memory
    strict: bool = False  # a wrong section of the preset file ends the start
    watch: bool = False
    offline: bool = False
    cache_list: bool = False  # print the models in the caches, and do not start
    hub_endpoint: str = DEFAULT_HUB
    hf_token: str | None = field(default=None, repr=False)
    cache_dirs: tuple[Path, ...] = ()  # each one flat, or with the layout of Hugging Face
    model: str | None = None
    hf_repo: str | None = None
    hf_file: str | None = None
    mmproj: str | None = None  # the projector of the default model
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    command_line: Layer = field(default_factory=dict)  # settings of models, not of the router
    environment: Layer = field(default_factory=dict)  # and the configuration files below it
    config_files: tuple[Path, ...] = ()  # those that were read

    @property
    def names_other_machines(self) -> bool:
        """Flags name what must be known before the start, see hub/before_start.py."""
        is_remote = str(self.models_preset).startswith(REMOTE_PRESET)
        return is_remote or any(each is not None for each in (self.model_url, self.docker_repo, self.mmproj_url, self.hf_repo))

    @property
    def has_one_model(self) -> bool:
        """--model or --hf-repo, without a folder and a preset: every name in a request means this model."""
        return (self.model or self.hf_repo) is not None and self.models_dir is None and self.models_preset is None


# ---------------------------------------------------------------- command line and environment


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Raises ConfigError. --help and --version print and raise SystemExit(0)."""
    command_line = read_arguments(argv)
    environment = read_environment(environ)
    files = read_config_files(merge(environment, command_line), environ)
    try:
        return _make(command_line, merge(files.layer, environment), files.paths, environ)
    except ConfigError as problem:
        raise ConfigError(problem.message + _origin(problem.message, files, merge(environment, command_line))) from None


def _origin(message: str, files: ConfigFiles, others: Layer) -> str:
    """Where a file says what `message` is about; empty when it is not from a file."""
    word = message.partition(" ")[0].rstrip(":")
    target = next((target for target, setting in files.layer.items() if word in setting.flag.names and target not in others), "")
    return f" (from {files.lines[target]})" if target in files.lines else ""


def _make(command_line: Layer, environment: Layer, paths: tuple[Path, ...], environ: Mapping[str, str]) -> Config:
    both = merge(environment, command_line)
    fields = {target: value for target, (flag, value) in both.items() if flag.scope is Scope.ROUTER and target not in CHOOSERS}
    fields |= {target: value for target, (flag, value) in both.items() if flag.scope is Scope.SOURCE and target != "mmproj_auto"}
    if isinstance(sizes := fields.get("models_memory_device_mib"), tuple):
        del fields["models_memory_device_mib"]
        fields["models_memory_devices"] = sizes
    if fields.get("verbose"):
        fields["verbosity"] = EVERYTHING
    fields["verbose"] = fields.get("verbosity", QUIET) > QUIET
    if "log_jsonl" in fields:
        fields.setdefault("log_format", "json" if fields.pop("log_jsonl") else "text")
        fields.pop("log_jsonl", None)
    for name in _PATHS:
        if name in fields:
            fields[name] = Path(fields[name])
    fields.setdefault("responses_dir", cache_folder(environ))
    fields.setdefault("created_dir", data_folder(environ))
    if isinstance(fields.get("ui_settings"), str):
        fields["ui_settings"] = _read_settings(fields["ui_settings"])
    if "hosts" in fields:
        fields["hosts"] = tuple(dict.fromkeys(host.removeprefix("[").removesuffix("]") for host in fields["hosts"]))
    read_tool_fields(fields)
    fields["api_prefix"] = _check_prefix(fields.get("api_prefix", ""))
    config = Config(
        **fields,
        hub_endpoint=_hub_endpoint(environ),
        cache_dirs=_cache_dirs(environ),
        command_line=_about_models(command_line),
        environment=_about_models(environment),
        config_files=paths,
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
            from fastrouter.system.build import version_text  # takes 15 ms that a normal start need not spend

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
            refuse_missing(flag, name)
            add_setting(layer, flag, is_on)
            continue
        refuse_missing(flag, name)
        value = text if equals else next(words, None)
        if flag.kind is Kind.LAYER_RANGE and value and value.isdigit():
            value = f"{value} {next(words, '')}"
        if value is None:
            raise ConfigError(f"{name}: a value is missing")
        add_setting(layer, flag, convert(flag, value, name if flag.target in SECRETS else f"{name} {value}"))
    return layer


def read_environment(environ: Mapping[str, str]) -> dict[str, Setting]:
    layer: dict[str, Setting] = {}
    for name, (flag, is_on) in BY_ENV.items():
        text = environ.get(name)
        if not text:
            continue
        place = name if flag.target in SECRETS else f"{name}={text}"
        add_setting(layer, flag, convert(flag, text, place, is_on=is_on))
    return layer


def _about_models(layer: Layer) -> Layer:
    return {target: setting for target, setting in layer.items() if setting.flag.scope in _OF_MODELS}


def _check_prefix(prefix: str) -> str:
    prefix = prefix.rstrip("/")
    if prefix and (not prefix.startswith("/") or re.search(r"[\s?#]|//", prefix)):
        raise ConfigError(f"--api-prefix {prefix}: must be a path like /router")
    return prefix


def _read_settings(path: str) -> dict[str, Any]:
    place = f"--ui-config-file {path}"
    return cast(dict[str, Any], convert(find_argument("--ui-config")[0], read_text(Path(path), place), place))


def _check(config: Config) -> None:
    if not config.hosts:
        raise ConfigError("--host is empty")
    if (config.ssl_key_file is None) != (config.ssl_cert_file is None):
        raise ConfigError("--ssl-key-file and --ssl-cert-file belong together; one of them is missing")
    if config.models_dir is not None and not config.models_dir.is_dir():
        hint = _MODEL_HINT if config.models_dir.is_file() else ""
        raise ConfigError(f"--models-dir {config.models_dir}: {why_no_folder(config.models_dir)}{hint}")
    if config.ollama_port and config.ollama_port == config.port:
        raise ConfigError(f"--ollama-port {config.port}: --port is the same, and Ollama's API is there too; leave --ollama-port out")
    if config.static_path is not None and not config.static_path.is_dir():
        raise ConfigError(f"--path {config.static_path}: {why_no_folder(config.static_path)}")
    is_remote = str(config.models_preset).startswith(REMOTE_PRESET)
    if config.models_preset is not None and not is_remote and not config.models_preset.is_file():
        raise ConfigError(f"--models-preset {config.models_preset}: {why_no_file(config.models_preset)}")
    is_from_elsewhere = config.model_url is not None or config.docker_repo is not None
    if config.model is not None and config.hf_repo is None and not is_from_elsewhere and not Path(config.model).is_file():
        hint = _MODELS_HINT if os.path.isdir(config.model) else ""
        raise ConfigError(f"--model {config.model}: {why_no_file(Path(config.model))}{hint}")
    if config.model is not None and config.hf_repo is not None:
        raise ConfigError("--model and --hf-repo both name the default model; give one of them")
    named = {"--model-url": config.model_url, "--docker-repo": config.docker_repo, "--hf-repo": config.hf_repo}
    if len(names := [name for name, value in named.items() if value is not None]) > 1:
        raise ConfigError(f"{' and '.join(names)} all name the default model; give one of them")
    if config.hf_token is not None and not re.fullmatch(r"[!-~]+", config.hf_token):
        raise ConfigError("--hf-token (HF_TOKEN) is not a token: it has blanks or other characters that cannot be sent")
    check_tools(config.tools, config.tools_dir)
    if config.hf_file is not None and config.hf_repo is None:
        raise ConfigError(f"--hf-file {config.hf_file}: --hf-repo is missing")
    if config.media_path is not None and not config.media_path.is_dir():
        raise ConfigError(f"--media-path {config.media_path}: {why_no_folder(config.media_path)}")
    if config.mmproj is not None and config.mmproj_url is None:
        _check_mmproj(config, config.mmproj)
    load_options(merge(config.environment, config.command_line))


def _check_mmproj(config: Config, mmproj: str) -> None:
    if config.model is None and config.hf_repo is None:
        raise ConfigError(
            f"--mmproj {mmproj}: it belongs to one model, so --model is missing; for others, put mmproj into a preset's section"
        )
    check_file(mmproj, f"--mmproj {mmproj}")


def check_adapters(config: Config) -> None:
    """Before the start: the adapters and control vectors of the command line are for every model. Raises ConfigError."""
    models = merge(config.environment, config.command_line)
    for target, name in (("lora", "--lora"), ("control_vectors", "--control-vector")):
        for path, _ in models[target].value if target in models else ():
            check_file(path, f"{name} {path}")


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
    """LLAMA_CACHE alone; otherwise the Hugging Face hub folder, then llama.cpp's older flat folder."""
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
