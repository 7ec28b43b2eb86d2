"""What a chat's answer needs in addition to text: its parser, the pieces of its markers, and the rules for its thought and its answer.

Knows no slot and no record. Invariant: a chat without thoughts and tools, and every completion, has none of these and costs nothing more.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fastrouter.ipc.messages import Generate
from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama.vocab import Vocab
from fastrouter.worker.sampling.guide import Guidance
from fastrouter.worker.sampling.quiet_tokens import QuietTokens
from fastrouter.worker.sampling.tool_grammar import triggers
from fastrouter.worker.sampling.tool_wish import Wish
from fastrouter.worker.text.detokenizer import PieceTable
from fastrouter.worker.text.marker_pieces import MarkerPieces, is_always_parsed
from fastrouter.worker.text.message import Message
from fastrouter.worker.text.parsers.format import Channels, Format, Recipients
from fastrouter.worker.text.parsers.parser import MessageParser
from fastrouter.worker.text.prompts import Prompts, shown_tools
from fastrouter.worker.text.template_format import GENERIC_WAY

Tools = list[dict[str, Any]]
_NUM_KEPT = 16


@dataclass(frozen=True, slots=True)
class ChatReading:
    """How the answer to one chat is read."""

    format: Format
    pieces: PieceTable
    tools: Tools  # tools that it may call
    is_thinking: bool  # the prompt has opened the thought
    parses_thoughts: bool
    is_parallel: bool
    holds_calls: bool  # calls are given out when they are complete
    guidance: Guidance | None  # None: no token is forced, and a grammar begins with the first token
    quiet: QuietTokens | None  # of the guidance

    @property
    def is_parsed(self) -> bool:
        return bool(self.tools) or (self.parses_thoughts and self.format.thought is not None) or is_always_parsed(self.format)

    def message(self) -> Message | None:
        """For one choice. None: its text is sent unchanged."""
        if not self.is_parsed:
            return None
        parser = MessageParser(
            self.format,
            self.tools,
            reasoning_open=self.is_thinking,
            parses_calls=bool(self.tools),
            parses_reasoning=self.parses_thoughts,
            holds_calls=self.holds_calls,
        )
        return Message(parser, is_thinking=self.is_thinking and self.parses_thoughts, is_parallel=self.is_parallel)


class Chats:
    """For one model."""

    def __init__(self, vocab: Vocab, prompts: Prompts, options: LoadOptions) -> None:
        self._prompts = prompts
        self._options = options
        self._pieces = MarkerPieces(vocab)
        self._quiet = lru_cache(_NUM_KEPT)(QuietTokens)

    def _format(self, generate: Generate) -> Format | None:
        """Call it after the prompt has been read. None: the answer is not parsed."""
        if generate.messages is None or self._options.skip_chat_parsing:
            return None
        return self._prompts.format_of(generate).format

    def wish(self, generate: Generate) -> tuple[Format, Wish] | None:
        """Call it after the prompt has been read. The calls that the answer may or must have. None: it has none."""
        format = self._format(generate)
        tools = _callable_tools(generate, format) if format is not None else []
        if format is None or not tools:
            return None
        answer = _answer_schema(generate) if is_in_channels(format) else ""
        whitespace = generate.json_whitespace or self._options.json_whitespace
        return format, Wish(tools, must_call(generate), self._is_parallel(generate), answer, whitespace)

    def _is_parallel(self, generate: Generate) -> bool:
        """A model that was not trained for calls often writes the same one again and again."""
        if generate.parallel_tool_calls is not None:
            return generate.parallel_tool_calls
        return self._prompts.format_of(generate).origin != GENERIC_WAY

    def reading(self, generate: Generate, prompt_end: str, *, has_form: bool) -> ChatReading | None:
        """Call it after the prompt has been read. `prompt_end`: of its text. `has_form`: the answer follows a grammar. None: no parsing."""
        options = self._options
        format = self._format(generate)
        if format is None:
            return None
        thought = format.thought
        is_thinking = thought is not None and thought.is_open(_before_answer(generate, prompt_end))
        tools = _callable_tools(generate, format)
        guidance = self._guidance(generate, format, is_thinking=is_thinking, has_form=has_form, has_tools=bool(tools))
        pieces = self._pieces.of(format, options.special)
        return ChatReading(
            format,
            pieces,
            tools,
            is_thinking,
            (generate.reasoning_format or options.reasoning_format) != "none",
            self._is_parallel(generate),
            options.hold_tool_calls if generate.holds_calls is None else generate.holds_calls,
            guidance,
            self._quiet(pieces, guidance.watched) if guidance is not None else None,
        )

    def _guidance(self, generate: Generate, format: Format, *, is_thinking: bool, has_form: bool, has_tools: bool) -> Guidance | None:
        is_forced = has_tools and must_call(generate)
        may_call = has_tools and not is_forced
        budget = generate.reasoning_budget if generate.reasoning_budget >= 0 else self._options.reasoning_budget
        begun = triggers(format) if may_call else ()
        if not (has_form or budget >= 0 or generate.reasoning_control or begun):
            return None
        if has_tools and is_in_channels(format) and (is_forced or _answer_schema(generate)):
            return None  # one grammar covers the thought, the calls and the answer
        thought, calls = format.thought, _openings(format) if may_call else ()
        before = "" if is_forced else _before(format)
        is_off = self._prompts.kwargs_of(generate.chat_template_kwargs)["enable_thinking"] is False
        if thought is None or (is_off and not is_thinking):
            is_needed = begun or (has_form and (before or calls))
            return Guidance((), (), is_open=False, before=before, calls=calls, triggers=begun) if is_needed else None
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
            triggers=begun,
            calls_in_thought=thought.calls_close,
        )


def must_call(generate: Generate) -> bool:
    """Whether the answer must be a tool call."""
    choice = generate.tool_choice
    is_required = choice == "required" or (isinstance(choice, dict) and choice["required"])
    return bool(is_required and generate.tools and generate.parses_calls)


def is_in_channels(format: Format) -> bool:
    """Whether calls, thoughts and answers are messages with different headers."""
    return format.calls is not None and isinstance(format.calls.syntax, Channels)


def _answer_schema(generate: Generate) -> str:
    """The JSON schema of an answer without calls."""
    constraint = generate.constraint
    return constraint["text"] if constraint is not None and constraint["kind"] == "json_schema" and not must_call(generate) else ""


def _callable_tools(generate: Generate, format: Format) -> Tools:
    """The tools that the answer may call."""
    if not generate.parses_calls or format.calls is None:
        return []
    return shown_tools(generate.tools, generate.tool_choice) or []


def _before_answer(generate: Generate, prompt_end: str) -> str:
    """The text that ends where the answer begins. For a continued answer, its text so far: it tells whether its thought is open."""
    if not generate.continue_final_message:
        return prompt_end
    content = (generate.messages or [{}])[-1].get("content")
    return content if isinstance(content, str) else ""


def _openings(format: Format) -> tuple[str, ...]:
    """The texts that begin tool calls."""
    calls = format.calls
    if calls is None:
        return ()
    if isinstance(calls.syntax, Channels):
        return (calls.syntax.start,)
    return tuple(filter(None, (*calls.section_open, *calls.open)))


def _before(format: Format) -> str:
    """The text that begins an answer without a thought."""
    syntax = format.calls.syntax if format.calls else None
    return f"{syntax.text}\n" if isinstance(syntax, Recipients) else ""


def _after(format: Format, *, has_tools: bool) -> str:
    """The text between a thought and an answer."""
    syntax = format.calls.syntax if format.calls else None
    if isinstance(syntax, Channels):
        return "" if has_tools else f"{syntax.start}assistant{syntax.header(syntax.answer)}"
    close = format.thought.close[0] if format.thought else ""
    return close[len(close.rstrip()) :]
