"""The recorded outputs of canitoolcall, cut into chunks, and the format that each of its models writes."""

import re
from collections.abc import Iterator
from functools import cache

from canitoolcall.chunking import DEFAULT_STRATEGIES, ChunkStrategy, split
from canitoolcall.fixtures import Family, Fixture, load_families, load_fixtures
from pieces import Message, read

from fastrouter.worker.text.parsers.format import Format
from fastrouter.worker.text.parsers.parser import MessageParser
from fastrouter.worker.text.parsers.table import known_format

STRATEGIES = (*DEFAULT_STRATEGIES, ChunkStrategy("char", seed=0), ChunkStrategy("char", seed=1))
FORMATS = {  # by the beginning of the model's name; the longest that fits
    "Qwen/Qwen3-": "hermes",
    "Qwen/Qwen3-Coder": "qwen3-coder",
    "Qwen/Qwen3.": "qwen3-coder",
    "zai-org/": "glm-4.5",
    "moonshotai/Kimi-K2": "kimi-k2",
    "moonshotai/Kimi-K3": "kimi-k3",
    "deepseek-ai/DeepSeek-V3-0324": "deepseek-3",
    "deepseek-ai/DeepSeek-V3.1": "deepseek-3.1",
    "deepseek-ai/DeepSeek-V3.2": "deepseek-3.2",
    "deepseek-ai/DeepSeek-V4-": "deepseek-4",
    "deepseek-ai/DeepSeek-V4.1": "deepseek-4.1",
    "google/gemma-4": "gemma4",
    "openai/gpt-oss": "gpt-oss",
    "meta-llama/Llama-3": "llama-3",
    "meta-llama/Llama-4": "llama-4",
    "mistralai/": "mistral-think",
    "mistralai/Mistral-7B-Instruct-v0.3": "mistral-array",
    "mistralai/Mistral-Small-3.2": "mistral-args",
    "mistralai/Devstral-Small-2507": "mistral-args",
    "mistralai/Magistral-Small-2506": "mistral-args",
}


@cache
def outputs() -> tuple[Fixture, ...]:
    return tuple(load_fixtures())


@cache
def families() -> dict[str, Family]:
    return load_families()


def format_of(output: Fixture) -> Format:
    beginning = max((name for name in FORMATS if output.models[0].startswith(name)), key=len)
    return known_format(FORMATS[beginning])


def prompt_end(output: Fixture) -> str:
    """What stands before the output in the prompt."""
    if output.generation_prompt is not None:
        return output.generation_prompt
    model = families()[output.family].reference_for(output.models[0])
    return (model.default_generation_prompt if model else None) or ""


def parse(output: Fixture, chunks: list[str], holds_calls: bool) -> Message:
    form = format_of(output)
    is_open = form.thought is not None and form.thought.is_open(prompt_end(output))
    parser = MessageParser(form, output.tools, reasoning_open=is_open, holds_calls=holds_calls)
    return read(parser, chunks, cut="truncated" in output.tags)


def chunkings(output: Fixture) -> Iterator[tuple[str, list[str]]]:
    """Each strategy's name and chunks. Markers stay whole where tokens do; other tokens are like words, as no tokenizer is at hand."""
    markers = frozenset(families()[output.family].markers)
    words = re.compile("|".join([*map(re.escape, sorted(markers, key=len, reverse=True)), r" ?\w{1,6}", r"\s+", r"[^\w\s]"]))
    tokens = words.findall(output.raw_output)
    assert "".join(tokens) == output.raw_output
    for strategy in STRATEGIES:
        units = list(output.raw_output) if strategy.kind == "char" else tokens
        yield strategy.id, ["".join(group) for group in split(units, strategy, special=markers)]
