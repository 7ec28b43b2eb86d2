"""Limits of an answer by indentation and time: texts in all splits into tokens, compared with the plain rule; whole requests."""

from pathlib import Path

from conftest import StartRouter
from fake_vocab import FakeVocab
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrouter.worker.text.bounded_detokenizer import BoundedDetokenizer
from fastrouter.worker.text.detokenizer import PieceTable


class Clock:
    """Advances by a millisecond each time it is read."""

    def __init__(self) -> None:
        self.now_ms = 0

    def __call__(self) -> int:
        self.now_ms += 1
        return 1_000_000 * self.now_ms


def run(pieces: list[bytes], n_indent: int = 0, limit_ms: int = 0, stop: list[str] | None = None) -> tuple[str, str, int]:
    """(text, why it ended or "", number of tokens)"""
    detokenizer = BoundedDetokenizer(PieceTable(FakeVocab(pieces)), stop or [], n_indent, limit_ms, Clock())
    text = b""
    for token in range(len(pieces)):
        text += detokenizer.push(token)
        if detokenizer.is_stopped:
            return text.decode(), detokenizer.stop_type, token + 1
    text += detokenizer.finish()
    return text.decode(), detokenizer.stop_type if detokenizer.is_stopped else "", len(pieces)


def reference(text: str, n_indent: int) -> str:
    """Looks at the whole text, as llama-server does."""
    position = text.find("\n")
    while position >= 0:
        start = position + 1
        end = start
        while end < len(text) and text[end] in " \t":
            end += 1
        if end < len(text) and end - start < n_indent:
            return text[:end]
        position = text.find("\n", start)
    return text


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet="ab \t\n\u00e9", max_size=4), max_size=12), st.integers(1, 4))
def test_indentation(pieces: list[str], n_indent: int) -> None:
    text, stop_type, _ = run([piece.encode() for piece in pieces], n_indent)
    whole = "".join(pieces)
    assert text == reference(whole, n_indent)
    assert stop_type == ("limit" if text != whole else "")


def test_indentation_beside_stop_words() -> None:
    assert run([b"a\n", b"  b", b"\n", b"st", b"op"], 2, stop=["stop"]) == ("a\n  b\n", "word", 5)
    assert run([b"a\n", b"  st", b"op\n", b"x"], 2, stop=["stop"]) == ("a\n  ", "word", 3)
    assert run([b"a\n", b"s"], 2, stop=["stop"]) == ("a\n", "limit", 2)  # it was held back, and it is indented too little


def test_a_line_end_after_the_time_ends_it() -> None:
    lines = [b"a", b"b\n", b"c", b"d\n", b"e\n", b"f\n"]
    assert run(lines, limit_ms=100) == ("ab\ncd\ne\nf\n", "", 6)
    assert run(lines, limit_ms=2) == ("ab\ncd\ne\n", "limit", 5)  # the clock is read at each end of a line
    assert run([b"a", b"b", b"c"], limit_ms=1) == ("abc", "", 3)  # without the end of a line it continues
    assert run([b"a", b"\n", b"\nst", b"x"], limit_ms=1, stop=["stop"]) == ("a\n\nst", "limit", 3)


def test_end_to_end(router: StartRouter, models: Path) -> None:
    """The tiny models write a newline when they are forced to."""
    server = router(models_dir=models)
    newline, letter = 13, 300  # <0x0A> is token 3 + 10
    asked = {"model": "tiny0", "prompt": "we", "temperature": 0, "n_predict": 50, "logit_bias": [[newline, 1000.0]]}
    body = server.post("/completion", {**asked, "n_indent": 2}).json
    assert (body["content"], body["stop_type"], body["stopping_word"], body["tokens_predicted"]) == ("\n", "limit", "", 2)
    assert not body["truncated"]
    whole = server.post("/completion", asked).json
    assert whole["content"] == "\n" * 50
    slow = {**asked, "n_predict": 100_000, "t_max_predict_ms": 1}
    body = server.post("/completion", slow).json
    assert (body["stop_type"], body["truncated"]) == ("limit", False)
    assert body["content"] == "\n" * body["tokens_predicted"]
    assert body["timings"]["predicted_ms"] >= 1
    one_line = {**asked, "logit_bias": [[letter, 1000.0]], "t_max_predict_ms": 1}
    assert server.post("/completion", one_line).json["tokens_predicted"] == 50
    chat = {"model": "tiny0", "messages": [{"role": "user", "content": "a"}], "logit_bias": [[newline, 1000.0]], "n_indent": 1}
    assert server.post("/v1/chat/completions", {**chat, "max_tokens": 9}).json["choices"][0]["finish_reason"] == "length"
    for fields in ({"n_indent": -1}, {"t_max_predict_ms": "x"}, {"n_indent": True}):
        assert next(iter(fields)) in server.post("/completion", {**asked, **fields}).error["message"]
