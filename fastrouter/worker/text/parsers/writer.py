"""Collects the pieces of a message. White space that may belong to a marker waits, and a call that is not certain yet waits too."""

from fastrouter.worker.text.parsers.pieces import Kind, Piece
from fastrouter.worker.text.parsers.source import SPACE


class Writer:
    """The pieces of one message."""

    __slots__ = ("_call", "_calls", "_first", "_pieces", "_released", "_space", "after_call", "begins", "holds_calls", "trims", "whole")

    def __init__(self, holds_calls: bool) -> None:
        self.holds_calls = holds_calls  # a call is sent when it is complete
        self._pieces: list[Piece] = []
        self._space: list[str] = []
        self._call: list[Piece] | None = None
        self._calls = 0
        self._released = False
        self._first = 0  # the number of the first call of a group that is accepted or refused together
        self.whole = False
        self.trims = False  # the next white space belongs to the marker before it
        self.begins = True  # there was no text since the beginning, the last thought or the last call
        self.after_call = False

    # --- text -----------------------------------------------------------------------------------
    def say(self, kind: Kind, text: str, holds_space: bool) -> None:
        """Text of the answer or the thought."""
        if self.trims:
            text = text.lstrip(SPACE)
        if not text:
            return
        body = text.rstrip(SPACE) if holds_space or self.begins else text
        if body:
            self._pieces.append(Piece(kind, "".join(self._space) + body))
            self._space = [text[len(body) :]] if len(body) < len(text) else []
            self.trims = self.begins = self.after_call = False
        else:
            self._space.append(text)

    def say_exactly(self, kind: Kind, text: str) -> None:
        """Text that looked like a call, with the white space before it."""
        self.end_space(kind, False)
        if text:
            self._pieces.append(Piece(kind, text))
            self.trims = self.begins = self.after_call = False

    def wait(self, text: str) -> None:
        """Text to give out with the next text, like white space that waits."""
        self._space.append(text)

    def end_space(self, kind: Kind, belongs_to_marker: bool) -> None:
        """The waiting white space becomes text, unless it belongs to the marker after it."""
        if self._space and not belongs_to_marker and not self.trims:
            self._pieces.append(Piece(kind, "".join(self._space)))
        self._space = []

    def new_part(self, trims: bool) -> None:
        """A thought or the answer begins."""
        self.trims, self.begins, self._space = trims, True, []

    def is_clear(self) -> bool:
        """Whether text is given out immediately."""
        return not (self._space or self.trims or self.begins)

    # --- calls ----------------------------------------------------------------------------------
    def try_call(self, whole: bool = False) -> None:
        """A call may come; its pieces wait until it is certain. `whole`: several calls, which are accepted or refused together."""
        self._call, self._released = [], False
        self.whole, self._first = whole and self.holds_calls, self._calls

    def call(self, name: str) -> None:
        """The call's name is known."""
        self._calls_pieces().append(Piece(Kind.CALL, name, self._calls))

    def arguments(self, text: str) -> None:
        """A part of the arguments."""
        if text:
            self._calls_pieces().append(Piece(Kind.ARGUMENTS, text, self._calls))
            if not self.holds_calls and not self._released:
                self._release()

    def end_call(self) -> None:
        """The call is complete."""
        self._calls += 1
        if self.whole:
            return
        if not self._released:
            self._release()
        self._call, self._released = [], False
        self.begins = self.after_call = True
        self.trims = False

    def settle(self) -> None:
        """No further call comes here."""
        if self.whole:
            self.whole = False
            self._release()
            self.begins = self.after_call = True
            self.trims = False
        self._call, self._released = None, False

    def give_up(self) -> bool:
        """It is not a call. False if it has been sent already: then it stays."""
        released, self._call, self._released = self._released, None, False
        if released:
            self._calls += 1
        elif self.whole:
            self._calls, self.whole = self._first, False
        return not released

    def _calls_pieces(self) -> list[Piece]:
        return self._pieces if self._released or self._call is None else self._call

    def _release(self) -> None:
        self._pieces += self._call or ()
        self._space = []
        self._call, self._released = None, True

    # --- out ------------------------------------------------------------------------------------
    def take(self) -> list[Piece]:
        """The pieces that are certain; consecutive ones of one kind become one."""
        pieces, self._pieces = self._pieces, []
        if len(pieces) < 2:
            return pieces
        merged = [pieces[0]]
        run = [pieces[0].text]
        for piece in pieces[1:]:
            last = merged[-1]
            if piece.kind is last.kind and piece.kind is not Kind.CALL and piece.index == last.index:
                run.append(piece.text)
                continue
            merged[-1] = last._replace(text="".join(run))
            merged.append(piece)
            run = [piece.text]
        merged[-1] = merged[-1]._replace(text="".join(run))
        return merged
