"""Answers with a fixed form: schemas, grammars and regular expressions through a real router; hostile ones; the cost of masks."""

import json
import re
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import Router, StartRouter, text_of
from engine_bench import Bench, backends  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_llama

from fastrouter.api.requests import constraints
from fastrouter.api.requests.fields import read_chat, read_completion
from fastrouter.errors import InvalidRequest
from fastrouter.options.constraint_text import MAX_NESTING, MAX_SCHEMA_DEPTH
from fastrouter.worker.sampling.grammar import Matcher

SCHEMAS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent.parent / "support" / "schemas.json").read_text())
CHAT = "/v1/chat/completions"
# For a model whose tokens are all equally likely: it should close what it has opened more often than once in 400 tokens.
CLOSERS = [['"', 4.0], ["}", 4.0], ["]", 4.0]]
PERSON = SCHEMAS["person"]


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Router:
    folder = tmp_path_factory.mktemp("structured")
    for seed in range(2):
        make_llama(folder / f"noise{seed}.gguf", seed=seed, num_silent=2, n_ctx=4096)
    (folder / "smollm2.gguf").symlink_to(smollm2)
    return module_router("-c", "4096", models_dir=folder)


def chat(schema: Any = None, **more: Any) -> dict[str, Any]:
    fields = {"model": "noise0", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 1500, "seed": 3, "logit_bias": CLOSERS}
    if schema is not None:
        fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "it", "strict": True, "schema": schema}}
    return {**fields, **more}


def check(text: str, schema: dict[str, Any]) -> Any:
    value = json.loads(text)
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)
    return value


def ask(server: Router, body: dict[str, Any]) -> tuple[str, str]:
    """(text, finish_reason) of a chat's only choice."""
    answer = server.post(CHAT, body)
    assert answer.status == 200, answer.body
    [choice] = answer.json["choices"]
    return choice["message"]["content"], choice["finish_reason"]


# ---------------------------------------------------------------- schemas


def test_there_are_fifty_schemas() -> None:
    assert len(SCHEMAS) == 50
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_follow_their_schema(server: Router, name: str, temperature: float) -> None:
    text, reason = ask(server, chat(SCHEMAS[name], temperature=temperature))
    assert reason == "stop", text
    check(text, SCHEMAS[name])


@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize("name", ["sentiment", "yes or no", "chess move", "network host"])
def test_answers_of_a_real_model(server: Router, name: str, temperature: float) -> None:
    body = chat(SCHEMAS[name], model="smollm2", temperature=temperature, max_tokens=100, logit_bias=[])
    text, reason = ask(server, body)
    assert reason == "stop", text
    check(text, SCHEMAS[name])


@pytest.mark.parametrize("form", [{"type": "json_object"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "it"}}])
def test_any_object(server: Router, form: dict[str, Any]) -> None:
    for seed in range(3):
        text, reason = ask(server, chat(response_format=form, seed=seed, max_tokens=300))
        assert text.startswith("{")
        if reason == "stop":
            assert isinstance(json.loads(text), dict)


def test_every_way_to_give_a_schema(server: Router) -> None:
    schema = SCHEMAS["rating"]
    ways = [
        {"json_schema": schema},
        {"response_format": {"type": "json_object", "schema": schema}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
    ]
    texts = {ask(server, chat(temperature=0, **way))[0] for way in ways}
    assert len(texts) == 1
    check(texts.pop(), schema)
    text = server.post("/v1/completions", {**chat(schema), "prompt": "a"}).json["choices"][0]["text"]
    check(text, schema)


def test_streamed_is_the_same_as_whole(server: Router) -> None:
    body = chat(PERSON, temperature=0)
    text, reason = ask(server, body)
    with server.stream(CHAT, {**body, "stream": True}) as stream:
        events = list(stream)
    assert "".join(map(text_of, events)) == text
    assert events[-1]["choices"][0]["finish_reason"] == reason == "stop"


def test_a_cut_answer_says_so(server: Router) -> None:
    whole, _ = ask(server, chat(PERSON, temperature=0))
    num_cut = 0
    for max_tokens in range(1, 12):
        text, reason = ask(server, chat(PERSON, temperature=0, max_tokens=max_tokens))
        assert whole.startswith(text)
        assert reason == ("stop" if text == whole else "length")
        num_cut += reason == "length"
    assert num_cut > 5
    native = {"model": "noise0", "prompt": "a", "json_schema": PERSON, "n_predict": 3}
    assert server.post("/completion", native).json["stop_type"] == "limit"


def test_each_choice_has_its_own_place_in_the_grammar(server: Router) -> None:
    answer = server.post(CHAT, chat(PERSON, n=6, temperature=1.5))
    texts = [choice["message"]["content"] for choice in answer.json["choices"] if choice["finish_reason"] == "stop"]
    assert len(texts) == 6
    assert len({check(text, PERSON)["name"] for text in texts}) > 1


def test_the_end_is_not_ignored(server: Router) -> None:
    text, reason = ask(server, chat(SCHEMAS["weekday"], ignore_eos=True, max_tokens=100))
    assert reason == "stop"
    check(text, SCHEMAS["weekday"])


BLANKS = [[" ", 50.0], ["\n", 50.0]]
SMALL = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}, "b": {"type": "array", "items": {"const": True}, "minItems": 2, "maxItems": 2}},
}
SMALL["required"] = ["a", "b"]


def test_no_endless_white_space(server: Router) -> None:
    text, _ = ask(server, chat(SCHEMAS["sentiment"], temperature=0, logit_bias=BLANKS, json_whitespace="free"))
    check(text, SCHEMAS["sentiment"])
    assert len(text) < 300


@pytest.mark.parametrize(
    "ask_for", [{"json_schema": SMALL}, {"response_format": {"type": "json_object", "schema": SMALL}}], ids=["schema", "object"]
)
def test_white_space(server: Router, ask_for: dict[str, Any]) -> None:
    """Even if blanks are very likely, the model gets only one after a colon or a comma; `free` is as in llama-server."""
    loved, _ = ask(server, chat(**ask_for, temperature=0, logit_bias=BLANKS))
    assert re.fullmatch(r'\{"a": [12], "b": \[true, true\]\}', loved)
    for seed in range(4):
        any_, _ = ask(server, chat(**ask_for, temperature=1.5, seed=seed))
        assert re.fullmatch(r'\{"a": ?[12], ?"b": ?\[true, ?true\]\}', any_)
    free, _ = ask(server, chat(**ask_for, temperature=0, logit_bias=BLANKS, json_whitespace="free"))
    assert len(free) > len(loved)
    check(free, SMALL)
    refused = server.post(CHAT, chat(**ask_for, json_whitespace="none"))
    assert (refused.status, "json_whitespace" in refused.error["message"]) == (400, True)


def test_white_space_of_a_model(router: StartRouter, models: Path) -> None:
    server = router("--json-whitespace", "free", models_dir=models)
    body = {"model": "tiny0", "prompt": "a", "json_schema": SMALL, "temperature": 0, "n_predict": 300, "logit_bias": BLANKS}
    free = server.post("/completion", body).json["content"]
    compact = server.post("/completion", {**body, "json_whitespace": "compact"}).json["content"]
    assert re.fullmatch(r'\{"a": [12], "b": \[true, true\]\}', compact)
    assert len(free) > len(compact)


# ---------------------------------------------------------------- grammars and regular expressions

GRAMMARS = {
    'root ::= "yes" | "no"': r"yes|no",
    'root ::= item ("," item){1,3} "."\nitem ::= [a-c]+ # letters\n': r"[a-c]+(,[a-c]+){1,3}\.",
    'root ::= "(" root ")" | digit\ndigit ::= [0-9]': r"\(*[0-9]\)*",
    'root ::= "\\"" [^"\\x00-\\x1f]{2,6} "\\""': r'"[^"\x00-\x1f]{2,6}"',
    'root ::= word "b"\nword ::= ([a-z]+)?': r"[a-z]*b",
    'root ::= "\\u00e4"+ [\\u3041-\\u3096\\-] "\\U0001F600"? "/"': r"ä+[ぁ-ゖ\-]😀?/",
    'root ::= ("x"{2}){1,2} ("a"*)+': r"(xx){1,2}a*",
    "root ::= (word | number) ws?\nword ::= [a-z]{3}\nnumber ::= [0-9]{2,}\nws ::= [ \\t]": r"([a-z]{3}|[0-9]{2,})[ \t]?",
}


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_grammars(server: Router, grammar: str) -> None:
    for temperature in (0, 1.5):
        body = {"model": "noise0", "prompt": "a", "n_predict": 200, "temperature": temperature, "grammar": grammar, "seed": 1}
        answer = server.post("/completion", body).json
        if answer["stop_type"] == "eos":
            assert re.fullmatch(GRAMMARS[grammar], answer["content"])
        else:
            assert answer["tokens_predicted"] == 200
    text, _ = ask(server, chat(grammar=grammar, logit_bias=[[2, 5.0], [")", 5.0], [",", -5.0], [".", 5.0]], n=1))
    assert re.fullmatch(GRAMMARS[grammar], text)


@pytest.mark.parametrize("regex", [r"[0-9]{4}-[0-9]{2}", r"(cat|dog) food", r"\p{Lu}\p{Ll}{2,5}", r"a?b?c?", r"[^a-z]{3}"])
def test_regular_expressions(server: Router, regex: str) -> None:
    for seed in range(3):
        text, reason = ask(server, chat(regex=regex, seed=seed))
        assert reason == "stop"
        assert re.fullmatch(_for_python(regex), text), text


def _for_python(regex: str) -> str:
    return regex.replace(r"\p{Lu}", r"[^\W\d_]").replace(r"\p{Ll}", r"[^\W\d_]")


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"response_format": {"type": "json"}}, ["response_format.type"]),
        ({"response_format": {"type": "json_schema", "json_schema": 7}}, ["response_format.json_schema"]),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": []}}}, ["response_format.json_schema.schema"]),
        ({"json_schema": True}, ["json_schema"]),
        ({"json_schema": {"type": "strin"}}, ["json_schema", "strin"]),
        ({"json_schema": {"not": {"type": "string"}}}, ["json_schema", '"not"']),
        ({"json_schema": {"$ref": "#/$defs/nowhere"}}, ["json_schema", "nowhere"]),
        ({"json_schema": {"type": "string", "pattern": "(?=a)b"}}, ["json_schema", "look-ahead"]),
        ({"json_schema": {"$ref": "#"}}, ["json_schema"]),
        ({"grammar": 7}, ["grammar"]),
        ({"grammar": "root ::= other"}, ["grammar", "other"]),
        ({"grammar": 'start ::= "a"'}, ["grammar", "root"]),
        ({"grammar": "root ::= root"}, ["grammar"]),
        ({"grammar": 'root ::= "a'}, ["grammar"]),
        ({"regex": "(a"}, ["regex"]),
        ({"regex": ["a"]}, ["regex"]),
        ({"regex": "a", "grammar": 'root ::= "a"'}, ["regex", "grammar"]),
        ({"regex": "a", "tools": [{"type": "function", "function": {"name": "f"}}]}, ["regex", "tools"]),
    ],
)
def test_bad_ones_name_their_field(server: Router, fields: dict[str, Any], words: list[str]) -> None:
    for is_stream in (False, True):
        answer = server.post(CHAT, chat(**fields, stream=is_stream))
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
        assert all(word in answer.error["message"] for word in words), answer.error
        assert "\n" not in answer.error["message"]


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


HOSTILE: dict[str, dict[str, Any]] = {
    "parentheses of a grammar": {"grammar": "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000},
    "parentheses behind a quote": {"grammar": 'root ::= "\n' + "(" * 60_000},
    "parentheses of a regex": {"regex": "(" * 8_000 + "a" + ")" * 8_000},
    "rules": {"grammar": "\n".join(f'r{number} ::= "a"' for number in range(10_000))},
    "long grammar": {"grammar": 'root ::= "' + "a" * 200_000 + '"'},
    "long regex": {"regex": "a" * 20_000},
    "deep schema": {"json_schema": nested(65)},
    "very deep schema": {"json_schema": nested(900)},
    "wide schema": {"json_schema": {"enum": list(range(30_000))}},
    "long schema": {"json_schema": {"const": "a" * 300_000}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_caps(name: str) -> None:
    [field] = HOSTILE[name]
    for read, more in ((read_chat, {"messages": [{"role": "user", "content": "a"}]}), (read_completion, {"prompt": "a"})):
        with pytest.raises(InvalidRequest, match=field):
            read({**HOSTILE[name], **more})


def test_caps_are_no_lower_than_they_say() -> None:
    assert constraints.json_schema("x", nested(MAX_SCHEMA_DEPTH - 1))
    assert constraints.regex("x", "(" * MAX_NESTING + "a" + ")" * MAX_NESTING)
    assert constraints.regex("x", r"\((a|[((\]]{2})" * 1000)
    assert constraints.grammar("x", 'root ::= "' + "(" * 1000 + '" [(((((]  # ((((\n' * 1)
    assert constraints.grammar("x", "root ::= " + "[(]" * 1000)


# These are within the limits; the compiler refuses what is too much for it, the rest may take the time that it is given.
HEAVY: list[dict[str, Any]] = [
    {"regex": "(a{1000}){1000}"},
    {"regex": "(a|b)*a(a|b){30}"},
    {"json_schema": {"type": "string", "minLength": 1_000_000}},
    {"json_schema": {"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000}},
    {"json_schema": {"type": "string", "pattern": "^((a{1000}){1000}){1000}$"}},
    {"json_schema": {"allOf": [{"anyOf": [{"required": [f"k{i}_{j}"], "type": "object"} for j in range(6)]} for i in range(6)]}},
    {"json_schema": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}},
    {"grammar": 'root ::= ("a"{1000}){1000}'},
    {"grammar": 'root ::= (""*)*'},
    {"grammar": "root ::= " + "(" * 60 + '"a"' + ")*" * 60},
    {"grammar": 'root ::= "' + "a" * 60_000 + '"'},
]


def chain_of(count: int, link: Any, last: Any) -> dict[str, Any]:
    return {"$ref": "#/$defs/d0", "$defs": {**{f"d{i}": link({"$ref": f"#/$defs/d{i + 1}"}) for i in range(count)}, f"d{count}": last}}


def rules_of(count: int, root: str, rule: str) -> str:
    return "\n".join([f"root ::= {root}", *(f"r{i} ::= " + rule.replace("NEXT", f"r{i + 1}") for i in range(count)), f'r{count} ::= "a"'])


def optional(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(count)}}


PATTERNS = [{"type": "string", "pattern": f"(ab|cd{i})*x"} for i in range(20)]

# Each took half a minute to several, or ended the process.
TOO_MUCH: list[tuple[dict[str, Any], str]] = [
    ({"grammar": rules_of(1500, "r0", "NEXT NEXT")}, "chain of more than 250"),
    ({"grammar": rules_of(1400, 'r0+ "x" root?', "NEXT NEXT | [a-z]")}, "chain of more than 250"),
    ({"grammar": rules_of(1900, "r0", 'NEXT "b"{0,9}')}, "chain of more than 250"),
    ({"grammar": rules_of(40, "r0", "NEXT NEXT")}, "written out"),
    ({"json_schema": optional(9000)}, "not required"),
    ({"json_schema": {"allOf": [optional(1500), {"type": "object", "properties": {f"q{i}": {} for i in range(3000)}}]}}, "not required"),
    ({"json_schema": {"type": "object", "patternProperties": {f"^p{i}[a-z]*$": {} for i in range(300)}}}, "patternProperties"),
    ({"json_schema": {"type": "integer", "multipleOf": 9_999_991}}, "multipleOf"),
    ({"json_schema": {"type": "string", "allOf": PATTERNS}}, "must follow more than 10 patterns"),
    ({"json_schema": {"allOf": [{"properties": {"a": pattern}} for pattern in PATTERNS]}}, "must follow more than 10 patterns"),
    ({"json_schema": {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"allOf": PATTERNS}}}}, "must follow more than 10 patterns"),
    (
        {"json_schema": {"allOf": [{"properties": {f"p{i}": {} for i in range(999)}}] * 4, "anyOf": [{"allOf": [{"$ref": "#"}]}] * 99}},
        "too many",
    ),
    ({"json_schema": {"type": "number", "multipleOf": 12.3457}}, "multipleOf"),
    ({"json_schema": {"allOf": [{"type": "integer", "multipleOf": 9973}, {"multipleOf": 9967}]}}, "multipleOf"),
    (
        {"json_schema": chain_of(1500, lambda ref: {"type": "object", "properties": {"a": ref}}, {"type": "string"})},
        "chain of more than 250",
    ),
]
# These are as large as allowed, or look like it.
ENOUGH: list[dict[str, Any]] = [
    {"grammar": rules_of(200, "r0", 'NEXT "b"')},
    {"grammar": rules_of(16, "r0", "NEXT NEXT")},
    {"grammar": rules_of(200, '"x" r0 root?', "NEXT NEXT | [a-z]")},
    {"json_schema": {**optional(2000), "required": [f"p{i}" for i in range(2000)]}},
    {"json_schema": optional(500)},
    {"json_schema": {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 1_000_000}, "b": {"multipleOf": 7}}}},
    {"json_schema": {"allOf": [{"type": "object", "properties": {f"p{i}": PATTERNS[i]}} for i in range(20)]}},
    {"json_schema": chain_of(200, lambda ref: {"type": "object", "properties": {"a": ref, "b": ref}}, {"type": "string"})},
    {"json_schema": {"type": "object", "properties": {"a": {"$ref": "#"}}}},
]


@pytest.mark.parametrize("number", range(len(TOO_MUCH)))
def test_what_would_take_the_compiler_too_long_is_refused_before(server: Router, number: int) -> None:
    fields, words = TOO_MUCH[number]
    answer = server.post(CHAT, chat(**fields, model="noise1", max_tokens=5))
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert words in answer.error["message"]
    assert f"'{next(iter(fields))}'" in answer.error["message"]


@pytest.mark.parametrize("number", range(len(ENOUGH)))
def test_what_is_just_large_is_compiled(server: Router, number: int) -> None:
    answer = server.post(CHAT, chat(**ENOUGH[number], model="noise1", max_tokens=5))
    assert answer.status == 200, answer.body


def test_hostile_ones_leave_the_worker_alone(server: Router) -> None:
    if server.status("noise1") != "loaded":
        server.load("noise1")
    pid = server.worker_of("noise1")
    for fields in [*HOSTILE.values(), *HEAVY]:
        answer = server.post(CHAT, chat(**fields, model="noise1", max_tokens=5))
        assert answer.status == (400 if fields in HOSTILE.values() else answer.status)
        assert answer.status in (200, 400), answer.body
    text, _ = ask(server, chat(PERSON, model="noise1"))
    check(text, PERSON)
    assert server.worker_of("noise1") == pid


def test_nothing_to_choose_from_ends_that_request_only(server: Router) -> None:
    num_tokens = server.get("/v1/models/noise0").json["meta"]["n_vocab"]
    banned = [[token, False] for token in range(num_tokens)]
    for is_stream in (False, True):
        answer = server.post(CHAT, chat(PERSON, n=3, logit_bias=banned, stream=is_stream))
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    check(ask(server, chat(PERSON))[0], PERSON)


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner),
    )
)
def test_any_json_is_a_constraint_or_names_its_field(value: Any) -> None:
    for field in ("response_format", "json_schema", "grammar", "regex"):
        problem = ""
        try:
            [generate] = read_completion({"prompt": "a", field: value}).generates
        except InvalidRequest as error:
            problem = error.message
        assert field in problem or generate.constraint is None or generate.constraint["field"].startswith(field)


def test_notes_are_left_out() -> None:
    schema = {
        "format": "binary",
        "properties": {"format": {"type": "string", "format": "email"}, "x": {"format": "int64", "const": {"format": "x"}}},
        "anyOf": [{"format": "password"}, {"enum": [{"format": "x"}]}],
    }
    expected = {
        "properties": {"format": {"type": "string", "format": "email"}, "x": {"const": {"format": "x"}}},
        "anyOf": [{}, {"enum": [{"format": "x"}]}],
    }
    assert json.loads(constraints.json_schema("x", schema)["text"]) == expected


# ---------------------------------------------------------------- the engine

CONSTRAINT = {"kind": "json_schema", "field": "json_schema", "text": json.dumps(SCHEMAS["rating"])}


class PatientBench(Bench):
    """Waits for grammars."""

    def step(self) -> None:
        if self.engine.is_compiling:
            time.sleep(0.001)
        super().step()


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    one = PatientBench(make_llama(tmp_path / "noise.gguf", num_silent=2), 1 << 20, parallel=3)
    yield one
    one.close()


def test_beside_others(bench: Bench) -> None:
    alone = [bench.ask("the cat", 60, constraint=constraint, cache_prompt=False).text() for constraint in (None, CONSTRAINT)]
    clients = [bench.submit("the cat", 60, constraint=constraint) for constraint in (None, CONSTRAINT) * 4]
    bench.run(*clients)
    assert [client.text() for client in clients] == alone * 4
    check(alone[1], SCHEMAS["rating"])
    bench.check_idle()


@pytest.mark.parametrize("num_steps", [0, 1, 5, 50])
def test_abort(bench: Bench, num_steps: int) -> None:
    client = bench.submit("the cat", 500, n=5, constraint={**CONSTRAINT, "text": '{"type": "string"}'})
    for _ in range(num_steps):
        bench.step()
    bench.engine.abort(client.request_id)
    bench.ring.detach(client.request_id)
    bench.check_idle()
    assert json.loads(bench.ask("the cat", 200, constraint=CONSTRAINT, sampling={"logit_bias": CLOSERS}).text())


def test_masks_cost_little(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured with SmolLM2, the smallest real model: all others decode more slowly, so their share is not larger."""
    spent, num_masks = 0.0, 0

    def timed(method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal spent, num_masks
            begun = time.perf_counter()
            value = method(*arguments)
            spent += time.perf_counter() - begun
            num_masks += method is find_allowed
            return value

        return call

    find_allowed = Matcher.find_allowed
    one = PatientBench(smollm2, 1 << 20, parallel=1, ctx_size=1024)
    try:
        one.ask("x", 1, constraint={**CONSTRAINT, "text": '{"type": "integer"}'})  # makes the tokenizer
        monkeypatch.setattr(Matcher, "find_allowed", timed(find_allowed))
        monkeypatch.setattr(Matcher, "accept", timed(Matcher.accept))
        predicted_s = 0.0
        for name in ("person", "recipe", "named entities", "json patch"):
            client = one.ask("Answer in JSON: ", 60, constraint={**CONSTRAINT, "text": json.dumps(SCHEMAS[name])})
            predicted_s += client.finish["timings"]["predicted_ms"] / 1e3
    finally:
        one.close()
    print(
        f"\n{num_masks} masks, {1e6 * spent / num_masks:.0f} us each with the step after it: {100 * spent / predicted_s:.2f}% of decoding"
    )
    assert num_masks > 50
    assert spent < predicted_s
