"""fastrouter answers what llama-server answers: to the requests of rival_cases.py, over the same models with the same flags.

Its answers are recorded (recorded/*.json, made by record_rival.py); with RIVAL=/path/to/llama-server both are asked now.
"""

import json
import os
from collections.abc import Callable
from fnmatch import filter as matching
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter
from record_rival import RECORDED, record
from rival import BUILD, SERVERS, Case, ask, flags_of, make_models
from rival_cases import CASES
from rival_compare import differences
from rival_differs import DIFFERS, allowed_for

RIVAL = os.environ.get("RIVAL")
Answers = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("same")
    make_models(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(folder: Path, smollm2: Path) -> Answers:
    @cache
    def answers(server: str) -> dict[str, Any]:
        if RIVAL:
            found = json.dumps(record(RIVAL, server, folder, smollm2)).replace(str(folder), "MODELS")
        else:
            found = (RECORDED / f"{server}.json").read_text()
        answers: dict[str, Any] = json.loads(found)
        return answers

    return answers


@pytest.fixture(scope="module")
def ours(folder: Path, smollm2: Path, module_router: StartRouter) -> Callable[[str], Router]:
    """One after the other: each is started with its first request."""
    return cache(lambda server: module_router(*flags_of(server, folder, smollm2)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_same(case: Case, theirs: Answers, ours: Callable[[str], Router], folder: Path, smollm2: Path) -> None:
    answer = json.dumps(ask(ours(case.server).port, case)).replace(str(folder), "MODELS").replace(str(smollm2), smollm2.name)
    assert differences(theirs(case.server)[case.name], json.loads(answer), allowed_for(case.id)) == []


def test_each_case_is_recorded_once() -> None:
    for server in SERVERS:
        names = [case.name for case in CASES if case.server == server]
        assert len(set(names)) == len(names)
        recorded = json.loads((RECORDED / f"{server}.json").read_text())
        assert set(recorded) == {"", *names}
        assert recorded[""]["build"] == BUILD


def test_recordings_stay_small() -> None:
    assert sum(path.stat().st_size for path in RECORDED.glob("*.json")) < 500_000


def test_no_difference_is_allowed_for_nothing() -> None:
    """Nor for a case that does not exist any more."""
    ids = [case.id for case in CASES]
    assert [pattern for pattern in DIFFERS if not matching(ids, pattern)] == []


def test_differences_are_found() -> None:
    """The comparison itself."""
    theirs = {"status": 200, "json": {"a": 1, "b": [1.0, 2.0], "timings": {"prompt_ms": 1.0}, "c": None}}
    assert differences(theirs, {"status": 200, "json": {"a": 1, "b": [1.0005, 2], "timings": {"prompt_ms": 9.0}, "c": None}}, {}) == []
    for ours in ({"a": 2}, {"b": [1.0]}, {"b": [1.1, 2.0]}, {"timings": {"prompt_ms": "1"}}, {"c": 0}, {"d": 1}, {"a": True}):
        assert differences(theirs, {"status": 200, "json": {**theirs["json"], **ours}}, {})
        assert differences(theirs, {"status": 200, "json": {**theirs["json"], **ours}}, {"json.*": "all of it"}) == []
    assert differences(theirs, {**theirs, "status": 400}, {})


def test_streams_are_compared_by_text_and_shape() -> None:
    def stream(*events: Any) -> dict[str, Any]:
        return {"status": 200, "events": [*events, "[DONE]"]}

    end = {"content": "", "stop": True, "n": 1}
    theirs = stream({"content": "ab", "stop": False}, {"content": "c", "stop": False}, end)
    assert differences(theirs, stream({"content": "abc", "stop": False}, end), {}) == []
    assert differences(theirs, stream({"content": "abd", "stop": False}, end), {})
    assert differences(theirs, stream({"content": "abc", "stop": False}, {**end, "n": 2}), {})
    assert differences(theirs, stream({"content": "abc", "stop": False, "more": 1}, end), {})
    assert differences(theirs, stream({"content": "abc", "stop": False, "more": 1}, end), {"event.*.more": "why not"}) == []
