"""What a chat's answer needs beyond text: its parser, the pieces of its markers, and the guide from its thought to its answer.

Knows no slot and no record. Invariant: a chat without thoughts and tools, and every completion, has none of these and costs nothing more.
"""

from dataclasses import dataclass
from typing import Any

from fastrouter.ipc.messages import Generate
from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama.vocab import Vocab
from fastrouter.worker.sampling.guide import Guidance
from fastrouter.worker.text.detokenizer import PieceTable
from fastrouter.worker.text.marker_pieces import MarkerPieces, is_always_parsed
from fastrouter.worker.text.message import Message
from fastrouter.worker.text.parsers.format import Channels, Format, Recipients
from fastrouter.worker.text.parsers.parser import MessageParser
from fastrouter.worker.text.prompts import Prompts, shown_tools

Tools = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ChatReading:
    """How the answer to one chat is read."""

    format: Format
    pieces: PieceTable
    tools: Tools  # that it may call
    is_thinking: bool  # the prompt has opened the thought
    parses_thoughts: bool
    is_parallel: bool
    guidance: Guidance | None  # None: nothing is forced, and a form begins with the first token

    @property
    def is_parsed(self) -> bool:
        return bool(self.tools) or (self.parses_thoughts and self.format.thought is not None) or is_always_parsed(self.format)

    def message(self) -> Message | None:
        """For one choice. None: its text goes out as it is."""
        if not self.is_parsed:
            return None
        parser = MessageParser(
            self.format,
            self.tools,
            reasoning_open=self.is_thinking,
            parses_calls=bool(self.tools),
            parses_reasoning=self.parses_thoughts,
        )
        return Message(parser, is_thinking=self.is_thinking and self.parses_thoughts, is_parallel=self.is_parallel)


class Chats:
    """Of one model."""

    def __init__(self, vocab: Vocab, prompts: Prompts, options: LoadOptions) -> None:
        self._prompts = prompts
        self._options = options
        self._pieces = MarkerPieces(vocab)

    def reading(self, generate: Generate, prompt_end: str, *, has_form: bool) -> ChatReading | None:
        """The prompt has been read. `prompt_end`: of its text. `has_form`: the answer follows a grammar. None: its text is not read."""
        options = self._options
        if generate.messages is None or options.skip_chat_parsing:
            return None
        format = self._prompts.format_of(generate).format
        thought = format.thought
        is_thinking = thought is not None and thought.is_open(_before_answer(generate, prompt_end))
        tools = shown_tools(generate.tools, generate.tool_choice) if generate.parses_calls and format.calls is not None else None
        return ChatReading(
            format,
            self._pieces.of(format, options.special),
            tools or [],
            is_thinking,
            (generate.reasoning_format or options.reasoning_format) != "none",
            generate.parallel_tool_calls,
            self._guidance(generate, format, is_thinking=is_thinking, has_form=has_form, has_tools=bool(tools)),
        )

    def _guidance(self, generate: Generate, format: Format, *, is_thinking: bool, has_form: bool, has_tools: bool) -> Guidance | None:
        budget = generate.reasoning_budget if generate.reasoning_budget >= 0 else self._options.reasoning_budget
        if not (has_form or budget >= 0 or generate.reasoning_control):
            return None
        thought, calls = format.thought, _openings(format) if has_tools else ()
        before = _before(format)
        is_off = self._prompts.kwargs_of(generate.chat_template_kwargs)["enable_thinking"] is False
        if thought is None or (is_off and not is_thinking):
            return Guidance((), (), is_open=False, before=before, calls=calls) if has_form and (before or calls) else None
        message = generate.reasoning_budget_message
        return Guidance(
            thought.open,
            thought.close,
            is_open=is_thinking,
            before=before,
            after=_after(format, has_tools=has_tools),
            budget=budget,
            message=self._options.reasoning_budget_message if message is None else message,
            calls=calls,
        )


def _before_answer(generate: Generate, prompt_end: str) -> str:
    """The text that ends where the answer begins. Of a continued answer, only that it is in its thought still counts."""
    if not generate.continue_final_message:
        return prompt_end
    content = (generate.messages or [{}])[-1].get("content")
    return content if isinstance(content, str) else ""


def _openings(format: Format) -> tuple[str, ...]:
    """What tool calls begin with."""
    calls = format.calls
    if calls is None:
        return ()
    if isinstance(calls.syntax, Channels):
        return (calls.syntax.start,)
    return tuple(filter(None, (*calls.section_open, *calls.open)))


def _before(format: Format) -> str:
    """What an answer without a thought begins with."""
    syntax = format.calls.syntax if format.calls else None
    return f"{syntax.text}\n" if isinstance(syntax, Recipients) else ""


def _after(format: Format, *, has_tools: bool) -> str:
    """What stands between a thought and an answer."""
    syntax = format.calls.syntax if format.calls else None
    if isinstance(syntax, Channels):
        return "" if has_tools else f"{syntax.start}assistant{syntax.channel}final{syntax.message}"
    close = format.thought.close[0] if format.thought else ""
    return close[len(close.rstrip()) :]
