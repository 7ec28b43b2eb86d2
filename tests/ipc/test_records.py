"""The ring's JSON records: both ends agree, a large one becomes smaller, and wrong values from a worker become defaults."""

import json
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastrouter.errors import ContextExceeded, FastrouterError, InvalidRequest, ProtocolError
from fastrouter.ipc.records import MAX_CALLS, MAX_COUNT, TIMINGS, CallDelta, Delta, Failure, Finish, PromptProgress, count_of

RECORDS = (Delta, PromptProgress, Finish)
NAMES = sorted({field.name for cls in RECORDS for field in fields(cls)} | {"class", "message", "extra", *TIMINGS})
FULL = Finish(
    *("word", "stop!", 7, 3, 9, 4, 2, 16, True, 2, 12, 24),
    timings={"prompt_n": 7, "predicted_ms": 1.5},
    media_tokens=[16, 4],
    tokens=[1, 2],
    prompt="the cat" * 50,
    generation_settings={"seed": 1, "samplers": ["top_k"] * 50},
)
ENTRY = {"id": 4, "token": "cat", "bytes": [99, 97, 116], "logprob": -0.5, "top_logprobs": [{"id": 5, "token": "dog", "logprob": -1.0}]}


def test_both_ends_agree() -> None:
    assert Finish.from_payload(FULL.to_payload(1 << 20)) == FULL
    assert Finish.from_payload(b"{}") == Finish()
    calls = [CallDelta(0, "{", "call_1", "cat"), CallDelta(1, "}")]
    event = Delta("täxt", "thöught", calls, [ENTRY], {"predicted_n": 3}, [4], 7, 3)
    assert Delta.from_payload(event.to_payload()) == event
    progress = PromptProgress(100, 10, 42, 5, {"prompt_ms": 4.5})
    assert PromptProgress.from_payload(progress.to_payload()) == progress
    failure = Failure.from_payload(Failure(ContextExceeded("too long", n_ctx=8)).to_payload())
    assert (type(failure.error), failure.error.message, failure.error.extra) == (ContextExceeded, "too long", {"n_ctx": 8})


def test_a_large_finish_leaves_out_what_it_can() -> None:
    sizes = [len(FULL.to_payload(most)) for most in (1 << 20, 1000, 500, 1)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    smaller = Finish.from_payload(FULL.to_payload(1000))
    assert (smaller.prompt, smaller.generation_settings, smaller.tokens) == ("", FULL.generation_settings, [1, 2])
    least = Finish.from_payload(FULL.to_payload(1))
    assert (least.generation_settings, least.tokens, least.stopping_word) == ({}, [], "")
    assert (least.completion_tokens, least.timings, least.stop_type) == (9, FULL.timings, "word")


def test_a_long_error_is_cut() -> None:
    assert Failure.from_payload(Failure(InvalidRequest("x" * 9000)).to_payload(100)).error.message == "x" * 100


@pytest.mark.parametrize("value", [-1, True, 1.5, "7", None, [], {}, MAX_COUNT + 1])
def test_there_is_one_meaning_of_a_count(value: Any) -> None:
    assert count_of({"n": value}, "n") == 0
    told = json.dumps({"completion_tokens": value, "prompt_tokens": value, "total": value}).encode()
    assert Finish.from_payload(told) == Finish()
    assert Delta.from_payload(told) == Delta()
    assert PromptProgress.from_payload(told) == PromptProgress()


def test_probabilities_without_their_token_are_left_out() -> None:
    broken: list[Any] = [1, {}, {"token": 1}, {**ENTRY, "top_logprobs": [{}]}, {**ENTRY, "top_logprobs": [None]}]
    told = json.dumps({"probabilities": [*broken, ENTRY]}).encode()
    assert Delta.from_payload(told).probabilities == [ENTRY]


def test_calls_without_their_number_are_left_out() -> None:
    broken: list[Any] = [1, {}, {"index": "0"}, {"index": -1}, {"index": MAX_CALLS}, {"index": True}]
    told = json.dumps({"calls": [*broken, {"index": 3, "arguments": 7, "name": "cat"}]}).encode()
    assert Delta.from_payload(told).calls == [CallDelta(3, name="cat")]


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff"])
@pytest.mark.parametrize("cls", [*RECORDS, Failure])
def test_broken_records_are_refused(cls: Any, payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="a worker sent"):
        cls.from_payload(payload)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 64) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=5),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
@example({"class": "InvalidRequest", "message": "no", "extra": {"message": 1, "self": 2, "error": 3}})
def test_any_values_from_a_worker_are_made_safe(told: dict[str, Any]) -> None:
    payload = json.dumps(told).encode()
    for cls in RECORDS:
        record: Any = cls.from_payload(payload)
        for field in fields(cls):
            value = getattr(record, field.name)
            assert type(value) is type(getattr(cls(), field.name)), field.name
            if type(value) is int and field.name != "id_slot":
                assert 0 <= value <= MAX_COUNT
        if isinstance(record, Delta | PromptProgress | Finish):
            assert all(name in TIMINGS and 0 <= figure <= MAX_COUNT and math.isfinite(figure) for name, figure in record.timings.items())
    error = Failure.from_payload(payload).error
    assert isinstance(error, FastrouterError)
    assert isinstance(error.to_json()["error"]["code"], int)
