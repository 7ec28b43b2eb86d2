"""The embedder in this process, on a tiny encoder and a tiny chat model: how texts share batches and take turns, what is left behind."""

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tiny_encoders import WIDTH, make_bert
from tiny_models import make_llama

from fastrouter.ipc.messages import Call, Reply
from fastrouter.options.load import LoadOptions
from fastrouter.worker.engine import embedder as embedder_module
from fastrouter.worker.engine.adapters import Adapters
from fastrouter.worker.engine.embedder import PACKED_TOKENS, Embedder, normalize
from fastrouter.worker.llama.binding import start_backends
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.text.prompts import Prompts


class Bench:
    """An embedder, its answers by call, and the rows of each decode."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.options = LoadOptions(**{"threads": 1, "embedding": True, "kv_unified": True, "ubatch_size": 2048, **options})
        self.model = Model(str(path), self.options)
        adapters = Adapters(self.model, self.options)
        self.context = Context(self.model, self.options)
        self.answers: dict[int, Reply] = {}
        self.num_rows: list[int] = []
        prompts = Prompts(self.model, self.options)
        self.embedder = Embedder(self.model, self.context, prompts, adapters, self.options, self._take)
        decode = self.context.decode

        def counted(num_rows: int) -> int:
            self.num_rows.append(num_rows)
            return decode(num_rows)

        self.context.decode = counted  # type: ignore[method-assign]

    def _take(self, reply: Reply) -> None:
        assert reply.request_id not in self.answers, "answered twice"
        self.answers[reply.request_id] = reply

    def submit(self, request_id: int, texts: list[Any], **params: Any) -> None:
        self.embedder.submit(Call(request_id, "embed", {"inputs": texts, **params}))

    def run(self) -> None:
        for _ in range(1000):
            if repr(self.embedder) == "<Embedder 0 reading 0 calls>":
                return
            self.embedder.step()
            if not self.embedder.has_work:
                time.sleep(0.001)
        raise AssertionError(f"{self.embedder} has not ended")

    def vectors(self, request_id: int) -> Any:
        reply = self.answers[request_id]
        assert reply.error is None
        return np.frombuffer(base64.b64decode(reply.result["vectors"]), "<f4").reshape(-1, reply.result["width"])

    def close(self) -> None:
        self.context.close()
        self.model.close()


Open = Callable[..., Bench]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    make_bert(folder / "mean.gguf", n_ctx=2048)
    make_bert(folder / "rank.gguf", pooling=gguf.PoolingType.RANK)
    make_llama(folder / "chat.gguf")
    start_backends()
    return folder


@pytest.fixture
def bench(folder: Path) -> Iterator[Open]:
    opened: list[Bench] = []

    def start(name: str = "mean", **options: Any) -> Bench:
        opened.append(Bench(folder / f"{name}.gguf", **options))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_short_texts_share_one_decode(bench: Open) -> None:
    one = bench()
    one.submit(1, ["the cat"] * 20)
    one.submit(2, ["a dog"])
    one.run()
    assert one.num_rows == [4 * 21]  # two words and two special tokens each
    assert one.vectors(1).shape == (20, WIDTH)
    assert one.vectors(2).shape == (1, WIDTH)
    assert one.answers[1].result["prompt_tokens"] == 80
    assert [one.answers[call].result["num_decodes"] for call in (1, 2)] == [1, 0], "a decode is counted once"


def test_a_batch_has_its_limits(bench: Open) -> None:
    one = bench()
    one.submit(1, ["cat"] * 200)  # 64 sequences at a time
    one.run()
    assert one.num_rows == [192, 192, 192, 24]
    one.num_rows.clear()
    one.submit(2, ["cat " * 298] * 3)  # two would be more than one batch takes
    one.submit(3, ["cat " * 1500])  # a longer one is alone in its batch
    one.run()
    assert sorted(one.num_rows) == [300, 300, 300, 1502]
    assert max(300 * 2, 1502) > PACKED_TOKENS


@pytest.mark.parametrize("size", [1, 63, 65, 300, 331])
def test_any_size_of_a_batch_works(bench: Open, size: int) -> None:
    """llama.cpp itself takes only multiples of the number of sequences."""
    texts = ["the", "cat"][: size // 3 + 1] if size > 1 else [[5]]
    vectors = []
    for ubatch_size in (2048, size):
        one = bench(ubatch_size=ubatch_size, batch_size=ubatch_size)
        one.submit(1, texts)
        one.run()
        vectors.append(one.vectors(1))
    np.testing.assert_allclose(*vectors, atol=1e-5)


def test_calls_take_turns(bench: Open) -> None:
    one = bench()
    one.submit(1, ["cat " * 400] * 20)
    one.submit(2, ["dog"])
    while 2 not in one.answers:
        one.embedder.step()
    assert len(one.num_rows) <= 2
    assert 1 not in one.answers
    one.run()
    assert np.allclose(one.vectors(1), one.vectors(1)[0], atol=1e-4)  # a batch of another size rounds differently


def test_what_is_forgotten_is_not_computed(bench: Open) -> None:
    one = bench()
    one.submit(1, ["cat " * 400] * 20)
    one.submit(2, ["dog " * 400] * 2)
    one.embedder.step()
    one.embedder.forget(1)
    one.embedder.forget(77)
    one.run()
    assert list(one.answers) == [2]
    assert len(one.num_rows) <= 3


def test_a_chat_models_cache_is_empty_afterwards(bench: Open) -> None:
    one = bench("chat", pooling="last")
    one.submit(1, ["the cat"])
    one.run()
    first = one.vectors(1)
    for request_id in range(2, 30):  # much more than the cache holds
        one.submit(request_id, ["cat " * 300] * 4)
    one.submit(99, ["the cat"])
    one.run()
    assert np.abs(one.vectors(99) - first).max() < 1e-5
    assert [one.context.oldest_pos(seq_id) for seq_id in range(one.context.num_sequences)] == [-1] * one.context.num_sequences


def test_errors_cost_one_call(bench: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench()
    one.submit(1, ["cat " * 3000])
    one.submit(2, [[10**6]])
    one.submit(3, [])
    one.submit(4, ["cat"], dimensions=WIDTH + 1)
    one.embedder.submit(Call(5, "rerank", {"query": "cat", "documents": ["dog"]}))
    monkeypatch.setattr(embedder_module, "MAX_ANSWER_BYTES", 4 * WIDTH * 3)
    one.submit(6, ["cat"] * 4)
    one.submit(7, ["cat"] * 3)
    one.run()
    errors = {request_id: reply.error["class"] for request_id, reply in one.answers.items() if reply.error is not None}
    assert errors == {
        1: "ContextExceeded",
        2: "InvalidRequest",
        3: "InvalidRequest",
        4: "InvalidRequest",
        5: "ModelCannot",
        6: "InvalidRequest",
    }
    assert one.vectors(7).shape == (3, WIDTH)


def test_a_failed_decode_ends_those_in_it_and_no_others(bench: Open) -> None:
    one = bench()
    decode = one.context.decode
    one.context.decode = lambda num_rows: -3  # type: ignore[method-assign]
    one.submit(1, ["cat"])
    one.submit(2, ["dog"] * 3)
    one.embedder.step()
    one.context.decode = decode  # type: ignore[method-assign]
    assert {request_id: reply.error["message"] for request_id, reply in one.answers.items() if reply.error} == dict.fromkeys(
        (1, 2), "llama_decode failed with code -3"
    )
    one.submit(3, ["cat"])
    one.run()
    assert one.vectors(3).shape == (1, WIDTH)


def test_pairs_of_a_reranker(bench: Open) -> None:
    one = bench("rank", pooling="rank", reranking=True, ubatch_size=128, batch_size=128)
    one.embedder.submit(Call(1, "rerank", {"query": "red cat", "documents": ["dog", "the moon", ""]}))
    one.run()
    assert one.num_rows == [5 + 6 + 4]
    assert len(one.answers[1].result["scores"]) == 3


def test_norms_of_strange_rows() -> None:
    rows = np.array([[0, 0, 0], [3e38, -3e38, 0], [1e-38, 0, 0], [3, -4, 0]], dtype=np.float32)
    assert normalize(rows, -1) is rows
    assert normalize(rows, 2)[3] == pytest.approx([0.6, -0.8, 0])
    assert normalize(rows, 1)[3] == pytest.approx([3 / 7, -4 / 7, 0])
    assert normalize(rows, 0)[3] == pytest.approx([24570, -32760, 0])
    for kind in (0, 1, 2, 3, 50, (1 << 31) - 1):
        found = normalize(rows, kind)
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
        assert not found[0].any()
        assert found[1:].any(axis=1).all()
