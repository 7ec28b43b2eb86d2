"""What the recorded outputs do not cover: formats without any, values by their schema, mistakes of models, and the parser's switches.

The outputs are what the models' own chat templates write for a message with a thought and two calls.
"""

import json

import pytest
from pieces import Message, read

from fastrouter.worker.text.parsers.format import Calls, Channels, Format, NameThenJson, Recipients
from fastrouter.worker.text.parsers.parser import MessageParser
from fastrouter.worker.text.parsers.pieces import Kind, Piece
from fastrouter.worker.text.parsers.schema import parameters_of, to_json, types_of
from fastrouter.worker.text.parsers.table import GENERIC, MINIMAX_MARK, ROWS, find_format, known_format

WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}},
    },
}
TOOLS = [
    {"type": "function", "function": WEATHER},
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}},
]
CITY = 'Zürich "x"'
FIRST = '{"city": "Zürich \\"x\\"", "days": 3, "tags": ["a", "b"]}'
BOTH = [("get_weather", {"city": CITY, "days": 3, "tags": ["a", "b"]}), ("get_time", {})]

RENDERED = {
    "minimax-m2": (
        "I think.\n</think>\n\nLet me see.\n<minimax:tool_call>\n"
        f'<invoke name="get_weather">\n<parameter name="city">{CITY}</parameter>\n<parameter name="days">3</parameter>\n'
        '<parameter name="tags">["a", "b"]</parameter>\n</invoke>\n<invoke name="get_time">\n</invoke>\n</minimax:tool_call>'
    ),
    "minimax-m3": (
        "<mm:think>I think.</mm:think>Let me see.{m}<tool_call>\n"
        f'{{m}}<invoke name="get_weather">{{m}}<city>{CITY}{{m}}</city>{{m}}<days>3{{m}}</days>'
        "{m}<tags>{m}<item>a{m}</item>{m}<item>b{m}</item>{m}</tags>{m}</invoke>\n"
        '{m}<invoke name="get_time">{m}</invoke>\n{m}</tool_call>'
    ).replace("{m}", MINIMAX_MARK),
    "muse": (
        " to=self<|message|>I think.<|eom|><|start|>assistant to=user<|message|>Let me see.<|eom|>"
        '<|start|>assistant to=get_weather<|message|><atem:function_calls>\n<atem:invoke name="get_weather">\n'
        f'<atem:parameter name="city">{CITY}</atem:parameter>\n<atem:parameter name="days">3</atem:parameter>\n'
        '<atem:parameter name="tags">["a", "b"]</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eom|>'
        '<|start|>assistant to=get_time<|message|><atem:function_calls>\n<atem:invoke name="get_time">\n</atem:invoke>\n'
        "</atem:function_calls><|eot|>"
    ),
    "minimax-m1": (
        "<think>\nI think.\n</think>\n\nLet me see.\n<tool_calls>\n"
        f'{{"name": "get_weather", "arguments": {FIRST}}}\n{{"name": "get_time", "arguments": {{}}}}\n</tool_calls>'
    ),
    "seed-oss": (
        "<seed:think>I think.</seed:think>\nLet me see.\n\n<seed:tool_call>\n<function=get_weather>\n"
        f"<parameter=city>{CITY}</parameter>\n<parameter=days>3</parameter>\n<parameter=tags>['a', 'b']</parameter>\n"
        "</function>\n</seed:tool_call>\n<seed:tool_call>\n<function=get_time>\n</function>\n</seed:tool_call>"
    ),
    "command-r7b": (
        "<|START_THINKING|>I think.<|END_THINKING|><|START_RESPONSE|>Let me see.<|END_RESPONSE|><|START_ACTION|>[\n"
        f'    {{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {FIRST}}},\n'
        '    {"tool_call_id": "1", "tool_name": "get_time", "parameters": {}}\n]<|END_ACTION|>'
    ),
    "command-r": (
        'Let me see.\nAction:\n```json\n[\n    {\n        "tool_name": "get_weather",\n        "parameters": '
        f'{FIRST}\n    }},\n    {{\n        "tool_name": "get_time",\n        "parameters": {{}}\n    }}\n]```'
    ),
    "nemotron": (
        "<think>\nI think.\n</think>\n\nLet me see.\n"
        f'<TOOLCALL>[{{"name": "get_weather", "arguments": {FIRST}}}, {{"name": "get_time", "arguments": {{}}}}]</TOOLCALL>'
    ),
    "apertus": (
        "<|inner_prefix|>I think.<|inner_suffix|>Let me see."
        f'<|tools_prefix|>[{{"get_weather": {FIRST}}}, {{"get_time": {{}}}}]<|tools_suffix|>'
    ),
    "apriel": (
        "Here are my reasoning steps:\nI think.\n[BEGIN FINAL RESPONSE]\nLet me see.\n"
        f'<tool_calls>[{{"name": "get_weather", "arguments": {FIRST}}}, {{"name": "get_time", "arguments": {{}}}}]</tool_calls>'
    ),
    "granite-3": (
        "<think>I think.</think><response>Let me see.</response>"
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {FIRST}}}, {{"name": "get_time", "arguments": {{}}}}]'
    ),
    "lfm2": (
        "<think>I think.</think>Let me see."
        '<|tool_call_start|>[get_weather(city="Zürich \\"x\\"", days=3, tags=["a", "b"]), get_time()]<|tool_call_end|>'
    ),
    "gigachat-3.1": f'Let me see.<|function_call|>{{"name": "get_weather", "arguments": {FIRST}}}',
    "gigachat-3": f'Let me see.<|message_sep|>\n\nfunction call<|role_sep|>\n{{"name": "get_weather", "arguments": {FIRST}}}',
    "firefunction": f'Let me see. functools[{{"name": "get_weather", "arguments": {FIRST}}}, {{"name": "get_time", "arguments": {{}}}}]',
    "minicpm": (
        f'I think.\n</think>\n\nLet me see.\n<function name="get_weather"><param name="city">{CITY}</param><param name="days">3</param>'
        "<param name=\"tags\">['a', 'b']</param></function>\n<function name=\"get_time\"></function>"
    ),
    "functionary-3.1": f"Let me see.<function=get_weather>{FIRST}</function><function=get_time>{{}}</function>",
    "functionary-3.2": f"all\nLet me see.>>>get_weather\n{FIRST}>>>get_time\n{{}}",
    "generic": (
        "<think>\nI think.\n</think>\n\nLet me see.\n"
        f'<tool_call>\n{{"name": "get_weather", "arguments": {FIRST}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    ),
}
OPENED = {"minimax-m2", "minicpm"}  # their prompts open the thought
THOUGHTLESS = {"command-r", "gigachat-3.1", "gigachat-3", "firefunction", "functionary-3.1", "functionary-3.2"}
ONE_CALL = {"gigachat-3.1", "gigachat-3"}


def parser(name: str, **switches: bool) -> MessageParser:
    return MessageParser(GENERIC if name == "generic" else known_format(name), TOOLS, **switches)  # type: ignore[arg-type]


def parse(name: str, text: str, cut: bool = False, **switches: bool) -> Message:
    """The message, which is the same in one piece and character by character."""
    whole = read(parser(name, **switches), [text], cut)
    assert read(parser(name, **switches), text, cut) == whole
    return whole


@pytest.mark.parametrize("name", RENDERED)
def test_a_message_as_the_template_writes_it(name: str) -> None:
    message = parse(name, RENDERED[name], reasoning_open=name in OPENED)
    assert message.text == "Let me see."
    assert message.reasoning == ("" if name in THOUGHTLESS else "I think.")
    assert [(call, json.loads(arguments)) for call, arguments in message.calls] == BOTH[: 1 if name in ONE_CALL else 2]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.format.name)
def test_each_format_is_told_by_the_texts_of_its_row(row: object) -> None:
    """No earlier row matches its templates."""
    assert find_format("\n".join(row.tells)) is row.format  # type: ignore[attr-defined]


def test_a_template_without_tools_has_no_format() -> None:
    assert find_format("{% for message in messages %}{{ message.content }}{% endfor %}") is None


def test_a_prompt_that_ends_in_a_thought() -> None:
    thought = known_format("hermes").thought
    assert thought
    assert thought.is_open("<|im_start|>assistant\n<think>\n")
    assert not thought.is_open("<|im_start|>assistant\n<think>\n\n</think>\n\n")


# --- how it comes -------------------------------------------------------------------------------
def test_text_is_given_out_as_it_comes() -> None:
    here = parser("hermes")
    assert here.push("Hello") == [Piece(Kind.TEXT, "Hello")]
    assert here.push(" a < b") == [Piece(Kind.TEXT, " a < b")]
    assert here.push(" <tool") == []
    assert here.push("box>") == [Piece(Kind.TEXT, " <toolbox>")]
    assert here.push("\n") == []
    assert here.push("end") == [Piece(Kind.TEXT, "\nend")]
    assert here.finish() == []


def test_arguments_are_given_out_as_they_come() -> None:
    here = parser("hermes")
    assert here.push('<tool_call>\n{"name": "get_weather", "arguments": ') == []
    assert here.push('{"city": "Par') == [Piece(Kind.CALL, "get_weather"), Piece(Kind.ARGUMENTS, '{"city": "Par')]
    assert here.push("is") == [Piece(Kind.ARGUMENTS, "is")]
    assert here.push('"}}\n</tool_call>') == [Piece(Kind.ARGUMENTS, '"}')]
    assert here.finish() == []


def test_strings_between_tags_are_given_out_as_they_come() -> None:
    here = parser("qwen3-coder")
    assert here.push("<tool_call>\n<function=get_weather>\n<parameter=city>\nZü") == [
        Piece(Kind.CALL, "get_weather"),
        Piece(Kind.ARGUMENTS, '{"city": "Zü'),
    ]
    assert here.push('rich "x"') == [Piece(Kind.ARGUMENTS, 'rich \\"x\\"')]
    assert here.push("\n</para") == []


def test_a_held_call_is_given_out_when_it_is_complete() -> None:
    here = parser("hermes", holds_calls=True)
    assert here.push('<tool_call>\n{"name": "get_time", "arguments": {"a": 1}') == []
    assert here.push("}") == [Piece(Kind.CALL, "get_time"), Piece(Kind.ARGUMENTS, '{"a": 1}')]


# --- mistakes -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call>not JSON</tool_call> and more"),
        ("hermes", '<tool_call>\n{"name": "get_time"'),
        ("hermes", '<tool_call>{"name": "two words", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get_time", "arguments": [1]}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get_time", "arguments": {"a": 1,}}</tool_call>'),
        ("llama-3", '{"name": "Ann", "parameters": {"age": 3}}'),
        ("llama-3", '{"name": "get_time"}'),
        ("llama-4", "[1] says so, and [2](a=1) too"),
        ("mistral-array", "[TOOL_CALLS] never mind"),
        ("kimi-k2", "<|tool_calls_section_begin|>never mind<|tool_calls_section_end|>"),
        ("functionary-3.2", "Hello, who are you?"),
        ("gpt-oss", "Hello, who are you?"),
        ("hermes", "<tool_cal"),
    ],
)
def test_what_is_no_call_is_text(name: str, text: str) -> None:
    assert parse(name, text, holds_calls=True) == Message(text, "", ())


def test_a_call_that_a_limit_has_cut_is_dropped() -> None:
    text = 'Hm.\n<tool_call>\n{"name": "get_time", "arguments": {"a'
    assert parse("hermes", text, cut=True, holds_calls=True) == Message("Hm.", "", ())
    assert parse("hermes", text, cut=False, holds_calls=True) == Message(text, "", ())


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("hermes", "Hello <tool_ca", "Hello"),
        ("hermes", "1 <", "1"),
        ("hermes", "It is 5 <thi", "It is 5 <thi"),  # a thought cannot begin here
        ("deepseek-4.1", "Hm.\n\n<｜DSML｜ ca", "Hm."),  # the second half of a marker with a blank inside
        ("gpt-oss", "<|channel|>final<|message|>Hm.<|start|>assis", "Hm."),
        ("muse", " to=user<|message|>Hm.<|start|>", "Hm."),
        ("functionary-3.2", "all\nHm.>>", "Hm."),
        ("functionary-3.2", "get_we", ""),
    ],
)
def test_a_part_of_a_marker_at_a_cut_is_dropped(name: str, text: str, expected: str) -> None:
    """A client may send the answer back to be continued. Without the part, the model writes the whole marker again."""
    assert parse(name, text, cut=True).text.rstrip() == expected


def test_a_part_of_a_marker_at_a_cut_is_dropped_in_a_thought() -> None:
    assert parse("hermes", "Hm.\n</thi", reasoning_open=True, cut=True).reasoning.strip() == "Hm."


@pytest.mark.parametrize("format", [row.format for row in ROWS if row.format.calls], ids=lambda format: format.name)
def test_no_part_of_a_call_is_text_wherever_the_answer_is_cut(format: Format) -> None:
    assert format.calls is not None
    begun = {"gpt-oss": "<|channel|>final<|message|>", "muse": " to=user<|message|>", "functionary-3.2": "all\n"}.get(format.name, "")
    syntax = format.calls.syntax
    markers = [syntax.start, *syntax.ends] if isinstance(syntax, Channels) else [syntax.open] if isinstance(syntax, Recipients) else []
    for marker in (*markers, *format.calls.section_open, *format.calls.open):
        for length in range(1, len(marker.strip())):
            assert parse(format.name, f"{begun}Hello.{marker.strip()[:length]}", cut=True).text == "Hello."


def test_a_call_that_was_given_out_and_is_malformed_ends_and_its_markers_are_no_text() -> None:
    text = '<tool_call>{"name": "get_time", "arguments": {"a": 1 oops}}</tool_call>Hello.'
    message = parse("hermes", text)
    assert message.calls == (("get_time", '{"a": '),)
    assert message.text == "1 oops}}Hello."


def test_a_call_in_a_thought_ends_it_even_if_it_is_malformed_after_it_was_given_out() -> None:
    text = 'Hm.\n<tool_call>\n{"name": "get_time", "arguments": {"a": oops}}\n</tool_call>\nYes.'
    message = parse("hermes", text, reasoning_open=True)
    assert (message.reasoning, message.calls) == ("Hm.", (("get_time", '{"a": '),))
    assert message.text == "oops}}\nYes."
    assert parse("hermes", text, reasoning_open=True, holds_calls=True) == Message("", text, ())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('{"a": "x\ny"}', {"a": "x\ny"}),  # a line break that is not escaped
        ('{"a": "\\d+\\.\\\'"}', {"a": "\\d+\\.'"}),  # escapes that JSON does not have
        ('"{\\"a\\": 1}"', {"a": 1}),  # JSON in a string
        ("null", {}),
    ],
)
def test_arguments_that_are_not_quite_json_are_repaired(written: str, meant: object) -> None:
    message = parse("hermes", f'<tool_call>{{"name": "get_time", "arguments": {written}}}</tool_call>')
    assert [json.loads(arguments) for _, arguments in message.calls] == [meant]


@pytest.mark.parametrize("stray", ["<channel|>", "<|channel>thought\n<channel|>", "<|channel>thought\n<channel|><channel|>"])
def test_stray_markers_of_thoughts_of_gemma_are_dropped(stray: str) -> None:
    assert parse("gemma4", "<|channel>thought\n<channel|>Hello." + stray) == Message("Hello.", "", ())
    assert parse("gemma4", f"<|channel>{stray}<|channel>thought\nHm.\n<channel|>Hello.") == Message("Hello.", "Hm.", ())


def test_a_call_of_kimi_ends_the_thought() -> None:
    call = "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_time:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    assert parse("kimi-k2", "Hm." + call, reasoning_open=True) == Message("", "Hm.", (("get_time", "{}"),))


@pytest.mark.parametrize("name", ["qwen3-coder", "glm-4.5", "generic"])
@pytest.mark.parametrize("call", ['{"name": "get_time", "arguments": {}}', '{"type": "function", "function": {"name": "get_time"}}'])
def test_json_between_the_markers_of_another_syntax_is_a_call(name: str, call: str) -> None:
    assert parse(name, f"<tool_call>\n{call}\n</tool_call>") == Message("", "", (("get_time", "{}"),))


def test_the_old_array_of_mistral_is_read_where_its_newer_syntax_is_usual() -> None:
    assert parse("mistral-args", '[TOOL_CALLS][{"name": "get_time", "arguments": {}}]').calls == (("get_time", "{}"),)


def test_a_value_in_cdata_is_what_stands_inside() -> None:
    text = '<function name="get_weather"><param name="city"><![CDATA[a]] </param> & <b>]]></param></function>'
    assert [json.loads(arguments) for _, arguments in parse("minicpm", text).calls] == [{"city": "a]] </param> & <b>"}]


def element(name: str, *parts: str) -> str:
    return f"{MINIMAX_MARK}<{name}>{''.join(parts)}{MINIMAX_MARK}</{name}>"


def test_values_inside_values_are_elements() -> None:
    """Their types are those of the schema; without a schema, a part named `item` makes an array."""
    parts = {"type": "object", "properties": {"id": {"type": "string"}, "on": {"type": "boolean"}, "none": {"type": "array"}}}
    schema = {
        "$defs": {"part": parts},
        "properties": {"parts": {"type": "array", "items": {"$ref": "#/$defs/part"}}, "any": {"anyOf": [{"type": "null"}, parts]}},
    }
    tools = [{"function": {"name": "f", "parameters": schema}}]
    first = element("item", element("id", "7"), "\n", element("on", "true"), element("none"))
    written = element("parts", "\n", first, element("item", element("id", "{x}"))) + element("any", element("id", ""), element("id", "2"))
    more = element("free", element("item", "1"), element("item", element("k", "v"))) + element("empty")
    text = f'{MINIMAX_MARK}<tool_call>\n{MINIMAX_MARK}<invoke name="f">{written}{more}{MINIMAX_MARK}</invoke>\n{MINIMAX_MARK}</tool_call>'
    for chunks in ([text], list(text)):
        message = read(MessageParser(known_format("minimax-m3"), tools), chunks)
        [(_, arguments)] = message.calls
        assert json.loads(arguments) == {
            "parts": [{"id": "7", "on": True, "none": []}, {"id": "{x}"}],
            "any": {"id": ""},
            "free": [1, {"k": "v"}],
            "empty": "",
        }


@pytest.mark.parametrize("written", [f"{MINIMAX_MARK}<a>", element("a", element("b", "x"), "y"), f"{MINIMAX_MARK}</a>", "x"])
def test_elements_that_do_not_match_are_text(written: str) -> None:
    text = f'{MINIMAX_MARK}<tool_call>{MINIMAX_MARK}<invoke name="get_time">{written}{MINIMAX_MARK}</invoke>'
    assert parse("minimax-m3", text, holds_calls=True) == Message(text, "", ())


def test_an_id_before_the_name_is_skipped() -> None:
    form = Format("id first", None, Calls(NameThenJson(after_name="<args>", after_id="<name>"), open=("<call>",), close="<end>"))
    text = 'Hm.<call>a1b2c3d4e5<name>get_time<args>{"a": 1}<end>'
    assert read(MessageParser(form, TOOLS), text) == Message("Hm.", "", (("get_time", '{"a": 1}'),))


def test_a_parameter_that_is_written_twice_counts_once() -> None:
    message = parse("glm-4.5", "<tool_call>get_weather\n" + "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n" * 2 + "</tool_call>")
    assert message.calls == (("get_weather", '{"days": 3}'),)


def test_a_marker_in_the_middle_of_text_opens_no_thought() -> None:
    text = "Write `<think>` before and `</think>` after it."
    assert parse("hermes", text) == Message(text, "", ())


# --- switches -----------------------------------------------------------------------------------
def test_without_calls_their_markers_are_text() -> None:
    text = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    assert parse("hermes", "<think>\nHm.\n</think>\n\n" + text, parses_calls=False) == Message(text, "Hm.", ())


def test_without_reasoning_the_thought_is_text_with_its_markers_and_holds_no_calls() -> None:
    thought = "<think>\nNot [TOOL_CALLS] yet.\n</think>\n\n"
    text = thought + "Yes.[TOOL_CALLS]get_time[ARGS]{}"
    assert parse("mistral-args", text, parses_reasoning=False) == Message(thought + "Yes.", "", (("get_time", "{}"),))


def test_without_reasoning_a_thought_that_the_prompt_has_opened_is_shown_with_its_opening() -> None:
    message = parse("hermes", "Hm.\n</think>\n\nYes.", reasoning_open=True, parses_reasoning=False)
    assert message == Message("<think>\nHm.\n</think>\n\nYes.", "", ())


def test_without_reasoning_the_thoughts_markers_are_text_and_those_of_the_answer_are_not() -> None:
    text = "<|open|>response<|sep|>Hello.<|close|>response<|sep|><|close|>message<|sep|>"
    gpt = "<|channel|>analysis<|message|>Hm.<|end|>"
    assert parse("gpt-oss", gpt + "<|start|>assistant<|channel|>final<|message|>Hi.", parses_reasoning=False) == Message(
        gpt + "Hi.", "", ()
    )
    gemma = "<|channel>thought\nHm.\n<channel|>Hello."
    assert parse("gemma4", gemma, parses_reasoning=False) == Message(gemma, "", ())
    message = parse("kimi-k3", text, reasoning_open=True, parses_reasoning=False)
    assert message == Message("Hello.", "", ())


def test_without_calls_a_recipient_is_text() -> None:
    assert parse("functionary-3.2", "all\nHello.", parses_calls=False).text == "Hello."
    assert parse("functionary-3.2", "get_time\n{}", parses_calls=False) == Message("get_time\n{}", "", ())


# --- schemas ------------------------------------------------------------------------------------
SCHEMA = {
    "$defs": {"kind": {"enum": ["a", "b"]}, "size": {"type": "integer"}, "round": {"$ref": "#/$defs/round"}},
    "properties": {
        "kind": {"$ref": "#/$defs/kind"},
        "size": {"anyOf": [{"$ref": "#/$defs/size"}, {"type": "null"}]},
        "round": {"$ref": "#/$defs/round"},
        "gone": {"$ref": "#/$defs/gone"},
        "const": {"const": 3.5},
        "shape": {"properties": {}},
        "list": {"items": {}},
        "odd": {"type": 7},
    },
    "additionalProperties": {"type": ["string", "null"]},
}


@pytest.mark.parametrize(
    ("key", "types"),
    [
        ("kind", {"string"}),
        ("size", {"integer", "null"}),
        ("round", set()),
        ("gone", set()),
        ("const", {"number"}),
        ("shape", {"object"}),
        ("list", {"array"}),
        ("odd", set()),
        ("other", {"string", "null"}),
    ],
)
def test_the_types_of_a_parameter(key: str, types: set[str]) -> None:
    assert types_of(SCHEMA, key) == types


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("3", {"integer"}, 3),
        ("3", {"string"}, "3"),
        ("3", set(), 3),
        ("3", {"string", "null"}, "3"),
        ("null", {"string", "null"}, None),
        ("True", {"boolean"}, True),
        ("True", set(), "True"),
        ("007", {"integer", "string"}, "007"),
        (" x ", set(), " x "),
        ("{'a': None}", {"object"}, {"a": None}),
        ('{"a": NaN}', {"object"}, '{"a": NaN}'),
        ("[" * 3000, {"array"}, "[" * 3000),
        ("9" * 5000, {"integer"}, "9" * 5000),
        ("", {"object"}, ""),
    ],
)
def test_bare_text_becomes_json_by_its_types(text: str, types: set[str], value: object) -> None:
    assert json.loads(to_json(text, frozenset(types))) == value


def test_tools_may_be_anything() -> None:
    tools = [
        {},
        {"function": None},
        {"function": {"name": 7}},
        {"name": "a", "parameters": []},
        {"name": "b", "input_schema": {"type": "object"}},
    ]
    assert parameters_of(tools) == {"a": {}, "b": {"type": "object"}}
