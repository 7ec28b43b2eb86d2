"""Bytes of pieces in, bytes of text out; a naive reference that looks at the whole text after every token."""

import codecs
import subprocess
import sys
import timeit

import pytest
from fake_vocab import FakeVocab
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrouter.worker.text.detokenizer import Detokenizer, PieceTable


def run(pieces: list[bytes], stop: list[str]) -> tuple[list[bytes], bytes, Detokenizer]:
    detokenizer = Detokenizer(PieceTable(FakeVocab(pieces)), stop)
    pushed = []
    for token in range(len(pieces)):
        pushed.append(detokenizer.push(token))
        if detokenizer.is_stopped:
            break
    return pushed, detokenizer.finish(), detokenizer


def reference(pieces: list[bytes], stop: list[str]) -> tuple[str, str]:
    """The whole text and the stopping word ("" for none)."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""
    for piece in [*pieces, None]:
        text += decoder.decode(b"", final=True) if piece is None else decoder.decode(piece)
        matches = [(text.find(word), order, word) for order, word in enumerate(stop) if word and word in text]
        if matches:
            position, _, word = min(matches)
            return text[:position], word
    assert text == b"".join(pieces).decode("utf-8", "replace")
    return text, ""


LETTERS = st.sampled_from("ab<é€\U0001f600\ufffd")
BYTES = st.one_of(
    st.text(LETTERS, max_size=4).map(str.encode),
    st.lists(st.sampled_from([*b"ab<", 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xED, 0xFF]), max_size=4).map(bytes),
    st.binary(max_size=4),
)


@given(st.lists(BYTES, max_size=12), st.lists(st.text(LETTERS, max_size=5), max_size=4))
@settings(max_examples=1500, deadline=None)
def test_like_the_reference(pieces: list[bytes], stop: list[str]) -> None:
    text, word = reference(pieces, stop)
    pushed, rest, detokenizer = run(pieces, stop)
    for part in [*pushed, rest]:
        part.decode()  # whole characters only
    assert b"".join(pushed) + rest == text.encode()
    assert (detokenizer.is_stopped, detokenizer.stopping_word) == (bool(word), word)


@given(st.text(), st.integers(1, 5), st.lists(st.text(LETTERS, min_size=1, max_size=6), max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_split_of_a_text(text: str, size: int, stop: list[str]) -> None:
    whole = text.encode()
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    pushed, rest, _ = run(pieces, stop)
    assert (b"".join(pushed) + rest).decode() == reference(pieces, stop)[0]


@given(st.lists(st.text("ab<", max_size=3), max_size=12), st.lists(st.text("ab<", min_size=1, max_size=6), min_size=1, max_size=3))
@settings(max_examples=500, deadline=None)
def test_held_back_exactly_what_may_be_a_stop_string(texts: list[str], stop: list[str]) -> None:
    detokenizer = Detokenizer(PieceTable(FakeVocab([text.encode() for text in texts])), stop)
    sent, so_far = "", ""
    for token, text in enumerate(texts):
        so_far += text
        sent += detokenizer.push(token).decode()
        if detokenizer.is_stopped:
            return
        longest = max(n for word in stop for n in range(len(word)) if so_far.endswith(word[:n]))
        assert sent == so_far[: len(so_far) - longest]


def test_plain_pieces_pass_untouched() -> None:
    pieces = [b"Hello", " wörld".encode(), b"!"]
    pushed, rest, detokenizer = run(pieces, [])
    assert all(sent is piece for sent, piece in zip(pushed, pieces, strict=True))
    assert rest == b""
    assert not detokenizer.is_stopped


def test_a_character_in_parts() -> None:
    pushed, rest, _ = run([b"x\xf0", b"\x9f", b"\x98\x80y", b"z"], [])
    assert (pushed, rest) == ([b"x", b"", "\U0001f600y".encode(), b"z"], b"")


def test_an_unfinished_character() -> None:
    pushed, rest, _ = run([b"x", b"\xe2\x82"], [])
    assert (pushed, rest) == ([b"x", b""], "\ufffd".encode())


def test_broken_bytes() -> None:
    pushed, rest, _ = run([b"a\xff", b"\xed\xa0\x80", b"b"], [])
    assert (b"".join(pushed) + rest).decode() == b"a\xff\xed\xa0\x80b".decode("utf-8", "replace")


def test_a_stop_string_never_leaks() -> None:
    pushed, rest, detokenizer = run([b"one <", b"|e", b"nd", b"|> two"], ["<|end|>"])
    assert (pushed, rest) == ([b"one ", b"", b"", b""], b"")
    assert detokenizer.stopping_word == "<|end|>"
    assert detokenizer.push(0) == b""


def test_a_false_start_is_released() -> None:
    pushed, rest, detokenizer = run([b"a <", b"|b", b" <|"], ["<|end|>"])
    assert (pushed, rest) == ([b"a ", b"<|b", b" "], b"<|")
    assert not detokenizer.is_stopped


def test_a_start_within_a_false_start() -> None:
    assert b"".join(run([b"aab", b"aa", b"ab", b"aac!"], ["aabaac"])[0]) == b"aaba"


def test_the_first_to_end_wins() -> None:
    assert run([b"a", b"b", b"c"], ["abc", "b"])[2].stopping_word == "b"
    assert run([b"abc"], ["b", "abc"])[2].stopping_word == "abc"
    assert run([b"abc"], ["ab", "abc"])[2].stopping_word == "ab"
    assert run([b"abc"], ["abc", "ab"])[2].stopping_word == "abc"
    assert run([b"xabcd"], ["cd", "bc", "d"])[0] == [b"xa"]


def test_empty_stop_strings_and_lone_surrogates_match_nothing() -> None:
    pushed, rest, detokenizer = run([b"a?", b"b"], ["", "\ud800"])
    assert b"".join(pushed) + rest == b"a?b"
    assert not detokenizer.is_stopped


@pytest.mark.parametrize("first", ["]", "^", "\\", "-", "[", "\n"])
def test_odd_first_characters(first: str) -> None:
    pushed, _, detokenizer = run([b"a", first.encode(), b"end"], [f"{first}e", "-z"])
    assert b"".join(pushed) == b"a"
    assert detokenizer.stopping_word == f"{first}e"


def test_pieces_are_asked_for_once() -> None:
    vocab = FakeVocab([b"a", b"<|im_end|>", b"\xff"], frozenset({1}))
    table = PieceTable(vocab)
    for _ in range(3):
        assert [table.piece(token) for token in range(3)] == [b"a", b"", b"\xff"]
    assert vocab.num_asked == 3
    assert repr(table) == "<PieceTable 3 of 3>"
    assert Detokenizer(table, []).push(1) == b""


def test_many_detokenizers_share_a_table() -> None:
    table = PieceTable(FakeVocab([b"a", b"\xc3", b"\xa9"]))
    one, two = Detokenizer(table, []), Detokenizer(table, [])
    assert (one.push(1), two.push(0), one.push(2), two.finish()) == (b"", b"a", "é".encode(), b"")


def test_long_output_is_not_rescanned() -> None:
    """1,000 times the text costs no more per token; the bound is loose enough for a busy machine."""
    table = PieceTable(FakeVocab([b"<", b"x" * 8, b"y"]))

    def seconds(num_tokens: int) -> float:
        detokenizer = Detokenizer(table, ["<stop>", "<|end|>", "\n\n"])
        return min(timeit.repeat(lambda: [detokenizer.push(token % 3) for token in range(num_tokens)], number=1, repeat=3))

    assert seconds(100_000) < 100 * 20 * seconds(1_000)


def test_import_needs_no_llama_cpp() -> None:
    code = "import sys, fastrouter.worker.text.detokenizer; sys.exit('llama_cpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
