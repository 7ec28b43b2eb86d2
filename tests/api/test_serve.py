"""Every route of the router over plain HTTP, on tiny models: shapes, errors, events of models."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter, eventually, text_of
from tiny_models import make_llama

GREEDY: dict[str, Any] = {"temperature": 0}
HELLO = [{"role": "user", "content": "the cat is on it"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(module_router: StartRouter, models: Path) -> Router:
    return module_router(models_dir=models)


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny0", "messages": HELLO, "max_tokens": 12, **GREEDY, **more}


def completion(**more: Any) -> dict[str, Any]:
    return {"model": "tiny0", "prompt": "the cat and the dog", "n_predict": 12, **GREEDY, **more}


def check_timings(timings: dict[str, Any], *, predicted: int) -> None:
    assert timings["predicted_n"] == predicted
    assert timings["prompt_n"] >= 1
    assert timings["cache_n"] >= 0
    for name in ("prompt_ms", "predicted_ms", "prompt_per_second", "predicted_per_second"):
        assert timings[name] >= 0


# ---------------------------------------------------------------- chat


def test_chat(server: Router) -> None:
    answer = server.post(CHAT, chat())
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json
    assert body["object"] == "chat.completion"
    assert body["model"] == "tiny0"
    assert body["id"].startswith("chatcmpl-")
    [choice] = body["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].strip()
    usage = body["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    check_timings(body["timings"], predicted=12)


@pytest.mark.parametrize("path", [CHAT, "/chat/completions"])
def test_chat_stream(server: Router, path: str) -> None:
    whole = server.post(path, chat()).json["choices"][0]["message"]["content"]
    with server.stream(path, chat(stream=True)) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = list(stream)
        assert stream.is_whole
        assert stream.is_done
    assert len({event["id"] for event in events}) == 1
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    first, *middle, last = [event["choices"][0] for event in events]
    assert first["delta"]["role"] == "assistant"
    assert all("role" not in choice["delta"] and choice["finish_reason"] is None for choice in middle)
    assert (last["delta"], last["finish_reason"]) == ({}, "length")
    assert "".join(map(text_of, events)) == whole
    assert "usage" not in events[-1]
    check_timings(events[-1]["timings"], predicted=12)


def test_chat_stream_with_usage(server: Router) -> None:
    with server.stream(CHAT, chat(stream=True, stream_options={"include_usage": True})) as stream:
        *_, last, summary = stream
    assert last["choices"][0]["finish_reason"] == "length"
    assert summary["choices"] == []
    assert summary["usage"]["completion_tokens"] == 12
    check_timings(summary["timings"], predicted=12)


def test_second_turn_reads_the_cache(server: Router) -> None:
    first = server.post(CHAT, chat(messages=[{"role": "user", "content": "one dog on the red cat"}])).json
    turns = [
        {"role": "user", "content": "one dog on the red cat"},
        {"role": "assistant", "content": first["choices"][0]["message"]["content"]},
        {"role": "user", "content": "and two"},
    ]
    second = server.post(CHAT, chat(messages=turns)).json
    assert second["timings"]["cache_n"] >= first["usage"]["prompt_tokens"] - 8
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == second["timings"]["cache_n"]
    assert second["timings"]["cache_n"] + second["timings"]["prompt_n"] == second["usage"]["prompt_tokens"]
    uncached = server.post(CHAT, chat(messages=turns, cache_prompt=False)).json
    assert uncached["timings"]["cache_n"] == 0
    assert uncached["choices"] == second["choices"]


def test_prefill_of_the_assistant(server: Router) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "the red dog"}]
    prompt = server.post("/apply-template", {"model": "tiny0", "messages": messages}).json["prompt"]
    assert prompt.endswith("the red dog")
    continued = server.post(CHAT, chat(messages=messages)).json["choices"][0]["message"]["content"]
    assert continued == server.post("/completion", completion(prompt=prompt)).json["content"]


def test_chat_of_several_choices(server: Router) -> None:
    body = server.post(CHAT, chat(n=3, temperature=1.5, seed=4)).json
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in body["choices"]}) > 1
    assert body["usage"]["completion_tokens"] == 36
    with server.stream(CHAT, chat(n=3, temperature=1.5, seed=4, stream=True)) as stream:
        events = list(stream)
        assert stream.is_done
    for choice in body["choices"]:
        assert "".join(text_of(event, choice["index"]) for event in events) == choice["message"]["content"]
    reasons = [choice["finish_reason"] for event in events for choice in event["choices"] if choice["finish_reason"]]
    assert reasons == ["length"] * 3


def test_verbose(server: Router) -> None:
    verbose = server.post(CHAT, chat(verbose=True)).json["__verbose"]
    assert "the cat is on it" in verbose["prompt"]
    assert verbose["generation_settings"]["temperature"] == 0
    assert verbose["tokens_predicted"] == 12
    assert "__verbose" not in server.post(CHAT, chat()).json


# ---------------------------------------------------------------- text completions


def test_openai_completion(server: Router) -> None:
    body = server.post("/v1/completions", completion(max_tokens=5)).json
    assert body["object"] == "text_completion"
    assert body["usage"]["completion_tokens"] == 12  # llama-server: n_predict comes before max_tokens
    body = {"model": "tiny0", "prompt": "the cat and the dog", "max_tokens": 5, **GREEDY}
    whole = server.post("/v1/completions", body).json
    [choice] = whole["choices"]
    assert (choice["finish_reason"], choice["logprobs"]) == ("length", None)
    with server.stream("/v1/completions", {**body, "stream": True}) as stream:
        events = list(stream)
        assert stream.is_done
    assert "".join(map(text_of, events)) == choice["text"]
    assert events[-1]["usage"] == {**whole["usage"], "prompt_tokens_details": events[-1]["usage"]["prompt_tokens_details"]}


def test_several_prompts(server: Router) -> None:
    prompts = ["the cat", "one dog", "she is"]
    alone = [server.post("/v1/completions", completion(prompt=prompt)).json["choices"][0]["text"] for prompt in prompts]
    together = server.post("/v1/completions", completion(prompt=prompts)).json
    assert [choice["text"] for choice in together["choices"]] == alone
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2]
    with server.stream("/v1/completions", completion(prompt=prompts, stream=True)) as stream:
        events = list(stream)
    assert ["".join(text_of(event, index) for event in events) for index in range(3)] == alone
    native = server.post("/completion", completion(prompt=prompts)).json
    assert [answer["content"] for answer in native] == alone


@pytest.mark.parametrize("path", ["/completion", "/completions"])
def test_native_completion(server: Router, path: str) -> None:
    body = server.post(path, completion(return_tokens=True)).json
    assert body["stop"] is True
    assert (body["stop_type"], body["stopping_word"], body["truncated"]) == ("limit", "", False)
    assert body["model"] == "tiny0"
    assert (body["tokens_predicted"], len(body["tokens"])) == (12, 12)
    assert body["tokens_cached"] == body["tokens_evaluated"] + 11
    assert body["prompt"] == "<s> the cat and the dog"
    assert body["generation_settings"]["n_predict"] == 12
    assert 0 <= body["id_slot"] < 4
    check_timings(body["timings"], predicted=12)
    text = server.post("/detokenize", {"model": "tiny0", "tokens": body["tokens"]}).json["content"]
    assert text == body["content"]


def test_native_stream(server: Router) -> None:
    whole = server.post("/completion", completion()).json
    with server.stream("/completion", completion(stream=True)) as stream:
        events = list(stream)
        assert stream.is_whole
        assert not stream.is_done  # llama-server has no [DONE] here
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert "".join(map(text_of, events)) == whole["content"]
    assert events[-1]["tokens_predicted"] == 12
    assert set(whole) == set(events[-1])


def test_tokens_of_a_stream(server: Router) -> None:
    whole = server.post("/completion", completion(return_tokens=True)).json["tokens"]
    with server.stream("/completion", completion(stream=True, return_tokens=True)) as stream:
        assert [token for event in stream for token in event["tokens"]] == whole


def test_native_choices(server: Router) -> None:
    two = server.post("/completion", completion(n=2, temperature=1.5, seed=1)).json
    assert [answer["index"] for answer in two] == [0, 1]
    assert two[0]["content"] != two[1]["content"]


def test_response_fields(server: Router) -> None:
    fields = ["content", "generation_settings/n_predict", "no/such"]
    body = server.post("/completion", completion(response_fields=fields)).json
    assert set(body) == {"content", "generation_settings/n_predict"}


def test_prompt_of_tokens(server: Router) -> None:
    tokens = server.post("/tokenize", {"model": "tiny0", "content": "the cat and the dog", "add_special": True}).json["tokens"]
    by_text = server.post("/completion", completion()).json
    by_tokens = server.post("/completion", completion(prompt=tokens)).json
    mixed = server.post("/completion", completion(prompt=[*tokens[:2], *tokens[2:]])).json
    assert by_text["content"] == by_tokens["content"] == mixed["content"]
    assert by_text["tokens_evaluated"] == by_tokens["tokens_evaluated"] == len(tokens)


def test_stop_words(server: Router) -> None:
    plain = server.post("/completion", completion(n_predict=24)).json["content"]
    word = plain[9:13]
    for stop in (word, ["zzzz", word]):
        stopped = server.post("/completion", completion(n_predict=24, stop=stop)).json
        assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", word)
        assert stopped["content"] == plain[: plain.index(word)]
    with server.stream("/v1/completions", completion(n_predict=24, stop=[word], stream=True)) as stream:
        events = list(stream)
    assert "".join(map(text_of, events)) == plain[: plain.index(word)]
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    unstopped = server.post("/completion", completion(n_predict=24, stop=["no such text"])).json
    assert unstopped["content"] == plain


def test_seed_reproduces(server: Router) -> None:
    def texts(**more: Any) -> set[str]:
        return {server.post("/completion", completion(temperature=1.2, n_predict=24, **more)).json["content"] for _ in range(3)}

    assert len(texts(seed=42)) == 1
    assert texts(seed=42) != texts(seed=43)
    assert len(texts()) > 1
    assert len(texts(seed=-1)) > 1


def test_logit_bias(server: Router) -> None:
    [token] = server.post("/tokenize", {"model": "tiny0", "content": "q"}).json["tokens"][-1:]
    for bias in ([[token, 1000.0]], {str(token): 1000.0}):
        body = server.post("/completion", completion(logit_bias=bias, return_tokens=True)).json
        assert body["tokens"] == [token] * 12
    plain = server.post("/completion", completion(return_tokens=True)).json["tokens"]
    banned = server.post("/completion", completion(logit_bias=[[plain[0], False]], return_tokens=True)).json["tokens"]
    assert plain[0] not in banned


def test_end_of_sequence_and_ignore_eos(server: Router) -> None:
    ended = server.post("/completion", completion(logit_bias=[[2, 1000]])).json
    assert (ended["stop_type"], ended["content"], ended["tokens_predicted"]) == ("eos", "", 1)
    ignored = server.post("/completion", completion(logit_bias=[[2, 1000]], ignore_eos=True)).json
    assert (ignored["stop_type"], ignored["tokens_predicted"]) == ("limit", 12)
    finished = server.post(CHAT, chat(logit_bias=[[2, 1000]])).json["choices"][0]
    assert finished["finish_reason"] == "stop"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_max_tokens(server: Router, name: str) -> None:
    body = {"model": "tiny0", "messages": HELLO, name: 3}
    assert server.post(CHAT, body).json["usage"]["completion_tokens"] == 3


def test_no_token_at_all(server: Router) -> None:
    body = server.post("/completion", completion(n_predict=0)).json
    assert (body["content"], body["tokens_predicted"], body["stop_type"]) == ("", 0, "limit")


def test_runs_until_the_context_is_full(server: Router) -> None:
    body = server.post("/completion", completion(n_predict=-1)).json
    assert (body["stop_type"], body["truncated"]) == ("limit", True)
    assert body["tokens_evaluated"] + body["tokens_predicted"] == 2048


def test_timings_per_token(server: Router) -> None:
    with server.stream("/completion", completion(stream=True, timings_per_token=True)) as stream:
        events = list(stream)
    numbers = [event["timings"]["predicted_n"] for event in events]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 12
    assert "".join(map(text_of, events)) == server.post("/completion", completion()).json["content"]


def test_null_is_absent_and_unknown_fields_are_ignored(server: Router) -> None:
    plain = server.post("/completion", completion()).json["content"]
    body = completion(top_k=None, stop=None, seed=None, user="somebody", store=False, metadata={"a": 1})
    assert server.post("/completion", body).json["content"] == plain


# ---------------------------------------------------------------- tokens and templates


def test_tokenize_and_back(server: Router) -> None:
    text = "the red cat is on the dog"
    tokens = server.post("/tokenize", {"model": "tiny1", "content": text}).json["tokens"]
    assert all(type(token) is int for token in tokens)
    assert server.post("/detokenize", {"model": "tiny1", "tokens": tokens}).json["content"].lstrip() == text
    special = server.post("/tokenize", {"model": "tiny1", "content": text, "add_special": True}).json["tokens"]
    assert special == [1, *tokens]
    pieces = server.post("/tokenize", {"model": "tiny1", "content": text, "with_pieces": True}).json["tokens"]
    assert [piece["id"] for piece in pieces] == tokens
    assert "".join(piece["piece"] for piece in pieces).lstrip() == text


@pytest.mark.parametrize("text", ["grüße 😀", "日本語", "a\nb\tc", '"\\"', "</s>"])
def test_tokenize_any_text(server: Router, text: str) -> None:
    tokens = server.post("/tokenize", {"model": "tiny1", "content": text, "parse_special": False}).json["tokens"]
    assert server.post("/detokenize", {"model": "tiny1", "tokens": tokens}).json["content"].lstrip() == text
    assert server.post("/tokenize", {"model": "tiny1"}).json == {"tokens": []}
    assert server.post("/detokenize", {"model": "tiny1"}).json == {"content": ""}


def test_pieces_that_are_no_characters(server: Router) -> None:
    pieces = server.post("/tokenize", {"model": "tiny1", "content": "ü", "with_pieces": True}).json["tokens"]
    assert [piece["piece"] for piece in pieces][-2:] == [[0xC3], [0xBC]]


def test_apply_template(server: Router) -> None:
    prompt = server.post("/apply-template", {"model": "tiny0", "messages": HELLO}).json["prompt"]
    assert prompt == "<|im_start|>user\nthe cat is on it<|im_end|>\n<|im_start|>assistant\n"


def test_model_with_its_own_template(router: StartRouter, tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{{ word }}"
    make_llama(tmp_path / "own.gguf", chat_template=template)
    make_llama(tmp_path / "broken.gguf", chat_template="{% for %}")
    server = router(models_dir=tmp_path)
    body = {"model": "own", "messages": HELLO, "chat_template_kwargs": {"word": "now"}}
    assert server.post("/apply-template", body).json["prompt"] == "<s>[user] the cat is on it\nnow"
    tokens = server.post("/tokenize", {"model": "own", "content": "[user] the cat is on it\nnow", "add_special": True}).json["tokens"]
    assert server.post(CHAT, {**body, "max_tokens": 1}).json["usage"]["prompt_tokens"] == len(tokens)  # one BOS only
    broken = server.post(CHAT, chat(model="broken"))
    assert broken.status == 400  # waiting does not help
    assert "template" in broken.error["message"]
    assert server.post("/completion", completion(model="broken")).status == 200


# ---------------------------------------------------------------- models


def test_listing(server: Router) -> None:
    for path in ("/models", "/v1/models"):
        listing = server.get(path).json
        assert listing["object"] == "list"
        assert [model["id"] for model in listing["data"]] == ["tiny0", "tiny1", "tiny2"]
        for model in listing["data"]:
            assert (model["object"], model["owned_by"], model["source"]) == ("model", "llamacpp", "models_dir")
            assert model["status"]["value"] in ("unloaded", "loading", "loaded")
            assert model["status"]["args"][0] == "llama-server"
            assert model["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text"]}
            assert model["can_remove"] is False
            assert (model["meta"]["n_ctx_train"], model["meta"]["n_embd"]) == (2048, 64)
            assert model["created"] > 1_600_000_000


def test_one_model(server: Router) -> None:
    server.post("/completion", completion())
    model = server.get("/v1/models/tiny0").json
    assert model["id"] == "tiny0"
    assert model["status"]["value"] == "loaded"
    assert set(model["meta"]) == {"vocab_type", "n_vocab", "n_ctx", "n_ctx_train", "n_embd", "n_params", "size", "ftype", "cpu"}
    again = server.get("/models/tiny0").json
    assert again.pop("usage").keys() == model.pop("usage").keys()
    assert again == model
    missing = server.get("/v1/models/no/such")
    assert (missing.status, missing.error["type"]) == (404, "not_found_error")


def test_id_with_a_slash(router: StartRouter, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("one", "two"):
            make_llama(tmp_path / folder / f"{name}.gguf")
    server = router(models_dir=tmp_path)
    ids = [model["id"] for model in server.get("/models").json["data"]]
    assert ids == ["a/one", "a/two", "b/one", "b/two"]
    assert server.get("/v1/models/b/one").json["id"] == "b/one"
    assert server.get("/v1/models/b%2Fone").json["id"] == "b/one"
    for name in ("b/one", "b/one.gguf"):
        assert server.post("/completion", completion(model=name)).json["model"] == "b/one"


def test_load_and_unload(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models)
    server.load("tiny0")
    again = server.post("/models/load", {"model": "tiny0"})
    assert (again.status, again.error["message"]) == (400, "model is already running")
    server.unload("tiny0")
    for name in ("tiny0", "no-such"):
        assert server.post("/models/unload", {"model": name}).status == 400
    unknown = server.post("/models/load", {"model": "no-such"})
    assert (unknown.status, unknown.error["type"]) == (404, "not_found_error")
    for path in ("/models/load", "/models/unload"):
        for body in ({}, {"model": ""}, {"model": None}):
            assert server.post(path, body).status == 400
        assert server.post(path, {"model": 7}).error["message"] == "field 'model' must be a string"
    server.load("tiny0")
    assert server.post("/completion", completion()).status == 200


def test_feed_of_events(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models)
    with server.stream("/models/sse") as feed:
        events = iter(feed)
        snapshot = [next(events) for _ in range(3)]
        assert [(e["model"], e["event"], e["data"]) for e in snapshot] == [
            (f"tiny{n}", "model_status", {"status": "unloaded"}) for n in range(3)
        ]
        server.load("tiny1")
        server.unload("tiny1")
        seen: list[Any] = []
        for event in events:
            assert event["model"] == "tiny1"
            seen.append(event)
            if event["data"]["status"] == "unloaded" and event["event"] == "status_change":
                break
    for name in ("model_status", "status_change"):
        statuses = [event["data"]["status"] for event in seen if event["event"] == name]
        assert statuses[0] == "loading"
        assert [status for status in statuses if status != "loading"] == ["loaded", "unloaded"]
    assert seen[0]["data"]["progress"]["stages"] == ["text_model"]
    loaded = next(event["data"] for event in seen if event["data"]["status"] == "loaded")
    assert loaded["info"]["n_ctx"] == 2048
    assert seen[-1]["data"]["exit_code"] == 0


def test_health(server: Router) -> None:
    for path in ("/health", "/v1/health"):
        assert server.get(path).json == {"status": "ok"}
        head = server.request("HEAD", path)
        assert (head.status, head.body) == (200, b"")


def test_props(server: Router) -> None:
    router_props = server.get("/props").json
    assert (router_props["role"], router_props["max_instances"], router_props["models_autoload"]) == ("router", 4, True)
    assert router_props["build_info"].startswith("b")
    props = server.get("/props?model=tiny2&autoload=true").json
    assert props["total_slots"] == 4
    assert props["model_alias"] == "tiny2"
    assert props["model_path"].endswith("tiny2.gguf")
    assert (props["bos_token"], props["eos_token"]) == ("<s>", "</s>")
    settings = props["default_generation_settings"]
    assert settings["n_ctx"] == 2048
    assert settings["params"]["temperature"] == 0.8
    assert settings["params"]["seed"] in (-1, 0xFFFFFFFF)
    assert server.status("tiny2") == "loaded"  # asking in this way loaded it


def test_slots(server: Router) -> None:
    body = server.post("/completion", completion(id_slot=2)).json
    assert body["id_slot"] == 2
    slots = server.get("/slots?model=tiny0").json
    assert [slot["id"] for slot in slots] == [0, 1, 2, 3]
    assert all(slot["n_ctx"] == 2048 and slot["is_processing"] is False for slot in slots)
    of_all = server.get("/slots").json  # there is no default model
    assert [slot for slot in of_all if slot["model"] == "tiny0"] == [{"model": "tiny0", **slot} for slot in slots]


def test_slots_of_a_running_request(server: Router) -> None:
    with server.stream("/completion", completion(stream=True, n_predict=100_000, ignore_eos=True, model="tiny1")) as stream:
        events = iter(stream)
        next(events)
        busy = [slot for slot in server.get("/slots?model=tiny1").json if slot["is_processing"]]
        for slot in busy:  # it may have ended meanwhile: the context is small
            assert slot["next_token"][0]["n_decoded"] >= 1
            assert slot["params"]["temperature"] == 0
    eventually(lambda: not server.is_processing("tiny1"), "the slot is free")


# ---------------------------------------------------------------- errors

BAD_JSON = [b"", b"{", b"[]", b"7", b"null", b'"text"', b'{"model": "tiny0",}', b"\xff\xfe{}", b"{" * 5000, b"[" * 60_000]


@pytest.mark.parametrize("body", BAD_JSON, ids=lambda body: repr(body[:12]))
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/completion", "/tokenize", "/detokenize", "/apply-template", "/models/load"])
def test_bad_json(server: Router, path: str, body: bytes) -> None:
    answer = server.post(path, body)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


WRONG: list[tuple[str, Any]] = [
    ("model", 7),
    ("messages", "hello"),
    ("messages", []),
    ("messages", [7]),
    ("messages", [{"content": "no role"}]),
    ("messages", [{"role": "user", "content": 7}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
    ("max_tokens", "many"),
    ("max_tokens", -2),
    ("max_tokens", 1 << 40),
    ("max_tokens", True),
    ("temperature", "warm"),
    ("temperature", [0.5]),
    ("top_k", 0.5),
    ("seed", "x"),
    ("stop", 7),
    ("stop", [7]),
    ("n", 0),
    ("n", 1000),
    ("stream", "yes"),
    ("stream_options", []),
    ("logit_bias", "x"),
    ("logit_bias", [[1]]),
    ("logit_bias", [[-1, 1]]),
    ("logit_bias", [[100_000, 1]]),
    ("repeat_penalty", 0),
    ("tools", "hammer"),
    ("tools", [{"type": "function"}]),
    ("tool_choice", "sometimes"),
    ("response_format", {"type": "json"}),
    ("chat_template_kwargs", []),
    ("grammar", "root ::= other"),
    ("id_slot", -2),
    ("cache_prompt", 1),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: str(value)[:20])
def test_wrong_fields_of_a_chat(server: Router, field: str, value: Any) -> None:
    answer = server.post(CHAT, chat(**{field: value}))
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert field in answer.error["message"]


@pytest.mark.parametrize("prompt", [None, 7, {}, [], [[]], [1.5], [-1], [100_000], [None], [1, None], True])
def test_wrong_prompts(server: Router, prompt: Any) -> None:
    for path in ("/completion", "/v1/completions"):
        answer = server.post(path, completion(prompt=prompt))
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


def test_unknown_and_missing_model(server: Router) -> None:
    for path in (CHAT, "/v1/completions", "/completion"):
        unknown = server.post(path, {**chat(model="X"), "prompt": "a"})
        assert (unknown.status, unknown.error["message"]) == (404 if path.startswith("/v1/") else 400, "model 'X' not found")
        missing = server.post(path, {"messages": HELLO, "prompt": "a"})
        assert (missing.status, missing.error["message"]) == (400, "model name is missing from the request")
    assert server.post("/tokenize", {"model": "../tiny0.gguf", "content": "a"}).status == 400
    assert server.get("/props?model=X").error["message"] == "model 'X' not found"


def test_model_in_the_query(server: Router) -> None:
    body = {"prompt": "the cat", "n_predict": 1}
    assert server.post("/completion?model=tiny2", body).json["model"] == "tiny2"


@pytest.mark.parametrize("is_stream", [False, True])
def test_prompt_longer_than_the_context(server: Router, is_stream: bool) -> None:
    answer = server.post("/completion", completion(prompt=[5] * 2048, stream=is_stream))
    assert (answer.status, answer.error["type"]) == (400, "exceed_context_size_error")
    assert (answer.error["n_prompt_tokens"], answer.error["n_ctx"]) == (2048, 2048)
    fits = server.post("/completion", completion(prompt=[5] * 2047))
    assert (fits.status, fits.json["tokens_predicted"], fits.json["truncated"]) == (200, 1, True)


def test_unknown_paths(server: Router) -> None:
    for path in ("/", "/v1", "/v1/chat", "/completion/x", "/models/load/x/y"):
        answer = server.post(path, {})
        assert (answer.status, answer.error["type"]) == (404, "not_found_error")
        assert answer.error["message"].startswith("File Not Found")
    assert server.get(CHAT).status == 405
    assert server.request("DELETE", CHAT).status == 405


def test_no_slots_endpoint(router: StartRouter, models: Path) -> None:
    assert router("--no-slots", models_dir=models).get("/slots?model=tiny0").status == 501


def test_text_body_and_foreign_origin(server: Router) -> None:
    plain = server.post("/completion", completion(), {"Content-Type": "text/plain"})
    assert (plain.status, "Content-Type: application/json" in plain.error["message"]) == (415, True)
    assert server.post("/completion", completion(), {"Content-Type": "text/plain", "Origin": "http://evil.example"}).status == 403
    assert server.post("/completion", completion(), {"Origin": "http://evil.example"}).status == 403
    assert server.get("/models", {"Host": "evil.example"}).status == 403
    local = server.post("/completion", completion(), {"Origin": "http://localhost:3000"})
    assert (local.status, local.headers["Access-Control-Allow-Origin"]) == (200, "http://localhost:3000")


# ---------------------------------------------------------------- autoload


def test_no_autoload(router: StartRouter, models: Path) -> None:
    server = router("--no-models-autoload", models_dir=models)
    for path in ("/completion", "/tokenize"):
        answer = server.post(path, completion())
        assert (answer.status, answer.error["message"]) == (400, "model is not loaded")
    assert server.get("/props").json["models_autoload"] is False
    assert server.post("/completion?autoload=true", completion()).status == 200
    assert server.post("/completion", completion()).status == 200


def test_autoload_false_in_the_query(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models)
    refused = server.post("/completion?autoload=false", completion())
    assert (refused.status, refused.error["message"]) == (400, "model is not loaded")
    assert server.get("/slots?model=tiny0&autoload=false").status == 400
    assert server.status("tiny0") == "unloaded"
    server.load("tiny0")
    assert server.post("/completion?autoload=false", completion()).status == 200


# ---------------------------------------------------------------- files that are not models


def test_broken_file(router: StartRouter, models: Path, tmp_path: Path) -> None:
    whole = (models / "tiny0.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.gguf").write_text("this is no model")
    (tmp_path / "empty.gguf").write_bytes(b"")
    # The header is valid, and llama.cpp is the first to see what is wrong.
    (tmp_path / "strange.gguf").write_bytes(whole.replace(b"blk.1.attn_q.weight", b"blk.7.attn_q.weight"))
    (tmp_path / "good.gguf").write_bytes(whole)
    server = router(models_dir=tmp_path)
    for name in ("cut", "text", "empty", "strange"):
        for _ in range(2):
            answer = server.post("/completion", completion(model=name))
            assert (answer.status, answer.error["type"]) == (400, "invalid_model_error"), (name, answer)
            beginning = f"model name={name} failed to load: {tmp_path}/{name}.gguf: "
            assert answer.error["message"].startswith(beginning), answer.body
            assert len(answer.error["message"]) > len(beginning) + 5
        described = server.get(f"/v1/models/{name}").json["status"]
        assert described["value"] == "unloaded"
        assert described["error"]
    strange = server.get("/v1/models/strange").json["status"]
    assert strange["failed"] is True
    assert isinstance(strange["exit_code"], int)
    assert "attn_q" in strange["error"]
    assert server.post("/completion", completion(model="good")).status == 200


def test_load_of_a_broken_file(router: StartRouter, models: Path, tmp_path: Path) -> None:
    whole = (models / "tiny0.gguf").read_bytes()
    (tmp_path / "strange.gguf").write_bytes(whole.replace(b"blk.1.attn_q.weight", b"blk.7.attn_q.weight"))
    server = router(models_dir=tmp_path)
    with server.stream("/models/sse") as feed:
        events = iter(feed)
        next(events)
        assert server.post("/models/load", {"model": "strange"}).status == 200
        last = next(event["data"] for event in events if event["data"]["status"] == "unloaded")
    assert last["exit_code"] != 0
    assert "attn_q" in last["error"]


# ---------------------------------------------------------------- keys, prefix, default model


def test_api_key(router: StartRouter, models: Path) -> None:
    server = router("--api-key", "one,two", models_dir=models)
    assert server.get("/health").status == 200
    for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "one"[:2]}, {"X-Api-Key": ""}):
        for path in ("/models", "/props", "/no-such"):
            answer = server.get(path, headers)
            assert (answer.status, answer.error["type"]) == (401, "authentication_error")
            assert answer.error["message"].startswith("Invalid API Key")
        assert server.post("/completion", completion(), headers).status == 401
    for headers in ({"Authorization": "Bearer one"}, {"X-Api-Key": "two"}, {"authorization": "bearer two"}):
        assert server.get("/models", headers).status == 200
    assert server.request("OPTIONS", "/models").status == 200
    assert "one" not in server.log


def test_keys_from_environment_and_file(router: StartRouter, models: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# mine\nfrom-file\n\n")
    server = router("--api-key-file", str(keys), models_dir=models, env={"LLAMA_API_KEY": "from-environment"})
    assert server.get("/models").status == 401
    for key in ("from-file", "from-environment"):
        assert server.get("/models", {"Authorization": f"Bearer {key}"}).status == 200


def test_default_model(router: StartRouter, models: Path) -> None:
    server = router("-m", str(models / "tiny1.gguf"), "--alias", "mine,other", "-np", "2")
    server.await_status("mine", "loaded")  # without being asked
    answer = server.post(CHAT, {"messages": HELLO, "max_tokens": 4}).json
    assert answer["model"] == "mine"
    assert server.post("/completion", completion(model="other")).json["model"] == "mine"
    assert server.post("/tokenize", {"content": "the cat"}).status == 200
    assert server.post("/completion", completion(model="no-such")).json["model"] == "mine"  # there is no other model
    [model] = server.get("/models").json["data"]
    assert (model["id"], model["aliases"]) == ("mine", ["other"])
    assert len(server.get("/slots").json) == 2


def test_default_model_of_the_folder(router: StartRouter, models: Path) -> None:
    server = router("-m", str(models / "tiny1.gguf"), models_dir=models)
    server.await_status("tiny1", "loaded")
    assert server.post(CHAT, {"messages": HELLO, "max_tokens": 4}).json["model"] == "tiny1"
    assert server.post(CHAT, chat(model="tiny0")).json["model"] == "tiny0"
    assert server.post("/completion", completion(model="no-such")).error["message"] == "model 'no-such' not found"
    assert [model["id"] for model in server.get("/models").json["data"]] == ["tiny0", "tiny1", "tiny2"]


def test_prefix(router: StartRouter, models: Path) -> None:
    server = router("--api-prefix", "/llm", models_dir=models)
    assert server.get("/llm/v1/models/tiny0").json["id"] == "tiny0"
    assert server.post("/llm/completion", completion()).status == 200
    assert server.get("/models").status == 404


def test_context_is_shared_out(router: StartRouter, models: Path) -> None:
    server = router("-np", "2", "-c", "1024", models_dir=models)
    assert [slot["n_ctx"] for slot in server.get("/slots?model=tiny0&autoload=true").json] == [512, 512]
    assert server.post("/completion", completion(n_predict=-1)).json["truncated"] is True


def test_sampling_flags_are_defaults(router: StartRouter, models: Path) -> None:
    server = router("--temp", "0", "-n", "7", models_dir=models)
    texts = {server.post("/completion", {"model": "tiny0", "prompt": "the cat"}).json["content"] for _ in range(3)}
    assert len(texts) == 1
    body = server.post("/completion", {"model": "tiny0", "prompt": "the cat", "n_predict": 3, "temperature": 1.0}).json
    assert (body["tokens_predicted"], body["generation_settings"]["temperature"]) == (3, 1.0)


# ---------------------------------------------------------------- many together


def test_more_requests_than_slots(server: Router) -> None:
    expected = server.post("/completion", completion(model="tiny1", cache_prompt=False)).json["content"]
    answers: list[str] = []

    def ask() -> None:
        answers.append(server.post("/completion", completion(model="tiny1")).json["content"])

    threads = [threading.Thread(target=ask) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 24


def test_many_requests_on_one_connection(server: Router) -> None:
    connection, response = server.open("GET", "/health")
    response.read()
    for number in range(20):
        connection.request("POST", "/completion", json.dumps(completion(n_predict=number % 4)), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert json.loads(response.read())["tokens_predicted"] == number % 4
    connection.close()


@pytest.fixture(autouse=True)
def check_router_is_the_same(request: pytest.FixtureRequest) -> Iterator[None]:
    """After all tests of the shared router, it is still the same process."""
    yield
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        assert server.process.poll() is None
        assert server.get("/health").status == 200
