"""Grammars of tool calls: every text that follows them is a call of the format, with arguments that its tool's schema allows."""

import ctypes
import gc
import json
import random
import re
import weakref
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from tiny_models import CONTROL_PIECES, make_llama

from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama.binding import start_backends
from fastrouter.worker.llama.model import Model
from fastrouter.worker.llama.vocab import Vocab
from fastrouter.worker.sampling.grammar import Grammars, Matcher
from fastrouter.worker.sampling.grammar_rules import MAX_IN_ANY_ORDER
from fastrouter.worker.sampling.marker_segments import segments_of
from fastrouter.worker.sampling.parameter_schema import is_endless, is_text, parameters_of, properties_of
from fastrouter.worker.sampling.tool_grammar import call_grammar, triggers
from fastrouter.worker.sampling.tool_wish import Wish, loosened
from fastrouter.worker.text.parsers.format import (
    Braces,
    Calls,
    Channels,
    Elements,
    Format,
    JsonObject,
    NameThenJson,
    Pythonic,
    Recipients,
    Tagged,
    Thought,
)
from fastrouter.worker.text.parsers.parser import MessageParser
from fastrouter.worker.text.parsers.pieces import Kind
from fastrouter.worker.text.parsers.schema import types_in
from fastrouter.worker.text.parsers.table import ROWS

MAX_STEPS = 600
FORMATS = {
    "object": Format("object", Thought(), Calls(JsonObject(), open=("<tool_call>\n",), close="\n</tool_call>", between="\n")),
    "array": Format("array", None, Calls(JsonObject(array=True), open=("[TOOL_CALLS]",))),
    "bare": Format("bare", None, Calls(JsonObject(arguments_keys=("parameters",)), bare=True)),
    "name is key": Format("name is key", None, Calls(JsonObject(name_is_key=True), open=("<c>",), close="</c>")),
    "wrapped": Format("wrapped", None, Calls(JsonObject(function_key="function", id_key="id"), open=("<c>",), close="</c>")),
    "name, JSON": Format(
        "name, JSON",
        None,
        Calls(
            NameThenJson(before_name="functions.", after_name="<|argument|>", numbered=True),
            open=("<|call|>",),
            close="<|end|>",
            section_open=("<|calls|>",),
            section_close="<|/calls|>",
        ),
    ),
    "tags": Format(
        "tags",
        None,
        Calls(
            Tagged("<function=", ">\n", "<parameter=", ">\n", "\n</parameter>\n", "</function>"),
            open=("<tool_call>\n",),
            close="\n</tool_call>",
            between="\n",
        ),
    ),
    "python": Format("python", None, Calls(Pythonic(), open=("<|calls|>",), close="<|/calls|>")),
    "braces": Format("braces", None, Calls(Braces(), open=("<|tool_call>",), close="<tool_call|>")),
    "elements": Format(
        "elements",
        None,
        Calls(Elements('^<invoke name="', '">', "^</invoke>\n", "^"), section_open=("^<calls>\n",), section_close="^</calls>"),
    ),
    "id first": Format("id first", None, Calls(NameThenJson(after_name="<args>", after_id="<name>"), open=("<call>",), close="<end>")),
    "recipients with tags": Format("recipients with tags", None, next(row.format.calls for row in ROWS if row.format.name == "muse")),
    "channels": Format("channels", None, Calls(Channels())),
    "recipients": Format("recipients", None, Calls(Recipients())),
}


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool(
    "get_weather",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "unit": {"enum": ["C", "F"]},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3},
            "exact": {"type": ["boolean", "null"]},
        },
        "required": ["city", "exact"],
        "$defs": {"tag": {"type": "string", "maxLength": 4}},
    },
)
CHOOSE = tool("choose", {"properties": {"a": {"enum": ["red", "cat"]}, "b": {"type": "boolean"}}, "required": ["a"]})
ODD = [
    {"type": "function", "function": {"name": "absent"}},
    tool("null"),
    tool("empty", {}),
    tool("no_properties", {"type": "object"}),
    tool("look_around", {"type": "object", "properties": {"x": {"type": "string", "pattern": "(?=a)b"}}, "required": ["x"]}),
    tool("huge", {"type": "object", "properties": {"x": {"type": "string", "minLength": 90_000, "maxLength": 100_000}}, "required": ["x"]}),
    tool("no_target", {"type": "object", "properties": {"x": {"$ref": "#/$defs/nothing"}}, "required": ["x"]}),
    tool("itself", {"type": "object", "properties": {"x": {"$ref": "#/properties/x"}}}),
    tool("python_types", {"type": "dict", "properties": {"x": {"type": "float"}}, "required": ["x"]}),
    tool("unlisted", {"type": "object", "properties": {}, "required": ["x"]}),
    tool("list", ["x"]),
    tool('quo"te.d', {"type": "object", "properties": {'k"': {"type": "integer"}}, "required": ['k"']}),
]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocab]:
    start_backends()
    model = Model(str(make_llama(tmp_path_factory.mktemp("calls") / "tiny.gguf")), LoadOptions())
    yield model.vocab
    model.close()


@pytest.fixture(scope="module")
def grammars(vocab: Vocab) -> Grammars:
    return Grammars(vocab)


def allowed(matcher: Matcher, vocab: Vocab) -> list[int]:
    matcher.find_allowed()
    words = np.frombuffer(ctypes.string_at(matcher.address, 4 * ((vocab.n_tokens + 31) // 32)), np.uint8)
    found: list[int] = np.flatnonzero(np.unpackbits(words, bitorder="little")[: vocab.n_tokens]).tolist()
    return found


def walk(matcher: Matcher, vocab: Vocab, chance: random.Random) -> str | None:
    """A random text of the grammar; None if it got too long. It prefers tokens that close something, more and more."""
    text = b""
    for step in range(MAX_STEPS):
        if matcher.is_complete:
            break
        tokens = allowed(matcher, vocab)
        assert tokens, f"stuck after {text!r}"

        def weight(token: int, step: int = step) -> float:
            piece = vocab.token_to_piece(token)
            if token in vocab.eog_tokens or piece in (b'"', b"}", b"]", b")"):
                return 10 + step
            return 1.0 if piece and 32 <= piece[0] < 127 else 0.02

        token = chance.choices(tokens, [weight(token) for token in tokens])[0]
        if token in vocab.eog_tokens:
            break
        assert matcher.accept(token), matcher.problem
        text += vocab.token_to_piece(token)
    else:
        return None
    return text.decode()


@pytest.mark.parametrize("name", ["object", "array", "bare", "name is key", "wrapped", "name, JSON", "id first", "channels", "recipients"])
def test_arguments_are_json_of_the_schema(name: str, vocab: Vocab, grammars: Grammars) -> None:
    format = FORMATS[name]
    matcher = grammars.compile_calls(format, Wish([WEATHER], is_required=True, is_parallel=False)).result()
    schema = WEATHER["function"]["parameters"]
    found = []
    for seed in range(12):
        text = walk(matcher.copy(), vocab, random.Random(seed))
        if text is not None and (begun := re.search(r'{"(city|days|unit|tags|exact)":', text)):
            arguments, _ = json.JSONDecoder().raw_decode(text[begun.start() :])
            jsonschema.validate(arguments, schema)
            assert "get_weather" in text
            found.append([*arguments])
    assert len(found) > 6
    assert any(keys.index("exact") < keys.index("city") for keys in found), "in any order"


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_begins_and_ends_as_the_format_says(name: str, vocab: Vocab, grammars: Grammars) -> None:
    format = FORMATS[name]
    calls = format.calls
    assert calls is not None
    matcher = grammars.compile_calls(format, Wish([WEATHER, *ODD], is_required=True)).result()
    texts = [text for seed in range(8) if (text := walk(matcher.copy(), vocab, random.Random(seed))) is not None]
    assert texts
    for text in texts:
        if calls.section_open or calls.open:
            assert text.startswith((calls.section_open or calls.open)[0])
        assert text.endswith(calls.section_close or calls.close)


@pytest.mark.parametrize("name", FORMATS)
def test_what_follows_a_trigger_is_the_rest_of_a_call(name: str, vocab: Vocab, grammars: Grammars) -> None:
    format = FORMATS[name]
    found = triggers(format)
    assert (not found) == (name in ("bare", "recipients"))
    for trigger in found:
        matcher = grammars.compile_calls(format, Wish([CHOOSE], is_required=False), after=trigger).result()
        texts = [text for seed in range(6) if (text := walk(matcher.copy(), vocab, random.Random(seed)))]
        assert texts
        assert all("choose" in text and not text.startswith(trigger) for text in texts)


@pytest.mark.parametrize("is_parallel", [True, False])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("object", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'),
        ("array", '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "f", "arguments": {}}]'),
        ("name, JSON", "<|calls|>" + 2 * "<|call|>functions.f:0<|argument|>{}<|end|>" + "<|/calls|>"),
        ("python", "<|calls|>[f(), f()]<|/calls|>"),
        ("recipients", "f\n{}>>>f\n{}"),
    ],
)
def test_parallel_calls(name: str, text: str, is_parallel: bool, vocab: Vocab, grammars: Grammars) -> None:
    closed = tool("f", {"type": "object", "properties": {}, "additionalProperties": False})
    matcher = grammars.compile_calls(FORMATS[name], Wish([closed], True, is_parallel)).result().copy()
    assert all(matcher.accept(len(CONTROL_PIECES) + byte) for byte in text.encode()) == is_parallel  # the vocabulary has all bytes


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd["function"]["name"]))
@pytest.mark.parametrize("name", FORMATS)
def test_one_odd_tool_breaks_nothing(name: str, odd: dict[str, Any], vocab: Vocab, grammars: Grammars) -> None:
    matcher = grammars.compile_calls(FORMATS[name], Wish([odd], is_required=True)).result()
    texts = [text for seed in range(4) if (text := walk(matcher.copy(), vocab, random.Random(seed)))]
    expected = (
        json.dumps(odd["function"]["name"])[1:-1]
        if name in ("object", "array", "bare", "name is key", "wrapped")
        else odd["function"]["name"]
    )
    assert all(expected in text for text in texts)


def read(format: Format, text: str, tools: list[dict[str, Any]]) -> tuple[str, list[tuple[str, Any]]]:
    """(the text beside the calls, the name and the arguments of each call)"""
    parser = MessageParser(format, tools)
    pieces = [*parser.push(text), *parser.finish()]
    names = [piece.text for piece in pieces if piece.kind is Kind.CALL]
    arguments = ["".join(p.text for p in pieces if p.kind is Kind.ARGUMENTS and p.index == index) for index in range(len(names))]
    return "".join(p.text for p in pieces if p.kind is Kind.TEXT), [(n, json.loads(a)) for n, a in zip(names, arguments, strict=True)]


@pytest.mark.parametrize("name", FORMATS)
def test_arguments_come_in_any_order(name: str, vocab: Vocab, grammars: Grammars) -> None:
    both = tool("pick", {"properties": {"a": {"enum": [1, 2]}, "b": {"type": "boolean"}}, "required": ["a", "b"]})
    matcher = grammars.compile_calls(FORMATS[name], Wish([both], is_required=True, is_parallel=False)).result()
    orders = set()
    for seed in range(12):
        written = walk(matcher.copy(), vocab, random.Random(seed))
        if written is not None and (name != "channels" or "analysis" not in written):
            [(_, arguments)] = read(FORMATS[name], written, [both])[1]
            jsonschema.validate(arguments, both["function"]["parameters"])
            orders.add("".join(arguments))
    assert orders == {"ab", "ba"}


STEP = {"type": "object", "properties": {"text": {"type": "string"}, "done": {"type": "boolean"}}, "required": ["text", "done"]}
PLAN = {
    "type": "object",
    "properties": {
        "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}, "minItems": 1, "maxItems": 2},
        "last": {"anyOf": [{"$ref": "#/$defs/step"}, {"type": "null"}]},
        "maybe": {**STEP, "type": ["object", "null"]},
        "open": {**STEP, "additionalProperties": True},
    },
    "required": ["steps"],
    "$defs": {"step": {**STEP, "properties": {**STEP["properties"], "parts": {"type": "array", "items": {"$ref": "#/$defs/step"}}}}},
}


@pytest.mark.parametrize(
    ("arguments", "is_taken"),
    [
        ('{"steps": [{"text": "a", "done": true}]}', True),
        ('{"steps": [{"done": true, "text": "a"}, {"parts": [{"done": false, "text": "b"}], "text": "a", "done": true}]}', True),
        ('{"last": null, "steps": [{"done":true,"text":"a"}]}', True),
        ('{"last": {"done": true, "text": "a"}, "steps": [{"done": true, "text": "a"}]}', True),
        ('{"maybe": {"done": true, "text": "a"}, "steps": [{"done": true, "text": "a"}]}', True),
        ('{"maybe": null, "steps": [{"done": true, "text": "a"}]}', True),
        ('{"open": {"text": "a", "done": true, "more": 1}, "steps": [{"done": true, "text": "a"}]}', True),
        ('{"open": {"done"', False),  # others may follow, so the order is the schema's
        ('{"steps": []', False),
        ('{"steps": [{"done": true}', False),
        ('{"steps": [{"done": true, "done"', False),
        ('{"steps": [{"done": true, "other"', False),
        ('{"last": null}', False),
        ('{"steps": [{"done": true, "text": "a"}, {"done": true, "text": "a"},', False),
    ],
)
def test_objects_inside_of_arguments_too(arguments: str, is_taken: bool, grammars: Grammars) -> None:
    matcher = grammars.compile_calls(FORMATS["bare"], Wish([tool("plan", PLAN)], is_required=True)).result()
    assert takes(matcher, '{"name": "plan", "parameters": ' + arguments) == is_taken


@pytest.mark.parametrize("name", ["bare", "tags", "python"])
def test_very_many_properties_have_one_order(name: str, grammars: Grammars) -> None:
    """The needed ones come first."""
    many = {"properties": {f"p{number}": {"type": "boolean"} for number in range(MAX_IN_ANY_ORDER + 1)}, "required": ["p7", "p3"]}
    text = call_grammar(FORMATS[name], Wish([tool("f", many)], True), lambda marker: [marker])
    assert "set_bit" not in text
    assert not grammars.compile_calls(FORMATS[name], Wish([tool("f", many)], True)).result().problem


def test_definitions_are_not_repeated_for_every_property() -> None:
    names = [f"d{number}" for number in range(200)]
    shapes = {name: {"type": "object", "properties": {"x": {"enum": ["long" * 40]}}} for name in names}
    parameters = {
        "$defs": shapes,
        "properties": {f"p{number}": {"type": "array", "items": {"$ref": f"#/$defs/d{number}"}} for number in range(50)},
    }
    schema = parameters_of(tool("f", parameters))
    text = call_grammar(FORMATS["bare"], Wish([tool("f", parameters)], True), lambda marker: [marker])
    assert len(text) < 2 * len(json.dumps(schema))


def test_a_long_chain_of_definitions_is_followed(grammars: Grammars) -> None:
    """Too long to be written in any order here."""
    names = [f"d{number}" for number in range(240)]
    chain = {
        name: {"type": "object", "properties": {"x": {"$ref": f"#/$defs/{after}"}, "y": {"type": "null"}}}
        for name, after in zip(names, [*names[1:], "d"], strict=True)
    }
    parameters = {"$defs": {**chain, "d": {"type": "integer"}}, "properties": {"of": {"$ref": "#/$defs/d0"}}}
    matcher = grammars.compile_calls(FORMATS["bare"], Wish([tool("f", parameters)], is_required=True)).result()
    assert takes(matcher, '{"name": "f", "parameters": {"of": {"x": {"x": {"y": null')
    assert not takes(matcher, '{"name": "f", "parameters": {"of": {"z"')


@pytest.mark.parametrize("name", ["bare", "tags"])
def test_one_of_several_cases_may_fit_more_than_one(name: str, vocab: Vocab, grammars: Grammars) -> None:
    cases = [{"type": "integer"}, {"type": "number"}, {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}]
    picky = tool("pick", {"properties": {"x": {"oneOf": cases}}, "required": ["x"]})
    matcher = grammars.compile_calls(FORMATS[name], Wish([picky], is_required=True)).result()
    begun = '{"name": "pick", "parameters": {"x": ' if name == "bare" else "<tool_call>\n<function=pick>\n<parameter=x>\n"
    assert takes(matcher, begun + "1.5")
    assert takes(matcher, begun + '{"a": null}')
    assert not takes(matcher, begun + "true")


def test_references_to_the_whole_schema_keep_their_meaning(grammars: Grammars) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
    matcher = grammars.compile_calls(FORMATS["bare"], Wish([tool("f", parameters)], is_required=True)).result()
    assert takes(matcher, '{"name": "f", "parameters": {"a": 1, "b": {"a": 2, "b": null}}}')
    assert not takes(matcher, '{"name": "f", "parameters": {"a": 1, "b": {"anyOf"')


# This vocabulary reads "▁" as a blank, so it cannot write DeepSeek's markers. In a random walk the thoughts of
# gpt-oss and Muse have no end.
@pytest.mark.parametrize(
    "format",
    [row.format for row in ROWS if row.format.calls and "▁" not in repr(row.format) and row.format.name not in ("gpt-oss", "muse")],
    ids=lambda f: f.name,
)
def test_the_parser_reads_what_the_grammar_writes(format: Format, vocab: Vocab, grammars: Grammars) -> None:
    tools = [CHOOSE, tool("now")]
    matcher = grammars.compile_calls(format, Wish(tools, is_required=True)).result()
    num_calls = 0
    for seed in range(6):
        written = walk(matcher.copy(), vocab, random.Random(seed))
        if written is not None:
            text, calls = read(format, written, tools)
            assert calls, written
            assert not text.strip(), written
            for name, arguments in calls:
                jsonschema.validate(arguments, CHOOSE["function"]["parameters"] if name == "choose" else {"type": "object"})
            num_calls += len(calls)
    assert num_calls


@pytest.mark.parametrize("name", ["gpt-oss", "muse"])
def test_a_grammar_of_channels_is_the_answer_or_a_call(name: str, vocab: Vocab, grammars: Grammars) -> None:
    """After a thought, or without one. Nothing else can be in the answer."""
    form = next(row.format for row in ROWS if row.format.name == name)
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    wish = Wish([CHOOSE], is_required=False, answer=json.dumps(schema))
    matcher = grammars.compile_calls(form, wish).result()
    syntax = form.calls.syntax if form.calls else None
    assert isinstance(syntax, Channels)
    thought = f"{syntax.header(syntax.thought)}I see.{syntax.ends[0]}{syntax.start}assistant"
    call = f"{syntax.channel}commentary to=functions.choose <|constrain|>json<|message|>" if syntax.channel else " to=choose<|message|>"
    answer = syntax.header(syntax.answer)
    for begun in ("", thought):
        assert takes(matcher, begun + answer + '{"ok": true}')
        assert takes(matcher, begun + call)
        assert not takes(matcher, begun + answer + "Sure!")
        assert not takes(matcher, begun + syntax.header("commentary"))
        assert not takes(matcher, begun + "Sure!")


def takes(matcher: Matcher, text: str) -> bool:
    """The vocabulary has all bytes."""
    here = matcher.copy()
    return all(here.accept(len(CONTROL_PIECES) + byte) for byte in text.encode())


TREE = {"type": "object", "properties": {"of": {"$ref": "#/$defs/node"}}, "$defs": {"node": {"type": "object", "properties": {}}}}
TREE["$defs"]["node"]["properties"] = {"name": {"type": "string"}, "parts": {"type": "array", "items": {"$ref": "#/$defs/node"}}}  # type: ignore[index]


@pytest.mark.parametrize("name", FORMATS)
def test_a_schema_that_contains_itself(name: str, vocab: Vocab, grammars: Grammars) -> None:
    matcher = grammars.compile_calls(FORMATS[name], Wish([tool("plant", TREE)], is_required=True)).result()
    assert [text for seed in range(4) if (text := walk(matcher.copy(), vocab, random.Random(seed))) and "plant" in text]


def test_formats_of_one_name_have_their_own_grammars(grammars: Grammars) -> None:
    wish = Wish([CHOOSE], is_required=True)
    square, round_ = (Format("derived", None, Calls(JsonObject(), open=(marker,))) for marker in ("[", "("))
    assert grammars.compile_calls(square, wish).result() is not grammars.compile_calls(round_, wish).result()
    assert grammars.compile_calls(square, wish).result() is grammars.compile_calls(square, wish).result()


def test_a_grammar_that_no_request_waits_for_is_not_kept(vocab: Vocab) -> None:
    grammars, made = Grammars(vocab), []
    for number in range(20):
        wish = Wish([tool(f"f{number}")], is_required=False)
        future = grammars.compile_calls(FORMATS["object"], wish, after="<tool_call>", is_waited_for=False)
        future.result()
        made.append(weakref.ref(future))
        del future
    grammars.close()
    gc.collect()
    assert len([future for future in made if future() is not None]) < 12, "only the latest ones"


def test_only_the_odd_tool_is_loose() -> None:
    wish = Wish([WEATHER, *ODD], is_required=True)
    found = loosened(wish, lambda one: all(t["function"]["name"] != "look_around" or "look_around" in one.loose for t in one.tools))
    assert found.loose == {"look_around", "itself"}
    assert loosened(Wish([WEATHER], True), lambda one: True).loose == set()
    hopeless = loosened(wish, lambda one: False)
    assert hopeless.loose == {t["function"]["name"] for t in wish.tools}


def test_an_odd_tool_among_many_is_found_with_little_work() -> None:
    sizes = []

    def is_followed(one: Wish) -> bool:
        sizes.append(len(one.tools))
        return all(t["function"]["name"] != "f617" or "f617" in one.loose for t in one.tools)

    tools = [tool(f"f{number}") for number in range(1000)]
    assert loosened(Wish(tools, is_required=True), is_followed).loose == {"f617"}
    assert len(sizes) < 25
    assert sum(sizes) <= 4 * len(tools)


def test_tools_that_are_too_large_together_are_loose_together() -> None:
    found = loosened(Wish([tool(name) for name in "abcdefgh"], True), lambda one: len([t for t in one.tools if not one.loose]) < 5)
    assert found.loose == set("abcdefgh")


def test_a_format_without_calls_is_refused() -> None:
    with pytest.raises(ValueError, match="the format plain has no tool calls"):
        call_grammar(Format("plain"), Wish([WEATHER], True), lambda text: [text])


class SpecialVocab:
    """Two special tokens; any other character is a token."""

    SPECIAL = ("<call>", "<end>")

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        tokens = []
        while text:
            number = next((number for number, piece in enumerate(self.SPECIAL) if text.startswith(piece)), None)
            tokens.append(ord(text[0]) + 100 if number is None else number)
            text = text[1:] if number is None else text[len(self.SPECIAL[number]) :]
        return tokens

    def is_special(self, token: int) -> bool:
        return token < len(self.SPECIAL)

    def token_to_piece(self, token: int, special: bool = True) -> bytes:
        return self.SPECIAL[token].encode() if token < len(self.SPECIAL) else chr(token - 100).encode()


@pytest.mark.parametrize(
    ("marker", "parts"),
    [
        ("", []),
        ("plain", ["plain"]),
        ("<call>", [0]),
        ("\n<end>\n", ["\n", 1, "\n"]),
        ("<call><end>f:", [0, 1, "f:"]),
        ("<cal", ["<cal"]),
    ],
)
def test_segments(marker: str, parts: list[str | int]) -> None:
    assert segments_of(SpecialVocab(), marker) == parts


def test_special_tokens_end_a_text_without_its_white_space() -> None:
    format = FORMATS["tags"]
    assert format.calls is not None
    tagged = Format("t", None, Calls(Tagged("<call>", "\n", "k ", "\n", "\n<end>", "."), open=(), close=""))
    text = call_grammar(
        tagged,
        Wish([tool("f", {"properties": {"a": {"type": "string"}}, "required": ["a"]})], True),
        lambda m: segments_of(SpecialVocab(), m),
    )
    assert "suffix" not in text
    assert "<[1]>" in text


@pytest.mark.parametrize(
    ("schema", "types", "text"),
    [
        ({}, set(), True),
        (None, set(), True),
        ({"type": "string"}, {"string"}, True),
        ({"type": ["integer", "null"]}, {"integer", "null"}, False),
        ({"type": ["string", "null"]}, {"string", "null"}, True),
        ({"enum": [1, None]}, {"integer", "null"}, False),
        ({"const": True}, {"boolean"}, False),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, {"number", "null"}, False),
        ({"anyOf": [{"type": "number"}, {}]}, set(), True),
        ({"type": 7}, set(), True),
    ],
)
def test_types(schema: Any, types: set[str], text: bool) -> None:
    assert types_in(schema, {}) == types
    assert is_text(types) == text


def test_parameters() -> None:
    assert parameters_of(tool("f"))["type"] == "object"
    assert parameters_of(WEATHER)["additionalProperties"] is False
    assert parameters_of(tool("f", {"properties": {"a": {}}, "anyOf": [{}]}))["additionalProperties"] is True
    assert parameters_of(tool("f", {"properties": {"a": {}}, "additionalProperties": {"type": "null"}}))["additionalProperties"] == {
        "type": "null"
    }
    named = properties_of({"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "null"}}, "required": ["c", 1]})
    assert named == [("a", {"type": "null"}, False), ("c", {}, True)]


@pytest.mark.parametrize("format", [FORMATS["object"], *(row.format for row in ROWS if row.format.calls)], ids=lambda format: format.name)
def test_a_grammar_grows_with_its_schema_and_no_faster(format: Format) -> None:
    def size(count: int) -> int:
        parameters = {"type": "object", "properties": {f"p{number:03}": {"type": "integer"} for number in range(count)}}
        return len(call_grammar(format, Wish([tool("a", parameters)], True), lambda marker: [marker]))

    assert size(400) < 2.5 * size(200)


def node(required: list[str], **more: Any) -> dict[str, Any]:
    reference = {"$ref": "#/$defs/node"}
    inner = {
        "type": "object",
        "properties": {"next": reference, "list": {"type": "array", "items": reference, **more}},
        "required": required,
    }
    return {"type": "object", "properties": {"first": reference}, "required": ["first"], "$defs": {"node": inner}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (node([]), False),
        (node(["next"]), True),
        (node(["list"]), False),
        (node(["list"], minItems=1), True),
        ({**node(["next"]), "required": []}, False),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, False),
        (TREE, False),
        (PLAN, False),
    ],
)
def test_schemas_that_no_text_can_follow(schema: dict[str, Any], expected: bool) -> None:
    assert is_endless(schema) == expected


def test_a_tool_that_no_text_can_follow_takes_any_object(grammars: Grammars) -> None:
    matcher = grammars.compile_calls(FORMATS["bare"], Wish([tool("f", node(["next"]))], True)).result()
    assert takes(matcher, '{"name": "f", "parameters": {"anything": 1}}')


def test_a_tool_whose_grammar_is_too_large_takes_any_object(grammars: Grammars) -> None:
    names = [f"d{number}" for number in range(2000)]
    properties = {f"p{number}": {"type": "array", "items": {"$ref": f"#/$defs/{name}"}} for number, name in enumerate(names[:500])}
    parameters = {"$defs": {name: {"type": "integer"} for name in names}, "properties": properties, "required": list(properties)}
    tags = next(row.format for row in ROWS if row.format.calls and isinstance(row.format.calls.syntax, Tagged))
    wish = Wish([tool("a", parameters)], True)
    with pytest.raises(ValueError, match="more than 4 MiB"):
        call_grammar(tags, wish, lambda marker: [marker])
    found = grammars.compile_calls(tags, wish)
    assert not found.result(60).problem
    grammars.leave(found)
