"""The verbs pull and rm: models from the hub into the cache, and out of it. A running router does it; without one, this process does.

Invariant: both ways use the same download process and the same cache, so that one continues where the other was stopped.
"""

import argparse
import json
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

from fastrouter.catalog.sources import Found, parse_name, scan_cache
from fastrouter.cli.arguments import Parser
from fastrouter.cli.bars import Bars
from fastrouter.cli.client import CallFailed, Client, NoAnswer, perform, shared_options
from fastrouter.config.config import Config, parse
from fastrouter.errors import FastrouterError
from fastrouter.hub.job import DownloadJob, start_process, to_failure
from fastrouter.hub.remove import remove

# Reports as the download process and the router's event stream make them: {url: {done, total}}. Returns the model's id.
Steps = Generator[dict[str, dict[str, int]], None, str]


def run_verb(arguments: list[str]) -> int:
    return perform(make_parser().parse_args(arguments))


def make_parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(prog="fastrouter")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, action, help_text, model_text in (
        ("pull", pull, "download a model from the hub (token: HF_TOKEN)", "user/repo, or user/repo:quant"),
        ("rm", remove_model, "remove a model from the cache on disk", "its id"),
    ):
        verb = verbs.add_parser(name, parents=[shared_options()], help=help_text, description=help_text)
        verb.set_defaults(action=action)
        verb.add_argument("model", help=model_text)
    return parser


# ---------------------------------------------------------------- pull


def pull(client: Client, options: argparse.Namespace) -> None:
    name: str = options.model
    try:
        events = client.events("/models/sse")  # before the download begins, so that no event is missed
    except NoAnswer:
        steps = _download_here(name)
    else:
        steps = _download_there(client, name, events)
    try:
        with closing(steps), Bars() as bars:
            while True:
                bars.show(next(steps))
    except StopIteration as end:
        print(f"{end.value} is in the cache")
    except KeyboardInterrupt:
        print(f"stopped; `fastrouter pull {name}` continues from there", file=sys.stderr)
        raise


def _download_there(client: Client, name: str, events: Iterator[dict[str, Any]]) -> Steps:
    """The router downloads it. Raises CallFailed."""
    found = _listed(client, name)
    if found is not None and found["status"]["value"] != "downloading" and "error" not in found["status"]:
        return str(found["id"])
    if found is None or found["status"]["value"] != "downloading":
        _say(f"the router asks the hub for {name}")
        client.call("POST", "/models", {"model": name})
    names = {name.casefold(), str(found["id"]).casefold() if found else ""}
    try:
        for event in events:
            if str(event.get("model")).casefold() not in names:
                continue
            content = event.get("data", {})
            if event["event"] == "download_progress":
                yield content
            elif event["event"] == "download_failed":
                raise CallFailed(content.get("error", "the download failed"))
            elif event["event"] == "download_finished":
                return str(content.get("id", name))
    except (KeyboardInterrupt, GeneratorExit):
        client.call("POST", "/models/unload", {"model": name})
        raise
    raise CallFailed("the router has ended")


def _listed(client: Client, name: str) -> Any:
    """The model as the router knows it, or None."""
    models = client.call("GET", "/v1/models")["data"]
    return next((model for model in models if name.casefold() in (model["id"].casefold(), *model["aliases"])), None)


def _download_here(name: str) -> Steps:
    """Our own process downloads it. Raises CallFailed."""
    job = _job_of(name, _config())
    _say(f"asking {job.endpoint} for {name}")
    try:
        process = start_process(job)
    except OSError as error:
        raise CallFailed(f"cannot start a download process: {error}") from None
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                report = json.loads(line)
                if report["event"] in ("planned", "progress"):
                    yield report["files"]
                elif report["event"] == "waiting":
                    _say(f"{report['why']}; trying again in {report['pause_s']:g} s")
                elif report["event"] == "failed":
                    raise CallFailed(to_failure(report).message)
                elif report["event"] == "finished":
                    return _id_of(job, report["path"])
            raise CallFailed("the download process ended unexpectedly")
        finally:
            process.kill()


def _say(text: str) -> None:
    """Progress goes to standard error, only the result to standard output."""
    print(text, file=sys.stderr, flush=True)


def _config() -> Config:
    try:
        config = parse([], os.environ)
    except FastrouterError as error:
        raise CallFailed(error.message) from None
    if not config.cache_dirs:
        raise CallFailed("there is no cache folder: set LLAMA_CACHE, HF_HUB_CACHE or HOME")
    return config


def _job_of(name: str, config: Config) -> DownloadJob:
    if config.offline:
        raise CallFailed("LLAMA_ARG_OFFLINE forbids downloads")
    try:
        repo, quant = parse_name(name)
    except FastrouterError as error:
        raise CallFailed(error.message) from None
    return DownloadJob(repo, quant, None, os.path.abspath(config.cache_dirs[0]), config.hub_endpoint, config.hf_token)


def _id_of(job: DownloadJob, path: str) -> str:
    return next((found.id for found in scan_cache(job.cache_dir) if f"{job.repo}/{path}" in found.spellings), job.repo)


# ---------------------------------------------------------------- rm


def remove_model(client: Client, options: argparse.Namespace) -> None:
    try:
        client.call("DELETE", f"/models?model={quote(options.model, safe='')}")
    except NoAnswer:
        _remove_here(options.model)
    print(f"{options.model} is removed")


def _remove_here(name: str) -> None:
    caches = [os.path.abspath(cache) for cache in _config().cache_dirs]
    models = [found for cache in caches for found in scan_cache(cache)]
    found = next((found for found in models if _is_named(found, name)), None)
    try:
        if found is None or not remove(caches, found.files[0]):
            raise CallFailed(f"model '{name}' is not in a cache")
    except OSError as error:
        raise CallFailed(f"{error.filename}: {error.strerror}") from None


def _is_named(found: Found, name: str) -> bool:
    return name.casefold() == found.id.casefold() or name in found.spellings
