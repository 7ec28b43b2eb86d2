"""Templates in the worker's loop and in processes that can be killed: the choice, the same text, and an end for a template that hangs."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from chat_templates import CHATML, LLAMA3, MISTRAL, QWEN_TOOLS, TOOLS, VISION
from test_chat_template import ENDLESS, USER

from fastrouter.errors import InvalidRequest
from fastrouter.options.builtin_templates import BUILT_IN
from fastrouter.worker.text import chat_template as chat_module
from fastrouter.worker.text import render_process, rendering
from fastrouter.worker.text.chat_template import ChatTemplate
from fastrouter.worker.text.rendering import Chat, Renderer
from fastrouter.worker.text_jobs import WAITS, TextJobs

TAME = [*BUILT_IN.values(), CHATML, LLAMA3, MISTRAL, QWEN_TOOLS, VISION]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# Each of them ends very soon or never, in C code that no clock interrupts.
_DOUBLED = (
    "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
)
HOSTILE = {
    "tojson": _DOUBLED + "{{ ns.x | tojson | length }}",
    "equal": _DOUBLED + "{{ ns.x == ns.y }}",
    "key": _DOUBLED.replace("[", "(").replace("]", ",)") + "{{ {ns.x: 1} | length }}",
    "text": _DOUBLED + "{{ ns.x }}",
}
WILD = [
    "{{ [messages, messages] | length }}",
    "{% set x = messages + messages %}",
    "{{ [1] | batch(2, messages) | list | length }}",
    "{% macro f() %}{{ varargs | tojson | length }}{% endmacro %}{{ f(messages, messages) }}",
    "{{ '%s' % messages }}",
]
CAPPED = [
    "{{ '{a:>{b}}'.format(a=1, b=99999999) }}",
    "{{ '{a:>{b}}'.format_map({'a': 1, 'b': 99999999}) }}",
    "{% set a = 'x' * 10**6 %}{{ a.translate({120: a}) }}",
    "{{ '%*d' | format(99999999, 1) }}",
]


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    one = Renderer("{{ messages[0].content }}", TOKENS)
    yield one
    one.close()


def asked(source: str | None, messages: list[Any] | None = None, tools: Any = None, **kwargs: Any) -> Chat:
    return Chat(source, ([USER] if messages is None else messages, tools, True, False), kwargs)


@pytest.mark.parametrize("source", TAME)
def test_a_tame_template_is_rendered_here(renderer: Renderer, source: str) -> None:
    ask = asked(source, [USER], TOOLS)
    expected = ChatTemplate(source, **TOKENS).render(*ask.arguments)
    assert renderer.render_now(ask) == expected


def test_both_places_write_the_same(renderer: Renderer) -> None:
    for ask in (asked(None), asked(QWEN_TOOLS, [USER], TOOLS), asked("{{ [word, messages[0].content] | join(' ') }}", word="é")):
        text = renderer.render(ask)
        assert text == (renderer.render_now(ask) or "é Hello")
    assert renderer.render_now(asked(CHATML, [{"role": "user", "content": "x" * (1 << 19)}])) is None  # too long for the loop
    assert len(renderer.render(asked(CHATML, [{"role": "user", "content": "x" * (1 << 19)}]))) > 1 << 19
    assert len(renderer.idle) == 1  # one process did it all


@pytest.mark.parametrize("source", [*HOSTILE.values(), *CAPPED, *WILD, *ENDLESS])
def test_what_is_not_tame_is_not_rendered_here(renderer: Renderer, source: str) -> None:
    started = time.thread_time()
    assert renderer.render_now(asked(source)) is None
    assert time.thread_time() - started < 5


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_what_never_ends_is_killed(source: str, monkeypatch: pytest.MonkeyPatch, renderer: Renderer) -> None:
    monkeypatch.setattr(chat_module, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(render_process, "_GRACE_S", 0.2)
    with pytest.raises(InvalidRequest, match="chat template: "):
        renderer.render(asked(source))
    monkeypatch.undo()
    assert renderer.render(asked(None)) == "Hello"  # another process, or the same


@pytest.mark.parametrize("source", CAPPED)
def test_formats_are_capped(renderer: Renderer, source: str) -> None:
    with pytest.raises(InvalidRequest, match=r"chat template: .*(more than|too wide|allowed)"):
        renderer.render(asked(source))


def test_a_template_that_takes_much_memory(renderer: Renderer) -> None:
    source = "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x, 'x' * (10**7 + i)] %}{% endfor %}"
    with pytest.raises(InvalidRequest, match="chat template: it needs more memory"):
        renderer.render(asked(source))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n{% if %}", "chat template: line 2: Expected an expression, got 'end of statement block'"),
        ("{{ raise_exception('no ' + messages[0].role) }}", "chat template: no user"),
        ("{{ missing.attribute }}", "chat template: 'missing' is undefined"),
        ("{{ 'x' + 1 }}", "chat template: TypeError: "),
    ],
)
def test_the_templates_own_sentence(renderer: Renderer, source: str, message: str) -> None:
    for render in (renderer.render_now, renderer.render):
        with pytest.raises(InvalidRequest) as caught:
            render(asked(source))
        assert caught.value.message.startswith(message)
        assert caught.value.status == 400


def test_a_slow_template_holds_up_only_who_asked(renderer: Renderer) -> None:
    jobs = TextJobs()
    slow = [jobs.start(lambda: renderer.render(asked(HOSTILE["tojson"])), WAITS) for _ in range(2)]
    assert jobs.start(lambda: renderer.render(asked("{{ [messages] | length }}")), WAITS).result() == "1"
    assert not any(job.done() for job in slow)
    for job in slow:
        job.cancel()  # its client has left: the process is killed
    for job in slow:
        with pytest.raises(CancelledError):
            job.result()


def test_a_process_that_has_died_is_replaced(renderer: Renderer) -> None:
    assert renderer.render(asked(None)) == "Hello"
    [process] = renderer.idle
    os.kill(process.pid, 9)
    assert renderer.render(asked(None)) == "Hello"
    threads = [threading.Thread(target=lambda: renderer.render(asked(None))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(renderer.idle) <= 2


# ---------------------------------------------------------------- formats, and what the user is told


def test_the_format_is_found_in_both_places(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "QUICK_S", 60)
    wild = QWEN_TOOLS + "{% set x = [messages, 1] %}"
    assert renderer.format_now(wild) is None
    found = renderer.find_format(wild)
    assert (found.format.name, found.origin) == ("hermes", "table")
    assert renderer.format_now(wild) is found  # known now
    assert renderer.format_now(QWEN_TOOLS) == found
    assert renderer.find_format("chatml").origin == renderer.find_format("").origin == "generic"


@pytest.mark.parametrize("source", [HOSTILE["text"], ENDLESS[1], "{% if %}", "no-such-name", "{{ raise_exception('no') }}"])
def test_a_hostile_template_has_the_generic_format(source: str, renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_module, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(render_process, "_GRACE_S", 0.2)
    monkeypatch.setattr(rendering, "_MAX_DERIVE_S", 0.3)
    assert renderer.find_format(source).origin == "generic"


def test_the_format_is_known_before_the_first_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "QUICK_S", 60)
    one = Renderer(QWEN_TOOLS, TOKENS)
    one.start_compiling()
    assert one.render_now(asked(None)) is not None
    assert one.known_format(None).origin == "table"
    one.close()


def test_the_user_is_told_once_what_is_done_to_messages(renderer: Renderer) -> None:
    system = {"role": "system", "content": "Be brief."}
    told = "the chat template does not accept all messages unchanged: the system message is put before the first user message"
    for _ in range(2):
        assert renderer.render(asked(MISTRAL, [system, USER])) == "<s>[INST] Be brief.\nHello [/INST]"
    assert list(renderer.notices) == [told]
    renderer.notices.clear()
    renderer.find_format(MISTRAL)  # the probes are not the user's messages
    assert renderer.render(asked(MISTRAL, [USER])) == "<s>[INST] Hello [/INST]"
    assert not renderer.notices
    assert renderer.show(asked(MISTRAL, [system, USER])).adaptations == ("the system message is put before the first user message",)
