"""Messages that a template drops or refuses: changed if the meaning allows it, and reported; else the template's error message."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CHATML, MISTRAL, QWEN_TOOLS, TOOLS
from conftest import StartRouter, eventually
from test_chat_template import SYSTEM, USER

from fastrouter.errors import InvalidRequest
from fastrouter.worker.text.adapt_messages import CALLS_WRITTEN, RESULTS_WRITTEN, SYSTEM_FOLDED, SYSTEM_LATER, TOOLS_DESCRIBED
from fastrouter.worker.text.chat_template import ChatTemplate
from fastrouter.worker.text.tool_prompt import describe_tools

ANSWER = {"role": "assistant", "content": "Hi"}
_REFUSE = "{{ raise_exception('%s') }}"


def turns(body: str, before: str = "") -> str:
    return f"{before}{{% for m in messages %}}{body}{{% endfor %}}"


_CALLS = "{% for c in m.tool_calls or [] %}({{ c.id }} {{ c.function.name }} {{ c.function.arguments }}){% endfor %}"
ALTERNATES = turns(
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}" + _REFUSE % "roles must alternate" + "{% endif %}[{{ m.role }}:{{ m.content }}]"
)
SYSTEM_FIRST = turns(
    "{% if m.role == 'system' and not loop.first %}" + _REFUSE % "system must be first" + "{% endif %}[{{ m.role }}:{{ m.content }}]"
)
NINE = turns(
    "{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}" + _REFUSE % "ids have nine characters" + "{% endif %}{% endfor %}"
    "[{{ m.role }}:{{ m.content or '' }}{{ m.tool_call_id }}" + _CALLS + "]"
)
ONE_CALL = turns(
    "{% if (m.tool_calls or []) | length > 1 %}" + _REFUSE % "one call" + "{% endif %}[{{ m.role }}:{{ m.content or '' }}" + _CALLS + "]"
)
USER_FIRST = turns("{% if loop.first and m.role != 'user' %}" + _REFUSE % "user first" + "{% endif %}[{{ m.role }}:{{ m.content }}]")
NO_ORPHANS = turns(
    "{% if m.tool_calls %}{% set ns.has = true %}{% endif %}{% if m.role == 'tool' and not ns.has %}" + _REFUSE % "no call" + "{% endif %}"
    "[{{ m.role }}:{{ m.content }}" + _CALLS + "]",
    "{% set ns = namespace(has=false) %}",
)
NEVER = _REFUSE % "not today"


def call(number: int, city: str = "Bern") -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": "get_weather", "arguments": json.dumps({"city": city})}}


def called(*numbers: int, content: str | None = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": [call(number) for number in numbers], **more}


def result(number: int, text: str = "20 degrees") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": text}


def render(source: str, messages: list[Any], tools: Any = None, *, prompt: bool = False, **kwargs: Any) -> tuple[str, list[str]]:
    """The text, and the changes; the caller's messages do not change."""
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    before = copy.deepcopy((messages, tools))
    text = template.render(messages, tools, prompt, False, **kwargs)
    assert (messages, tools) == before
    return text, list(template.adaptations)


# ---------------------------------------------------------------- what a template drops silently


def test_nothing_is_done_where_nothing_is_needed() -> None:
    assert render(CHATML, [SYSTEM, USER, ANSWER, USER])[1] == []
    assert render(QWEN_TOOLS, [USER, called(1), result(1)], TOOLS)[1] == []


def test_system_is_folded() -> None:
    text, done = render(MISTRAL, [SYSTEM, USER])
    assert (text, done) == ("<s>[INST] Be brief.\nHello [/INST]", [SYSTEM_FOLDED])


def test_a_later_system_message_stays_in_its_place() -> None:
    text, done = render(SYSTEM_FIRST, [SYSTEM, USER, ANSWER, {"role": "system", "content": "Now be long."}, USER])
    assert text == "[system:Be brief.][user:Hello][assistant:Hi][user:Now be long.][user:Hello]"
    assert done == [SYSTEM_LATER]
    text, done = render(CHATML, [USER, ANSWER, SYSTEM, USER])
    assert "<|im_start|>system\nBe brief.<|im_end|>" in text
    assert done == []


def test_tools_are_described_for_templates_that_know_none() -> None:
    text, done = render(CHATML, [SYSTEM, USER], TOOLS)
    assert text.startswith(f"<|im_start|>system\nBe brief.\n\n{describe_tools(TOOLS)}<|im_end|>")
    assert done == [TOOLS_DESCRIBED]
    text, done = render(MISTRAL, [USER], TOOLS)
    assert text == f"<s>[INST] {describe_tools(TOOLS)}\nHello [/INST]"
    assert done == [TOOLS_DESCRIBED, SYSTEM_FOLDED]
    assert json.dumps(TOOLS[0]) in text


def test_calls_and_results_are_written_for_templates_that_know_none() -> None:
    text, done = render(CHATML, [USER, called(1, 2, content="I look."), result(1), result(2, "rain"), ANSWER], TOOLS)
    wanted = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    assert f"<|im_start|>assistant\nI look.\n{wanted}\n{wanted}<|im_end|>" in text
    responses = "<tool_response>\n20 degrees\n</tool_response>\n<tool_response>\nrain\n</tool_response>"
    assert f"<|im_start|>user\n{responses}<|im_end|>" in text
    assert done == [CALLS_WRITTEN, RESULTS_WRITTEN, TOOLS_DESCRIBED]


# ---------------------------------------------------------------- what a template refuses


def test_roles_that_do_not_alternate_are_joined() -> None:
    text, done = render(ALTERNATES, [USER, USER, ANSWER, {"role": "assistant", "content": "there"}])
    assert text == "[user:Hello\n\nHello][assistant:Hi\n\nthere]"
    assert done == ["messages of one role in a row are joined"]


def test_results_between_roles_that_alternate() -> None:
    text, _ = render(MISTRAL, [USER, called(1), result(1), result(2), ANSWER, USER])
    assert text.count("[INST]") == 3
    assert "20 degrees" in text


def test_a_question_after_a_result_where_no_answer_may_be_empty() -> None:
    """Agents send a result and a text of the user together."""
    source = turns(
        "{% if m.role == 'assistant' and not m.content and not m.tool_calls %}" + _REFUSE % "no text" + "{% endif %}"
        "{% if m.role == 'user' and ns.last == 'tool' %}" + _REFUSE % "roles must alternate" + "{% endif %}{% set ns.last = m.role %}"
        "[{{ m.role }}:{{ m.content or '' }}" + _CALLS + "]",
        "{% set ns = namespace(last='') %}",
    )
    text, adaptations = render(source, [USER, called(1), {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}, USER])
    assert text.endswith("[tool:sunny][assistant: ][user:Hello]")
    assert adaptations == [
        "an empty answer is put between the result of a tool and a user message",
        "a space is put into answers without text",
    ]
    assert render(source, [USER, {"role": "assistant", "content": ""}, USER])[1] == ["a space is put into answers without text"]


def test_ids_of_nine_characters() -> None:
    text, done = render(NINE, [USER, called(1, 2, content=""), result(1), result(2)])
    ids = [part.split()[0] for part in text.split("(")[1:]]
    assert len(set(ids)) == 2
    assert all(len(one) == 9 and one.isalnum() for one in ids)
    assert [f"20 degrees{one}" in text for one in ids] == [True, True]
    assert done == ["ids of tool calls are replaced by nine letters and digits"]
    kept = {"role": "assistant", "content": "", "tool_calls": [{**call(1), "id": "abcdefghi"}]}
    assert "(abcdefghi " in render(NINE, [USER, kept])[0]


def test_one_call_after_the_other() -> None:
    text, done = render(ONE_CALL, [USER, called(1, 2, content="I look."), result(2, "two"), result(1, "one"), ANSWER])
    shown = '(call_%d get_weather {"city": "Bern"})'
    assert text == (f"[user:Hello][assistant:I look.{shown % 1}][assistant:{shown % 2}][tool:two][tool:one][assistant:Hi]")
    assert done == ["several tool calls of one answer are shown one after the other"]


def test_a_template_that_shows_only_the_first_call() -> None:
    """It does not refuse the others, so they would be lost silently."""
    first = "{% if m.tool_calls %}({{ m.tool_calls[0].function.name }} {{ m.tool_calls[0].function.arguments }}){% endif %}"
    source = turns("[{{ m.role }}:{{ m.content or '' }}" + first + "]")
    other = {**call(2), "function": {"name": "get_time", "arguments": "{}"}}
    both = {"role": "assistant", "content": "I look.", "tool_calls": [call(1), other]}
    text, done = render(source, [USER, both, result(1, "one"), result(2, "two"), ANSWER])
    assert text == (
        '[user:Hello][assistant:I look.(get_weather {"city": "Bern"})][tool:one][assistant:(get_time {})][tool:two][assistant:Hi]'
    )
    assert done == ["several tool calls of one answer are shown one after the other"]
    assert render(source, [USER, called(1), result(1)])[1] == []


def test_a_thought_that_the_template_opens_is_ended() -> None:
    source = turns("[{% if m.role == 'assistant' %}<think>{% endif %}{{ m.content }}]{# </think> #}")
    assert render(source, [USER, ANSWER, USER])[0] == "[Hello][<think>\n</think>\n\nHi][Hello]"
    assert render(source, [USER, {"role": "assistant", "content": ""}])[0] == "[Hello][<think>]"


def test_an_answer_that_comes_first() -> None:
    text, done = render(USER_FIRST, [ANSWER, USER])
    assert text == "[user:][assistant:Hi][user:Hello]"
    assert done == ["an empty user message is put before an answer that comes first"]


def test_a_result_without_a_call() -> None:
    text, done = render(NO_ORPHANS, [USER, result(1)])
    assert text == "[user:Hello][user:<tool_response>\n20 degrees\n</tool_response>]"
    assert done == ["results of tools that belong to no call are shown as user messages"]


def test_a_template_that_works_on_the_text_of_earlier_answers() -> None:
    is_earlier = "{% if m.role == 'assistant' and not loop.last %}"
    source = turns(is_earlier + "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content or '' }}{% endif %}" + _CALLS)
    asked = [USER, called(1)]
    assert render(source, asked)[1] == []
    text, adaptations = render(source, [*asked, {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}])
    assert (text.count("get_weather"), adaptations) == (1, [])


def test_a_text_beside_a_thought_and_calls() -> None:
    source = turns(
        "{% if m.tool_calls and m.content and m.thinking %}" + _REFUSE % "content or thinking" + "{% endif %}"
        "[{{ m.role }}:{{ m.thinking }}|{{ m.content }}" + _CALLS + "]"
    )
    text, done = render(source, [USER, called(1, content="I look.", reasoning_content="Hm.")])
    assert text.startswith("[user:|Hello][assistant:Hm.\n\nI look.|(call_1 ")
    assert done == ["a text beside a thought and tool calls is put after the thought"]


def test_tools_with_types_that_a_template_cannot_name() -> None:
    source = "{% macro t(s) %}{% if s.type is string %}{{ s.type }}{% else %}{{ t(s) }}{% endif %}{% endmacro %}"
    source += (
        "{% for f in tools or [] %}{{ f.function.name }}({% for k, s in f.function.parameters.properties.items() %}{{ k }}: {{ t(s) }}"
    )
    source += " {% endfor %}){% endfor %}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    properties = {
        "a": {"type": ["null", "number"]},
        "b": {"anyOf": [{"type": "null"}, {"type": "string"}], "description": "x"},
        "c": {"type": "array", "items": {"type": ["integer", "null"]}},
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    assert render(source, [USER], [tool]) == (
        "f(a: number b: string c: array )[Hello]",
        ["parameters of tools are shown with simpler types"],
    )
    odd = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
    text, done = render(source, [USER], [odd])
    assert text == f"[{describe_tools([odd])}][Hello]"
    assert done == ["tools are described in the system message, because the template refuses them"]


def test_what_cannot_be_adapted_ends_with_the_templates_own_sentence() -> None:
    for messages in ([USER], [USER, USER], [SYSTEM, called(1), result(1)]):
        with pytest.raises(InvalidRequest) as caught:
            render(NEVER, messages, TOOLS)
        assert caught.value.message == "chat template: not today"
        assert caught.value.status == 400
    picky = turns("{% if m.role not in ('user', 'assistant') %}" + _REFUSE % "unknown role" + "{% endif %}[{{ m.content }}]")
    with pytest.raises(InvalidRequest, match="chat template: unknown role"):
        render(picky, [USER, USER, {"role": "critic", "content": "no"}])


def test_several_remedies_together() -> None:
    strict = ALTERNATES.replace("]{% endfor", _CALLS + "]{% endfor")
    text, done = render(strict, [ANSWER, ANSWER, USER, USER])
    assert text == "[user:][assistant:Hi\n\nHi][user:Hello\n\nHello]"
    assert done == ["messages of one role in a row are joined", "an empty user message is put before an answer that comes first"]


# ---------------------------------------------------------------- thoughts of earlier answers


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ("{{ m.reasoning_content }}|{{ m.content }}", "Hm.|Hi"),
        ("{{ m.thinking }}|{{ m.content }}", "Hm.|Hi"),
        ("{{ m.reasoning }}|{{ m.content }}", "Hm.|Hi"),
        ("{{ m.content }}", "Hi"),
        ("{# </think> #}{{ m.content }}", "<think>\nHm.\n</think>\n\nHi"),
        ("{{ m.content.split('</think>')[-1] | trim }}", "Hi"),
        ("<think>\n{{ m.content }}{# </think> #}", "<think>\nHm.\n</think>\n\nHi"),
        (
            "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}<{{ p.type }}>{{ p.thinking or p.text }}"
            "{% endfor %}{% endif %}",
            "<thinking>Hm.<text>Hi",
        ),
    ],
)
def test_a_thought_goes_where_the_template_looks_for_it(shown: str, text: str) -> None:
    source = turns("{% if m.role == 'assistant' %}" + shown + "{% else %}[{{ m.content }}]{% endif %}")
    assert render(source, [USER, {**ANSWER, "reasoning_content": "Hm."}]) == (f"[Hello]{text}", [])


def test_an_answer_without_a_thought_stays_without() -> None:
    source = turns("[{{ m.content }}]{# </think> #}")
    assert render(source, [USER, ANSWER])[0] == "[Hello][Hi]"


# ---------------------------------------------------------------- lists that templates make, values of today


def test_a_template_may_collect_in_a_list_of_its_own() -> None:
    source = (
        "{% set ns = namespace(ids=[]) %}{% for m in messages %}{% set _ = ns.ids.append(m.role) %}{% endfor %}{{ ns.ids | join(',') }}"
    )
    assert render(source, [USER, ANSWER])[0] == "user,assistant"
    for given in ("messages", "tools"):
        with pytest.raises(InvalidRequest, match="unsafe"):
            render("{{ " + given + ".append(1) }}", [USER], TOOLS)


def test_what_filters_give_can_be_shown_as_json() -> None:
    assert render("{{ messages | map(attribute='role') | tojson }}", [USER, ANSWER])[0] == '["user", "assistant"]'
    with pytest.raises(InvalidRequest, match="not JSON serializable"):
        render("{{ range | tojson }}", [USER])


def test_a_template_with_functools_gets_its_two_values() -> None:
    source = "{# functools[ #}{{ functions }}|{{ datetime | length }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    text, _ = render(source, [USER], TOOLS)
    assert text.startswith(json.dumps(TOOLS, indent=2)[:20])
    assert text.endswith("|20[Hello]")
    assert render(source, [USER])[0] == "|20[Hello]"


def test_the_log_says_once_what_was_done(router: StartRouter, models: Path, tmp_path: Path) -> None:
    (tmp_path / "mistral.jinja").write_text(MISTRAL)
    server = router("--chat-template-file", str(tmp_path / "mistral.jinja"), models_dir=models)
    for _ in range(2):
        answer = server.post("/v1/chat/completions", {"model": "tiny0", "messages": [SYSTEM, USER], "max_tokens": 1})
        assert answer.status == 200, answer.body
    refused = server.post("/v1/chat/completions", {"model": "tiny0", "messages": [USER, {"role": "critic", "content": "no"}]})
    assert refused.error["message"] == "chat template: Only user and assistant roles are supported!"
    line = f"tiny0: the chat template does not accept all messages unchanged: {SYSTEM_FOLDED}"
    eventually(lambda: line in server.log, "the line")
    assert server.log.count(SYSTEM_FOLDED) == 1
