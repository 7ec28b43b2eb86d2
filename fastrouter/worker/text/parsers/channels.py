"""Reads messages that are made of several, each with a header that says who gets it (gpt-oss, Functionary v3.2)."""

import re

from fastrouter.worker.text.parsers.call_reader import CallReader
from fastrouter.worker.text.parsers.calls import Desk, accept, read_arguments
from fastrouter.worker.text.parsers.format import Channels, Recipients
from fastrouter.worker.text.parsers.markers import MORE, NO, Hit, Marker, Markers, QuietTexts
from fastrouter.worker.text.parsers.pieces import Kind
from fastrouter.worker.text.parsers.source import SPACE, MalformedError, Reading

LONGEST_HEADER = 512
_ROLE = "assistant"
_PEERS = ("assistant", "user", "all")  # recipients that are not tools


def _every(hit: Hit) -> bool:
    """Every marker counts."""
    return True


class ChannelReader:
    """Reads the channels of gpt-oss. The prompt ends inside the first header."""

    __slots__ = (
        "_begins",
        "_body",
        "_calls",
        "_desk",
        "_followers",
        "_header",
        "_opening",
        "_parses_calls",
        "_parses_reasoning",
        "_recipient",
        "_source",
        "_syntax",
        "_writer",
        "cut",
        "kind",
        "quiet",
    )

    def __init__(self, desk: Desk, syntax: Channels, parses_calls: bool, parses_reasoning: bool) -> None:
        self._desk, self._source, self._writer = desk, desk.source, desk.writer
        self._syntax = syntax
        self._parses_calls, self._parses_reasoning = parses_calls, parses_reasoning
        self._header = Markers({"message": (syntax.message,), "end": syntax.ends, "start": (syntax.start,)})
        self._body = Markers({"end": syntax.ends, "start": (syntax.start + _ROLE,)})
        self._followers = tuple(map(Marker.of, filter(None, (syntax.start, syntax.channel))))
        self._begins = tuple(filter(None, (syntax.channel, syntax.constrain, syntax.recipient)))
        self._calls = CallReader(desk, syntax.body) if syntax.body else None
        self._opening = Marker.of(syntax.body.section_open[0] if syntax.body else "")
        self._recipient = re.compile(re.escape(syntax.recipient) + r"([^\s<]+)")
        self.kind = Kind.TEXT
        self.quiet: QuietTexts | None = None  # such texts need not be read now
        self.cut = False

    def read(self) -> Reading[None]:
        """Read it all."""
        source = self._source
        while not source.ended or source.at < len(source.text):
            header = yield from self._read_header()
            if header is not None:
                yield from self._read_message(header)

    # --- headers --------------------------------------------------------------------------------
    def _read_header(self) -> Reading[str | None]:
        """Read up to the message. None if there is no message."""
        source, skip = self._source, 0
        source.keep()
        while True:
            free, hit = self._header.find(source.text, source.at + skip, source.ended)
            if free - source.at > LONGEST_HEADER or not self._may_be_header(source.text[source.at : free]):
                source.take_kept()
                return ""  # there is no header: this text is the message
            if hit:
                header = source.text[source.at : hit.start]
                source.at = hit.end
                raw = source.take_kept()
                if hit.meaning == "message":
                    return header
                if hit.meaning == "start" and header.strip():
                    self._writer.say_exactly(Kind.TEXT, raw)
                return None
            skip = free - source.at
            if source.ended:
                header, source.at = source.text[source.at :], len(source.text)
                source.take_kept()
                self._writer.say_exactly(Kind.TEXT, "" if self.cut else header)
                return None
            yield

    def _may_be_header(self, text: str) -> bool:
        """Whether a header can begin with this text."""
        bare = text.lstrip(SPACE)
        if _ROLE.startswith(bare):
            return True
        bare = bare.removeprefix(_ROLE).lstrip(SPACE)
        return any(bare.startswith(begin) or begin.startswith(bare) for begin in self._begins)

    # --- messages -------------------------------------------------------------------------------
    def _read_message(self, header: str) -> Reading[None]:
        syntax = self._syntax
        recipient = self._recipient.search(header)
        name = recipient.group(1) if recipient else ""
        is_for_tool = name not in ("", syntax.thought, *_PEERS)
        if name in self._desk.tools or (is_for_tool and name.startswith(syntax.namespace)):
            yield from self._read_call(name.removeprefix(syntax.namespace), header)
        elif is_for_tool:
            yield from self._read_body(None)  # for a tool that was not offered
        elif syntax.thought in (name, self._channel_of(header)):
            yield from self._read_thought()
        else:
            yield from self._read_body(Kind.TEXT)

    def _channel_of(self, header: str) -> str:
        channel = self._syntax.channel
        words = header.rpartition(channel)[2].split() if channel and channel in header else []
        return words[0].partition("<")[0] if words else ""

    def _read_thought(self) -> Reading[None]:
        if self._parses_reasoning:
            yield from self._read_body(Kind.REASONING)
            return
        syntax = self._syntax
        self._writer.say_exactly(Kind.TEXT, syntax.header(syntax.thought))
        if (yield from self._read_body(Kind.TEXT)):
            self._writer.say_exactly(Kind.TEXT, syntax.ends[0])

    def _read_body(self, kind: Kind | None) -> Reading[bool]:
        """Give out a message up to its end. False if the text ends before that. `kind` None: it is for a tool that was not offered."""
        source, skip = self._source, 0
        while True:
            text = source.text
            free, hit = self._body.find(text, source.at + skip, source.ended)
            after = self._after(hit) if hit else NO
            end = self._body.half(text, source.at, _every) if self.cut and hit is None else free
            if kind:
                self._writer.say_exactly(kind, text[source.at : end])
            source.at = free
            skip = 0
            if hit and after == NO:
                skip = 1
            elif hit and after != MORE:
                source.at = after
                return True
            elif source.ended:
                return False
            else:
                if kind and free == len(text):
                    self.kind, self.quiet = kind, self._body.quiet
                yield
                self.quiet = None

    def _after(self, hit: Hit) -> int:
        """Where the next header begins. An end without a header after it is text."""
        text, at, ended = self._source.text, hit.end, self._source.ended
        if hit.meaning == "start":
            return at
        if at == len(text):
            return at if ended else MORE
        found = [marker.match(text, at, ended) for marker in self._followers]
        if found[0] >= 0:
            return found[0]
        if any(place >= 0 for place in found):
            return at
        return MORE if MORE in found else NO

    # --- calls ----------------------------------------------------------------------------------
    def _read_call(self, name: str, header: str) -> Reading[None]:
        if not self._parses_calls:
            self._writer.say_exactly(Kind.TEXT, header + self._syntax.message)
            yield from self._read_body(Kind.TEXT)
            return
        source, writer = self._source, self._writer
        source.keep()
        writer.try_call()
        try:
            yield from self._read_inside(name)
            writer.settle()
            source.take_kept()
        except MalformedError:
            self._give_up(self.cut and source.ended, header)
            yield from self._read_body(Kind.TEXT)
            return
        yield from self._read_body(None)

    def _read_inside(self, name: str) -> Reading[None]:
        """Read the call in a message."""
        source = self._source
        following = yield from source.skip_space()
        if self._calls is not None:
            if not (yield from accept(source, self._opening)):
                raise MalformedError
            yield from self._calls.read("section")
            return
        self._desk.begin(name)
        if following == "<":
            self._writer.arguments("{}")
        else:
            yield from read_arguments(source, self._writer.arguments)
        self._desk.end()

    def _give_up(self, is_cut: bool, header: str) -> None:
        source = self._source
        raw = source.take_kept()
        if is_cut:
            source.at = len(source.text)
        if self._writer.give_up() and not is_cut:
            self._writer.say_exactly(Kind.TEXT, header + self._syntax.message + raw)


class RecipientReader:
    """Reads the parts of Functionary v3.2. The prompt ends with the first marker."""

    __slots__ = ("_desk", "_markers", "_recipients", "_source", "_syntax", "_writer", "cut", "kind", "quiet")

    def __init__(self, desk: Desk, syntax: Recipients, ends: tuple[str, ...], parses_calls: bool) -> None:
        self._recipients = (syntax.text, *(desk.tools if parses_calls else ()))
        self._desk, self._source, self._writer = desk, desk.source, desk.writer
        self._syntax = syntax
        self._markers = Markers({"open": (syntax.open,), "end": ends})
        self.kind = Kind.TEXT
        self.quiet: QuietTexts | None = None  # such texts need not be read now
        self.cut = False

    def read(self) -> Reading[None]:
        """Read it all."""
        source = self._source
        yield from source.accept(self._syntax.open)
        going = True
        while going and (not source.ended or source.at < len(source.text)):
            name = yield from self._read_recipient()
            if name and name != self._syntax.text:
                yield from self._read_call(name)
            going = yield from self._read_text()

    def _read_recipient(self) -> Reading[str]:
        """Read the line that names the recipient of the part. "" if there is none: then all is text."""
        source, seen = self._source, 0
        while True:
            end = source.text.find("\n", source.at + seen)
            if end >= 0:
                name = source.text[source.at : end]
                if name not in self._recipients:
                    return ""
                source.at = end + 1
                return name
            line = source.text[source.at :]
            is_half = any(each.startswith(line) for each in self._recipients)
            if source.ended and self.cut and is_half:
                source.at = len(source.text)
            if source.ended or not is_half:
                return ""
            seen = len(line)
            yield

    def _read_text(self) -> Reading[bool]:
        """Give out text up to the next part. False at the end of the text."""
        source = self._source
        while True:
            text = source.text
            free, hit = self._markers.find(text, source.at, source.ended)
            end = self._markers.half(text, source.at, _every) if self.cut and hit is None else free
            self._writer.say_exactly(Kind.TEXT, text[source.at : end])
            source.at = free
            if hit:
                source.at = hit.end
                return hit.meaning == "open"
            if source.ended:
                return False
            if free == len(source.text):
                self.quiet = self._markers.quiet
            yield
            self.quiet = None

    def _read_call(self, name: str) -> Reading[None]:
        source, writer = self._source, self._writer
        source.keep()
        writer.try_call()
        try:
            self._desk.begin(name)
            yield from read_arguments(source, writer.arguments)
            self._desk.end()
            writer.settle()
            source.take_kept()
        except MalformedError:
            raw = source.take_kept()
            is_cut = self.cut and source.ended
            if is_cut:
                source.at = len(source.text)
            if writer.give_up() and not is_cut:
                writer.say_exactly(Kind.TEXT, f"{name}\n{raw}")
            return
        yield from source.skip_space()
