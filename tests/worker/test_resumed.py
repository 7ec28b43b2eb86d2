"""An answer that another worker continues is byte for byte the answer that one worker gives: every kind of request, cut anywhere.

Real engines and rings, tiny models. "Cut" is what a killed worker leaves: the records until one of them.
"""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cut_streams import Cut, disturbed, generate, run, start, undisturbed
from engine_bench import PROMPTS, Bench, backends
from scripted_models import make_scripted
from test_answer_parsing import HELLO, QWEN, SCRIPTS, TOOLS
from tiny_memories import MAKERS
from tiny_models import make_llama

from fastrouter.errors import FastrouterError
from fastrouter.ipc.messages import Generate
from fastrouter.worker import resumed
from fastrouter.worker.resumed import END_THOUGHT, MU, mu_of, mu_words, read_resumed

__all__ = ["backends"]
EXACT = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"}  # no rounding decides a token
SEEDED = {"temperature": 1.0, "seed": 5}
SCHEMA = '{"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"]}'
counted: Counter[str] = Counter()


def constrained(kind: str, text: str, **more: Any) -> Generate:
    return generate(PROMPTS[0], constraint={"kind": kind, "text": text, "field": "x"}, **more)


def chat(word: str, **more: Any) -> Generate:
    kwargs = {"word": word, **more.pop("chat_template_kwargs", {})}
    more = {"tools": TOOLS, "max_tokens": 200, **more}
    return generate(messages=HELLO, chat_template_kwargs=kwargs, **more)


PLAIN = {
    "greedy": generate(PROMPTS[0]),
    "seeded": generate(PROMPTS[1], sampling=SEEDED),
    "without a seed": generate(PROMPTS[1], sampling={"temperature": 1.0}),
    "three choices": generate(PROMPTS[2], n=3, sampling=SEEDED),
    "five choices for four slots": generate(PROMPTS[2], 16, n=5, sampling=SEEDED),
    "stop strings": generate(PROMPTS[3], 60, stop=["he a", " zzz", "e c"], sampling=SEEDED),
    "penalties": generate(PROMPTS[4], sampling={"repeat_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.3, **SEEDED}),
    "dry": generate(PROMPTS[5], 60, sampling={"dry_multiplier": 0.8, "dry_allowed_length": 1, **SEEDED}),
    "xtc": generate(PROMPTS[6], sampling={"xtc_probability": 0.5, "xtc_threshold": 0.05, **SEEDED}),
    "mirostat 1": generate(PROMPTS[6], sampling={"mirostat": 1, **SEEDED}),
    "adaptive": generate(PROMPTS[6], sampling={"samplers": ["top_k", "adaptive_p"], "adaptive_target": 0.3, **SEEDED}),
    "mirostat 2": generate(PROMPTS[6], sampling={"mirostat": 2, **SEEDED}),
    "probabilities": generate(PROMPTS[7], logprobs=True, sampling={"n_probs": 3, **SEEDED}),
    "probabilities held back": generate(PROMPTS[3], 60, logprobs=True, stop=["he a he a he"], sampling={"n_probs": 2, **SEEDED}),
    "tokens": generate(PROMPTS[0], return_tokens=True, tokens_per_event=True),
    "timings": generate(PROMPTS[0], timings_per_token=True),
    "schema": constrained("json_schema", SCHEMA, max_tokens=80, sampling=SEEDED),
    "gbnf": constrained("gbnf", 'root ::= ("cat" | "dog" | " ")+ "end"', sampling=SEEDED),
    "regex": constrained("regex", "[a-f ]{8,30}[.]", sampling=SEEDED),
    "indent": generate(PROMPTS[0], n_indent=2, t_max_predict_ms=60_000, sampling=SEEDED),
    "ngrams": generate(PROMPTS[0], 60, speculation={"types": ["ngram-simple"], "ngram_size_n": 2}),
    "progress": generate(PROMPTS[0], return_progress=True),
    "one token": generate(PROMPTS[0], 1),
    "an echo": generate(PROMPTS[0] * 9, echoes=True, sampling=SEEDED),
    "an echo with probabilities": generate(PROMPTS[0], echoes=True, logprobs=True, sampling={"n_probs": 2, **SEEDED}),
}
CHATS = {
    "a thought and a call": chat("cat"),
    "its calls at once": chat("cat", holds_calls=True),
    "two calls": chat("red"),
    "text": chat("dog"),
    "a broken call": chat("two"),
    "a budget": chat("cat", reasoning_budget=3, reasoning_budget_message="... enough.", max_tokens=60),
    "probabilities": chat("cat", logprobs=True, sampling={"n_probs": 2}),
    "a forced call": chat("dog", tool_choice="required", sampling=SEEDED, max_tokens=120),
    "one call only": chat("red", parallel_tool_calls=False),
    "a form after a thought": chat("cat", tools=None, constraint={"kind": "json_schema", "text": SCHEMA, "field": "x"}, sampling=SEEDED),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resumed")


def pair(path: Path, **options: Any) -> Iterator[list[Bench]]:
    made = [Bench(path, 1 << 20, **{"ctx_size": 2048, "parallel": 4, **EXACT, **options}) for _ in range(2)]
    yield made
    for one in made:
        one.check_idle()
        one.close()


@pytest.fixture(scope="module")
def benches(folder: Path) -> Iterator[list[Bench]]:
    yield from pair(make_llama(folder / "tiny.gguf"))


@pytest.fixture(scope="module")
def chatting(folder: Path) -> Iterator[list[Bench]]:
    yield from pair(make_scripted(folder / "chat.gguf", SCRIPTS, chat_template=QWEN))


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    yield
    print(f"\nresumed answers: {dict(counted)}")


def check(benches: list[Bench], asked: Generate, num_tries: int, seed: int) -> None:
    """Cut at random records, one to three times."""
    expected = undisturbed(benches[0], asked)
    assert expected.num_text or asked.max_tokens == 1
    for number in range(num_tries):
        source = random.Random(1000 * seed + number)
        cuts = [source.randrange(1, max(2, expected.num_text + 1)) for _ in range(source.randint(1, 3))]
        with pytest.MonkeyPatch.context() as patch:
            if number % 2:  # the tokens are computed with the prompt
                patch.setattr(resumed, "NUM_EXACT", 0)
            found = disturbed(benches, asked, cuts)
        assert found.shown() == expected.shown(), (number, cuts)
        counted["answers"] += 1
        counted["cuts"] += len(cuts)


@pytest.mark.parametrize("name", PLAIN)
def test_every_request(benches: list[Bench], name: str) -> None:
    check(benches, PLAIN[name], 6, 1)


@pytest.mark.parametrize("name", CHATS)
def test_every_chat(chatting: list[Bench], name: str) -> None:
    compile_calls(chatting, CHATS[name])
    check(chatting, CHATS[name], 6, 2)


@pytest.mark.parametrize("name", ["greedy", "stop strings", "schema"])
def test_after_every_record(benches: list[Bench], name: str) -> None:
    expected = undisturbed(benches[0], PLAIN[name])
    for at in range(1, expected.num_text + 1):
        assert disturbed(benches, PLAIN[name], [at]).shown() == expected.shown(), at
        counted["answers"] += 1
        counted["cuts"] += 1


def compile_calls(benches: list[Bench], asked: Generate) -> None:
    """A request does not wait for the grammar of calls that it may make, but one that is continued does. Then it is kept."""
    for bench in benches:
        disturbed([bench], asked, [1])


def test_calls_cut_after_every_record(chatting: list[Bench]) -> None:
    compile_calls(chatting, CHATS["a thought and a call"])
    expected = undisturbed(chatting[0], CHATS["a thought and a call"])
    for at in range(1, expected.num_text + 1):
        assert disturbed(chatting, CHATS["a thought and a call"], [at]).shown() == expected.shown(), at


@pytest.mark.parametrize("kind", MAKERS)
def test_every_memory(folder: Path, kind: str) -> None:
    for made in pair(MAKERS[kind](folder / f"{kind}.gguf"), ctx_size=1024, parallel=2):
        check(made, generate(PROMPTS[0], 80), 3, 3)
        check(made, generate(PROMPTS[1], 40, n=2, sampling=SEEDED), 3, 4)


def test_a_context_that_has_shifted(folder: Path) -> None:
    for made in pair(make_llama(folder / "shift.gguf"), ctx_size=128, parallel=1, context_shift=True):
        check(made, generate(PROMPTS[0], 300), 4, 5)
        check(made, generate(PROMPTS[0], 200, n_keep=5, n_discard=20, sampling=SEEDED), 4, 6)


def test_usual_numbers(folder: Path) -> None:
    """With the rounding of the usual KV cache, the number of tokens that are computed together decides some greedy tokens. Those of a
    reproducible answer are decoded as the first time."""
    source = random.Random(7)
    usual = {"cache_type_k": "f16", "cache_type_v": "f16", "flash_attn": "auto"}
    for made in pair(make_llama(folder / "usual.gguf"), parallel=1, **usual):
        for number in range(4):
            prompt = [1, *(source.randrange(260, 328) for _ in range(20 + number))]
            check(made, generate(prompt, 400), 1, number)


def test_eight_at_once(benches: list[Bench]) -> None:
    """One engine dies with all of them, at different places."""
    asked = [generate(prompt, 30 + number, sampling={} if number % 2 else SEEDED) for number, prompt in enumerate(PROMPTS)]
    alone = [undisturbed(benches[0], one).shown() for one in asked]
    clients = [Cut() for _ in asked]
    for number, (client, one) in enumerate(zip(clients, asked, strict=True)):
        start(benches[0], client, one, 1 + 3 * number)
    run(benches[0], *clients)
    for client, one in zip(clients, asked, strict=True):
        if not client.is_over:
            start(benches[1], client, one)
    run(benches[1], *[client for client in clients if not client.is_over])
    assert [client.shown() for client in clients] == alone


def test_what_the_router_keeps_is_small(benches: list[Bench]) -> None:
    """Four bytes a token, and eight for each choice."""
    client = undisturbed(benches[0], PLAIN["three choices"])
    trail = client.trail()
    assert trail is not None
    tokens = [finish["completion_tokens"] for _, finish in sorted(client.finishes.items())]
    assert [len(words) for words, _, _ in trail] == [4 * (count + 2) for count in tokens]
    assert all(is_over for _, _, is_over in trail)


def test_usage_is_that_of_the_whole_answer(benches: list[Bench]) -> None:
    prompt = [1, *range(300, 328)]
    asked = generate(prompt, 30, cache_prompt=True)
    undisturbed(benches[0], asked)
    expected = undisturbed(benches[0], asked)
    assert expected.finish["cached_tokens"] > 20
    client = disturbed(benches, asked, [10])
    for field in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        assert client.finish[field] == expected.finish[field]
    timings = client.finish["timings"]
    assert (timings["cache_n"], timings["predicted_n"]) == (expected.finish["cached_tokens"], 30)


def test_a_thought_that_was_ended_from_outside(chatting: list[Bench]) -> None:
    asked, found = chat("cat", reasoning_control=True), []
    for most in (-1, 3, 4, 5, 6):
        client = Cut()
        start(chatting[0], client, asked, most)
        chatting[0].step_until(lambda: client.num_text >= 2)  # noqa: B023
        assert chatting[0].engine.end_thought(client.request_id)
        run(chatting[0], client)
        if not client.is_over:
            start(chatting[1], client, asked)
            run(chatting[1], client)
        found.append(client.shown())
    assert found[1:] == found[:1] * 4, "the second engine knows that it was ended"
    assert len(found[0]["thoughts"][0]) < 20


# ---------------------------------------------------------------- the words


def test_words() -> None:
    words = [5, 2000, 10, END_THOUGHT, 11, *mu_words(1.5), 12, *mu_words(-0.25)]
    found = read_resumed({"elapsed_ms": 3, "choices": [[[], 0, True], [words, 2, False], [[], 0, False]]}, 20)
    one = found.choices[1]
    assert (found.elapsed_ns, found.finished, list(found.choices)) == (3_000_000, {0}, [1])
    assert (one.num_cached, one.prompt_ns, list(one.tokens), one.num_records) == (5, 2_000_000, [10, 11, 12], 2)
    assert (one.marks, one.mu) == ({1: [END_THOUGHT]}, -0.25)
    assert mu_of(mu_words(0.1)[1]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"elapsed_ms": 0},
        {"elapsed_ms": 0, "choices": [[[1, 2, 20], 1, False]]},
        {"elapsed_ms": 0, "choices": [[[1], 1, False]]},
        {"elapsed_ms": 0, "choices": [[[1, 2, 3, MU], 1, False]]},
        {"elapsed_ms": 0, "choices": [[["a"], 1, False]]},
        {"elapsed_ms": 0, "choices": [[[1 << 40], 1, False]]},
        {"elapsed_ms": 0, "choices": [1]},
    ],
)
def test_wrong_words_cost_one_request(given: dict[str, Any]) -> None:
    with pytest.raises(FastrouterError, match="cannot be continued"):
        read_resumed(given, 20)
