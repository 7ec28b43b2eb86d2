"""What a chat template can show, found by rendering probes: known words that appear in the output, or do not.

Knows no template by name. Each probe is rendered when it is first needed, and never again. Invariant: for a template that refuses even a
plain question, nothing is adapted.
"""

import json
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

from fastrouter.errors import InvalidRequest
from fastrouter.worker.text.parsers.derive_text import common_prefix, common_suffix
from fastrouter.worker.text.parsers.format import Calls
from fastrouter.worker.text.parsers.table import find_format
from fastrouter.worker.text.template_sandbox import TooMuchMemory
from fastrouter.worker.text.tool_prompt import EXAMPLE_ARGUMENTS, EXAMPLE_NAME

Message = dict[str, Any]
Run = Callable[[list[Message], Any], str]  # messages and tools; raises InvalidRequest

_NEEDLE = "needle-4711"
_NAME = "probe_4711"
_OTHER_NAME = "other_4711"
_ID = "call04711"  # nine letters and digits, as Mistral wants them
_ARGUMENTS = {"argument_needle": _NEEDLE}
_USER: Message = {"role": "user", "content": "hello"}
_ANSWER: Message = {"role": "assistant", "content": "hi"}
_RESULT: Message = {"role": "tool", "tool_call_id": _ID, "name": _NAME, "content": _NEEDLE + "-result"}
_PARAMETERS = {"type": "object", "properties": {"argument_needle": {"type": "string", "description": "text"}}, "required": []}
_TOOLS = [{"type": "function", "function": {"name": _NAME, "description": "text", "parameters": _PARAMETERS}}]
_MAX_CHARS = 1 << 17  # of a template's output for a probe
THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")
# Other places for a thought: as a part of the content, or in its text between <think> and </think>, or before </think>.
PARTS, TAGS, END_TAG = "parts", "tags", "end tag"


class Abilities:
    """Of one template."""

    def __init__(self, run: Run, source: str) -> None:
        self._run = run
        self._source = source

    def _probe(self, *messages: Message, tools: Any = None) -> str:
        """Its output for these messages; empty if it refuses them."""
        try:
            return self._run(list(messages), tools)
        except TooMuchMemory:  # once is enough
            raise
        except InvalidRequest:
            return ""

    @cached_property
    def _is_mute(self) -> bool:
        """True if it needs something that no probe has."""
        return not self._probe(_USER)

    # ------------------------------------------------------------ roles and contents

    @cached_property
    def takes_system(self) -> bool:
        return _NEEDLE in self._probe({"role": "system", "content": _NEEDLE}, _USER) or self._is_mute

    @cached_property
    def takes_later_system(self) -> bool:
        return _NEEDLE in self._probe(_USER, _ANSWER, {"role": "system", "content": _NEEDLE}, _USER) or self._is_mute

    @property
    def takes_developer(self) -> bool:
        return "developer" in self._source

    @cached_property
    def takes_text(self) -> bool:
        return _NEEDLE in self._probe({"role": "user", "content": _NEEDLE}) or not self.takes_parts

    @cached_property
    def takes_parts(self) -> bool:
        text = self._probe({"role": "user", "content": [{"type": "text", "text": _NEEDLE}]})
        return _NEEDLE in text and not re.search(rf"""['"]text['"]: ?['"]{_NEEDLE}""", text)

    @cached_property
    def takes_null(self) -> bool:
        """Instead of the text beside calls: at the end, and before a result."""
        return bool(self._probe(_USER, self._called(None))) and all(self._shows_null_as_empty(*after) for after in ((), (_RESULT,)))

    def _shows_null_as_empty(self, *after: Message) -> bool:
        null, empty = (self._probe(_USER, self._called(content), *after) for content in (None, ""))
        return bool(null) == bool(empty) and null.count("None") == empty.count("None")

    # ------------------------------------------------------------ tools

    def _called(self, content: str | None = "", arguments: Any = None) -> Message:
        if arguments is None:
            arguments = _ARGUMENTS if self.takes_object_arguments else json.dumps(_ARGUMENTS)
        call = {"id": _ID, "type": "function", "function": {"name": _NAME, "arguments": arguments}}
        return {"role": "assistant", "content": content, "tool_calls": [call]}

    def _shown(self, *messages: Message) -> str:
        """Its output for messages after a question; with tools, because some show calls only then."""
        for tools in (_TOOLS, None):
            text = self._probe(_USER, *messages, tools=tools)
            if 0 < len(text) <= _MAX_CHARS:
                return text[len(common_prefix(text, self._probe(_USER, tools=tools))) :]
        return ""

    @cached_property
    def takes_object_arguments(self) -> bool:
        """It quotes the arguments itself, or loops over them: a JSON string would be quoted twice, or not be shown."""
        as_text = json.dumps(_ARGUMENTS)
        of_text, of_object = (self._shown(self._called(arguments=arguments)) for arguments in (as_text, _ARGUMENTS))
        if "argument_needle" not in of_object or "{'argument_needle'" in of_object:
            return False
        return as_text not in of_text or not re.search(r'\{\s*"argument_needle"\s*:', of_object)

    @cached_property
    def takes_tools(self) -> bool:
        return _NAME in self._probe(_USER, tools=_TOOLS) or self._is_mute

    @cached_property
    def shows_calls(self) -> bool:
        """Whether it shows the calls of earlier answers."""
        return _NEEDLE in self._shown(self._called()) or self._is_mute

    @cached_property
    def shows_all_calls(self) -> bool:
        """Whether it shows more than the first call of an answer. True if it refuses several calls: then a remedy is found."""
        (call,) = self._called()["tool_calls"]
        other = {**call, "id": "call14711", "function": {**call["function"], "name": _OTHER_NAME}}
        text = self._shown({"role": "assistant", "content": "", "tool_calls": [call, other]})
        return _OTHER_NAME in text or not text

    @cached_property
    def call_example(self) -> str:
        """A call in the template's form; empty if it shows none."""
        if not self.shows_calls:
            return ""
        function = {"name": EXAMPLE_NAME, "arguments": EXAMPLE_ARGUMENTS if self.takes_object_arguments else json.dumps(EXAMPLE_ARGUMENTS)}
        call = {"id": _ID, "type": "function", "function": function}
        shown = self._shown({"role": "assistant", "content": "", "tool_calls": [call]})
        plain = self._shown(_ANSWER)
        return shown.removeprefix(common_prefix(shown, plain)).removesuffix(common_suffix(shown, plain)).strip()

    @cached_property
    def call_style(self) -> Calls | None:
        """How its models write calls, if it shows tools but no calls. None: not known."""
        known = find_format(self._source) if self.takes_tools else None
        return known.calls if known is not None else None

    @cached_property
    def shows_results(self) -> bool:
        """Whether it shows the results of tools."""
        return not self.shows_calls or _RESULT["content"] in self._shown(self._called(), _RESULT)

    # ------------------------------------------------------------ thoughts

    @cached_property
    def thought_key(self) -> str:
        """Where it reads the thought of an answer: one of THOUGHT_KEYS, PARTS, TAGS, END_TAG; empty: nowhere."""
        for key in THOUGHT_KEYS:
            thought = {key: _NEEDLE}
            calling = {**self._called(arguments={} if self.takes_object_arguments else "{}"), **thought}
            if _NEEDLE in self._probe(_USER, {**_ANSWER, **thought}) or _NEEDLE in self._shown(calling):
                return key
        as_part = {"role": "assistant", "content": [{"type": "thinking", "thinking": _NEEDLE}, {"type": "text", "text": "hi"}]}
        text = self._probe(_USER, as_part)
        if _NEEDLE in text and not re.search(rf"""['"]thinking['"]: ?['"]{_NEEDLE}""", text):
            return PARTS
        if "</think>" not in self._source:
            return ""
        text = self._probe(_USER, {"role": "assistant", "content": f"<think>\n{_NEEDLE}\n</think>\n\nhi"})
        return END_TAG if re.search(rf"<think>\s*<think>\s*{_NEEDLE}", text) else TAGS
