"""Chat messages to a prompt's text, through the model's own Jinja template.

Owns the compiled template, what it can take (found by probing), and what is done to messages that it cannot take as OpenAI writes them.
Must never know tokens, models or HTTP. Invariant: a template is foreign code; whatever it does, `render` returns text or raises
InvalidRequest.
"""

import json
import re
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from fastrouter.errors import InvalidRequest
from fastrouter.options.builtin_templates import MAX_SOURCE_CHARS, source_of
from fastrouter.worker.text.tame_templates import MAX_CHARS as MAX_TAME_CHARS
from fastrouter.worker.text.tame_templates import is_tame
from fastrouter.worker.text.template_sandbox import Sandbox

MAX_SECONDS = 5.0
TOO_MUCH_MEMORY = "chat template: it needs more memory than a template may take"
_MAX_ERROR_CHARS = 2000
_DATE = "%d %b %Y"  # of today, as llama-server gives it

Message = dict[str, Any]

# ---------------------------------------------------------------- probes

_NEEDLE = "needle-4711"
_TAG = "CONTINUE-HERE-4711 "  # its space shows whether the template trims
_ARGUMENTS = {"argument_needle": _NEEDLE}
_USER: Message = {"role": "user", "content": "hello"}


def _call(arguments: Any, content: str | None = "") -> list[Message]:
    function = {"name": "probe", "arguments": arguments}
    return [_USER, {"role": "assistant", "content": content, "tool_calls": [{"id": "call00001", "type": "function", "function": function}]}]


class ChatTemplate:
    """One template, compiled. Empty: ChatML; a plain word: a built-in one; otherwise Jinja source."""

    def __init__(
        self, source: str, *, bos_token: str = "", eos_token: str = "", max_seconds: float | None = None, only_tame: bool = False
    ) -> None:
        """`max_seconds`: of a render, if not MAX_SECONDS. `only_tame`: compiled only if it is tame, see tame.py, and held to that when it
        runs: `render` raises TookTooLong for what takes longer, or does more than that it should."""
        if len(source) > MAX_SOURCE_CHARS:
            raise InvalidRequest(f"chat template: longer than {MAX_SOURCE_CHARS} characters")
        self.source = source_of(source)
        self._sandbox = Sandbox(is_strict=only_tame)
        self._max_seconds = max_seconds
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self.is_tame = False
        if only_tame and len(self.source) > MAX_TAME_CHARS:
            return
        try:
            tree = self._sandbox.parse(self.source)
            self.is_tame = is_tame(tree)
            if self.is_tame or not only_tame:
                self._template = self._sandbox.within(MAX_SECONDS, lambda: self._sandbox.from_string(tree))
        except TemplateSyntaxError as error:
            raise InvalidRequest(f"chat template: line {error.lineno}: {error.message}") from error
        except InvalidRequest:
            raise
        except Exception as error:  # untrusted source: Jinja's compiler and constant folding may raise anything
            raise InvalidRequest(f"chat template: {_describe(error)}") from error

    def __repr__(self) -> str:
        return f"<ChatTemplate {self.source[:40]!r}>"

    def render(
        self, messages: list[Message], tools: Any, add_generation_prompt: bool, continue_final_message: bool, /, **kwargs: Any
    ) -> str:
        """The prompt's text. `kwargs` are the template's own options; they cannot replace the arguments."""
        if not all(isinstance(message, dict) for message in messages):
            raise InvalidRequest("every message must be an object")
        return self._sandbox.within(
            self._max_seconds or MAX_SECONDS, lambda: self._render(messages, tools, add_generation_prompt, continue_final_message, kwargs)
        )

    def _render(self, messages: list[Message], tools: Any, add_generation_prompt: bool, is_continued: bool, kwargs: dict[str, Any]) -> str:
        prepared = self._prepare(messages)
        if is_continued:
            return _cut(self._run(_tagged(prepared), tools, False, kwargs))
        return self._run(prepared, tools, add_generation_prompt, kwargs)

    def _run(self, messages: list[Message], tools: Any, add_generation_prompt: bool, kwargs: dict[str, Any]) -> str:
        values = {**self._tokens, "documents": None, "date_string": datetime.now().strftime(_DATE), **kwargs}
        values.update(messages=messages, tools=tools or None, add_generation_prompt=add_generation_prompt)
        try:
            text = self._sandbox.concat(self._template.root_render_func(self._template.new_context(values)))
            text.encode()  # half of a surrogate pair cannot leave in any answer
            return text
        except MemoryError:
            raise InvalidRequest(TOO_MUCH_MEMORY) from None
        except Exception as error:  # foreign code may raise anything
            raise InvalidRequest(f"chat template: {_describe(error)}") from error

    # ------------------------------------------------------------ what the template can take

    def _probe(self, messages: list[Message]) -> str:
        """What it makes of these messages; empty when it refuses them."""
        try:
            return self._run(messages, None, False, {})
        except InvalidRequest:
            return ""

    @cached_property
    def _takes_system(self) -> bool:
        return _NEEDLE in self._probe([{"role": "system", "content": _NEEDLE}, _USER]) or not self._probe([_USER])

    @cached_property
    def _takes_text(self) -> bool:
        return _NEEDLE in self._probe([{"role": "user", "content": _NEEDLE}]) or not self._takes_parts

    @cached_property
    def _takes_parts(self) -> bool:
        text = self._probe([{"role": "user", "content": [{"type": "text", "text": _NEEDLE}]}])
        return _NEEDLE in text and not re.search(rf"""['"]text['"]: ?['"]{_NEEDLE}""", text)

    @cached_property
    def _takes_null(self) -> bool:
        arguments = _ARGUMENTS if self._takes_object_arguments else json.dumps(_ARGUMENTS)
        text = self._probe(_call(arguments, None))
        return bool(text) and text.count("None") == self._probe(_call(arguments)).count("None")

    @cached_property
    def _takes_object_arguments(self) -> bool:
        """It quotes or walks the arguments itself: a JSON string would come out quoted twice, or not at all."""
        as_text = json.dumps(_ARGUMENTS)
        return as_text not in self._probe(_call(as_text)) and "argument_needle" in self._probe(_call(_ARGUMENTS))

    # ------------------------------------------------------------ messages as the template wants them

    def _prepare(self, messages: list[Message]) -> list[Message]:
        prepared = [dict(message) for message in messages]
        for message in prepared:
            if message.get("role") == "developer" and "developer" not in self.source:
                message["role"] = "system"
        if any(message.get("role") == "system" for message in prepared) and not self._takes_system:
            prepared = _folded(prepared)
        for message in prepared:
            message["content"] = self._content(message.get("content"))
            if isinstance(message.get("tool_calls"), list) and self._takes_object_arguments:
                message["tool_calls"] = [_with_object_arguments(call) for call in message["tool_calls"]]
        return prepared

    def _content(self, content: Any) -> Any:
        if isinstance(content, list):
            return content if self._takes_parts else _joined(content)
        if isinstance(content, str):
            return content if self._takes_text else [{"type": "text", "text": content}]
        return "" if content is None and not self._takes_null else content


def with_system(messages: list[Message], system: str | None) -> list[Message]:
    """The messages after this system message, unless they bring their own."""
    if system is None or any(isinstance(message, dict) and message.get("role") in ("system", "developer") for message in messages):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _describe(error: Exception) -> str:
    text = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
    return text[:_MAX_ERROR_CHARS]


def _joined(parts: list[Any]) -> str:
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise InvalidRequest(f"this model's chat template takes text only, not content of type {str(kind)[:100]!r}")
        texts.append(part["text"])
    return "\n".join(texts)


def _folded(messages: list[Message]) -> list[Message]:
    """System messages in front of the first user message's text; alone they become one."""
    system = "\n".join(_text(message.get("content")) for message in messages if message.get("role") == "system")
    others = [message for message in messages if message.get("role") != "system"]
    for message in others:
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                message["content"] = [{"type": "text", "text": system}, *content]
            else:
                message["content"] = f"{system}\n{_text(content)}"
            return others
    return [{"role": "user", "content": system}, *others]


def _text(content: Any) -> str:
    return _joined(content) if isinstance(content, list) else str(content or "")


def _with_object_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(arguments, str):
        return call
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"a tool call's arguments are not JSON: {error}") from error
    return {**call, "function": {**function, "arguments": parsed}} if isinstance(parsed, dict) else call


def _tagged(messages: list[Message]) -> list[Message]:
    """A tag at the end of the last message's text: where the prompt will be cut."""
    last = messages[-1] if messages else {}
    content = last.get("content")
    if last.get("role") == "assistant" and isinstance(content, str):
        return [*messages[:-1], {**last, "content": content + _TAG}]
    if last.get("role") == "assistant" and isinstance(content, list) and content and isinstance(content[-1], dict):
        text = content[-1].get("text")
        if isinstance(text, str):
            return [*messages[:-1], {**last, "content": [*content[:-1], {**content[-1], "text": text + _TAG}]}]
    raise InvalidRequest("continue_final_message needs an assistant message with text at the end")


def _cut(text: str) -> str:
    end = text.rfind(_TAG.rstrip())
    if end < 0:
        raise InvalidRequest("continue_final_message: the chat template does not show the last message")
    return text[:end] if text.startswith(_TAG, end) else text[:end].rstrip()
