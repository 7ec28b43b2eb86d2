"""Where a chat template is rendered: in the worker if it is tame and fast, else in a process that can be killed.

Owns compiled templates and these processes. Knows no tokens and no requests. Invariant: the model's loop waits for QUICK_S at most; a
slow template delays only its own request.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from fastrouter.errors import FastrouterError, InvalidRequest
from fastrouter.options.builtin_templates import source_of
from fastrouter.worker.text.chat_template import ChatTemplate
from fastrouter.worker.text.render_process import ProcessEnded, RenderProcess
from fastrouter.worker.text.template_format import TemplateFormat, format_of, generic_format, is_plain
from fastrouter.worker.text.template_sandbox import TookTooLong
from fastrouter.worker.text_jobs import LONG_CHARS, count_chars

QUICK_S = 0.05
MAX_TEMPLATES = 16  # kept compiled; each variant of the model may have one
MAX_IDLE = 2  # processes that wait for the next question
_MAX_FORMATS = 16  # known; a request may bring a template
_QUICK_DERIVE_S, _MAX_DERIVE_S = 0.2, 5.0  # CPU time of this thread, and time by the clock; most templates need 0.01 s


class Chat(NamedTuple):
    """What is rendered."""

    source: str | None  # a template instead of the model's
    arguments: tuple[list[dict[str, Any]], Any, bool, bool]  # messages, tools, add_generation_prompt, continue_final_message
    kwargs: dict[str, Any]
    at: float = 0.0  # Unix time that it shows; 0: now


class Shown(NamedTuple):
    """A prompt."""

    text: str
    adaptations: tuple[str, ...]  # the changes to the messages, in words


class _TakesLong(Exception):
    """It takes more time than is allowed."""


def _show_in(template: ChatTemplate, chat: Chat) -> Shown | None:
    try:
        return Shown(template.render(*chat.arguments, chat.at, **chat.kwargs), tuple(template.adaptations))
    except TookTooLong:
        return None


class Renderer:
    """For one model. `render` may be called in any thread, `render_now` only in the one that owns signals."""

    def __init__(self, source: str, tokens: dict[str, str]) -> None:
        """`source`: the model's template. `tokens`: `bos_token` and `eos_token`."""
        self._source = source
        self._tokens = tokens
        self._template = lru_cache(MAX_TEMPLATES + 1)(self._compile)
        self._compiling: threading.Thread | None = None
        self.idle: list[RenderProcess] = []
        self._formats: dict[str, TemplateFormat] = {}
        self._told: set[str] = set()
        self.notices: deque[str] = deque()  # for the user; the code that reports them removes them

    def start_compiling(self) -> None:
        """In another thread, while llama.cpp makes the context."""
        self._compiling = threading.Thread(target=self._prepare, name="template")
        self._compiling.start()

    def _prepare(self) -> None:
        with contextlib.suppress(FastrouterError, _TakesLong):  # raised again for each request that needs the template
            template = self._template(self._source)
            if template is None:
                self.idle.append(self._take())
            elif not is_plain(self._source):
                self._find(self._source, lambda chat: _show_in(template, chat), time.thread_time, _QUICK_DERIVE_S)

    def _compile(self, source: str) -> ChatTemplate | None:
        """None: it must not be rendered here. Raises InvalidRequest."""
        template = ChatTemplate(source, max_seconds=QUICK_S, only_tame=True, **self._tokens)
        return template if template.is_tame else None

    def _here(self, source: str) -> ChatTemplate | None:
        if self._compiling is not None:
            self._compiling.join()
            self._compiling = None
        return self._template(source)

    def check(self) -> None:
        """Raises InvalidRequest when the model's template cannot be compiled."""
        ChatTemplate(self._source, bos_token=self._tokens["bos_token"], eos_token=self._tokens["eos_token"])

    def show(self, chat: Chat) -> Shown:
        """With the changes to the messages, which are not reported elsewhere. Only in the thread that owns signals."""
        return self._show_now(chat) or self._show(chat)

    def render_now(self, chat: Chat) -> str | None:
        """The text; None if it would take long. Raises InvalidRequest."""
        shown = self._show_now(chat)
        return None if shown is None else self._told_text(shown)

    def render(self, chat: Chat) -> str:
        """In another process. Raises InvalidRequest."""
        return self._told_text(self._show(chat))

    def _told_text(self, shown: Shown) -> str:
        """Each kind of change to messages is reported once."""
        for adaptation in shown.adaptations:
            if adaptation not in self._told:
                self._told.add(adaptation)
                self.notices.append(f"the chat template does not accept all messages unchanged: {adaptation}")
        return shown.text

    def _show_now(self, chat: Chat) -> Shown | None:
        template = self._here(chat.source or self._source)
        if template is None or count_chars(chat, LONG_CHARS) > LONG_CHARS:
            return None
        return _show_in(template, chat)

    def _show(self, chat: Chat) -> Shown:
        arguments = [*chat.arguments, chat.at]
        question = {"source": chat.source or self._source, "tokens": self._tokens, "arguments": arguments, "kwargs": chat.kwargs}
        try:
            return self._ask(self._take(), question)
        except ProcessEnded:  # perhaps not because of this template
            return self._ask(self._take(), question)

    def _ask(self, process: RenderProcess, question: dict[str, Any]) -> Shown:
        try:
            text, adaptations = process.render(question)
            return Shown(text, tuple(adaptations))
        finally:
            if process.is_alive and len(self.idle) < MAX_IDLE:
                self.idle.append(process)
            else:
                process.close()

    def _take(self) -> RenderProcess:
        with contextlib.suppress(IndexError):
            while not (process := self.idle.pop()).is_alive:
                process.close()
            return process
        try:
            return RenderProcess()
        except OSError as error:
            raise FastrouterError(f"cannot start a process that renders chat templates: {error.strerror or error}") from None

    def close(self) -> None:
        """End its processes. Idempotent."""
        while self.idle:
            self.idle.pop().close()

    # ------------------------------------------------------------ what the template's models write

    def format_now(self, source: str | None) -> TemplateFormat | None:
        """None: it would take long, so use `find_format`. `source`: a template instead of the model's."""
        try:
            return self._find(source or self._source, self._show_now, time.thread_time, _QUICK_DERIVE_S)
        except _TakesLong:
            return None

    def find_format(self, source: str | None) -> TemplateFormat:
        """May take long; may be called in any thread. The generic format for a template that takes too long."""
        try:
            return self._find(source or self._source, self._show, time.monotonic, _MAX_DERIVE_S)
        except _TakesLong:
            return generic_format()

    def needs_format(self, chat: Chat) -> bool:
        """The answer to this chat may have calls or a thought."""
        return bool(chat.arguments[1]) or not is_plain(chat.source or self._source)

    def known_format(self, source: str | None) -> TemplateFormat:
        """The result of one of the two above; without a result, the generic format."""
        return self._formats.get(source or self._source) or generic_format()

    def _find(self, source: str, show: Callable[[Chat], Shown | None], clock: Callable[[], float], seconds: float) -> TemplateFormat:
        if source in self._formats:
            return self._formats[source]
        deadline = clock() + seconds

        def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]], add_generation_prompt: bool) -> str | None:
            refused = False
            try:
                shown = show(Chat(source, (messages, tools, add_generation_prompt, False), {}))
            except InvalidRequest:
                shown, refused = None, True
            if clock() > deadline or (shown is None and not refused):
                raise _TakesLong
            return None if shown is None else shown.text

        try:
            found = format_of(source_of(source), render)
        except InvalidRequest:  # no such built-in template
            return generic_format()
        if len(self._formats) >= _MAX_FORMATS:
            self._formats = {}
        self._formats[source] = found
        return found
