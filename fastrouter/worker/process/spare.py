"""What a worker does before it has a model: it waits, and prepares. It touches memory, and opens a likely model early.

Owns both until the load takes them. Works only while a core is free. Invariant: a wrong guess costs a load nothing: the guessed model is
closed later, when there is time.
"""

import contextlib
import os
import sys
from collections.abc import Callable

from fastrouter.errors import FastrouterError
from fastrouter.ipc.messages import Load, Message, Prime
from fastrouter.options.load import LoadOptions
from fastrouter.system.machine import is_core_free
from fastrouter.worker.llama.binding import drop_best_variants, has_device_backend
from fastrouter.worker.llama.model import Model
from fastrouter.worker.process.warm_heap import WarmHeap, allocated_bytes, trim

_PAUSE_MS = 1  # between two pieces of work, so that a load waits for at most one of them
_BUSY_PAUSE_MS = 20  # between two checks while no core is free: checks cost time too
_WORTH_TRIMMING_BYTES = 32 << 20
_CALM = 10  # this many checks in a row must find a free core before work begins: threads that decode pause for moments
# The options that an opened model depends on.
_OPENED_WITH = (
    *("gpu_layers", "mmap", "mlock", "direct_io", "repack", "no_host", "numa", "check_tensors", "lazy_mode", "override_kv"),
    *("rpc", "devices", "split_mode", "tensor_split", "main_gpu", "override_tensor", "cpu_moe", "n_cpu_moe", "n_cpu_ffn"),
)


class Guess:
    """A model that was opened before a request needs it: vocabulary read, weights mapped, no context."""

    def __init__(self, path: str, options: LoadOptions, safe_mode: bool = False) -> None:
        self.key = _key(path, options, safe_mode)
        before = allocated_bytes()
        self._model = Model(path, options, safe_mode=safe_mode)
        self.heap_bytes = allocated_bytes() - before

    def model_for(self, load: Load) -> Model | None:
        """The model, if `load` means exactly this one."""
        return self._model if self.key == _key(load.path, load.options, load.safe_mode) else None

    def close(self) -> None:
        self._model.close()


def _key(path: str, options: LoadOptions, safe_mode: bool) -> tuple[object, ...]:
    """Equal for opened models that are the same."""
    found = os.stat(path)
    how = [getattr(options, name) for name in _OPENED_WITH]
    return path, found.st_ino, found.st_size, found.st_mtime_ns, safe_mode, *how


class Spare:
    """`wait(timeout_ms)` returns the messages that have come; none when the time is over."""

    def __init__(self, wait: Callable[[int | None], list[Message]]) -> None:
        self._wait = wait
        self._heap = WarmHeap(0)
        self._to_open: Prime | None = None
        self._guess: Guess | None = None
        self.taken_bytes = 0  # what the opened model had allocated before it was taken
        self._num_dropped = 0  # CPU variants of llama.cpp
        self._num_free = 0  # checks in a row that found a free core

    def __repr__(self) -> str:
        return f"<Spare {self._heap!r}{' primed' if self._guess else ''}>"

    def await_load(self) -> tuple[Load, list[Message]]:
        """The load, and the messages directly after it."""
        try:
            while True:
                has_work = self._heap.is_cold or self._to_open is not None
                messages = self._wait((_PAUSE_MS if self._num_free else _BUSY_PAUSE_MS) if has_work else None)
                for index, message in enumerate(messages):
                    if isinstance(message, Load):
                        return message, messages[index + 1 :]
                    if isinstance(message, Prime):
                        self._take_orders(message)
                if not messages and has_work:
                    self._num_free = self._num_free + 1 if is_core_free() else 0
                    if self._num_free >= _CALM:
                        self._work()
        finally:
            self._heap.give()

    def _take_orders(self, prime: Prime) -> None:
        if has_device_backend():
            return  # its memory is on the device, which is not used for guesses
        if not self._heap.wanted_bytes // 2 <= prime.heap_bytes <= self._heap.wanted_bytes:
            is_less = prime.heap_bytes < self._heap.wanted_bytes
            self._heap.give()
            if is_less:
                trim()  # closed models have freed memory, which goes back to the system now
            self._heap = WarmHeap(prime.heap_bytes)
        self._to_open = prime if prime.path is not None else None
        if prime.path is None:
            self.let_go()

    def _work(self) -> None:
        if self._to_open is not None:
            prime, self._to_open = self._to_open, None
            self.drop_variants(prime.num_dropped)
            self._open(str(prime.path), prime.options, prime.safe_mode)
        else:
            self._heap.warm()

    def drop_variants(self, num_dropped: int) -> None:
        """Continue with a CPU variant that is not the best. An open model uses the old one, so it is closed."""
        if num_dropped != self._num_dropped:
            self._num_dropped = num_dropped
            self.let_go()
            drop_best_variants(num_dropped)

    def _open(self, path: str, options: LoadOptions, safe_mode: bool) -> None:
        try:
            if self._guess is not None and self._guess.key == _key(path, options, safe_mode):
                return  # only the amount of memory to touch has changed
            self.let_go()
            self._guess = Guess(path, options, safe_mode)
        except (FastrouterError, OSError) as error:  # if this model is really loaded, the load reports the error
            sys.stderr.write(f"{path} cannot be opened ahead: {error}\n")

    def take_model(self, load: Load) -> Model | None:
        """The model, if the guess was right."""
        model = None
        if self._guess is not None:
            with contextlib.suppress(OSError):  # the file is gone: the load reports it
                model = self._guess.model_for(load)
        if model is not None and self._guess is not None:
            self.taken_bytes = self._guess.heap_bytes
            self._guess = None
        return model

    def let_go(self) -> None:
        """Close the model that was opened early, if there is one."""
        guess, self._guess = self._guess, None
        if guess is not None:
            guess.close()

    @property
    def has_leftovers(self) -> bool:
        """After `take_model`: a wrong guess, or memory that the model may not have needed."""
        return self._guess is not None or self._heap.wanted_bytes > _WORTH_TRIMMING_BYTES

    def tidy_up(self) -> None:
        """It takes some milliseconds, so it runs only while a core is free. Idempotent."""
        if self.has_leftovers and is_core_free():
            self.let_go()
            self._heap = WarmHeap(0)
            trim()
