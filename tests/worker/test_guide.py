"""The quick way of a guided sampler: tokens in which no marker begins are not looked at, and that changes nothing. No model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_vocab import FakeVocab
from hypothesis import given
from hypothesis import strategies as st

from fastrouter.worker.resumed import END_THOUGHT, FREE_CALL
from fastrouter.worker.sampling.guide import Guidance, GuidedSampler
from fastrouter.worker.sampling.quiet_tokens import QUIET, QuietTokens
from fastrouter.worker.text.detokenizer import PieceTable

THINK, END, CALL = "<think>", "</think>", "<call>"
PIECES = [
    *(b"</s>", b"a", b" b", b"\n", b"\xc3", b"\xa9", b"<", b">", b"call", b"think", b"</th", b"ink>", b"x<ca", b"ll>y"),
    *(THINK.encode(), END.encode(), CALL.encode(), b"", b"enough"),
]
EOG = 0
TOKENS = st.lists(st.integers(1, len(PIECES) - 1), max_size=40)
GUIDANCES = st.builds(
    Guidance,
    opens=st.sampled_from([(THINK,), ()]),
    closes=st.just((END,)),
    is_open=st.booleans(),
    budget=st.sampled_from([-1, -1, 3]),
    message=st.just("enough"),
    triggers=st.sampled_from([(CALL,), ()]),
    calls_in_thought=st.booleans(),
)


class Vocab(FakeVocab):
    eog_tokens = frozenset([EOG])

    def is_eog(self, token: int) -> bool:
        return token == EOG

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Longest piece first."""
        tokens, rest = [], text.encode()
        while rest:
            token = max((t for t, piece in enumerate(self.pieces) if piece and rest.startswith(piece)), key=lambda t: len(self.pieces[t]))
            tokens.append(token)
            rest = rest[len(self.pieces[token]) :]
        return tokens


class Answer:
    """One sampler, whose model wants chosen tokens."""

    def __init__(self, guidance: Guidance, *, is_quick: bool, calls: Callable[[], Any] = lambda: None) -> None:
        vocab: Any = Vocab(PIECES)
        pieces = PieceTable(vocab)
        quiet = QuietTokens(pieces, guidance.watched)
        if not is_quick:
            quiet.kinds[:] = bytes([QUIET + 1]) * len(quiet.kinds)
        self.sampler = GuidedSampler(vocab, {"temperature": 0.0, "seed": 1}, {}, guidance, None, pieces.piece, quiet, calls)
        self._logits = np.zeros(len(PIECES), np.float32)

    def next(self, wanted: int) -> tuple[int, list[int]]:
        """(the token, its marks), as the engine takes them."""
        self._logits[:] = 0
        self._logits[wanted] = 9
        token = self.sampler.sample(self._logits.ctypes.data, len(PIECES))
        marks = list(self.sampler.take_marks()) if self.sampler.has_marks else []
        self.sampler.accept(token)
        return token, marks


@given(GUIDANCES, TOKENS, st.sets(st.integers(0, 40), max_size=3))
def test_the_quick_way_gives_the_same_tokens_and_marks(guidance: Guidance, wanted: list[int], ends: set[int]) -> None:
    """`ends`: where a client ends the thought."""
    quick, slow = (Answer(guidance, is_quick=is_quick) for is_quick in (True, False))
    for number, token in enumerate(wanted):
        if number in ends:
            assert quick.sampler.end_thought() == slow.sampler.end_thought()
        assert quick.next(token) == slow.next(token)


def test_a_call_is_found_after_quiet_tokens() -> None:
    asked = []
    answer = Answer(Guidance((), (), is_open=False, triggers=(CALL,)), is_quick=True, calls=lambda: asked.append(1))
    for text in ("a", " b", "a"):
        assert answer.next(PIECES.index(text.encode())) == (PIECES.index(text.encode()), [])
    marks = [answer.next(PIECES.index(piece))[1] for piece in (b"x<ca", b"ll>y", b"a")]
    assert (asked, marks) == ([1], [[], [FREE_CALL], []])


def test_a_thought_is_ended_in_the_middle_of_quiet_tokens() -> None:
    answer = Answer(Guidance((THINK,), (END,), is_open=True, message="enough"), is_quick=True)
    a = PIECES.index(b"a")
    assert [answer.next(a) for _ in range(3)] == [(a, [])] * 3
    assert answer.sampler.end_thought()
    assert [answer.next(a)[0] for _ in range(3)] == [PIECES.index(b"enough"), PIECES.index(END.encode()), a]
    assert not answer.sampler.end_thought()


def test_a_mark_is_taken_once() -> None:
    answer = Answer(Guidance((THINK,), (END,), is_open=True), is_quick=True)
    answer.sampler.end_thought()
    assert answer.next(1)[1] == [END_THOUGHT]
    assert not answer.sampler.has_marks


@pytest.mark.parametrize(("token", "is_quiet"), [(1, True), (2, True), (4, False), (6, False), (12, False), (17, False), (-1, False)])
def test_quiet_tokens(token: int, is_quiet: bool) -> None:
    """Half characters, empty pieces and pieces with the first character of a marker are not quiet; a `>` is."""
    quiet = QuietTokens(PieceTable(FakeVocab(PIECES)), (END, f"\n{CALL}"))
    assert ((quiet.kinds[token] or quiet.look(token)) == QUIET) == is_quiet
    assert (quiet.kinds[token] == QUIET) == is_quiet
