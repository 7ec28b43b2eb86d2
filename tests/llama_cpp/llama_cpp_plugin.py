"""Runs inside llama.cpp's own pytest: free ports, no downloads, and what only a trained model's words decide is told apart.

Its tests compare answers with the words of trained models (`match_regex`). Here such a comparison always succeeds, and a test whose words
were others is marked, so that everything else in it is still checked. Outcomes are written to the file of LLAMA_CPP_OUTCOMES.
"""

import json
import os
import shutil
import socket
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

WORDS = "other words"
PICTURES_OF_HUB = "https://huggingface.co/ggml-org/tinygemma3-GGUF/resolve/main/test/"
SLOW_WITH_TINY_MODEL = "test_completion_without_tool_call_slow"  # all other slow tests load models of several gigabytes
other_words: list[str] = []  # of the running test: what was expected

sys.modules.setdefault("wget", types.ModuleType("wget"))  # utils.py imports it; downloads are answered below


def pytest_configure(config: pytest.Config) -> None:
    import utils

    compare, start = utils.match_regex, utils.ServerProcess.start

    def match_regex(regex: str, text: str) -> bool:
        if not compare(regex, text):
            other_words.append(regex)
        return True

    def start_on_free_port(self: Any, *args: Any, **kwargs: Any) -> None:
        self.server_port = free_port()
        start(self, *args, **kwargs)

    utils.match_regex, utils.download_file = match_regex, downloaded
    requests.get = picture_of(requests.get)
    utils.ServerProcess.start = start_on_free_port
    utils.ServerPreset.load_all = lambda: None  # the models are there


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def downloaded(url: str, output_file_path: str | None = None) -> str:
    path = output_file_path or f"./tmp/{Path(url).name}"
    if not os.path.exists(path):
        shutil.copyfile(Path(os.environ["LLAMA_CPP_DOWNLOADS"], Path(url).name), path)
    return path


def picture_of(get: Callable[..., requests.Response]) -> Callable[..., requests.Response]:
    """Tests fetch their pictures from the hub."""

    def answer(url: str, *args: Any, **kwargs: Any) -> requests.Response:
        path = Path(os.environ["LLAMA_CPP_DOWNLOADS"], Path(url).name)
        if not url.startswith("https://huggingface.co/") or not path.is_file():
            return get(url, *args, **kwargs)
        response = requests.Response()
        response.status_code, response._content = 200, path.read_bytes()
        return response

    return answer


def address_here(get_img_url: Callable[[str], str]) -> Callable[[str], str]:
    """Servers fetch pictures from the hub, too."""
    return lambda name: get_img_url(name).replace(PICTURES_OF_HUB, f"{os.environ['LLAMA_CPP_PICTURES']}/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of large models are counted and not run."""
    for module in {item.module for item in items if isinstance(item, pytest.Function) and hasattr(item.module, "get_img_url")}:
        module.get_img_url = address_here(module.get_img_url)
    large = [item for item in items if item.get_closest_marker("slow") and not item.name.startswith(SLOW_WITH_TINY_MODEL)]
    items[:] = [item for item in items if item not in large]
    config.hook.pytest_deselected(items=large)
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0":
        for item in large:
            write_outcome(item.nodeid, "large", "it loads a model of several gigabytes")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    other_words.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    report = yield
    if other_words and report.when == "call":
        report.user_properties.append((WORDS, other_words[-1]))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the process that collects: one line for each test."""
    if "PYTEST_XDIST_WORKER" in os.environ or (report.when != "call" and report.outcome == "passed"):
        return
    outcome = "words" if report.passed and dict(report.user_properties).get(WORDS) is not None else report.outcome
    crash = getattr(report.longrepr, "reprcrash", None)
    why = crash.message if crash is not None else str(report.longrepr or "")
    write_outcome(report.nodeid, outcome, why[-500:])


def write_outcome(test: str, outcome: str, why: str) -> None:
    with open(os.environ["LLAMA_CPP_OUTCOMES"], "a") as file:
        file.write(json.dumps({"test": test, "outcome": outcome, "why": why}) + "\n")
