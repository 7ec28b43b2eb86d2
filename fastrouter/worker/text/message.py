"""One answer and its parser: text in; thoughts, text and tool calls out, with ids and counts.

Knows no record and no sequence. Invariant: the pieces have the order of the text; a call's first piece has its id and its name, and no
arguments.
"""

from collections.abc import Callable, Iterable

from fastrouter.ipc.records import CallDelta, Delta
from fastrouter.worker.text.parsers.markers import QuietTexts
from fastrouter.worker.text.parsers.parser import MessageParser
from fastrouter.worker.text.parsers.pieces import Kind, Piece

_RANK = {Kind.REASONING: 0, Kind.TEXT: 1, Kind.CALL: 2, Kind.ARGUMENTS: 2}  # the order inside one Delta


class Message:
    __slots__ = (
        "_is_full",
        "_is_parallel",
        "_is_thinking",
        "_num_counted",
        "_parser",
        "_reader",
        "is_over",
        "num_calls",
        "num_reasoning_tokens",
    )

    def __init__(self, parser: MessageParser, *, is_thinking: bool, is_parallel: bool) -> None:
        """`is_thinking`: the prompt has opened the thought. Without `is_parallel` the first call is the last."""
        self._parser = parser
        self._reader = parser.reader
        self._is_thinking = is_thinking
        self._is_parallel = is_parallel
        self._is_full = False  # it has as many calls as it may
        self._num_counted = 0  # tokens up to the last piece
        self.num_calls = 0
        self.num_reasoning_tokens = 0
        self.is_over = False  # later text does not belong to it

    def __repr__(self) -> str:
        return f"<Message {self.num_calls} calls {self.num_reasoning_tokens} tokens of thought{' over' if self.is_over else ''}>"

    @property
    def quiet(self) -> QuietTexts | None:
        """Plain texts, of this `kind`, that need not be taken now. Tell `take` how many tokens had come with the last of them."""
        return self._reader.quiet

    @property
    def kind(self) -> Kind:
        return self._reader.kind

    def take(self, text: bytes, num_tokens: int, num_quiet: int = 0) -> list[Piece]:
        """`text` is whole UTF-8. `num_tokens`: how many tokens have come so far. `num_quiet`: the same for the last quiet text."""
        self._pass(num_quiet)
        pieces = self._parser.read(text.decode())
        self.is_over = self.is_over or self._parser.is_over
        return self._note(pieces, num_tokens) if pieces else pieces

    def finish(self, num_tokens: int, num_quiet: int = 0, *, is_cut: bool) -> list[Piece]:
        """The text that was held back. `is_cut`: a limit has ended the text."""
        self._pass(num_quiet)
        pieces = self._note(self._parser.finish(is_cut), num_tokens)
        if self._is_thinking:
            self.num_reasoning_tokens += num_tokens - self._num_counted
        return pieces

    def _pass(self, num_quiet: int) -> None:
        """Counts the tokens of quiet texts. Call it before the kind changes."""
        if num_quiet > self._num_counted:
            self._is_thinking = self._reader.kind is Kind.REASONING
            if self._is_thinking:
                self.num_reasoning_tokens += num_quiet - self._num_counted
            self._num_counted = num_quiet

    def _note(self, pieces: list[Piece], num_tokens: int) -> list[Piece]:
        """Counts tokens and calls, and drops calls that are not allowed."""
        if self._is_full:
            return []
        for number, piece in enumerate(pieces):
            is_thought = piece.kind is Kind.REASONING
            if self._is_thinking or is_thought:
                num_new = num_tokens - self._num_counted
                self.num_reasoning_tokens += num_new if is_thought else max(0, num_new - 1)  # the last piece was of another kind
                self._is_thinking = is_thought
            self._num_counted = num_tokens
            if piece.kind is Kind.CALL and not self._begin_call():
                return pieces[:number]
        return pieces

    def _begin_call(self) -> bool:
        """False if no more calls are allowed."""
        if self.num_calls and not self._is_parallel:
            self._is_full = self.is_over = True
            return False
        self.num_calls += 1
        return True


def deltas_of(pieces: Iterable[Piece], call_id: Callable[[int], str]) -> list[Delta]:
    """As few Deltas as can hold the pieces in order. Each piece of a call has a separate Delta: clients join them by its index."""
    deltas: list[Delta] = []
    text, reasoning, calls, rank = "", "", list[CallDelta](), 0
    for piece in pieces:
        indices = [call.index for call in calls]
        if _RANK[piece.kind] < rank or (_RANK[piece.kind] == 2 and piece.index in indices):
            deltas.append(Delta(text, reasoning, calls))
            text, reasoning, calls = "", "", []
        rank = _RANK[piece.kind]
        if rank == 2:
            calls.append(call_delta(piece, call_id))
        elif rank == 1:
            text += piece.text
        else:
            reasoning += piece.text
    if text or reasoning or calls:
        deltas.append(Delta(text, reasoning, calls))
    return deltas


def call_delta(piece: Piece, call_id: Callable[[int], str]) -> CallDelta:
    """`call_id`: from the index of a call to its id."""
    if piece.kind is Kind.CALL:
        return CallDelta(piece.index, id=call_id(piece.index), name=piece.text)
    return CallDelta(piece.index, piece.text)
