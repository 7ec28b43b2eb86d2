"""Messages in, prompt text out; hostile templates in, InvalidRequest out, in time."""

import contextlib
import json
import signal
import threading
import time
from typing import Any

import pytest
from chat_templates import CHATML, LLAMA3, MISTRAL, QWEN_TOOLS, TOOLS, VISION

from fastrouter.catalog.template_features import problem_of
from fastrouter.errors import InvalidRequest
from fastrouter.options.builtin_templates import BUILT_IN
from fastrouter.worker.text import chat_template, template_sandbox
from fastrouter.worker.text.chat_template import ChatTemplate

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Hi there "}
PARTS = {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}


def render(source: str, messages: list[Any], *, tools: Any = None, prompt: bool = False, go_on: bool = False, **kwargs: Any) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages, tools, prompt, go_on, **kwargs)


def refused(source: str, messages: list[Any] | None = None, **kwargs: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        render(source, [USER] if messages is None else messages, **kwargs)
    return caught.value.message


def called(arguments: Any, **fields: Any) -> dict[str, Any]:
    call = {"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call], **fields}


# ---------------------------------------------------------------- real templates


def test_chatml() -> None:
    text = render(CHATML, [SYSTEM, USER], prompt=True)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert render(CHATML, [USER]).startswith("<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n<|im_start|>user\n")


def test_llama3() -> None:
    text = render(LLAMA3, [SYSTEM, USER], prompt=True)
    assert text == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_mistral_gets_the_system_message_in_the_first_turn() -> None:
    assert render(MISTRAL, [USER, ANSWER, USER]) == "<s>[INST] Hello [/INST]Hi there </s>[INST] Hello [/INST]"
    assert render(MISTRAL, [SYSTEM, USER, ANSWER]) == "<s>[INST] Be brief.\nHello [/INST]Hi there </s>"
    assert render(MISTRAL, [SYSTEM, PARTS]) == "<s>[INST] Be brief.\none\ntwo [/INST]"
    assert render(MISTRAL, [SYSTEM]) == "<s>[INST] Be brief. [/INST]"
    assert render(MISTRAL, [USER, USER]) == "<s>[INST] Hello\n\nHello [/INST]"
    assert SYSTEM == {"role": "system", "content": "Be brief."}


def test_tools() -> None:
    text = render(QWEN_TOOLS, [USER, called('{"city": "Zürich"}', content=None)], tools=TOOLS)
    assert json.dumps(TOOLS[0]) in text
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>' in text
    assert "None" not in text
    assert "# Tools" not in render(QWEN_TOOLS, [USER], tools=[])


def test_arguments_stay_text_where_the_template_prints_them() -> None:
    source = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.arguments }}{% endfor %}{% endfor %}"
    assert render(source, [USER, called('{"a": 1}')]) == 'Hello{"a": 1}'


def test_arguments_that_are_walked() -> None:
    source = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v }}{% endfor %}"
        "{% endfor %}{% endfor %}"
    )
    assert render(source, [called('{"a": 1}')]) == "<a>1"
    assert "not JSON" in refused(source, [called("{")])


def test_no_content_beside_a_tool_call() -> None:
    calls = "{% for c in m.tool_calls or [] %}{{ c.function.arguments }}{% endfor %}"
    shows = f"{{% for m in messages %}}{{{{ m.content }}}}{calls}{{% endfor %}}"
    assert render(shows, [USER, called("{}")]) == render(shows, [USER, called("{}", content=None)]) == "Hello{}"
    keeps = f"{{% for m in messages %}}{{% if m.content is none %}}nothing{{% else %}}{{{{ m.content }}}}{{% endif %}}{calls}{{% endfor %}}"
    assert render(keeps, [USER, called("{}", content=None)]) == "Hellonothing{}"


def test_parts() -> None:
    assert "user\none\ntwo<|im_end|>" in render(CHATML, [PARTS])
    assert render(VISION, [PARTS]) == "<user>one|two|"
    assert render(VISION, [USER]) == "<user>Hello|"
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    assert "image_url" in refused(CHATML, [image])
    assert render(VISION, [image]) == "<user>"


def test_developer_is_system_unless_the_template_knows_it() -> None:
    developer = {"role": "developer", "content": "x"}
    assert "<|im_start|>system\nx" in render(CHATML, [developer, USER])
    assert "developer" in render("{# developer #}" + CHATML, [developer, USER])


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in(name: str) -> None:
    text = render(name, [SYSTEM, USER, ANSWER, PARTS], prompt=True)
    places = [text.index(word) for word in ("Be brief.", "Hello", "Hi there", "one\ntwo")]
    assert places == sorted(places)
    assert render(name, [USER, ANSWER], go_on=True).rstrip().endswith("Hi there")


def test_empty_is_chatml() -> None:
    assert ChatTemplate("").source == ChatTemplate(" chatml\n").source == BUILT_IN["chatml"]
    assert render("", [USER], prompt=True) == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


def test_unknown_name() -> None:
    with pytest.raises(InvalidRequest, match=r"chat template 'no-such' is not known.*chatml"):
        ChatTemplate("no-such")


def test_llama2_and_mistral_texts() -> None:
    assert render("llama2-sys", [SYSTEM, USER, ANSWER, USER]) == (
        "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST]Hi there </s>[INST] Hello [/INST]"
    )
    assert render("mistral-v7", [SYSTEM, USER, ANSWER]) == "[SYSTEM_PROMPT] Be brief.[/SYSTEM_PROMPT][INST] Hello[/INST] Hi there </s>"
    assert render("gemma", [SYSTEM, USER], prompt=True) == "<start_of_turn>user\nBe brief.\n\nHello<end_of_turn>\n<start_of_turn>model\n"


# ---------------------------------------------------------------- Hugging Face names


def test_hugging_face_names() -> None:
    assert render("{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ documents is none }}", []) == "<s></s>TrueTrue"
    assert render("{{ strftime_now('%Y') }}", []) == time.strftime("%Y")
    assert render("{{ date_string }}", []) in (time.strftime("%d %b %Y", time.localtime(time.time() - ago)) for ago in (0, 60))
    assert render("{{ date_string }}", [], date_string="26 Jul 2024") == "26 Jul 2024"
    assert refused("{{ raise_exception('no way') }}") == "chat template: no way"
    assert render("{{ messages | tojson }}", [{"role": "user", "content": "<é'>"}]) == '[{"role": "user", "content": "<é\'>"}]'
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true, separators=(',', ':')) }}", []) == '{\n "a":2,\n "b":1\n}'
    assert render("{% for m in [1, 2, 3] %}{% if m == 2 %}{% continue %}{% endif %}{{ m }}{% endfor %}", []) == "13"
    assert render("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}", [USER]) == "Hello"
    assert render("{% if enable_thinking %}think{% endif %}", [], enable_thinking=True) == "think"


def test_blocks_are_trimmed() -> None:
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc", []) == "a\nb\nc"


def test_loops_keep_their_names() -> None:
    source = "{% for x in 'abc' %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ loop.nextitem }} {% else %}none{% endfor %}"
    assert render(source, []) == "1/3Falseb 2/3Falsec 3/3True "
    assert render("{% for x in [] %}{% else %}none{% endfor %}{% for x in missing %}x{% endfor %}", []) == "none"
    assert render("{% for x in [[1], [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", []) == "123"
    assert render("{{ 'a' ~ 1 ~ none }}{{ ['a', 'b'] | join('-') }}{{ messages | join(',', attribute='role') }}", [USER]) == "a1Nonea-buser"
    assert render("{{ 'aXa' | replace('a', 'b') }}{{ '%s-%d' | format('x', 3) }}{{ '{:>3}'.format(1) }}", []) == "bXbx-3  1"


def test_kwargs_do_not_replace_arguments() -> None:
    template = ChatTemplate("{{ messages | length }}{{ add_generation_prompt }}{{ self is none }}")
    options: Any = {"messages": [], "tools": 1, "add_generation_prompt": True, "continue_final_message": True, "self": None}
    assert template.render([USER], None, False, False, **options).startswith("1False")


# ---------------------------------------------------------------- continue_final_message


@pytest.mark.parametrize("content", ["Hi", "e", "Hi there ", "Hi\n", " Hi", "<|im_end|>", "user"])
def test_continue(content: str) -> None:
    messages = [USER, {"role": "assistant", "content": content}]
    assert render(CHATML, messages, prompt=True, go_on=True).endswith(f"<|im_start|>assistant\n{content}")
    assert render(LLAMA3, messages, go_on=True).endswith(f"<|end_header_id|>\n\n{content.strip()}")


def test_continue_parts() -> None:
    messages = [USER, {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert render(VISION, messages, go_on=True) == "<user>Hello|<assistant>a|b"


@pytest.mark.parametrize("messages", [[], [USER], [USER, {"role": "assistant"}], [USER, {"role": "assistant", "content": []}]])
def test_nothing_to_continue(messages: list[Any]) -> None:
    assert "continue_final_message" in refused(VISION, messages, go_on=True)


def test_continue_what_is_not_shown() -> None:
    assert "does not show" in refused("{{ messages[0].content }}", [USER, ANSWER], go_on=True)


# ---------------------------------------------------------------- broken and hostile


@pytest.mark.parametrize("source", ["a\n{% if %}", "a\n{{ x", "a\n{% for m in messages %}", "a\n{% nope %}", "a\n{{ 'x' | nope }}"])
def test_broken_template_names_its_line(source: str) -> None:
    with pytest.raises(InvalidRequest, match=r"chat template: line \d+: ") as caught:
        ChatTemplate(source)
    assert problem_of(source) == caught.value.message


@pytest.mark.parametrize(
    "source", ["", "chatml", CHATML, "{{ 9 ** 9 ** 9 }}", "{{ 'x' | center(10 ** 12) }}", "{% generation %}{% endgeneration %}"]
)
def test_what_parses_has_no_problem(source: str) -> None:
    assert problem_of(source) is None


@pytest.mark.parametrize("source", ["no-such", "{{ 1 }}" * (1 << 18), "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"])
def test_other_problems(source: str) -> None:
    assert str(problem_of(source)).startswith("chat template")


@pytest.mark.parametrize("source", [r"{{ '\ud800' }}", r"{{ raise_exception('\ud800') }}", r"{{ missing['\ud800'].x }}"])
def test_half_a_surrogate_pair_is_no_text(source: str) -> None:
    refused(source).encode()


def test_too_long_or_too_deep_a_template() -> None:
    for source in ("{{ 1 }}" * (1 << 18), "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"):
        with pytest.raises(InvalidRequest):
            ChatTemplate(source)


@pytest.mark.parametrize(
    "payload",
    [
        "''.__class__",
        "''.__class__.__mro__[1].__subclasses__()",
        "''['__class__']",
        "'' | attr('__class__')",
        "self.__init__.__globals__.__builtins__",
        "cycler.__init__.__globals__.os.popen('id').read()",
        "raise_exception.__globals__",
        "(messages | map(attribute='__class__') | list)[0]",
        "joiner.__init__.__globals__['os']",
        "namespace.__init__",
        "'{0.__class__}'.format(1)",
        "'{0.__class__.__mro__}'.format_map({'0': 1})",
        "messages.append(1)",
        "messages[0].update(role='x')",
        "lipsum()",
        "strftime_now.__globals__",
        "messages.__reduce__()",
        "(1).__class__.__bases__[0]",
        "get_flashed_messages.__globals__",
    ],
)
def test_template_injection(payload: str) -> None:
    assert refused("{{ " + payload + " }}").startswith("chat template: ")


@pytest.mark.parametrize("statement", ["{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% extends 'x' %}"])
def test_no_loader(statement: str) -> None:
    refused(statement)


def test_messages_are_text_not_templates() -> None:
    assert "{{ 7 * 7 }}" in render(CHATML, [{"role": "user", "content": "{{ 7 * 7 }}"}])


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ 'x' * 10**9 }}",
        "{{ [1] * 10**10 }}",
        "{{ 10**(10**10) }}",
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%*d' % (9999999999, 1) }}",
        "{{ '%9999999999d' | format(1) }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 9999999999) }}",
        "{{ 'x'.ljust(9999999999) }}",
        "{{ 'x' | center(9999999999) }}",
        "{{ 'x\ny' | indent(9999999999) }}",
        "{{ [1] | batch(9999999999, 'x') | list }}",
        "{% set a = 'x' * 10**6 %}{{ a.replace('x', a) }}",
        "{% set a = 'x' * 10**6 %}{{ a | replace('x', a) }}",
        "{% set a = 'x' * 10**6 %}{{ ([a] * 10**5) | join }}",
        "{% set a = 'x' * 10**6 %}{{ ','.join([a] * 10**5) }}",
        "{% set a = 'x' * 10**6 %}{% for i in range(20) %}{{ a }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ missing.attribute }}",
        "{{ 1 / 0 }}",
        "{{ 'x' + 1 }}",
        "{{ strftime_now(1) }}",
        "{{ missing | tojson }}",
        "{{ raise_exception('x' * 10**6) }}",
    ],
)
def test_blowing_up(source: str) -> None:
    started = time.thread_time()
    assert len(refused(source)) < 3000
    assert time.thread_time() - started < 4, "it was refused, not stopped when its time was over"


ENDLESS = [
    "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i * j %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the alarm may come while hypothesis counts a collection
@pytest.mark.parametrize("source", ENDLESS)
@pytest.mark.parametrize("has_alarm", [True, False])
def test_endless(source: str, has_alarm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.2)
    before = signal.getsignal(signal.SIGALRM)
    template, caught = ChatTemplate(source), []

    def run() -> None:
        started = time.thread_time()
        try:
            template.render([USER], None, False, False)
        except InvalidRequest as error:
            caught.append((error.message, time.thread_time() - started))

    if has_alarm:
        run()
    else:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    ((message, seconds),) = caught
    assert message == "chat template: not done after 0.2 s"
    assert seconds < 3
    assert signal.getsignal(signal.SIGALRM) is before


def test_alarm_interrupts_what_has_no_clock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.2)
    source = "{{ range(99999) | map('string') | map('list') | sum(start=[]) | length }}"
    assert refused(source) == "chat template: not done after 0.2 s"


def test_other_timers_go_on() -> None:
    outer, interval = signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        render("x {{ 1 }}", [])
        assert 990 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
    finally:
        signal.setitimer(signal.ITIMER_REAL, outer, interval)


def test_a_template_lives_on_after_an_error() -> None:
    template = ChatTemplate("{{ 1 // messages | length }}")
    with pytest.raises(InvalidRequest):
        template.render([], None, False, False)
    assert template.render([USER], None, False, False) == "1"


@pytest.mark.parametrize("messages", [["x"], [None], [[]], [{}], [{"role": 1, "content": 2}], [{"role": "user", "content": [1]}]])
def test_odd_messages(messages: list[Any]) -> None:
    refused(CHATML, messages)


@pytest.mark.parametrize(
    "calls", [None, "x", 1, [None], [{}], [{"function": None}], [{"function": {"arguments": 3}}], [{"function": {"arguments": "[1]"}}]]
)
def test_odd_tool_calls(calls: Any) -> None:
    with contextlib.suppress(InvalidRequest):
        render(QWEN_TOOLS, [USER, {"role": "assistant", "content": "x", "tool_calls": calls}])


def test_the_sandbox_knows_no_chat() -> None:
    assert not hasattr(template_sandbox, "ChatTemplate")


def test_command_r_is_written_as_llama_server_writes_it() -> None:
    text = render("command-r", [SYSTEM, USER], prompt=True)
    turns = [("SYSTEM", "Be brief."), ("USER", "Hello")]
    expected = "".join(f"<|START_OF_TURN_TOKEN|><|{role}_TOKEN|>{said}<|END_OF_TURN_TOKEN|>" for role, said in turns)
    assert text == expected + "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
