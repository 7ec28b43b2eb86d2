"""Thoughts and tool calls from real tokens to ring records: scripted models, a real engine and a real ring."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from engine_bench import Bench, Client, backends
from scripted_models import CONTROL, USER_DEFINED, make_scripted

from fastrouter.ipc.messages import Generate

__all__ = ["backends"]
# They mention the markers, so that the format is known, and end with the word that chooses the script.
QWEN = (
    "{# <tool_call> tool_calls <think> </think> arguments #}"
    "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}{% for message in messages %}{{ message.content }} {% endfor %}"
    "{% if opens %}<think>\n{% endif %}{{ word }}"
)
CALL = '\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "two words"}}\n</tool_call>'
ARGUMENTS = {"a": 1, "b": "two words"}
THOUGHT = "Let me see: it's 1 and 2?"
TWO_CALLS = (
    'Both.\n<tool_call>\n{"name": "add", "arguments": {"a": 10, "b": "x y"}}\n</tool_call>'
    '\n<tool_call>\n{"name": "look", "arguments": {"where": "up there"}}\n</tool_call>'
)
SCRIPTS = {
    "cat": f"<think>\n{THOUGHT}\n</think>\n\nI call it.{CALL}",
    "dog": "Just some plain text, é <b>ü</b>.",
    "red": TWO_CALLS,
    "one": "thinking ever on and on without an end, is it",
    "two": "<tool_call>\nnot a call at all\n</tool_call> so there",
}
SPECIAL = {"<tool_call>": CONTROL, "</tool_call>": CONTROL, "<think>": USER_DEFINED, "</think>": CONTROL, "<|note|>": CONTROL}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


TOOLS = [tool("add", a={"type": "integer"}, b={"type": "string"}), tool("look", where={"type": "string"})]
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scripted(tmp_path_factory.mktemp("scripted") / "m.gguf", SCRIPTS, chat_template=QWEN)


@pytest.fixture
def bench(path: Path) -> Iterator[Bench]:
    here = Bench(path, 1 << 18, ctx_size=1024, parallel=4)
    yield here
    here.check_idle()
    here.close()


def submit(bench: Bench, word: str, tools: Any = TOOLS, max_tokens: int = 200, **more: Any) -> Client:
    kwargs = {"word": word, **more.pop("chat_template_kwargs", {})}
    return bench.submit(None, max_tokens, messages=more.pop("messages", HELLO), tools=tools, chat_template_kwargs=kwargs, **more)


def ask(bench: Bench, word: str, tools: Any = TOOLS, max_tokens: int = 200, **more: Any) -> Client:
    client = submit(bench, word, tools, max_tokens, **more)
    bench.run(client)
    return client


def thought(client: Client, choice: int = 0) -> str:
    return client.thoughts.get(choice, b"").decode() + "".join(event["reasoning"] for event in client.events)


def calls(client: Client) -> list[tuple[str, Any]]:
    """(name, arguments) of each call."""
    found: dict[int, list[str]] = {}
    for event in client.events:
        for piece in event["calls"]:
            assert bool(piece["id"]) == bool(piece["name"]) == (piece["index"] not in found)
            if piece["id"]:
                assert piece["id"].startswith("call_")
                assert len(piece["id"]) == 29
                assert piece["arguments"] == ""
            found.setdefault(piece["index"], [piece["name"]]).append(piece["arguments"])
    assert list(found) == list(range(len(found)))
    return [(name, orjson.loads("".join(arguments))) for name, *arguments in found.values()]


def counts(client: Client) -> tuple[Any, ...]:
    finish = client.finish
    return finish["stop_type"], finish["num_calls"], finish["reasoning_tokens"]


# ---------------------------------------------------------------- parsing


def test_a_thought_a_text_and_a_call(bench: Bench) -> None:
    client = ask(bench, "cat")
    assert (thought(client), client.text(), calls(client)) == (THOUGHT, "I call it.", [("add", ARGUMENTS)])
    stop_type, num_calls, num_reasoning = counts(client)
    assert (stop_type, num_calls) == ("eos", 1)
    assert 5 < num_reasoning < client.finish["completion_tokens"] - 10
    assert client.num_records > 15  # as it comes


def test_a_completion_is_never_parsed(bench: Bench) -> None:
    client = bench.ask("hi cat", 200)
    assert client.text() == SCRIPTS["cat"]
    assert not client.thoughts
    assert not client.events


def test_control_tokens_of_markers_are_read_and_others_stay_hidden(tmp_path: Path) -> None:
    text = SCRIPTS["cat"].replace("I call", "<|note|>I call")
    here = Bench(make_scripted(tmp_path / "m.gguf", {"cat": text}, special=SPECIAL, chat_template=QWEN), 1 << 18, ctx_size=512, parallel=2)
    client = ask(here, "cat")
    assert (thought(client), client.text(), calls(client)) == (THOUGHT, "I call it.", [("add", ARGUMENTS)])
    assert here.ask("hi cat", 200).text() == SCRIPTS["cat"].replace("<tool_call>", "").replace("</tool_call>", "").replace("</think>", "")
    here.close()


@pytest.mark.parametrize(
    ("template", "special", "text", "expected"),
    [
        (
            "[TOOL_CALLS]{{ call.function.name }}[ARGS]{{ call.function.arguments | tojson }}",
            ["[TOOL_CALLS]", "[ARGS]"],
            '[TOOL_CALLS]add[ARGS]{"a": 1, "b": "two words"}',
            "",
        ),
        (
            "<|channel|>commentary to=functions.{{ call.function.name }} <|constrain|>json<|message|>"
            "{{ call.function.arguments | tojson }}<|call|>{# analysis #}",
            ["<|channel|>", "<|message|>", "<|constrain|>", "<|call|>"],
            '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1, "b": "two words"}<|call|>',
            "",
        ),
    ],
    ids=["mistral", "gpt-oss"],
)
def test_formats_of_control_tokens(tmp_path: Path, template: str, special: list[str], text: str, expected: str) -> None:
    """An end token of the vocabulary may be a part of a call."""
    template = (
        "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}{% for message in messages %}{{ message.content or '' }}"
        "{% for call in message.tool_calls or [] %}" + template + "{% endfor %} {% endfor %}{{ word }}"
    )
    kinds = dict.fromkeys(special, CONTROL)
    here = Bench(
        make_scripted(tmp_path / "m.gguf", {"cat": text}, special=kinds, chat_template=template), 1 << 18, ctx_size=512, parallel=2
    )
    client = ask(here, "cat")
    assert (client.text(), calls(client), counts(client)) == (expected, [("add", ARGUMENTS)], ("eos", 1, 0))
    here.close()


def test_without_tools_a_call_is_text(bench: Bench) -> None:
    for fields in ({"tools": None}, {"tool_choice": "none"}, {"parses_calls": False}, {"tool_choice": {"names": [], "required": False}}):
        client = ask(bench, "cat", **fields)
        assert (thought(client), client.text()) == (THOUGHT, f"I call it.{CALL}")
        assert counts(client)[1] == 0


def test_text_that_is_no_call_is_text(bench: Bench) -> None:
    client = ask(bench, "two")
    assert client.text() == SCRIPTS["two"]
    assert counts(client) == ("eos", 0, 0)
    assert ask(bench, "dog").text() == SCRIPTS["dog"]


def test_thoughts_can_stay_in_the_text(bench: Bench) -> None:
    client = ask(bench, "cat", reasoning_format="none")
    assert (thought(client), client.text()) == ("", f"<think>\n{THOUGHT}\n</think>\n\nI call it.")
    assert (calls(client), counts(client)[2]) == ([("add", ARGUMENTS)], 0)


def test_several_calls_and_only_the_first_one(bench: Bench) -> None:
    both = [("add", {"a": 10, "b": "x y"}), ("look", {"where": "up there"})]
    client = ask(bench, "red")
    assert (client.text(), calls(client), counts(client)) == ("Both.", both, ("eos", 2, 0))
    alone = ask(bench, "red", parallel_tool_calls=False)
    assert (alone.text(), calls(alone), counts(alone)) == ("Both.", both[:1], ("eos", 1, 0))
    assert alone.finish["completion_tokens"] < client.finish["completion_tokens"]


def test_only_the_allowed_tools_are_shown(bench: Bench) -> None:
    prompts = [
        bench.engine.prompts.build(submit_only(choice))[1]
        for choice in ("auto", "required", {"names": ["look"], "required": True}, {"names": [], "required": False}, "none")
    ]
    assert [prompt.removesuffix("hi ") for prompt in prompts] == ["add look ", "add look ", "look ", "", ""]


def submit_only(choice: Any) -> Generate:
    return Generate(messages=HELLO, tools=TOOLS, tool_choice=choice, chat_template_kwargs={"word": ""})


def certain(text: str) -> str:
    """Without text that may have been a part of a marker, or was before one."""
    return re.sub(r"\s*(<[/\w]*)?$", "", text)


@pytest.mark.parametrize("max_tokens", range(1, 30))
def test_a_limit_cuts_anywhere(bench: Bench, max_tokens: int) -> None:
    """The text that came is the start of the whole answer."""
    whole, cut = ask(bench, "cat"), ask(bench, "cat", max_tokens=max_tokens)
    assert thought(whole).startswith(certain(thought(cut)))
    assert whole.text().startswith(certain(cut.text()))
    arguments = "".join(piece["arguments"] for event in cut.events for piece in event["calls"])
    assert "".join(piece["arguments"] for event in whole.events for piece in event["calls"]).startswith(arguments)
    assert cut.finish["completion_tokens"] == min(max_tokens, whole.finish["completion_tokens"])


def test_a_template_without_markers(bench: Bench) -> None:
    assert bench.ask(None, 200, messages=HELLO, chat_template="{{ messages[0].content }} dog").text() == SCRIPTS["dog"]


# ---------------------------------------------------------------- together with other features


def test_choices_are_parsed_each_for_itself(bench: Bench) -> None:
    client = ask(bench, "cat", n=3)
    assert [thought(client, choice) for choice in range(3)] == [THOUGHT] * 3 == [client.thoughts[choice].decode() for choice in range(3)]
    assert [client.text(choice) for choice in range(3)] == ["I call it."] * 3
    assert [finish["num_calls"] for finish in client.finishes.values()] == [1, 1, 1]
    ids = [piece["id"] for event in client.events for piece in event["calls"] if piece["id"]]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    "fields", [{"logprobs": True, "sampling": {"n_probs": 2}}, {"timings_per_token": True}, {"tokens_per_event": True}]
)
def test_events_hold_all_that_records_hold(bench: Bench, fields: dict[str, Any]) -> None:
    client = ask(bench, "cat", **fields)
    assert not client.texts
    text = "".join(event["text"] for event in client.events)
    assert (thought(client), text, calls(client)) == (THOUGHT, "I call it.", [("add", ARGUMENTS)])
    if "logprobs" in fields:
        entries = [entry for event in client.events for entry in event["probabilities"]]
        assert len(entries) == client.finish["completion_tokens"]
        assert "".join(entry["token"] for entry in entries) == SCRIPTS["cat"]
    if "tokens_per_event" in fields:
        assert len([token for event in client.events for token in event["tokens"]]) == client.finish["completion_tokens"]


def test_a_stop_string_acts_on_the_text_as_the_model_writes_it(bench: Bench) -> None:
    client = ask(bench, "cat", stop=["</think>"])
    assert (thought(client).strip(), client.text()) == (THOUGHT, "")
    client = ask(bench, "cat", stop=["\n<tool_call>"])
    assert (client.text(), counts(client)[:2]) == ("I call it.", ("word", 0))
    client = ask(bench, "cat", stop=["words"])
    assert counts(client)[:2] == ("word", 1)
    client = ask(bench, "cat", stop=["never there", "</tool_call><", "}}\n</tool_call>?"])
    assert calls(client) == [("add", ARGUMENTS)]


def test_an_abort_in_a_call_leaves_nothing(bench: Bench) -> None:
    client = submit(bench, "cat")
    bench.step_until(lambda: bool(client.events))
    request_id = bench.engine.running[0].sequence.request.id
    bench.engine.abort(request_id)
    bench.ring.detach(request_id)
    assert not bench.engine.running


def test_many_at_the_same_time_and_too_little_cache(path: Path) -> None:
    """Sequences give their slots back and continue later; their parsers continue too."""
    here = Bench(path, 1 << 18, ctx_size=128, parallel=4, kv_unified=True)
    clients = [submit(here, word) for word in ("cat", "red", "cat", "dog")]
    here.run(*clients)
    assert [calls(client) for client in clients] == [calls(ask(here, word)) for word in ("cat", "red", "cat", "dog")]
    assert [client.text() for client in clients] == ["I call it.", "Both.", "I call it.", SCRIPTS["dog"]]
    here.close()


def test_a_context_shift_does_not_disturb_the_parser(path: Path) -> None:
    here = Bench(path, 1 << 18, ctx_size=256, parallel=1, context_shift=True)
    client = ask(here, "cat", messages=[{"role": "user", "content": "we " * 240}])
    assert client.finish["truncated"]
    assert (thought(client), calls(client)) == (THOUGHT, [("add", ARGUMENTS)])
    here.close()


def test_guessed_tokens_are_parsed_alike(bench: Bench) -> None:
    guessing = {"types": ["ngram-simple"], "ngram_size_n": 1, "ngram_size_m": 4, "ngram_min_hits": 1}
    client = ask(bench, "cat", speculation=guessing)
    assert (thought(client), client.text(), calls(client)) == (THOUGHT, "I call it.", [("add", ARGUMENTS)])


def test_parsing_can_be_left_out(path: Path) -> None:
    here = Bench(path, 1 << 18, ctx_size=512, parallel=1, skip_chat_parsing=True)
    client = ask(here, "cat")
    assert client.text() == SCRIPTS["cat"]
    here.close()


def test_a_forced_call_may_have_its_arguments_in_another_order(tmp_path: Path) -> None:
    text = '<tool_call>\n{"name": "add", "arguments": {"b": "two words", "a": 1}}\n</tool_call>'
    here = Bench(make_scripted(tmp_path / "m.gguf", {"cat": text}, chat_template=QWEN), 1 << 18, ctx_size=512, parallel=1)
    [(name, arguments)] = calls(ask(here, "cat", tool_choice="required"))
    assert (name, arguments, [*arguments]) == ("add", ARGUMENTS, ["b", "a"])
    here.close()


@pytest.mark.parametrize(
    ("option", "field", "is_held"), [(False, None, False), (True, None, True), (True, False, False), (False, True, True)]
)
def test_a_call_is_held_until_it_is_complete(path: Path, option: bool, field: bool | None, is_held: bool) -> None:
    here = Bench(path, 1 << 18, ctx_size=512, parallel=1, hold_tool_calls=option)
    client = ask(here, "cat", holds_calls=field)
    assert (thought(client), client.text(), calls(client)) == (THOUGHT, "I call it.", [("add", ARGUMENTS)])
    pieces = [piece for event in client.events for piece in event["calls"]]
    assert (len(pieces) == 2) == is_held
    cut = ask(here, "cat", max_tokens=client.finish["completion_tokens"] - 5, holds_calls=field)
    assert (cut.text(), not any(event["calls"] for event in cut.events)) == ("I call it.", is_held)
    here.close()


# ---------------------------------------------------------------- thoughts that end


def test_a_thought_that_the_prompt_has_opened(bench: Bench) -> None:
    template = QWEN.removesuffix("{{ word }}")  # it ends with the marker
    client = bench.ask(None, 5, messages=HELLO, chat_template=template, chat_template_kwargs={"opens": True})
    assert client.finish["reasoning_tokens"] == client.finish["completion_tokens"] > 0
    assert not client.texts


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_budget_ends_the_thought_with_its_message(bench: Bench, budget: int) -> None:
    client = ask(bench, "cat", reasoning_budget=budget, reasoning_budget_message="... enough.", max_tokens=40)
    assert thought(client).startswith(THOUGHT[:2] if budget else "")
    assert thought(client).endswith("... enough.")
    assert len(thought(client)) < len("... enough.") + 6 * (budget + 1)
    # The model continues as after any thought: this one writes what follows "</think>\n\n".
    assert client.finish["reasoning_tokens"] < client.finish["completion_tokens"]
    assert "</think>" not in client.text() + thought(client)


def test_a_large_budget_changes_nothing(bench: Bench) -> None:
    client = ask(bench, "cat", reasoning_budget=1000)
    assert (thought(client), client.text(), calls(client)) == (THOUGHT, "I call it.", [("add", ARGUMENTS)])


def test_a_budget_of_the_model_and_of_a_request(path: Path) -> None:
    here = Bench(path, 1 << 18, ctx_size=512, parallel=1, reasoning_budget=1, reasoning_budget_message="stop")
    assert thought(ask(here, "cat", max_tokens=30)).endswith("stop")
    assert thought(ask(here, "cat", reasoning_budget=500)) == THOUGHT
    assert thought(ask(here, "cat", max_tokens=30, reasoning_budget_message="")) != THOUGHT
    here.close()


def test_a_thought_is_ended_from_outside(bench: Bench) -> None:
    client = submit(bench, "cat", reasoning_control=True, max_tokens=60)
    bench.step_until(lambda: bool(client.thoughts))
    [running] = bench.engine.running
    assert bench.engine.end_thought(running.sequence.request.id)
    bench.run(client)
    assert thought(client) != THOUGHT
    assert THOUGHT.startswith(thought(client))
    assert not bench.engine.end_thought(running.sequence.request.id)


def test_without_control_a_thought_goes_on(bench: Bench) -> None:
    client = submit(bench, "cat")
    bench.step_until(lambda: bool(client.thoughts))
    assert not bench.engine.end_thought(bench.engine.running[0].sequence.request.id)
    bench.run(client)
    assert thought(client) == THOUGHT


FORM = {
    "kind": "json_schema",
    "field": "response_format",
    "text": '{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],"additionalProperties":false}',
}


@pytest.fixture(scope="module")
def special_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its markers are tokens, as in most models."""
    scripts = {"cat": SCRIPTS["cat"], "dog": SCRIPTS["dog"]}
    return make_scripted(tmp_path_factory.mktemp("special") / "m.gguf", scripts, special=SPECIAL, chat_template=QWEN)


@pytest.fixture
def special(special_path: Path) -> Iterator[Bench]:
    here = Bench(special_path, 1 << 18, ctx_size=1024, parallel=4)
    yield here
    here.check_idle()
    here.close()


def test_a_form_binds_the_answer_after_the_thought(special: Bench) -> None:
    client = ask(special, "cat", tools=None, constraint=FORM)
    assert thought(client) == THOUGHT
    assert orjson.loads(client.text()).keys() == {"ok"}
    assert counts(client)[0] == "eos"


def test_a_form_binds_from_the_first_token_without_a_thought(special: Bench) -> None:
    for word, kwargs in (("dog", {}), ("dog", {"enable_thinking": False}), ("cat", {"enable_thinking": False})):
        client = ask(special, word, tools=None, constraint=FORM, chat_template_kwargs=kwargs)
        assert (thought(client), orjson.loads(client.text()).keys()) == ("", {"ok"})


def test_a_cut_answer_does_not_end_in_a_part_of_a_marker(bench: Bench) -> None:
    text = "I call it."
    for max_tokens in range(1, ask(bench, "cat").finish["completion_tokens"]):
        client = ask(bench, "cat", max_tokens=max_tokens)
        assert text.startswith(client.text().rstrip())
        assert THOUGHT.startswith(thought(client).rstrip())


def test_a_marker_of_several_tokens_is_written_whole(bench: Bench) -> None:
    """An incomplete marker would be text outside of the grammar."""
    client = ask(bench, "cat", tools=None, constraint=FORM, reasoning_budget=1)
    assert client.thoughts
    assert orjson.loads(client.text()).keys() == {"ok"}


def test_with_a_form_and_tools_the_model_may_call_or_answer(tmp_path: Path, special: Bench) -> None:
    here = Bench(make_scripted(tmp_path / "m.gguf", {"cat": CALL.strip()}, special=SPECIAL, chat_template=QWEN), 1 << 18, ctx_size=512)
    assert calls(ask(here, "cat", constraint=FORM)) == [("add", ARGUMENTS)]
    here.close()
    assert orjson.loads(ask(special, "dog", constraint=FORM).text()).keys() == {"ok"}


CHANNELS = (
    "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% for call in message.tool_calls or [] %}<|start|>assistant<|channel|>commentary to=functions.{{ call.function.name }} "
    "<|constrain|>json<|message|>{{ call.function.arguments | tojson }}<|call|>{% else %}"
    "<|start|>assistant<|channel|>final<|message|>{{ message.content }}<|end|>{% endfor %}{# analysis #}"
    "{% else %}{{ message.content }} {% endif %}{% endfor %}{{ word }}"
)


@pytest.mark.parametrize("begun", ["", f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"])
def test_in_channels_with_a_form_and_tools_the_model_may_call_or_answer(tmp_path: Path, begun: str) -> None:
    scripts = {
        "cat": f"{begun}<|channel|>final<|message|>Sure, why not",
        "dog": f'{begun}<|channel|>commentary to=functions.add <|constrain|>json<|message|>{{"a": 1, "b": "two words"}}',
    }
    here = Bench(make_scripted(tmp_path / "m.gguf", scripts, chat_template=CHANNELS), 1 << 18, ctx_size=1024, parallel=2)
    expected = THOUGHT if begun else ""
    answered = ask(here, "cat", constraint=FORM)
    assert (thought(answered), orjson.loads(answered.text()).keys(), calls(answered)) == (expected, {"ok"}, [])
    called = ask(here, "dog", constraint=FORM)
    assert (thought(called), called.text(), calls(called)) == (expected, "", [("add", ARGUMENTS)])
    assert "Sure" in ask(here, "cat").text()
    here.close()


def test_in_channels_the_white_space_of_a_form_may_be_free(tmp_path: Path) -> None:
    text = '{\n  "ok": true\n}'
    script = f"<|channel|>final<|message|>{text}"
    here = Bench(make_scripted(tmp_path / "m.gguf", {"cat": script}, chat_template=CHANNELS), 1 << 18, ctx_size=1024, parallel=2)
    assert ask(here, "cat", constraint=FORM, json_whitespace="free").text() == text
    assert "\n" not in ask(here, "cat", constraint=FORM).text()
    here.close()


def test_a_thought_without_an_end_is_closed_for_a_form(tmp_path: Path) -> None:
    path = make_scripted(tmp_path / "m.gguf", {"cat": f"<think>\n{THOUGHT}"}, special=SPECIAL, chat_template=QWEN)
    here = Bench(path, 1 << 18, ctx_size=512)
    client = ask(here, "cat", tools=None, constraint=FORM)
    assert (thought(client), orjson.loads(client.text()).keys()) == (THOUGHT, {"ok"})
    here.close()


def test_a_budget_and_a_form(special: Bench) -> None:
    client = ask(special, "cat", tools=None, constraint=FORM, reasoning_budget=2, n=2)
    for choice in range(2):
        assert 0 < len(client.thoughts[choice]) < len(THOUGHT)
        assert orjson.loads(client.text(choice)).keys() == {"ok"}


def test_forced_tokens_have_probabilities(special: Bench) -> None:
    client = ask(special, "cat", tools=None, reasoning_budget=2, logprobs=True, sampling={"n_probs": 1}, max_tokens=20)
    entries = [entry for event in client.events for entry in event["probabilities"]]
    assert len(entries) == client.finish["completion_tokens"]
    assert "</think>" in [entry["token"] for entry in entries]


def test_the_seed_decides_with_a_parser_as_without(bench: Bench) -> None:
    answers = [ask(bench, "cat", sampling={"temperature": 5.0, "seed": 7}, max_tokens=20, cache_prompt=False) for _ in range(2)]
    assert thought(answers[0]) == thought(answers[1])
    assert answers[0].texts == answers[1].texts
