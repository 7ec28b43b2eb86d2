"""Reads what a model writes, piece by piece: its thought, its answer and its tool calls.

Each character is read only one time. What cannot be a marker is given out immediately. Malformed calls are text.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from fastrouter.worker.text.parsers.calls import Desk
from fastrouter.worker.text.parsers.channels import ChannelReader, RecipientReader
from fastrouter.worker.text.parsers.format import Channels, Format, Recipients
from fastrouter.worker.text.parsers.pieces import Kind, Piece
from fastrouter.worker.text.parsers.plain import PlainReader
from fastrouter.worker.text.parsers.schema import parameters_of
from fastrouter.worker.text.parsers.source import Source
from fastrouter.worker.text.parsers.writer import Writer


class MessageParser:
    """Reads one message."""

    __slots__ = ("_ended", "_run", "_source", "_writer", "reader")

    def __init__(
        self,
        format: Format,
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        reasoning_open: bool = False,
        parses_calls: bool = True,
        parses_reasoning: bool = True,
        holds_calls: bool = False,
    ) -> None:
        """`reasoning_open`: the prompt has opened the thought. `holds_calls`: a call is given out when it is complete, not as it comes;
        so a call that is cut or malformed never reaches the client."""
        self._source = Source()
        self._writer = Writer(holds_calls)
        desk = Desk(self._source, self._writer, parameters_of(tools))
        syntax = format.calls.syntax if format.calls else None
        reader: ChannelReader | RecipientReader | PlainReader
        if isinstance(syntax, Channels):
            reader = ChannelReader(desk, syntax, parses_calls, parses_reasoning)
        elif isinstance(syntax, Recipients):
            reader = RecipientReader(desk, syntax, format.ends, parses_calls)
        else:
            reader = PlainReader(desk, format, reasoning_open, parses_calls, parses_reasoning)
        self.reader = reader
        self._run: Generator[None, None, None] = reader.read()
        self._ended = False
        next(self._run)

    def push(self, text: str) -> list[Piece]:
        """What is certain after this text."""
        kind = self.plain_kind(text.encode("utf-8", "surrogatepass"))
        return [Piece(kind, text)] if kind is not None else self.read(text)

    def read(self, text: str) -> list[Piece]:
        """The same for a text that has no plain kind."""
        if not self._ended and text:
            self._source.add(text)
            self._step()
        return self._writer.take()

    def plain_kind(self, text: bytes) -> Kind | None:
        """The kind of this text if nothing in it must be parsed: then it need not be read. None: it must be read."""
        quiet = self.reader.quiet
        return self.reader.kind if quiet is not None and quiet[text] else None

    @property
    def is_over(self) -> bool:
        """Later text does not belong to the message."""
        return self._ended

    def finish(self, cut: bool = False) -> list[Piece]:
        """What is left at the end of the text. `cut`: a limit has ended it; then an incomplete call is dropped."""
        if not self._ended:
            self._source.ended = True
            self.reader.cut = cut
            self._step()
            self._ended = True
        return self._writer.take()

    def _step(self) -> None:
        try:
            next(self._run)
        except StopIteration:
            self._ended = True
