"""`fastrouter chat MODEL [QUESTION]`: one answer, or a conversation on a terminal with its commands.

Invariant: both sides of a turn are added to the history only when something was answered; Ctrl-C ends the answer, never the
conversation.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from fastrouter.cli.client import CallFailed, Client
from fastrouter.cli.listing import print_models
from fastrouter.cli.terminal import Look, look_of, plain

QUOTES = '"""'
COMMENT_EVERY_S = 0.25  # while a user watches the wait
HELP = """\
/help          this list
/models        all models, with their states
/model NAME    go on with another model; without NAME: which one it is
/system TEXT   set the system message; without TEXT: remove it
/clear         forget the conversation
/quit          end (so does Ctrl-D)
A question of several lines begins and ends with \"\"\", or each line but the last ends with a backslash.
Ctrl-C stops an answer."""
_COMMAND = re.compile(r"/([a-z?]+)(?:\s+(.*))?$", re.S)
_NOT_PRINTED = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)))  # control characters except tab and newline


def chat(client: Client, options: argparse.Namespace) -> None:
    if options.prompt:
        _Talk(client, options).ask(" ".join(options.prompt))
    elif not sys.stdin.isatty():
        _Talk(client, options).ask(sys.stdin.read())
    else:
        _converse(client, options)


def _converse(client: Client, options: argparse.Namespace) -> None:
    import readline  # noqa: F401  # gives input() line editing and its own history

    talk = _Talk(client, options, is_conversation=True)
    talk.look_at(options.model)
    print(f"Chatting with {options.model}. /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.")
    talk.warn()
    for text in _read_questions():
        try:
            if not talk.obey(text):
                talk.ask(text)
        except CallFailed as error:
            print(f"fastrouter: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print()
        if talk.is_over:
            return


def _read_questions() -> Iterator[str]:
    while True:
        try:
            text = _read_question().strip()
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /quit ends)")
            continue
        except EOFError:
            print()
            return
        if text:
            yield text


def _read_question() -> str:
    """One line, or several: see HELP."""
    text = input("> ")
    if text.lstrip().startswith(QUOTES):
        text = text.lstrip().removeprefix(QUOTES)
        while not text.rstrip().endswith(QUOTES):
            text += "\n" + input(". ")
        return text.rstrip().removesuffix(QUOTES)
    while text.endswith("\\"):
        text = text[:-1] + "\n" + input(". ")
    return text


@dataclass(slots=True)
class _Talk:
    """A conversation: its model, its messages."""

    client: Client
    options: argparse.Namespace
    is_conversation: bool = False
    history: list[dict[str, str]] = field(default_factory=list)
    entry: dict[str, Any] = field(default_factory=dict)  # its entry in the listing
    is_over: bool = False

    # ------------------------------------------------------------ commands

    def obey(self, text: str) -> bool:
        """True: it was a command."""
        found = _COMMAND.match(text)
        if found is None:
            return False
        commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: print(HELP),
            "models": lambda _: print_models(self.client.call("GET", "/v1/models")["data"]),
            "model": self._switch,
            "system": self._set_system,
            "clear": self._clear,
            "quit": self._quit,
        }
        same = {"?": "help", "exit": "quit", "bye": "quit"}
        name = same.get(found[1], found[1])
        if name not in commands:
            print(f"There is no command /{found[1]}; /help lists them. A question that begins with / can be put in {QUOTES}.")
            return True
        commands[name]((found[2] or "").strip())
        return True

    def _switch(self, name: str) -> None:
        if name:
            self.look_at(name)
            self.options.model = name
        print(f"{'From now on' if name else 'It is'} {self.options.model}.")
        self.warn()

    def _set_system(self, text: str) -> None:
        self.options.system = text or None
        print("The system message is set." if text else "There is no system message now.")

    def _clear(self, _: str) -> None:
        self.history.clear()
        print("The conversation is forgotten.")

    def _quit(self, _: str) -> None:
        self.is_over = True

    # ------------------------------------------------------------ the model

    def look_at(self, name: str) -> None:
        """Raises CallFailed when the model does not exist. A router with one model accepts every name."""
        try:
            self.entry = self.client.call("GET", f"/v1/models/{quote(name)}")
        except CallFailed:
            listing = self.client.call("GET", "/v1/models")
            if not listing.get("models"):  # only a router with one model names it there, too
                raise
            [self.entry] = listing["data"]

    def warn(self) -> None:
        """When the model was not made for chats."""
        found = self.entry.get("capabilities") or ["chat"]
        if "embedding" in found or "rerank" in found:
            print(f"Note: {self.options.model} does not write text ({', '.join(found)}); /models lists the others, /model NAME switches.")
        elif "chat" not in found:
            print(f"Note: {self.options.model} has no chat template. It is asked in the ChatML format and may not answer the question.")

    # ------------------------------------------------------------ turns

    def ask(self, text: str) -> None:
        question = {"role": "user", "content": text}
        answer = "".join(self._answer([*self._system(), *self.history, question]))
        if answer:
            self.history += [question, {"role": "assistant", "content": answer}]

    def _system(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.options.system}] if self.options.system else []

    def _answer(self, messages: list[dict[str, str]]) -> list[str]:
        """The pieces, printed as they come; returns what had come when the user stopped it."""
        body: dict[str, Any] = {"model": self.options.model, "messages": messages, "stream": True}
        given = {name: getattr(self.options, name) for name in ("max_tokens", "temperature", "seed")}
        body |= {name: value for name, value in given.items() if value is not None}
        look, pieces, timings = look_of(sys.stdout), list[str](), dict[str, Any]()
        wait = _Wait(look)
        if self.is_conversation:
            body["timings_per_token"] = True  # Ctrl-C may end the answer before its last event
            if look.can_erase:
                body["sse_ping_interval"] = COMMENT_EVERY_S
        asked, first_s, is_stopped = time.monotonic(), 0.0, False
        with closing(self.client.stream("/v1/chat/completions", body, wait.show)) as events:  # closing it closes the connection
            try:
                for event in events:
                    timings |= event.get("timings") or {}
                    for piece in filter(None, (choice["delta"].get("content") for choice in event["choices"])):
                        first_s = first_s or time.monotonic() - asked
                        wait.erase()
                        pieces.append(piece)
                        print(piece.translate(_NOT_PRINTED) if look.is_terminal else piece, end="", flush=True)
            except KeyboardInterrupt:
                is_stopped = True
            finally:
                wait.erase()
        print()
        if self.is_conversation:
            print(look.paint(_figures(timings, first_s, is_stopped=is_stopped), "faint"))
        return pieces


class _Wait:
    """What an answer waits for (a place in the queue, a load), on a line that its text replaces."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._is_shown = False

    def show(self, text: str) -> None:
        if self._look.can_erase and text:
            self._is_shown = True
            print(f"\r\x1b[K{self._look.paint(plain(text), 'faint')}", end="", flush=True)

    def erase(self) -> None:
        if self._is_shown:
            self._is_shown = False
            print("\r\x1b[K", end="", flush=True)


def _figures(timings: dict[str, Any], first_s: float, *, is_stopped: bool) -> str:
    """What the answer cost, in one line."""
    parts = ["stopped"] if is_stopped else []
    if timings.get("predicted_n"):
        parts.append(f"{timings['predicted_n']} tokens")
    if timings.get("predicted_per_second"):
        parts.append(f"{timings['predicted_per_second']:.1f} tokens/s")
    if first_s:
        parts.append(f"first token after {first_s:.2f} s")
    if (timings.get("load_ms") or 0) >= 1:
        parts.append(f"loaded in {timings['load_ms'] / 1000:.2f} s")
    return f"[{', '.join(parts) or 'no answer'}]"
