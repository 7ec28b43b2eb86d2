"""Formats derived from templates that are not in the table; what cannot be derived; which format a template gets in the end."""

from typing import Any

import hypothesis
import pytest
from chat_templates import CHATML, LLAMA3, MISTRAL, QWEN_TOOLS
from hypothesis import strategies

from fastrouter.errors import InvalidRequest
from fastrouter.options.builtin_templates import BUILT_IN
from fastrouter.worker.text.chat_template import ChatTemplate
from fastrouter.worker.text.parsers.derive import ANSWER, QUESTION, THOUGHT, TOOLS, USER, derive
from fastrouter.worker.text.parsers.derive_calls import ARGUMENTS, IDS, KEYS, NAMES, NUMBER, VALUES, Written, derive_calls
from fastrouter.worker.text.parsers.derive_text import common_prefix, common_suffix, mirrored, tokens_of
from fastrouter.worker.text.parsers.format import Braces, Calls, Format, JsonObject, NameThenJson, Pythonic, Tagged, Thought
from fastrouter.worker.text.parsers.round_trip import MESSAGES, failures, read, rendered, trip
from fastrouter.worker.text.template_format import DERIVED, GENERIC_WAY, TABLE, TemplateFormat, format_of

_SHOWS_TOOLS = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
_OPEN = "<|{{ m.role }}|>"
_ARGUMENTS = "c.function.arguments"
NEW_LINE = "{{ '\n' }}"
COMMA = "{% if not loop.last %}, {% endif %}"
ITEMS = f"{{% for k, v in {_ARGUMENTS}.items() %}}"


def made(
    call: str, *, thought: str = "", before: str = "", after: str = "", between: str = "", end: str = "<|eot|>", prompt: str = ""
) -> str:
    """A template that writes calls like this; its words are not in the table."""
    calls = "{% for c in m.tool_calls %}" + call + "{% if not loop.last %}" + between + "{% endif %}{% endfor %}"
    return (
        f"{_SHOWS_TOOLS}{{% for m in messages %}}{_OPEN}{thought}{{{{ m.content }}}}"
        f"{{% if m.tool_calls %}}{before}{calls}{after}{{% endif %}}<|eot|>{{% endfor %}}"
        f"{{% if add_generation_prompt %}}<|assistant|>{prompt}{{% endif %}}"
    )


def renderer(source: str) -> Any:
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")

    def render(messages: list[Any], tools: list[Any], add_generation_prompt: bool) -> str | None:
        try:
            return template.render(messages, tools, add_generation_prompt, False)
        except InvalidRequest:
            return None

    return render


def found(source: str) -> TemplateFormat:
    return format_of(source, renderer(source))


NAME = "{{ c.function.name }}"
JSON = "{{ c.function.arguments | tojson }}"
CALLS = {
    "objects in tags": (
        made(f'{NEW_LINE}<go>{{"name": "{NAME}", "arguments": {JSON}}}</go>'),
        Calls(JsonObject(arguments_keys=("arguments",)), open=("\n<go>",), close="</go>"),
    ),
    "other keys, an id": (
        made(f'[GO]{{"id": "{{{{ c.id }}}}", "tool": "{NAME}", "input": {JSON}}}[/GO]'),
        Calls(JsonObject(("tool",), ("input",), id_key="id"), open=("[GO]",), close="[/GO]"),
    ),
    "a function inside": (
        made(f'<go>{{"type": "function", "function": {{"name": "{NAME}", "parameters": {JSON}}}}}</go>'),
        Calls(JsonObject(arguments_keys=("parameters",), function_key="function"), open=("<go>",), close="</go>"),
    ),
    "an array": (
        made(f'{{"name": "{NAME}", "arguments": {JSON}}}', before="<all>[", between=", ", after="]</all>"),
        Calls(JsonObject(arguments_keys=("arguments",), array=True), section_open=("<all>",), section_close="</all>"),
    ),
    "the name is the key": (
        made(f'{{"{NAME}": {JSON}}}', before="<all>[", between=", ", after="]</all>"),
        Calls(JsonObject(name_is_key=True, array=True), section_open=("<all>",), section_close="</all>"),
    ),
    "bare": (
        made(f'{{"name": "{NAME}", "parameters": {JSON}}}'),
        Calls(JsonObject(arguments_keys=("parameters",)), bare=True),
    ),
    "a name, then JSON": (
        made(f"<one>fn.{NAME}<args>{JSON}</one>", before="<all>", between=NEW_LINE, after="</all>"),
        Calls(NameThenJson("fn.", "<args>"), ("<one>",), "</one>", section_open=("<all>",), section_close="</all>", between="\n"),
    ),
    "a number and a fence": (
        made(f"<one>{NAME}:{{{{ loop.index0 }}}}<args>\n{JSON}\n```</one>"),
        Calls(NameThenJson("", "<args>\n", numbered=True, after_arguments="\n```"), open=("<one>",), close="</one>"),
    ),
    "an id behind the name": (
        made(f"<one>{NAME}<id>{{{{ c.id }}}}<args>{JSON}"),
        Calls(NameThenJson("", "<args>", "<id>"), open=("<one>",)),
    ),
    "an id before the name": (
        made(f"<one>{{{{ c.id }}}}<name>{NAME}<args>{JSON}</one>", before="<all>", after="</all>"),
        Calls(
            NameThenJson("", "<args>", after_id="<name>"),
            open=("<one>",),
            close="</one>",
            section_open=("<all>",),
            section_close="</all>",
        ),
    ),
    "no close": (made(f"<one>{NAME} {JSON}"), Calls(NameThenJson("", " "), open=("<one>",))),
    "tagged": (
        made(f"{NEW_LINE}<one>\n<f={NAME}>\n{ITEMS}<p={{{{ k }}}}>\n{{{{ v }}}}\n</p>\n{{% endfor %}}</f>\n</one>"),
        Calls(Tagged("<f=", ">\n", "<p=", ">\n", "\n</p>\n", "</f>"), open=("\n<one>\n",), close="\n</one>"),
    ),
    "tagged by pairs": (
        made(f"<one>{NAME}{ITEMS}<k>{{{{ k }}}}</k><v>{{{{ v }}}}</v>{{% endfor %}}</one>"),
        Calls(Tagged("", "", "<k>", "</k><v>", "</v>"), open=("<one>",), close="</one>"),
    ),
    "tagged with types": (
        made(
            f'<one name="{NAME}">\n{ITEMS}<p name="{{{{ k }}}}" text="{{{{ "yes" if v is string else "no" }}}}">{{{{ v }}}}</p>\n'
            "{% endfor %}</one>"
        ),
        Calls(
            Tagged("", '">\n', '<p name="', '" text="', "</p>\n", after_type='">', string_types=("yes",)),
            open=('<one name="',),
            close="</one>",
        ),
    ),
    "Python": (
        made(
            f"{NAME}({ITEMS}{{{{ k }}}}={{% if v is string %}}'{{{{ v }}}}'{{% else %}}{{{{ v }}}}{{% endif %}}{COMMA}{{% endfor %}})",
            before="<py>[",
            between=", ",
            after="]</py>",
        ),
        Calls(Pythonic(), section_open=("<py>",), section_close="</py>"),
    ),
    "braces": (
        made(
            f"<one>call:{NAME}{{{{ '{{' }}}}{ITEMS}{{{{ k }}}}:{{% if v is string %}}<q>{{{{ v }}}}<q>{{% else %}}{{{{ v }}}}{{% endif %}}"
            f"{COMMA}{{% endfor %}}}}</one>"
        ),
        Calls(Braces("call:", "<q>"), open=("<one>",), close="</one>"),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    source, calls = CALLS[name]
    format = derive(renderer(source))
    assert format.calls == calls
    assert format.ends == ("<|eot|>",)
    assert format.drop == ()


_THINK = "{% if m.reasoning_content %}<hm>{{ m.reasoning_content }}</hm>\n{% endif %}"
THOUGHTS = {
    "shown where there is one": (_THINK, "", ("<hm>",), ("</hm>\n",)),
    "an empty one where there is none": ("<hm>\n{{ m.reasoning_content or '' }}\n</hm>\n\n", "", ("<hm>\n",), ("\n</hm>\n\n",)),
    "the prompt opens it": (_THINK, "<hm>", ("<hm>",), ("</hm>\n",)),
    "only its end where there is none": (_THINK.replace("</hm>\n{% endif %}", "{% endif %}</hm>"), "<hm>", ("<hm>",), ("</hm>",)),
    "other words": ("{% if m.thinking %}<|START_X|>{{ m.thinking }}<|END_X|>{% endif %}", "", ("<|START_X|>",), ("<|END_X|>",)),
    "the prompt shows an empty one": (_THINK, "<hm></hm>\n", ("<hm>",), ("</hm>\n",)),
    "words only in the prompt": (
        "{% if m.reasoning_content %}{{ m.reasoning_content }}\n[DONE]\n{% endif %}", "My steps:\n", ("My steps:\n",), ("\n[DONE]\n",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", THOUGHTS)
def test_thoughts(name: str) -> None:
    thought, prompt, opening, closing = THOUGHTS[name]
    of_answers = "{% if m.role == 'assistant' %}" + thought + "{% endif %}"
    source = made(f'<go>{{"name": "{NAME}", "arguments": {JSON}}}</go>', thought=of_answers, prompt=prompt)
    format = derive(renderer(source))
    assert format.thought == Thought(opening, closing, calls_close=True)
    assert not failures(rendered(renderer(source)), format)


def test_markers_around_the_answer_are_dropped() -> None:
    source = made(f"<go>{NAME} {JSON}</go>", thought=_THINK + "{% if m.content %}<text>{% endif %}").replace(
        "{{ m.content }}", "{{ m.content }}{% if m.content %}</text>{% endif %}"
    )
    format = derive(renderer(source))
    assert format.drop == ("<text>", "</text>")
    assert not failures(rendered(renderer(source)), format)


# ---------------------------------------------------------------- which format it is


@pytest.mark.parametrize("name", CALLS)
def test_what_is_derived_reads_the_template_back(name: str) -> None:
    source, calls = CALLS[name]
    one = found(source)
    assert (one.origin, one.format.calls) == (DERIVED, calls)
    several = () if name == "bare" else ("text and call", "two calls")  # without a marker, a call is the whole of an answer
    texts = rendered(renderer(source), ("text", "call", "call without arguments", *several))
    assert len(texts) == 3 + len(several)
    assert not failures(texts, one.format)
    for key, (prompt, whole) in texts.items():
        for size in range(1, 12):
            assert trip(prompt, whole, one.format, MESSAGES[key], size).is_round, (key, size)


def test_thoughts_of_templates_that_know_their_markers_but_show_none() -> None:
    usual = Thought(calls_close=True)
    assert found(CHATML).format.thought is None
    assert found(CHATML + "{# </think> #}").format.thought == usual
    assert found("{# </think> #}" + CALLS["tagged"][0]).format.thought == usual
    assert found(CALLS["tagged"][0]).format.thought is None


def test_the_table_comes_first_where_it_fits() -> None:
    one = found(QWEN_TOOLS)
    assert (one.origin, one.format.name) == (TABLE, "hermes")
    assert one.format.ends == ("<|im_end|>",)  # the template's own
    misleading = "{# <tool_call> #}" + CALLS["tagged"][0]
    assert found(misleading).origin == DERIVED


@pytest.mark.parametrize("source", [CHATML, LLAMA3, MISTRAL, *BUILT_IN.values()])
def test_templates_without_tools_get_the_generic_way(source: str) -> None:
    one = found(source)
    assert one.origin == GENERIC_WAY
    assert isinstance(one.format.calls, Calls)
    assert one.format.calls.syntax == JsonObject(arguments_keys=one.format.calls.syntax.arguments_keys)
    assert not failures(rendered(renderer(source)), one.format)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "no-such-variable {{ x.y }}",
        "{{ raise_exception('no') }}",
        "{{ messages | length }}",
        "{% for m in messages %}{{ m.role }}{% endfor %}",
        "{% if tools %}{{ raise_exception('no tools') }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ raise_exception('no calls') }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{{ m.content[::-1] }}{% endfor %}",
        "{{ tools | tojson }}{{ messages | tojson }}",
        "{% for m in messages %}{{ m.content }}{{ '[' * 10 ** 6 }}{{ '{' * 10 ** 6 }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ '<' * 9000 }}{% for c in m.tool_calls or [] %}{{ '[' * 6000 }}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_that_fails_probes_is_no_error(source: str) -> None:
    one = found(source)
    assert isinstance(one.format, Format)
    assert one.format.calls is not None
    assert one.format.thought is None


# ---------------------------------------------------------------- texts


def test_texts_are_compared_by_tokens() -> None:
    assert tokens_of('<a b="c">\n[X]hi there<x') == ['<a b="c">', "\n", "[X]", "hi", " ", "there", "<x"]
    assert common_prefix("<a><b>", "<a></b>") == "<a>"
    assert common_suffix("<x_begin><one>", "<y_begin><one>") == "<one>"
    assert mirrored("<a>\n", "</a>\n\nrest") == "</a>\n\n"
    assert mirrored("<|open|>a<|sep|>", "<|close|>a<|sep|>b") == "<|close|>a<|sep|>"
    assert mirrored("plain", "</plain>") == mirrored("<a>", "<a>") == mirrored("<a>", "text") == ""


def test_probes_are_plain_messages() -> None:
    assert USER["role"] == "user"
    assert all(tool["function"]["parameters"]["type"] == "object" for tool in TOOLS)


# ---------------------------------------------------------------- any text

_WORDS = [
    *("<a>", "</a>", "<a=", "[X]", "[/X]", "{", "}", "(", ")", "='", "'", '"', ":", ",", " ", "\n", "=", "word", "[", "]"),
    *("<think>", "</think>"),
    *(QUESTION, ANSWER, THOUGHT, *NAMES, *KEYS, *VALUES, *IDS, str(NUMBER)),
]


@hypothesis.given(strategies.data())
def test_whatever_a_template_shows_there_is_a_format(data: Any) -> None:
    """Any text for any probe."""
    texts = strategies.lists(strategies.sampled_from(_WORDS), max_size=30).map("".join)

    def render(messages: list[Any], tools: list[Any], add_generation_prompt: bool) -> str | None:
        return None if data.draw(strategies.integers(0, 9)) == 0 else QUESTION + str(data.draw(texts))

    one = format_of("", render)
    assert one.format.calls is not None
    assert "ZQX" not in repr(one.format.calls)
    assert read(one.format, ["some ", "<a>text"])["role"] == "assistant"


@hypothesis.given(strategies.lists(strategies.sampled_from(_WORDS), max_size=12).map("".join), strategies.data())
def test_whatever_stands_around_calls(around: str, data: Any) -> None:
    """Texts that look like calls in part."""
    pieces = strategies.lists(strategies.sampled_from(_WORDS), max_size=4).map("".join)

    def call(name: str, arguments: dict[str, Any]) -> str:
        shown = [f"{data.draw(pieces)}{key}{data.draw(pieces)}{value}" for key, value in arguments.items()]
        return f"{around}{name}{''.join(shown)}{data.draw(pieces)}"

    written = Written(
        call(NAMES[0], ARGUMENTS), call(NAMES[0], ARGUMENTS) + call(NAMES[1], ARGUMENTS), "", call(NAMES[0], {KEYS[0]: NUMBER})
    )
    calls = derive_calls(written)
    assert calls is None or "ZQX" not in repr(calls)
