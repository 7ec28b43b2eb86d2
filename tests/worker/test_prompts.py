"""Messages to prompts with a template and a system message that come with the request; also in a real worker, through its wire."""

from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import descendants, eventually, is_alive
from tiny_models import make_llama
from worker_talk import OPTIONS, Talk, run
from worker_talk import end as stop

from fastrouter.errors import FastrouterError, InvalidRequest, from_wire
from fastrouter.ipc.messages import Call, Forget, Generate, Load, Ready, Reply
from fastrouter.options.load import LoadOptions
from fastrouter.supervisor.workers.fork_server import ForkServer
from fastrouter.worker.calls import text_calls
from fastrouter.worker.calls.text_calls import TextCalls
from fastrouter.worker.llama.binding import start_backends
from fastrouter.worker.llama.model import Model
from fastrouter.worker.text import rendering
from fastrouter.worker.text.prompts import Prompts, ReadPrompt

OWN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
OTHER = "{% for m in messages %}<{{ m.role }}: {{ m.content }}>{% endfor %}{{ bos_token }}{{ word }}"
HELLO = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    start_backends()
    path = make_llama(tmp_path_factory.mktemp("variants") / "own.gguf", chat_template=OWN)
    opened = Model(str(path), LoadOptions())
    yield opened
    opened.close()


def text_of(model_prompts: Prompts, **fields: Any) -> str:
    return model_prompts.build(Generate(**{"messages": HELLO, **fields}))[1]


def test_a_template_instead_of_the_models(model: Model) -> None:
    here = Prompts(model, LoadOptions(chat_template_kwargs={"word": "now"}))
    assert text_of(here, chat_template=OTHER) == "<user: the cat><s>now"
    assert text_of(here) == "[user] the cat\n"
    assert text_of(here, chat_template="chatml") == "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    tokens, text = here.build(Generate(messages=HELLO, chat_template=OTHER))
    assert tokens == array("i", here.tokenize(text, add_special=True, parse_special=True))


def test_a_system_message_for_those_that_have_none(model: Model) -> None:
    here = Prompts(model, LoadOptions())
    assert text_of(here, system="be brief") == "[system] be brief\n[user] the cat\n"
    for role in ("system", "developer"):
        own = [{"role": "user", "content": "a"}, {"role": role, "content": "be long"}]
        assert "be brief" not in text_of(here, messages=own, system="be brief")
    assert text_of(here, prompt="the cat", messages=None, system="be brief") == "the cat"
    calls = TextCalls(model.vocab, here, lambda frame: None)
    asked = {"messages": HELLO, "system": "b", "chat_template": OTHER}
    assert calls.answer("apply_template", asked) == {"prompt": "<system: b><user: the cat><s>"}


def test_a_template_is_compiled_once_and_few_are_kept(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    make = rendering.ChatTemplate

    def counting(source: str, **how: Any) -> rendering.ChatTemplate:
        compiled.append(source)
        return make(source, **how)

    monkeypatch.setattr(rendering, "ChatTemplate", counting)
    here = Prompts(model, LoadOptions())
    sources = [f"{number}{OTHER}" for number in range(rendering.MAX_TEMPLATES + 1)]
    for source in sources * 3:
        assert text_of(here, chat_template=source).startswith(f"{source.partition('{')[0]}<user")
    assert compiled == sources
    text_of(here, chat_template="one more")
    text_of(here, chat_template=sources[0])
    assert compiled == [*sources, "one more", sources[0]]


def test_a_broken_template_costs_its_requests_only(model: Model) -> None:
    here = Prompts(model, LoadOptions())
    for _ in range(2):
        with pytest.raises(FastrouterError, match="chat template: line 1"):
            text_of(here, chat_template="{% for %}")
    assert text_of(here) == "[user] the cat\n"


def test_a_worker_answers_two_variants_and_the_model(tmp_path: Path) -> None:
    path = make_llama(tmp_path / "own.gguf", chat_template=OWN)

    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        talk.process.send(Load("own", str(path), OPTIONS))
        await talk.hear(Ready)
        shown = {}
        for name, fields in (("model", {}), ("brief", {"system": "be brief"}), ("other", {"chat_template": OTHER})):
            _, finish = await talk.generate(messages=HELLO, verbose=True, **fields)
            talk.process.send(Call(1, "apply_template", {"messages": HELLO, **fields}))
            shown[name] = finish["prompt"].removeprefix("<s> ")  # that the vocabulary adds
            assert (await talk.hear(Reply)).result == {"prompt": shown[name]}
        assert shown == {
            "model": "[user] the cat\n",
            "brief": "[system] be brief\n[user] the cat\n",
            "other": "<user: the cat><s>",
        }
        talk.process.send(Call(2, "apply_template", {"messages": HELLO, "chat_template": "{{ raise_exception('no') }}"}))
        assert from_wire((await talk.hear(Reply)).error).status == 400
        await stop(talk)

    run(scenario)


@pytest.mark.parametrize(
    ("own", "fields", "end"),
    [
        (None, {"messages": HELLO}, ""),
        (None, {"messages": HELLO, "stop": ["dog"]}, ""),
        (None, {"messages": HELLO, "chat_template": OTHER}, "<|im_end|>"),
        (None, {"prompt": "the cat"}, "<|im_end|>"),
        (OWN, {"messages": HELLO}, "<|im_end|>"),
    ],
    ids=["no template", "stop strings", "a variant's template", "no chat", "own template"],
)
def test_without_a_template_a_chat_ends_where_chatml_does(tmp_path: Path, own: str | None, fields: dict[str, Any], end: str) -> None:
    path = make_llama(tmp_path / "own.gguf", chat_template=own)
    constraint = {"kind": "regex", "text": r"the cat<\|im_end\|>", "field": "x"}

    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        talk.process.send(Load("own", str(path), OPTIONS))
        text, finish = await talk.generate(max_tokens=40, constraint=constraint, **fields)
        assert (text, finish["stop_type"]) == (f"the cat{end}", "eos" if end else "word")
        await stop(talk)

    run(scenario)


LONG = "the cat " * (1 << 19)  # 4 MiB


def test_long_texts_delay_no_other_request(tmp_path: Path) -> None:
    path = make_llama(tmp_path / "own.gguf", chat_template=OWN)

    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        talk.process.send(Load("own", str(path), OPTIONS))
        await talk.hear(Ready)
        for number in range(4):
            talk.process.send(Call(number, "tokenize", {"content": LONG}))
        talk.process.send(Call(10, "tokenize", {"content": "the cat"}))
        text, finish = await talk.generate(prompt="the cat", max_tokens=4)
        assert (len(text) > 0, finish["completion_tokens"]) == (True, 4)
        assert (await talk.hear(Reply)).request_id == 10  # none of the long ones
        for number in (1, 2, 3):
            talk.process.send(Forget(number))
        reply = await talk.hear(Reply)
        assert (reply.request_id, len(orjson.loads(orjson.dumps(reply.result))["tokens"])) == (0, (1 << 20) + 1)
        await stop(talk)
        assert not [message for message in talk.messages if isinstance(message, Reply)]

    run(scenario)


@pytest.mark.parametrize(
    ("fields", "least"),
    [
        ({"prompt": LONG}, 1 << 19),
        ({"prompt": ["the cat", 5, LONG]}, 1 << 19),
        ({"messages": [{"role": "user", "content": LONG}]}, 1 << 19),
        ({"prompt": [5] * 1_000_000}, 1_000_000),
        ({"prompt": "the cat " * 300}, 601),
        ({"messages": [{"role": "user", "content": "the cat " * 3000}], "constraint": {"kind": "regex", "text": "a", "field": "x"}}, 6000),
    ],
    ids=["text", "mix", "chat", "ids", "short", "with a grammar"],
)
def test_a_prompt_that_is_too_long(tmp_path: Path, fields: dict[str, Any], least: int) -> None:
    path = make_llama(tmp_path / "own.gguf", chat_template=OWN)

    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        talk.process.send(Load("own", str(path), OPTIONS))
        _, end = await talk.generate(**fields)
        error = from_wire(end)
        assert (error.status, error.type, error.extra["n_ctx"]) == (400, "exceed_context_size_error", 256), end
        assert error.extra["n_prompt_tokens"] >= least
        await stop(talk)

    run(scenario)


def test_a_long_prompt_is_read_like_a_short_one(tmp_path: Path) -> None:
    path = make_llama(tmp_path / "own.gguf", n_ctx=8192)

    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        talk.process.send(Load("own", str(path), replace(OPTIONS, ctx_size=8192, parallel=1)))
        _, finish = await talk.generate(prompt="the cat " * 1000, max_tokens=2)
        assert finish["prompt_tokens"] == 2001 + 1
        await stop(talk)

    run(scenario)


@pytest.mark.parametrize(
    ("method", "params", "problem"),
    [
        ("tokenize", {"content": "a b " * (1 << 20), "with_pieces": True}, "larger than the limit of 16 MiB"),
        ("apply_template", {"messages": HELLO, "chat_template": r"{{ '\ud800' }}"}, "surrogates not allowed"),
        ("apply_template", {"messages": HELLO, "chat_template": "{{ '\\n' * 9000000 }}"}, "the answer would have"),
        ("apply_template", {"messages": HELLO, "chat_template": r"{{ raise_exception('\ud800') }}"}, "chat template: "),
        ("count_tokens", {"messages": HELLO, "chat_template": r"{{ [messages] | map('pprint') }}{% if %}"}, "chat template: line 1"),
        ("nonsense", {}, "unknown call"),
    ],
)
def test_what_an_answer_does_is_its_own_error(tmp_path: Path, method: str, params: dict[str, Any], problem: str) -> None:
    path = make_llama(tmp_path / "own.gguf")

    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        talk.process.send(Load("own", str(path), OPTIONS))
        talk.process.send(Call(7, method, params))
        reply = await talk.hear(Reply)
        error = from_wire(reply.error)
        assert (reply.request_id, error.status, problem in error.message) == (7, 400, True), error.message
        talk.process.send(Call(8, "tokenize", {"content": "the cat"}))
        assert (await talk.hear(Reply)).request_id == 8
        await stop(talk)

    run(scenario)


def test_an_answer_over_the_limit_is_not_even_made(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_calls, "MAX_ANSWER_BYTES", 1 << 20)
    calls = TextCalls(model.vocab, Prompts(model, LoadOptions()), lambda frame: None)
    [token] = [token for token in calls.answer("tokenize", {"content": "the"})["tokens"] if len(model.vocab.token_to_piece(token)) > 2]
    assert calls.answer("detokenize", {"tokens": [token] * 9}) == {"content": " the" * 9}
    for method, params in (
        ("detokenize", {"tokens": [token] * (1 << 19)}),
        ("tokenize", {"content": "the " * (1 << 17), "with_pieces": True}),
    ):
        with pytest.raises(InvalidRequest, match="larger than the limit of 1 MiB"):
            calls.answer(method, params)


def test_a_template_that_is_not_tame_has_a_process_of_its_own(tmp_path: Path) -> None:
    path = make_llama(tmp_path / "own.gguf", chat_template="{{ ['you said', messages[0].content] | join(' ') }}")
    children: list[int] = []

    async def scenario(fork_server: ForkServer) -> None:
        talk = Talk(fork_server.spawn())
        talk.process.send(Load("own", str(path), OPTIONS))
        for _ in range(2):
            _, finish = await talk.generate(messages=HELLO, verbose=True)
            assert finish["prompt"].endswith("you said the cat")
        assert talk.process.pid is not None
        children.extend(descendants(talk.process.pid))
        await stop(talk)

    run(scenario)
    assert len(children) == 1
    eventually(lambda: not is_alive(children[0]), "its end")


@pytest.mark.parametrize(
    ("options", "asked", "expected"),
    [
        ({}, {}, {"enable_thinking": True, "preserve_reasoning": True}),
        ({"reasoning": "off"}, {}, {"enable_thinking": False, "thinking": False, "preserve_reasoning": True}),
        ({"reasoning": "on", "reasoning_preserve": False}, {}, {"enable_thinking": True, "thinking": True, "preserve_reasoning": False}),
        ({"reasoning": "off"}, {"enable_thinking": True}, {"enable_thinking": True, "thinking": True, "preserve_reasoning": True}),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"thinking": 1}},
            {"enable_thinking": False},
            {"reasoning_effort": "low", "thinking": 1, "enable_thinking": False, "preserve_reasoning": True},
        ),
    ],
    ids=str,
)
def test_templates_are_told_whether_to_think(model: Model, options: Any, asked: Any, expected: Any) -> None:
    assert Prompts(model, LoadOptions(**options)).kwargs_of(asked) == expected


def test_the_end_of_the_prompt_is_known(model: Model) -> None:
    template = "{{ messages[0].content }}" + "x" * 500 + "<think>\n\n"
    read = Prompts(model, LoadOptions()).read(Generate(messages=HELLO, chat_template=template), 1 << 20)
    assert isinstance(read, ReadPrompt)
    assert read.end.endswith("x<think>\n")
    assert len(read.end) < 500
