"""What flags name on other machines and the router must know before it starts: files by their address, preset files on the hub.

Invariant: the Config that comes out names files of this machine only, except for models of the hub, which are downloaded later.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from fastrouter.catalog.projector_address import is_on_hub
from fastrouter.catalog.sources import cached_file, has_snapshot, parse_name
from fastrouter.config.config import REMOTE_PRESET, Config
from fastrouter.config.flag import Layer, Setting
from fastrouter.config.values import find_argument
from fastrouter.errors import ConfigError, FastrouterError
from fastrouter.hub.job import DownloadJob, start_process, to_failure
from fastrouter.hub.select_files import PRESET_FILE

PROBE_S = 5.0  # for the hub to say whether a repository has a preset file; after that it counts as one without
LONGEST_S = 60.0  # the same for one that must have it


def fetch_named(config: Config) -> Config:
    """Blocks until all is here. Raises ConfigError."""
    if config.model_url is not None or config.docker_repo is not None:
        config = _with_file(config, "--model", _fetch(config, config.model_url, config.docker_repo, config.model))
    if config.mmproj_url is not None and not is_on_hub(config.mmproj_url, config.hub_endpoint):  # from there it comes like a model
        config = replace(_with_file(config, "--mmproj", _fetch(config, config.mmproj_url, None, config.mmproj)), mmproj_url=None)
    return _with_remote_preset(config)


def _say(text: str) -> None:
    print(f"fastrouter: {text}", file=sys.stderr, flush=True)


def _cache(config: Config) -> str:
    if not config.cache_dirs:
        raise ConfigError("there is no cache folder for downloads: set LLAMA_CACHE, HF_HUB_CACHE or HOME")
    return os.path.abspath(config.cache_dirs[0])


# ---------------------------------------------------------------- files by their address


def _fetch(config: Config, url: str | None, docker_repo: str | None, path: str | None) -> str:
    """Its path; it is downloaded if it is not there."""
    from fastrouter.hub import direct  # slow to import

    name = url or docker_repo or ""
    try:
        if url is None:
            path = path or _docker_path(config, name)
        address = direct.of_url(url) if url is not None else None
        path = path or os.path.join(_cache(config), address.name if address is not None else "")
        if os.path.exists(path):
            return path
        if config.offline:
            raise ConfigError(f"{name} is not here ({path}), and --offline forbids the download")
        _say(f"downloading {name} to {path}")
        direct.fetch(address or direct.of_docker(name), path, _say)
        return path
    except FastrouterError as error:
        raise ConfigError(error.message) from None
    except OSError as error:
        raise ConfigError(f"{name}: {error.filename or path}: {error.strerror or error}") from None


def _docker_path(config: Config, repo: str) -> str:
    name, _, tag = repo.partition(":")
    name = name if "/" in name else f"ai/{name}"
    return os.path.join(_cache(config), f"{name.replace('/', '_')}_{tag or 'latest'}.gguf")


def _with_file(config: Config, name: str, path: str) -> Config:
    flag, _ = find_argument(name)
    config = replace(config, command_line={**config.command_line, flag.target: Setting(flag, path)})
    return replace(config, model=path) if flag.target == "model" else replace(config, mmproj=path)


# ---------------------------------------------------------------- preset files on the hub


def _with_remote_preset(config: Config) -> Config:
    named = str(config.models_preset) if config.models_preset is not None else ""
    if named.startswith(REMOTE_PRESET):
        return _use(config, named.removeprefix(REMOTE_PRESET), _find(config, named.removeprefix(REMOTE_PRESET), is_wanted=True))
    if config.hf_repo is None or not config.has_one_model or config.hf_file is not None or ":" in config.hf_repo:
        return config
    path = _find(config, config.hf_repo, is_wanted=False)
    return config if path is None else _use(config, config.hf_repo, path)


def _find(config: Config, repo: str, *, is_wanted: bool) -> str | None:
    """The preset file of a repository in the cache, the newest one if the hub can be asked. None: it has none."""
    try:
        parse_name(repo)
    except FastrouterError as error:
        raise ConfigError(error.message) from None
    here = next((path for cache in config.cache_dirs if (path := cached_file(str(cache), repo, PRESET_FILE))), None)
    has_model = any(has_snapshot(str(cache), repo) for cache in config.cache_dirs)
    if config.offline or (has_model and here is None and not is_wanted):  # a model that is here needs no hub
        if is_wanted and here is None:
            raise ConfigError(f"{PRESET_FILE} of {repo} is not in the cache, and --offline forbids the download")
        return here
    why = _download(config, repo, LONGEST_S if is_wanted else PROBE_S)
    if why and is_wanted and here is None:
        raise ConfigError(f"{PRESET_FILE} of {repo}: {why}")
    return here if why else cached_file(_cache(config), repo, PRESET_FILE)


def _download(config: Config, repo: str, patience_s: float) -> str:
    """Why it cannot be; empty: it is in the cache."""
    job = DownloadJob(repo, None, PRESET_FILE, _cache(config), config.hub_endpoint, config.hf_token, with_projector=False)
    try:
        process = start_process(job)
    except OSError as error:
        return f"cannot start a download process: {error}"
    with process, _killed_after(process, patience_s):
        assert process.stdout is not None
        for line in process.stdout:
            report = json.loads(line)
            if report["event"] == "waiting":
                _say(f"{repo}: {report['why']}; trying again in {report['pause_s']:g} s")
            elif report["event"] == "failed":
                return to_failure(report).message
            elif report["event"] == "finished":
                return ""
    return "the download process ended unexpectedly"


@contextlib.contextmanager
def _killed_after(process: "subprocess.Popen[bytes]", seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.kill()


def _use(config: Config, repo: str, path: str | None) -> Config:
    """Instead of one model, those of its sections."""
    if path is None:
        raise ConfigError(f"{PRESET_FILE} of {repo} is not in the cache")
    command_line, environment = _without_source(config.command_line), _without_source(config.environment)
    config = replace(config, command_line=command_line, environment=environment)
    return replace(config, hf_repo=None, models_preset=Path(path), remote_preset=repo)


def _without_source(layer: Layer) -> Mapping[str, Setting]:
    return {target: setting for target, setting in layer.items() if target not in ("hf_repo", "hf_file")}
