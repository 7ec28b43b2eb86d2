"""canitoolcall: 469 recorded outputs of nine families of models, the message that a correct engine makes of each, and its own checks.

Its checks require that an incomplete call never reaches the client. So calls are held until they are complete; the same outputs are
tested here without holding calls too.
"""

from collections import Counter

import pytest
from canitoolcall.checks import run_checks
from canitoolcall.fixtures import Fixture
from canitoolcall.results import Observation, ParsedToolCall, ParseResult, Status, worst_status
from pieces import Message
from recorded_outputs import chunkings, families, outputs, parse

FAMILIES = ("deepseek", "gemma4", "glm", "gpt-oss", "kimi", "llama", "mistral", "qwen3-hermes", "qwen3-xml")
# Different from the expected message, but equal without the white space around it.
ALMOST = {
    "gemma4/vllm-text-before-call": "the blank before a call is not text; gemma4/sglang-text-before-call, in the same format, says it is",
}
NOT_PASSED: dict[str, str] = {}
# Without holding calls: calls that are found incomplete or malformed after their arguments have begun, so they were given out.
GIVEN_OUT = {
    "deepseek/v3-truncated-mid-arguments",
    "deepseek/v31-truncated-mid-arguments",
    "deepseek/v32-truncated-mid-arguments",
    "deepseek/v4-truncated-mid-arguments",
    "deepseek/v41-truncated-mid-arguments",
    "deepseek/vllm-v3-malformed-missing-brace",
    "gemma4/truncated-before-close",
    "gemma4/truncated-mid-string",
    "gemma4/truncated-second-parallel-call",
    "glm/glm45-truncated-after-arg-key",
    "glm/glm47-truncated-before-close-call",
    "glm/glm47-truncated-inside-arg-value",
    "gpt-oss/harmony-truncated-in-arguments",
    "kimi/k26-truncated-inside-arguments",
    "kimi/k3-truncated-inside-argument",
    "llama/l3-truncated-inside-parameters",
    "llama/l4-truncated-missing-close-bracket",
    "mistral/v13think-truncated-in-arguments",
    "qwen3-hermes/bug-sglang-30480-truncated-mid-arguments",
    "qwen3-hermes/truncated-mid-arguments-no-thinking",
    "qwen3-hermes/truncated-mid-arguments-thinking",
    "qwen3-hermes/truncated-second-parallel-call",
    "qwen3-hermes/vllm-invalid-json-missing-brace",
    "qwen3-xml/q38-truncated-in-parameter",
}


def result_of(message: Message) -> ParseResult:
    calls = tuple(ParsedToolCall(name, arguments) for name, arguments in message.calls)
    return ParseResult(content=message.text or None, reasoning_content=message.reasoning or None, tool_calls=calls)


def judge(output: Fixture, holds_calls: bool) -> Status:
    streams = {name: result_of(parse(output, chunks, holds_calls)) for name, chunks in chunkings(output)}
    rows = run_checks(output, families()[output.family], Observation(nonstream=streams["one"], streams=streams))
    return worst_status(row.status for row in rows)


def judge_family(family: str, holds_calls: bool) -> dict[str, Status]:
    return {output.id: judge(output, holds_calls) for output in outputs() if output.family == family}


def test_all_of_them_are_there() -> None:
    assert Counter(output.family for output in outputs()).keys() == set(FAMILIES)
    assert len(outputs()) == 469
    assert len(outputs()) - len(NOT_PASSED) >= 460
    assert {*ALMOST, *NOT_PASSED, *GIVEN_OUT} <= {output.id for output in outputs()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_output_is_read_as_expected(family: str) -> None:
    """For every way to cut the text. Outputs that pass now must be removed from the lists above."""
    statuses = judge_family(family, holds_calls=True)
    not_equal = {id for id, status in statuses.items() if status is not Status.PASS}
    assert not_equal == {id for id in (*ALMOST, *NOT_PASSED) if id in statuses}
    assert {id for id in not_equal if statuses[id] is not Status.SOFT_PASS} == {id for id in NOT_PASSED if id in statuses}


@pytest.mark.parametrize("family", FAMILIES)
def test_only_calls_that_are_cut_or_malformed_differ_when_they_are_given_out_as_they_come(family: str) -> None:
    statuses = judge_family(family, holds_calls=False)
    assert {id for id, status in statuses.items() if status is Status.FAIL} == {id for id in GIVEN_OUT if id in statuses}
    broken = {output.id for output in outputs() if {"truncated", "malformed"} & set(output.tags)}
    assert broken >= GIVEN_OUT
