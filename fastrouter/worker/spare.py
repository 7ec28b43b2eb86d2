"""What a worker does before it has a model: it waits, and uses the time. Memory is faulted in, a likely model is opened ahead.

Owns both until the load takes them. Works only while the machine is idle. Invariant: a wrong guess costs a load nothing:
the guessed model is let go when there is time for that again.
"""

import contextlib
import os
import sys
from collections.abc import Callable

from fastrouter.errors import FastrouterError
from fastrouter.messages import Load, LoadOptions, Message, Prime, Stop
from fastrouter.worker import llama
from fastrouter.worker.heap import WarmHeap, is_machine_idle

_PAUSE_MS = 5  # between two pieces of work, so that a load waits for one of them at most


class Guess:
    """A model opened before anybody asked for it: vocabulary read, weights mapped, no context."""

    def __init__(self, prime: Prime) -> None:
        self._key = _key(prime.path, prime.options)
        self._model = llama.Model(prime.path, prime.options)

    def model_for(self, load: Load) -> llama.Model | None:
        """The model if `load` means just this one."""
        is_same = not load.safe_mode and self._key == _key(load.path, load.options)
        return self._model if is_same else None

    def close(self) -> None:
        self._model.close()


def _key(path: str, options: LoadOptions) -> tuple[object, ...]:
    """What makes two opened models the same."""
    found = os.stat(path)
    return path, found.st_ino, found.st_size, found.st_mtime_ns, options.gpu_layers, options.mmap, options.mlock


class Spare:
    """`wait(timeout_ms)` gives the messages that have come; empty after the time or a signal."""

    def __init__(self, wait: Callable[[int | None], list[Message]]) -> None:
        self._wait = wait
        self._heap = WarmHeap()
        self._prime: Prime | None = None  # not done yet
        self._guess: Guess | None = None

    def __repr__(self) -> str:
        return f"<Spare {self._heap!r}{' primed' if self._guess else ''}>"

    def await_load(self, is_stopping: Callable[[], bool]) -> tuple[Load, list[Message]] | None:
        """The load, and what came right after it; None: stop."""
        try:
            while not is_stopping():
                has_work = self._heap.is_cold or self._prime is not None
                messages = self._wait(_PAUSE_MS if has_work else None)
                for index, message in enumerate(messages):
                    if isinstance(message, Load):
                        return message, messages[index + 1 :]
                    if isinstance(message, Stop):
                        return None
                    if isinstance(message, Prime):
                        self._prime = message
                if not messages and has_work and is_machine_idle():
                    self._work()
            return None
        finally:
            self._heap.give()

    def _work(self) -> None:
        if self._prime is not None:
            prime, self._prime = self._prime, None
            self._open(prime)
        else:
            self._heap.warm()

    def _open(self, prime: Prime) -> None:
        self.let_go()
        try:
            self._guess = Guess(prime)
        except (FastrouterError, OSError) as error:  # the load will say it to somebody who wants to know
            sys.stderr.write(f"{prime.path} cannot be opened ahead: {error}\n")

    def take_model(self, load: Load) -> llama.Model | None:
        """The model, if the guess was right."""
        model = None
        if self._guess is not None:
            with contextlib.suppress(OSError):  # the file has gone: the load will say so
                model = self._guess.model_for(load)
        if model is not None:
            self._guess = None
        return model

    @property
    def has_wrong_guess(self) -> bool:
        """After `take_model`: something is left to let go."""
        return self._guess is not None

    def let_go(self) -> None:
        """Close a wrong guess. Idempotent."""
        guess, self._guess = self._guess, None
        if guess is not None:
            guess.close()
