"""Chat messages to a prompt's text, through the model's own Jinja template.

Owns the compiled template, what it can show (found by probing), and the changes that make refused messages acceptable to it.
Knows no tokens, models or HTTP. Invariant: a template is foreign code; whatever it does, `render` returns text or raises
InvalidRequest.
"""

import json
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from fastrouter.errors import InvalidRequest
from fastrouter.options.builtin_templates import MAX_SOURCE_CHARS, source_of
from fastrouter.worker.text.adapt_messages import prepare
from fastrouter.worker.text.remedies import with_remedies
from fastrouter.worker.text.tame_templates import MAX_CHARS as MAX_TAME_CHARS
from fastrouter.worker.text.tame_templates import is_tame
from fastrouter.worker.text.template_abilities import Abilities
from fastrouter.worker.text.template_sandbox import NotAllowed, Sandbox, TooMuchMemory

MAX_SECONDS = 5.0
_MAX_ERROR_CHARS = 2000
_DATE = "%d %b %Y"  # today's date, in llama-server's form
_FIREFUNCTION, _DATE_TIME = "functools[", "%b %d %Y %H:%M:%S"  # a template that needs two values
_TAG = "CONTINUE-HERE-4711 "  # its space shows whether the template trims

Message = dict[str, Any]


class ChatTemplate:
    """One compiled template. Empty: ChatML; a plain word: a built-in template; otherwise Jinja source."""

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
        self.adaptations: dict[str, None] = {}  # what the last render changed in its messages, in words
        self.can = Abilities(self._probe, self.source)
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
        self,
        messages: list[Message],
        tools: Any,
        add_generation_prompt: bool,
        continue_final_message: bool,
        at: float = 0.0,
        /,
        **kwargs: Any,
    ) -> str:
        """The prompt's text. `at`: the Unix time that it shows; 0: now. `kwargs` are the template's own options; they cannot replace the
        arguments."""
        if not all(isinstance(message, dict) for message in messages):
            raise InvalidRequest("every message must be an object")
        self._sandbox.at = at
        return self._sandbox.within(
            self._max_seconds or MAX_SECONDS, lambda: self._render(messages, tools, add_generation_prompt, continue_final_message, kwargs)
        )

    def _render(self, messages: list[Message], tools: Any, add_generation_prompt: bool, is_continued: bool, kwargs: dict[str, Any]) -> str:
        self.adaptations = {}
        prepared, tools = prepare(messages, tools or None, self.can, self.adaptations.setdefault)
        if is_continued:
            return _cut(self._run_adapted(_tagged(prepared), tools, False, kwargs))
        return self._run_adapted(prepared, tools, add_generation_prompt, kwargs)

    def _run_adapted(self, messages: list[Message], tools: Any, add_generation_prompt: bool, kwargs: dict[str, Any]) -> str:
        """Renders the messages unchanged; if the template refuses them, with remedies. If these fail, raises its first refusal."""

        def run(messages: list[Message], tools: Any) -> str:
            return self._run(messages, tools, add_generation_prompt, kwargs)

        try:
            return run(messages, tools)
        except TooMuchMemory:
            raise
        except InvalidRequest as error:
            refusal = error
        for keeps_all in (False, True):
            found = with_remedies(messages, tools, run, refusal, keeps_all=keeps_all)
            if found is not None:
                text, names = found
                self.adaptations.update(dict.fromkeys(names))
                return text
        raise refusal

    def _probe(self, messages: list[Message], tools: Any) -> str:
        """A strict sandbox does not end the whole render here: a template may treat a probe and real messages differently."""
        try:
            return self._run(messages, tools, False, {})
        except NotAllowed:
            raise InvalidRequest("chat template: it adds or formats lists") from None

    def _run(self, messages: list[Message], tools: Any, add_generation_prompt: bool, kwargs: dict[str, Any]) -> str:
        values = {**self._tokens, "documents": None, "date_string": self._sandbox.now().strftime(_DATE), **kwargs}
        if _FIREFUNCTION in self.source:
            values.update(functions=json.dumps(tools, indent=2) if tools else "", datetime=self._sandbox.now().strftime(_DATE_TIME))
        values.update(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)
        self._sandbox.given = (messages, tools)
        try:
            text = self._sandbox.concat(self._template.root_render_func(self._template.new_context(values)))
            text.encode()  # half of a surrogate pair cannot be sent in any answer
            return text
        except MemoryError:
            raise TooMuchMemory from None
        except Exception as error:  # foreign code may raise anything
            raise InvalidRequest(f"chat template: {_describe(error)}") from error


def with_system(messages: list[Message], system: str | None) -> list[Message]:
    """This system message and then the messages; if they have a system message already, they stay unchanged."""
    if system is None or any(isinstance(message, dict) and message.get("role") in ("system", "developer") for message in messages):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _describe(error: Exception) -> str:
    """Gives the same text for the same mistake."""
    if isinstance(error, RecursionError):  # Python's message depends on the place
        return "it is nested too deeply"
    text = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
    return text[:_MAX_ERROR_CHARS]


def _tagged(messages: list[Message]) -> list[Message]:
    """Puts a tag at the end of the last message's text: the prompt is cut there."""
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
