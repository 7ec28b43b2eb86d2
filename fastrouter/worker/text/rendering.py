"""Where a chat template is rendered: here when it is tame and done in a moment, else in a process that can be killed.

Owns compiled templates and these processes. Knows no tokens and no requests. Invariant: the model's loop is held for QUICK_S at most; a
slow template holds up only who asked for it.
"""

import contextlib
import threading
from functools import lru_cache
from typing import Any, NamedTuple

from fastrouter.errors import FastrouterError
from fastrouter.worker.text.chat_template import ChatTemplate
from fastrouter.worker.text.render_process import ProcessEnded, RenderProcess
from fastrouter.worker.text.template_sandbox import TookTooLong
from fastrouter.worker.text_jobs import LONG_CHARS, count_chars

QUICK_S = 0.05
MAX_TEMPLATES = 16  # kept compiled; a variant of the model brings one
MAX_IDLE = 2  # processes that wait for the next question


class Chat(NamedTuple):
    """What is rendered."""

    source: str | None  # a template instead of the model's
    arguments: tuple[list[dict[str, Any]], Any, bool, bool]  # messages, tools, add_generation_prompt, continue_final_message
    kwargs: dict[str, Any]


class Renderer:
    """Of one model. `render` may be called in any thread, `render_now` only in the one that owns signals."""

    def __init__(self, source: str, tokens: dict[str, str]) -> None:
        """`source`: the model's template. `tokens`: `bos_token` and `eos_token`."""
        self._source = source
        self._tokens = tokens
        self._template = lru_cache(MAX_TEMPLATES + 1)(self._compile)
        self._compiling: threading.Thread | None = None
        self.idle: list[RenderProcess] = []

    def start_compiling(self) -> None:
        """On the side, while llama.cpp makes the context."""
        self._compiling = threading.Thread(target=self._prepare, name="template")
        self._compiling.start()

    def _prepare(self) -> None:
        with contextlib.suppress(FastrouterError):  # said again to whoever needs the template
            if self._template(self._source) is None:
                self.idle.append(self._take())

    def _compile(self, source: str) -> ChatTemplate | None:
        """None: not one to be rendered here. Raises InvalidRequest."""
        template = ChatTemplate(source, max_seconds=QUICK_S, only_tame=True, **self._tokens)
        return template if template.is_tame else None

    def _here(self, source: str) -> ChatTemplate | None:
        if self._compiling is not None:
            self._compiling.join()
            self._compiling = None
        return self._template(source)

    def render_now(self, chat: Chat) -> str | None:
        """The text; None when it would take long. Raises InvalidRequest."""
        template = self._here(chat.source or self._source)
        if template is None or count_chars(chat, LONG_CHARS) > LONG_CHARS:
            return None
        try:
            return template.render(*chat.arguments, **chat.kwargs)
        except TookTooLong:
            return None

    def render(self, chat: Chat) -> str:
        """In a process of its own. Raises InvalidRequest."""
        question = {"source": chat.source or self._source, "tokens": self._tokens, "arguments": chat.arguments, "kwargs": chat.kwargs}
        try:
            return self._ask(self._take(), question)
        except ProcessEnded:  # maybe not of this template
            return self._ask(self._take(), question)

    def _ask(self, process: RenderProcess, question: dict[str, Any]) -> str:
        try:
            return process.render(question)
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
