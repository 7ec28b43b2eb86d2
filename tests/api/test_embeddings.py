"""Embeddings and reranking over HTTP, compared with a numpy computation of the same vectors: shapes, pooling, norms, limits."""

import base64
import http.client
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import openai
import pytest
from conftest import Answer, Router, StartRouter, eventually, text_of
from tiny_encoders import CLS, SEP, WIDTH, Vectors, bert_score, bert_states, llama_states, make_bert, unit, words_to_ids
from tiny_models import make_llama

TOLERANCE = 1e-3
TEXTS = ["the cat sings", "a dog", "red house under the moon", "the dog runs over the red tree and the house", "ж 日 本"]
PRESETS = """
[none]
model = {folder}/mean.gguf
pooling = none

[raw]
model = {folder}/mean.gguf
embd-normalize = -1

[taxicab]
model = {folder}/mean.gguf
embd-normalize = 1

[chat-last]
model = {folder}/chat.gguf
embeddings = on
pooling = last

[chat-mean]
model = {folder}/chat.gguf
pooling = mean

[chat-none]
model = {folder}/chat.gguf
embeddings = on

[short]
model = {folder}/mean.gguf
batch-size = 16
ubatch-size = 16
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    make_bert(folder / "mean.gguf", seed=0)
    make_bert(folder / "cls.gguf", seed=1, pooling=gguf.PoolingType.CLS)
    make_bert(folder / "rank.gguf", seed=2, pooling=gguf.PoolingType.RANK)
    make_llama(folder / "chat.gguf", seed=0, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    return folder


@pytest.fixture(scope="module")
def server(module_router: StartRouter, folder: Path) -> Router:
    presets = folder / "presets.ini"
    presets.write_text(PRESETS.format(folder=folder))
    return module_router("--models-preset", str(presets), "--models-max", "0", "-c", "1024", models_dir=folder)


@pytest.fixture
def client(server: Router) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def embed(server: Router, model: str, value: Any, **fields: Any) -> list[Vectors]:
    answer = server.post("/v1/embeddings", {"model": model, "input": value, **fields})
    assert answer.status == 200, answer.body
    return [np.array(entry["embedding"]) for entry in answer.json["data"]]


def of_bert(text: str) -> list[int]:
    return [CLS, *words_to_ids(text), SEP]


def mean_of(text: str) -> Vectors:
    mean: Vectors = bert_states(of_bert(text), 0).mean(axis=0)
    return mean


def close(found: Vectors, expected: Vectors) -> bool:
    """Relative to the largest value: llama.cpp keeps keys, values and its GELU in 16 bits."""
    return bool(found.shape == expected.shape and np.abs(found - expected).max() < TOLERANCE * max(1.0, np.abs(expected).max()))


# ---------------------------------------------------------------- the vectors


@pytest.mark.parametrize("text", TEXTS)
def test_mean_and_cls_beside_numpy(server: Router, text: str) -> None:
    assert close(embed(server, "mean", text)[0], unit(mean_of(text)))
    assert close(embed(server, "cls", text)[0], unit(bert_states(of_bert(text), 1)[0]))


@pytest.mark.parametrize("text", ["the cat and the dog", "two red cat"])
def test_a_chat_model_beside_numpy(server: Router, text: str) -> None:
    tokens = server.post("/tokenize", {"model": "chat", "content": text, "add_special": True}).json["tokens"]
    states = llama_states(tokens, 0)
    assert close(embed(server, "chat-last", text)[0], unit(states[-1]))
    assert close(embed(server, "chat-mean", text)[0], unit(states.mean(axis=0)))
    assert close(embed(server, "chat-last", [tokens])[0], unit(states[-1]))
    answer = server.post("/embedding", {"model": "chat-none", "content": text}).json
    assert close(np.array(answer[0]["embedding"]), states)


def test_without_pooling_every_token_has_a_vector(server: Router) -> None:
    answer = server.post("/embeddings", {"model": "none", "content": TEXTS}).json
    assert [entry["index"] for entry in answer] == list(range(len(TEXTS)))
    for entry, text in zip(answer, TEXTS, strict=True):
        assert close(np.array(entry["embedding"]), bert_states(of_bert(text), 0))
    refused = server.post("/v1/embeddings", {"model": "none", "input": "a"})
    assert (refused.status, "Pooling type 'none'" in refused.error["message"]) == (400, True)


def test_a_batch_is_the_texts_one_by_one(server: Router) -> None:
    texts = [" ".join(words) for words in itertools.permutations(["the", "cat", "sings", "red", "moon"], 3)] * 3  # 180, in several batches
    assert len(texts) == 180
    together = embed(server, "mean", texts)
    assert len(together) == 180
    for text, found in zip(texts[:60], together[:60], strict=True):
        assert close(found, unit(mean_of(text)))
    assert all(close(found, again) for found, again in zip(together[:60], together[120:], strict=True))
    alone = [embed(server, "mean", text)[0] for text in texts[:20]]
    assert all(np.abs(one - other).max() < 1e-5 for one, other in zip(alone, together[:20], strict=True))


def test_norms(server: Router) -> None:
    raw = mean_of(TEXTS[0])
    expected = {
        -1: raw,
        0: raw / np.abs(raw).max() * 32760,
        1: raw / np.abs(raw).sum(),
        2: unit(raw),
        3: raw / (np.abs(raw) ** 3).sum() ** (1 / 3),
        1000: raw / np.abs(raw).max(),  # as good as the largest value
    }
    for kind, vector in expected.items():
        [found] = embed(server, "mean", TEXTS[0], embd_normalize=kind)
        assert np.abs(found - vector).max() < TOLERANCE * max(1.0, np.abs(vector).max()), kind
    assert close(embed(server, "raw", TEXTS[0])[0], raw)
    assert close(embed(server, "taxicab", TEXTS[0])[0], expected[1])
    assert close(embed(server, "taxicab", TEXTS[0], embd_normalize=2)[0], unit(raw))  # a request's field wins


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_dimensions(server: Router, encoding: str) -> None:
    for dimensions in (1, 7, WIDTH):
        fields = {"model": "mean", "input": TEXTS[:2], "dimensions": dimensions, "encoding_format": encoding}
        entries = server.post("/v1/embeddings", fields).json["data"]
        for entry, text in zip(entries, TEXTS, strict=False):
            value = entry["embedding"]
            found = np.frombuffer(base64.b64decode(value), "<f4") if encoding == "base64" else np.array(value)
            assert close(found.astype(np.float64), unit(mean_of(text)[:dimensions]))
            assert abs(float((found**2).sum()) - 1) < TOLERANCE
    [raw] = embed(server, "mean", TEXTS[0], dimensions=5, embd_normalize=-1)
    assert close(raw, mean_of(TEXTS[0])[:5])


# ---------------------------------------------------------------- shapes


def test_the_openai_client(client: openai.OpenAI) -> None:
    for encoding in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        answer: Any = client.embeddings.create(model="mean", input=TEXTS, user="somebody", **encoding)  # type: ignore[arg-type]
        assert (answer.object, answer.model, len(answer.data)) == ("list", "mean", len(TEXTS))
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(len(of_bert(text)) for text in TEXTS)
        for index, (entry, text) in enumerate(zip(answer.data, TEXTS, strict=True)):
            assert (entry.index, entry.object) == (index, "embedding")
            vector = entry.embedding
            if isinstance(vector, str):
                vector = np.frombuffer(base64.b64decode(vector), "<f4")
            assert close(np.array(vector, dtype=np.float64), unit(mean_of(text)))
    assert len(client.embeddings.create(model="mean", input="a cat", dimensions=8).data[0].embedding) == 8


def test_tokens_and_lists_of_them(server: Router) -> None:
    tokens = [of_bert(text) for text in TEXTS]
    expected = [unit(mean_of(text)) for text in TEXTS]
    assert close(embed(server, "mean", tokens[0])[0], expected[0])
    assert all(map(close, embed(server, "mean", tokens), expected))
    assert all(map(close, embed(server, "mean", [TEXTS[0], tokens[1], {"prompt_string": TEXTS[2]}]), expected))
    [mixed] = embed(server, "mean", [CLS, *words_to_ids(TEXTS[0]), SEP])
    assert close(mixed, expected[0])


def test_the_native_shape(server: Router) -> None:
    by_content = server.post("/embedding", {"model": "mean", "content": TEXTS[:2]}).json
    assert [(entry["index"], len(entry["embedding"])) for entry in by_content] == [(0, 1), (1, 1)]
    assert close(np.array(by_content[1]["embedding"][0]), unit(mean_of(TEXTS[1])))
    assert server.post("/embeddings", {"model": "mean", "input": TEXTS[:2]}).json == by_content
    assert server.post("/v1/embeddings", {"model": "mean", "content": TEXTS[:2]}).json == by_content  # like llama-server


@pytest.mark.parametrize("text", ["naïve 😀 cat", "\ud800 cat", "cat\x00dog", "日" * 40, "\u202ered", " ", "zzz"])
def test_any_unicode(server: Router, text: str) -> None:
    answer = server.post("/v1/embeddings", {"model": "mean", "input": text})
    if "\ud800" in text:
        assert (answer.status, "JSON" in answer.error["message"]) == (400, True)
        return
    [entry] = answer.json["data"]
    assert abs(sum(value**2 for value in entry["embedding"]) - 1) < TOLERANCE


# ---------------------------------------------------------------- reranking


def score_of(query: str, document: str) -> float:
    return bert_score([CLS, *words_to_ids(query), SEP, *words_to_ids(document)], 2)


@pytest.mark.parametrize("path", ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking"])
def test_rerank_beside_numpy(server: Router, path: str) -> None:
    query = "red moon"
    answer = server.post(path, {"model": "rank", "query": query, "documents": TEXTS}).json
    expected = {index: score_of(query, text) for index, text in enumerate(TEXTS)}
    assert [entry["index"] for entry in answer["results"]] == sorted(expected, key=lambda index: -expected[index])
    for entry in answer["results"]:
        assert set(entry) == {"index", "relevance_score"}
        assert abs(entry["relevance_score"] - expected[entry["index"]]) < TOLERANCE
    num_tokens = sum(2 + len(words_to_ids(query)) + len(words_to_ids(text)) for text in TEXTS)
    assert (answer["model"], answer["object"]) == ("rank", "list")
    assert answer["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}


def test_rerank_shapes(server: Router) -> None:
    ask = {"model": "rank", "query": "cat"}
    whole = server.post("/rerank", {**ask, "documents": TEXTS}).json["results"]
    best = server.post("/rerank", {**ask, "documents": TEXTS, "top_n": 2, "return_documents": True}).json["results"]
    assert best == [{**entry, "document": {"text": TEXTS[entry["index"]]}} for entry in whole[:2]]
    objects = [{"text": text} for text in TEXTS]
    assert server.post("/rerank", {**ask, "documents": objects, "top_n": 99}).json["results"] == whole
    tei = server.post("/rerank", {**ask, "texts": TEXTS, "return_text": True}).json
    assert tei == [{"index": e["index"], "score": e["relevance_score"], "text": TEXTS[e["index"]]} for e in whole]
    assert [set(entry) for entry in server.post("/rerank", {**ask, "texts": TEXTS[:1]}).json] == [{"index", "score"}]


# ---------------------------------------------------------------- refusals


def refused(answer: Answer, status: int, *parts: str) -> None:
    assert answer.status == status, answer.body
    for part in parts:
        assert part in answer.error["message"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": {"content": "a"}}, "input"),
        ({"input": ["a", []]}, "input[1]"),
        ({"input": ["a", {"content": [{"type": "unknown"}]}]}, "input[1]"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": 5}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": [1, 2.5]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [1, [2]]}, "input"),
        ({"input": [10**9]}, "invalid tokens"),
        ({"input": ["a"] * 2049}, "2049 inputs"),
        ({"content": [{"type": "image_url"}]}, "content"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": WIDTH + 1}, "'dimensions' must be at most 48"),
        ({"input": "a", "dimensions": "8"}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "encoding_format": ["float"]}, "encoding_format"),
        ({"input": "a", "embd_normalize": -2}, "embd_normalize"),
        ({"input": "a", "embd_normalize": True}, "embd_normalize"),
        ({"input": ["a", {"prompt_string": "a", "multimodal_data": ["AAAA"]}]}, "input[1].multimodal_data"),
    ],
)
def test_bad_input_is_named(server: Router, fields: dict[str, Any], named: str) -> None:
    for path in ("/v1/embeddings", "/embedding"):
        if path == "/embedding" and "encoding_format" in fields:
            continue  # has no meaning there
        answer = server.post(path, {"model": "mean", **fields})
        refused(answer, 400, named)
        assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": ["a"], "documents": ["a"]}, "query"),
        ({"query": "a"}, "documents"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "texts": []}, "texts"),
        ({"query": "a", "documents": "a"}, "documents"),
        ({"query": "a", "documents": ["a", 1]}, "documents[1]"),
        ({"query": "a", "documents": [{"title": "a"}]}, "documents[0]"),
        ({"query": "a", "documents": ["a"] * 2049}, "2049 texts"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": ["a"], "return_documents": 1}, "return_documents"),
    ],
)
def test_bad_rankings_are_named(server: Router, fields: dict[str, Any], named: str) -> None:
    refused(server.post("/rerank", {"model": "rank", **fields}), 400, named)


def test_a_text_that_is_too_long(server: Router) -> None:
    longest = "cat " * 126  # with its two special tokens exactly the training context
    assert close(embed(server, "mean", longest)[0], unit(mean_of(longest)))
    answer = server.post("/v1/embeddings", {"model": "mean", "input": ["a", longest + "cat"]})
    refused(answer, 400, "input[1] (129 tokens)")
    assert answer.error["type"] == "exceed_context_size_error"
    assert (answer.error["n_prompt_tokens"], answer.error["n_ctx"]) == (129, 128)
    short = server.post("/v1/embeddings", {"model": "short", "input": "cat " * 15})
    refused(short, 400, "--ubatch-size")
    assert (short.error["n_prompt_tokens"], short.error["n_ctx"]) == (17, 16)
    assert close(embed(server, "short", TEXTS)[3], unit(mean_of(TEXTS[3])))
    ranked = server.post("/rerank", {"model": "rank", "query": "red", "documents": ["cat", longest]})
    refused(ranked, 400, "documents[1]")
    assert ranked.error["n_prompt_tokens"] == 129


def test_a_long_text_in_pieces(server: Router) -> None:
    """A decoder that looks at its last token takes more than a micro-batch of 512, together with other requests."""
    tokens = [1, *np.random.default_rng(0).integers(260, 300, 899).tolist()]
    expected = unit(llama_states(tokens, 0)[-1])
    assert close(embed(server, "chat-last", [tokens])[0], expected)
    several = embed(server, "chat-last", [tokens[:9], tokens, tokens[:600], tokens[:9]])
    assert all(map(close, several, [unit(llama_states(tokens[:n], 0)[-1]) for n in (9, 900, 600, 9)]))
    refused(server.post("/v1/embeddings", {"model": "chat-last", "input": tokens + tokens[1:200]}), 400, "--ctx-size")
    refused(server.post("/v1/embeddings", {"model": "chat-mean", "input": tokens}), 400, "512 tokens, increase", "--ubatch-size")


def test_models_that_cannot_do_it(server: Router) -> None:
    refused(server.post("/v1/embeddings", {"model": "chat", "input": "a"}), 400, "'chat'", "--embeddings", "--pooling")
    refused(server.post("/v1/embeddings", {"model": "rank", "input": "a"}), 400, "'rank'", "rerank")
    refused(server.post("/rerank", {"model": "mean", "query": "a", "documents": ["a"]}), 400, "'mean'", "--reranking")
    for model in ("mean", "rank", "chat-last"):
        refused(server.post("/completion", {"model": model, "prompt": "a"}), 400, "cannot generate text")
    refused(server.post("/v1/embeddings", {"model": "nobody", "input": "a"}), 404, "'nobody' not found")
    refused(server.post("/v1/embeddings", {"input": "a"}), 400, "model name is missing")


def test_a_refusal_loads_nothing(router: StartRouter, folder: Path) -> None:
    server = router(models_dir=folder)
    refused(server.post("/v1/embeddings", {"model": "chat", "input": "a"}), 400)
    refused(server.post("/rerank", {"model": "mean", "query": "a", "documents": ["a"]}), 400)
    refused(server.post("/v1/embeddings", {"model": "mean", "input": []}), 400)
    assert {server.status(model) for model in ("chat", "mean", "rank")} == {"unloaded"}


# ---------------------------------------------------------------- beside others


def test_a_chat_and_an_embedding_model_side_by_side(server: Router) -> None:
    ask = {"model": "chat", "messages": [{"role": "user", "content": "the cat"}], "temperature": 0, "max_tokens": 60, "stream": True}

    def chat(_: int) -> str:
        with server.stream("/v1/chat/completions", ask) as events:
            text = "".join(map(text_of, events))
        assert events.is_done
        return text

    alone = chat(0)

    def embed_many(number: int) -> bool:
        texts = [TEXTS[(number + offset) % len(TEXTS)] for offset in range(40)]
        return all(map(close, embed(server, "mean", texts), [unit(mean_of(text)) for text in texts]))

    def rank(number: int) -> bool:
        [entry] = server.post("/rerank", {"model": "rank", "query": "moon", "documents": [TEXTS[number % 5]]}).json["results"]
        return abs(entry["relevance_score"] - score_of("moon", TEXTS[number % 5])) < TOLERANCE

    with ThreadPoolExecutor(12) as pool:
        chats = [pool.submit(chat, number) for number in range(8)]
        vectors = [pool.submit(embed_many, number) for number in range(16)]
        ranks = [pool.submit(rank, number) for number in range(16)]
        assert {future.result() for future in chats} == {alone}
        assert all(future.result() for future in vectors + ranks)


def test_they_are_counted(server: Router) -> None:
    """And timed."""
    timing = server.post("/v1/embeddings", {"model": "cls", "input": "cat"}).headers["Server-Timing"]
    assert [part.partition(";")[0] for part in timing.split(", ")] == ["queue", "load", "prefill"]

    def count(name: str) -> float:
        lines = [line for line in server.get("/metrics").body.decode().splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines if 'model="cls"' in line)

    before, num_decodes = count("fastrouter_prompt_tokens_total"), count("llamacpp:n_decode_total")
    embed(server, "cls", TEXTS[0])
    eventually(lambda: count("fastrouter_prompt_tokens_total") == before + len(of_bert(TEXTS[0])), "the count of its tokens")
    assert count("llamacpp:n_decode_total") > num_decodes


def test_a_key_has_its_limit_and_its_models(router: StartRouter, folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one models=mean concurrency=1\n")
    server = router("--api-key-file", str(keys), models_dir=folder)
    headers = {"Authorization": "Bearer one"}
    assert server.post("/v1/embeddings", {"model": "mean", "input": "cat"}, headers).status == 200
    refused(server.post("/v1/embeddings", {"model": "cls", "input": "cat"}, headers), 404, "'cls' not found")
    assert server.post("/v1/embeddings", {"model": "mean", "input": "cat"}).status == 401
    many = {"model": "mean", "input": ["cat " * 120] * 2048}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, "/v1/embeddings", many, headers)
        eventually(lambda: server.get("/v1/models/mean", headers).json["usage"]["running"] == 1, "its request")
        refused(server.post("/v1/embeddings", {"model": "mean", "input": "cat"}, headers), 429)
        assert (first.result().status, len(first.result().json["data"])) == (200, 2048)


def test_how_long_a_model_stays(router: StartRouter, folder: Path) -> None:
    server = router(models_dir=folder)
    for name in ("priority", "keep_alive"):
        refused(server.post("/v1/embeddings", {"model": "mean", "input": "cat", name: "soon"}), 400, name)
    assert server.post("/rerank", {"model": "rank", "query": "a", "documents": ["cat"], "keep_alive": 0, "priority": 5}).status == 200
    server.await_status("rank", "unloaded")
    assert len(embed(server, "mean", "cat", keep_alive="5m")) == 1
    assert server.status("mean") == "loaded"


# ---------------------------------------------------------------- workers that die or send wrong data, clients that leave


def scripted(folder: Path, **script: Any) -> Path:
    (folder / "fake.gguf").write_text(json.dumps(script))
    return folder


ANSWER = {"vectors": base64.b64encode(np.array([3, 4], "<f4").tobytes()).decode(), "width": 2, "num_rows": [1], "prompt_tokens": 3}


def test_a_first_decode_that_kills_is_tried_again_in_the_safe_mode(router: StartRouter, tmp_path: Path) -> None:
    server = router(models_dir=scripted(tmp_path, first_decode="SIGILL", embed=ANSWER), is_fake=True)
    assert embed(server, "fake", "cat")[0].tolist() == [3, 4]
    eventually(lambda: "the next try is in the safe mode" in server.log, "its line in the log")


def test_a_text_that_kills_twice_is_an_error(router: StartRouter, tmp_path: Path) -> None:
    server = router(models_dir=scripted(tmp_path, embed="die"), is_fake=True)
    answer = server.post("/v1/embeddings", {"model": "fake", "input": "cat"})
    assert (answer.status, answer.error["code"]) == (503, "worker_died")
    eventually(lambda: server.log.count("fake: loaded") == 2, "its line in the log")


LIES: list[dict[str, Any]] = [
    *({"width": 3}, {"width": 0}, {"width": "x"}, {"num_rows": [2]}, {"num_rows": []}, {"num_rows": [-1, 2]}, {"num_rows": 1}),
    *({"vectors": "?"}, {"vectors": 5}, {"vectors": "AAAA"}, {"prompt_tokens": None}),
]


def test_a_worker_that_lies(router: StartRouter, tmp_path: Path) -> None:
    for number, lie in enumerate(LIES):
        (tmp_path / f"liar{number}.gguf").write_text(json.dumps({"embed": {**ANSWER, **lie}}))
    server = router("--models-max", "0", models_dir=tmp_path, is_fake=True)
    for number, lie in enumerate(LIES):
        for path in ("/v1/embeddings", "/embedding"):
            answer = server.post(path, {"model": f"liar{number}", "input": "cat"})
            assert (answer.status, "a worker sent a broken embedding" in answer.error["message"]) == (500, True), lie


def test_a_client_that_leaves(server: Router) -> None:
    """Its request is dropped: the model has no request, and the next one is answered."""
    connection, many = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60), ["cat " * 120] * 2048
    connection.request("POST", "/v1/embeddings", json.dumps({"model": "mean", "input": many}), {"Content-Type": "application/json"})
    eventually(lambda: server.get("/v1/models/mean").json["usage"]["running"] == 1, "its request")
    connection.close()
    eventually(lambda: server.get("/v1/models/mean").json["usage"]["running"] == 0, "its end")
    assert close(embed(server, "mean", TEXTS[0])[0], unit(mean_of(TEXTS[0])))
