"""Reads messages in which thoughts and calls are between markers in the text."""

from collections.abc import Callable

from fastrouter.worker.text.parsers.call_reader import CallReader
from fastrouter.worker.text.parsers.calls import Desk
from fastrouter.worker.text.parsers.format import Format
from fastrouter.worker.text.parsers.markers import Hit, Markers, QuietTexts
from fastrouter.worker.text.parsers.pieces import Kind
from fastrouter.worker.text.parsers.source import SPACE, MalformedError, Reading


class PlainReader:
    """Reads one message."""

    __slots__ = (
        "_answer",
        "_broken",
        "_calls",
        "_shows_thoughts",
        "_silent",
        "_source",
        "_starts_open",
        "_thought",
        "_writer",
        "cut",
        "kind",
        "quiet",
    )

    def __init__(self, desk: Desk, format: Format, reasoning_open: bool, parses_calls: bool, parses_reasoning: bool) -> None:
        self._source, self._writer = desk.source, desk.writer
        self._calls = CallReader(desk, format.calls) if format.calls and parses_calls else None
        self._starts_open = format.thought.open[0] if reasoning_open and format.thought else ""
        self._shows_thoughts = not parses_reasoning  # with their markers, as a part of the answer
        shown = (format.thought.open[0].strip(), format.thought.close[0].strip()) if format.thought else ()
        silent = (*format.drop, *(format.calls.section_open if format.calls else ()))
        self._silent = frozenset(text.strip() for text in silent).difference(shown)  # not shown if they close a thought
        self._answer, self._thought = self._what_matters(format)
        self.cut = False
        self.kind = Kind.TEXT
        self.quiet: QuietTexts | None = None  # such texts need not be read now
        self._broken = False  # a call was malformed after it had been sent; its end has not come yet

    def _what_matters(self, format: Format) -> tuple[Markers, Markers]:
        """The markers that count in an answer and in a thought."""
        thought, calls = format.thought, self._calls
        opens, closes = (thought.open, thought.close) if thought else ((), ())
        starts = calls.starts if calls else {}
        rest = {"after": calls.after if calls else (), "drop": format.drop, "end": format.ends}
        in_thought = starts if thought and thought.calls_close else {}
        return Markers({"open": opens, **starts, **rest, "closed": closes}), Markers(
            {"close": closes, "again": opens, **in_thought, "end": format.ends}
        )

    # --- the message ----------------------------------------------------------------------------
    def read(self) -> Reading[None]:
        """Read it all."""
        going = True
        if self._starts_open:
            self._begin_thought(trims=True)
            if self._shows_thoughts:
                self._writer.wait(self._starts_open)
            going = yield from self._read_thought()
        while going:
            going = yield from self._read_answer()
        self._writer.end_space(self.kind, self._writer.after_call)

    def _read_answer(self) -> Reading[bool]:
        """Read text up to the next thought or call, and also that one. False at the end of the message."""
        self.kind = Kind.TEXT
        if self._writer.begins and self._calls and self._calls.bare and (yield from self._stands_bare(self._calls.bare)):
            yield from self._try_call(None)
        hit = yield from self._read_to(self._answer, self._counts_in_answer)
        if hit is None or hit.meaning == "end":
            return False
        if hit.meaning == "open":
            self._pass(hit)
            self._begin_thought(hit.marker.trails)
            return (yield from self._read_thought())
        if hit.meaning in ("section", "call", "name"):
            yield from self._try_call(hit)
        else:
            self._broken = False
            self._pass(hit)
            self._writer.trims = self._writer.trims or hit.marker.trails
        return True

    def _counts_in_answer(self, hit: Hit) -> bool:
        """Whether a text that looks like a marker is a marker here."""
        writer = self._writer
        if hit.meaning == "open":
            return writer.begins
        if hit.meaning == "closed":
            return writer.begins and not self._shows_thoughts
        return hit.meaning != "after" or writer.after_call or self._broken

    def _stands_bare(self, first: str) -> Reading[bool]:
        """Whether the answer begins like a call without a marker."""
        source = self._source
        while True:
            text, at = source.text, source.at
            while at < len(text) and text[at] in SPACE:
                at += 1
            self._writer.say(Kind.TEXT, text[source.at : at], True)
            source.at = at
            if at < len(text):
                return text[at] == first
            if source.ended:
                return False
            yield

    # --- thoughts -------------------------------------------------------------------------------
    def _begin_thought(self, trims: bool) -> None:
        if not self._shows_thoughts:
            self.kind = Kind.REASONING
            self._writer.new_part(trims)

    def _read_thought(self) -> Reading[bool]:
        """Read an open thought. False if the message ends in it."""
        while True:
            hit = yield from self._read_to(self._thought, self._counts_in_thought)
            if hit is None or hit.meaning == "end":
                return False
            if hit.meaning in ("close", "again"):
                self._pass(hit)
                if not self._shows_thoughts:
                    self._writer.new_part(hit.marker.trails)
                if hit.meaning == "close":
                    return True
            else:
                yield from self._try_call(hit)
                if self._writer.after_call or self._broken:
                    return True

    def _counts_in_thought(self, hit: Hit) -> bool:
        return hit.meaning != "again" or (self._writer.begins and not self._shows_thoughts)

    # --- markers --------------------------------------------------------------------------------
    def _read_to(self, markers: Markers, counts: Callable[[Hit], bool]) -> Reading[Hit | None]:
        """Give out text up to the next marker, which stays unread. None if the text ends."""
        source, skip = self._source, 0
        while True:
            text = source.text
            free, hit = markers.find(text, source.at + skip, source.ended)
            whole = markers.half(text, source.at, counts) if self.cut else free
            self._writer.say(self.kind, text[source.at : min(free, whole)], markers.leads)
            if whole < free:
                source.at = len(text)
                return None
            source.at = free
            if hit and counts(hit):
                return hit
            skip = 1 if hit else 0
            if hit:
                continue
            if source.ended:
                return None
            if free == len(text) and self._writer.is_clear():
                self.quiet = markers.quiet
            yield
            self.quiet = None

    def _pass(self, hit: Hit) -> None:
        """Read a marker. It is given out only if thoughts are shown as text."""
        text, self._source.at = self._source.text[hit.start : hit.end], hit.end
        if self._shows_thoughts and hit.meaning in ("open", "close", "again") and text not in self._silent:
            self._writer.say_exactly(Kind.TEXT, text)
        else:
            self._writer.end_space(self.kind, hit.marker.leads or self._writer.begins)

    # --- calls ----------------------------------------------------------------------------------
    def _try_call(self, hit: Hit | None) -> Reading[None]:
        """Read calls. If there are none, what was read is text."""
        source, writer, calls = self._source, self._writer, self._calls
        if calls is None:
            return
        if hit and not (hit.marker.leads or writer.begins):
            writer.end_space(self.kind, False)
        source.keep()
        writer.try_call(whole=hit is None)
        if hit and hit.meaning != "name":
            source.at = hit.end
        try:
            yield from calls.read(hit.meaning if hit else "bare")
            writer.settle()
            source.take_kept()
        except MalformedError:
            self._give_up(hit is not None)

    def _give_up(self, is_marked: bool) -> None:
        """A call that a limit has cut is dropped, if it is known to be one. Everything else is text."""
        source, writer = self._source, self._writer
        raw, self._broken = source.take_kept(), not writer.give_up()
        if self.cut and source.ended and (is_marked or self._broken):
            source.at = len(source.text)
            writer.end_space(self.kind, True)
        elif not self._broken:
            writer.say_exactly(self.kind, raw)
