"""Names that a user may have meant."""

import pytest

from fastrouter.system.near_names import did_you_mean, near

NAMES = ["SmolLM2-135M-Instruct.Q4_1", "smollm2", "qwen3", "Qwen3", "org/Model:Q4_K_M", "coder"]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("SMOLLM2", ["smollm2"]),
        ("qwen3", ["Qwen3"]),
        ("QWEN3", ["qwen3", "Qwen3"]),
        ("135m-instruct", ["SmolLM2-135M-Instruct.Q4_1"]),
        ("corder", ["coder"]),
        ("org/model", ["org/Model:Q4_K_M"]),
        ("xyzzy", []),
        ("", []),
        ("q" * 1000, []),
    ],
)
def test_near(word: str, found: list[str]) -> None:
    assert near(word, NAMES) == found


def test_the_end_of_a_message() -> None:
    assert did_you_mean("QWEN3", NAMES) == ", did you mean qwen3 or Qwen3?"
    assert did_you_mean("xyzzy", NAMES) == ""


def test_among_many() -> None:
    assert near("m777x", [f"m{number}" for number in range(20_000)])[0].startswith("m")
