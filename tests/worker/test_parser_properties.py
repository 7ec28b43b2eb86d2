"""For any text of a model, cut into any pieces, the parser gives the same message and never raises."""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from fake_vocab import FakeVocab
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pieces import read, together
from recorded_outputs import format_of, outputs

from fastrouter.errors import InvalidRequest
from fastrouter.worker.text.chat_template import ChatTemplate
from fastrouter.worker.text.detokenizer import Detokenizer, PieceTable
from fastrouter.worker.text.parsers.derive import derive
from fastrouter.worker.text.parsers.format import Format
from fastrouter.worker.text.parsers.parser import MessageParser
from fastrouter.worker.text.parsers.source import Source
from fastrouter.worker.text.parsers.table import GENERIC, MINIMAX_MARK, ROWS

FORMATS = (GENERIC, *(row.format for row in ROWS))
FOLDER = Path(__file__).parent.parent.parent / "build" / "llama-templates"
PROPERTIES = {"a": {"type": "string"}, "n": {"type": "integer"}, "o": {"type": "object"}, "b": {"type": ["boolean", "null"]}}
TOOLS = (
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": PROPERTIES}}},
    {"type": "function", "function": {"name": "g"}},
)
FRAGMENTS = (
    *("{", "}", "[", "]", "(", ")", '"', "'", "\\", ",", ":", "=", "<", ">", "</", "<|", " ", "\n", "\n\n", "0", "-1.5e3", "é", "日"),
    *("f", "g", "a", "n", "true", "True", "None", "null", "hello", "all\n", "f\n", "f:0", "functions.f", "to=functions.f", "assistant"),
    *('{"name": "f", "arguments": {"a": "x"}}', '{"name":"g","parameters":{}}', '{"a": [1, {"b": "\\u00e9\\n"}]}', "\\u00", '\\"'),
    *("x" * 300, "x" * 2100, " " * 70, "9" * 1100, "[" * 300),  # longer than the limits of a name, a key, a gap, a number and a depth
    *('f(a=1, a="x")', "f(n=2)", "call:f{a:1}", "{'x': 1}", "{}", "analysis", "json"),
)


@cache
def every_format() -> tuple[Format, ...]:
    """Those of the table, and those that are derived from llama.cpp's templates."""
    return tuple(dict.fromkeys((*FORMATS, *(derived(path.read_text()) for path in sorted(FOLDER.glob("*.jinja"))))))


def derived(source: str) -> Format:
    template = ChatTemplate(source, bos_token="<BOS>", eos_token="<EOS>")

    def render(messages: list[Any], tools: list[Any], add_generation_prompt: bool) -> str | None:
        with contextlib.suppress(InvalidRequest):
            return template.render(messages, tools, add_generation_prompt, False)
        return None

    return derive(render)


def markers_of(part: object) -> Iterator[str]:
    """Every text in a format."""
    if isinstance(part, str) and part.strip():
        yield part
    elif isinstance(part, tuple):
        for each in part:
            yield from markers_of(each)
    elif is_dataclass(part):
        for field in fields(part):
            yield from markers_of(getattr(part, field.name))


@st.composite
def messages(draw: st.DrawFn) -> tuple[Format, str, list[int]]:
    """A format, a text made of its markers and of texts between them, and the places where the text is cut."""
    form = draw(st.sampled_from(every_format()))
    markers = sorted(set(markers_of(form)))
    marker = st.sampled_from([*markers, *(each.strip() for each in markers)])
    begun = st.tuples(marker, st.integers(1, 12)).map(lambda pair: pair[0].strip()[: pair[1]])
    text = "".join(draw(st.lists(st.one_of(marker, begun, st.sampled_from(FRAGMENTS), st.text(max_size=3)), max_size=12)))
    return form, text, sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(max_examples=600, deadline=None)
@given(messages(), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans())
@example((FORMATS[2], ">>>all\n>>>  all\n", [8]), False, True, True, True, False)
def test_pieces_do_not_change_the_message(
    message: tuple[Format, str, list[int]], is_open: bool, holds: bool, calls: bool, reasoning: bool, cut: bool
) -> None:
    form, text, cuts = message

    def parse(chunks: list[str]) -> object:
        parser = MessageParser(form, TOOLS, reasoning_open=is_open, parses_calls=calls, parses_reasoning=reasoning, holds_calls=holds)
        return read(parser, chunks, cut)

    assert parse([text]) == parse(list(text)) == parse(pieces_of(text, cuts))


@settings(max_examples=400, deadline=None)
@given(messages(), st.booleans())
def test_arguments_of_calls_that_are_complete_are_objects(message: tuple[Format, str, list[int]], cut: bool) -> None:
    form, text, cuts = message
    for _, arguments in read(MessageParser(form, TOOLS, holds_calls=True), pieces_of(text, cuts), cut).calls:
        assert isinstance(json.loads(arguments), dict)


@settings(max_examples=400, deadline=None)
@given(messages(), st.lists(st.binary(max_size=4), max_size=6), st.booleans(), st.booleans())
def test_any_bytes_in_any_pieces_make_a_message(message: tuple[Format, str, list[int]], noise: list[bytes], holds: bool, cut: bool) -> None:
    """From tokens on: pieces may end inside a character, and need not be text."""
    form, text, cuts = message
    encoded = text.encode()
    parts = [encoded[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]
    tokens = [piece for pair in zip_longest(parts, noise, fillvalue=b"") for piece in pair]
    detokenizer = Detokenizer(PieceTable(FakeVocab(tokens)), [])
    parser = MessageParser(form, TOOLS, holds_calls=holds)
    found = [piece for token in range(len(tokens)) for piece in parser.push(detokenizer.push(token).decode())]
    found += [*parser.push(detokenizer.finish().decode()), *parser.finish(cut)]
    whole = b"".join(tokens).decode(errors="replace")
    assert together(found) == read(MessageParser(form, TOOLS, holds_calls=holds), [whole], cut)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(outputs()), st.data())
def test_recorded_outputs_are_the_same_in_any_pieces(output: object, data: st.DataObject) -> None:
    text: str = output.raw_output  # type: ignore[attr-defined]
    end = data.draw(st.integers(0, len(text)))
    cuts = sorted(data.draw(st.lists(st.integers(0, end), max_size=8)))
    form = format_of(output)  # type: ignore[arg-type]
    whole = read(MessageParser(form, output.tools), [text[:end]])  # type: ignore[attr-defined]
    assert read(MessageParser(form, output.tools), pieces_of(text[:end], cuts)) == whole  # type: ignore[attr-defined]


STARTS = "".join(sorted({text.strip()[0] for form in FORMATS for text in markers_of(form) if text.strip()}))  # functools[ is a marker


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FORMATS), st.text(st.characters(exclude_characters=f"<[]>{{\n\r\t {STARTS}"), min_size=1), st.integers(0, 50))
def test_text_without_markers_is_given_out_at_once(form: Format, text: str, cut: int) -> None:
    """All of the text, as soon as it comes."""
    parser = MessageParser(form, TOOLS)
    before = {"gpt-oss": "<|channel|>final<|message|>", "muse": " to=user<|message|>", "functionary-3.2": "all\n"}.get(form.name, "")
    parser.push(before + "x")
    for chunk in filter(None, (text[:cut], text[cut:])):
        assert "".join(piece.text for piece in parser.push(chunk)) == chunk
    assert parser.finish() == []


HOSTILE = {
    "calls in calls": ("hermes", "", "<tool_call>"),
    "objects in objects": ("hermes", '<tool_call>{"name": "f", "arguments": ', '{"a":'),
    "arrays in arrays": ("hermes", '<tool_call>{"name": "f", "arguments": {"a":', "["),
    "a string that never ends": ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "', "x"),
    "escapes": ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "', "\\u"),
    "white space": ("hermes", "hi", "\n"),
    "white space in arguments": ("hermes", '<tool_call>{"name": "f", "arguments": {', " "),
    "arguments before the name": ("hermes", '<tool_call>{"arguments": {"a": "', "x"),
    "beginnings of markers": ("hermes", "", "<tool_cal"),
    "ends of values": ("qwen3-coder", "<tool_call><function=f><parameter=a>", "</parameter>" + " " * 60),
    "a value that never ends": ("qwen3-coder", "<tool_call><function=f><parameter=a>", "x\n"),
    "keys": ("qwen3-coder", "<tool_call><function=f>", "<parameter="),
    "sections": ("kimi-k2", "", "<|tool_calls_section_begin|>"),
    "headers": ("gpt-oss", "", "<|start|>assistant<|channel|>"),
    "ends": ("gpt-oss", "<|channel|>final<|message|>", "<|end|>"),
    "lists": ("llama-4", "", "[f(a="),
    "elements in elements": ("minimax-m3", f'{MINIMAX_MARK}<tool_call>{MINIMAX_MARK}<invoke name="f">', f"{MINIMAX_MARK}<a>"),
    "elements": ("minimax-m3", f'{MINIMAX_MARK}<tool_call>{MINIMAX_MARK}<invoke name="f">', f"{MINIMAX_MARK}<a>x{MINIMAX_MARK}</a>"),
    "headers of recipients": ("muse", "", "<|start|>assistant to="),
    "quotes": ("gemma4", "<|tool_call>call:f{a:", '<|"'),
}


def work(name: str, text: str, holds: bool, step: int) -> int:
    """How many function calls a text in steps needs, and how many characters wait at each step."""
    form = next(form for form in FORMATS if form.name == name)
    parser = MessageParser(form, TOOLS, holds_calls=holds)
    calls = waiting = 0
    add = Source.add

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    def count_waiting(source: Source, text: str) -> None:
        nonlocal waiting
        add(source, text)
        waiting += len(source.text) - len(text)

    before = sys.getprofile()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Source, "add", count_waiting)
        sys.setprofile(count)
        try:
            for at in range(0, len(text), step):
                parser.push(text[at : at + step])
            parser.finish()
        finally:
            sys.setprofile(before)
    return calls + waiting


@pytest.mark.parametrize("holds", [False, True], ids=["streamed", "held"])
@pytest.mark.parametrize("step", [3, 100_000])
@pytest.mark.parametrize("case", HOSTILE)
def test_work_grows_with_the_length_only(case: str, step: int, holds: bool) -> None:
    """Eight times the text needs at most about eight times the work. Work that grows with the square would be 64 times."""
    name, begin, again = HOSTILE[case]
    short, long = (begin + again * (length // len(again)) for length in (2_000, 16_000))
    assert work(name, long, holds, step) < 10 * work(name, short, holds, step)
