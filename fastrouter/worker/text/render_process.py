"""A process that renders chat templates: a template there has limited time and memory, and cannot disturb other requests.

Both sides are in this file. The worker starts it, asks, and kills it when it is late; it reads one question after the other from a
socket until that closes. Frames: `u32 little-endian length | JSON`. Invariant: an answer belongs to the question before it;
a process that was too late is never asked again.
"""

import resource
import select
import socket
import struct
import subprocess
import time
from functools import lru_cache
from typing import Any

import orjson

from fastrouter.errors import FastrouterError, InvalidRequest, from_wire
from fastrouter.system.reexec import command_of
from fastrouter.worker.text import chat_template
from fastrouter.worker.text.template_sandbox import TooMuchMemory
from fastrouter.worker.text_jobs import check

MAX_MEMORY_BYTES = 1 << 30
_START_S = 60.0  # it imports Jinja, perhaps on a busy machine
_GRACE_S = 1.0  # more than the time after which it stops itself
_LOOK_S = 0.05  # how often to check that a client still waits
_MAX_TEMPLATES = 16  # kept compiled
_LENGTH = struct.Struct("<I")
_UP = b"!"  # its first byte: ready

# ---------------------------------------------------------------- in the worker


class ProcessEnded(InvalidRequest):
    """It died during a question, because of the question or for another reason."""


class RenderProcess:
    """Belongs to one thread at a time."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [*command_of("fastrouter.worker"), "--render", str(theirs.fileno())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self._is_up = False

    def __repr__(self) -> str:
        return f"<RenderProcess {self._process.pid}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._socket.fileno() >= 0 and self._process.poll() is None

    def render(self, question: dict[str, Any]) -> tuple[str, list[str]]:
        """The text, and what was changed in the messages, in words. Raises InvalidRequest, also when the process had to be killed, and
        CancelledError when no client waits any more: then it is killed too."""
        try:
            if not self._is_up:
                self._is_up = self._receive(1, time.monotonic() + _START_S) == _UP
            payload = orjson.dumps(question)
            deadline = time.monotonic() + chat_template.MAX_SECONDS + _GRACE_S
            self._send(_LENGTH.pack(len(payload)) + payload, deadline)
            (length,) = _LENGTH.unpack(self._receive(_LENGTH.size, deadline))
            answer = orjson.loads(self._receive(length, deadline))
        except TimeoutError:
            self.close()
            raise InvalidRequest(f"chat template: not done after {chat_template.MAX_SECONDS:g} s") from None
        except (OSError, EOFError):
            self.close()
            raise ProcessEnded("chat template: the process that rendered it has ended") from None
        except BaseException:  # the caller gets it; the process is in the middle of an answer
            self.close()
            raise
        if "error" in answer:
            raise from_wire(answer["error"])
        return str(answer["text"]), list(answer["adaptations"])

    def _send(self, frame: bytes, deadline: float) -> None:
        rest = memoryview(frame)
        while rest:
            self._await(select.POLLOUT, deadline)
            rest = rest[self._socket.send(rest, socket.MSG_DONTWAIT) :]

    def _receive(self, length: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < length:
            self._await(select.POLLIN, deadline)
            piece = self._socket.recv(min(length - len(data), 1 << 18), socket.MSG_DONTWAIT)
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _await(self, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        while not poll.poll(_LOOK_S * 1000):
            check()
            if time.monotonic() > deadline:
                raise TimeoutError

    def close(self) -> None:
        """Kill it. Idempotent."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


# ---------------------------------------------------------------- in the process

_template = lru_cache(_MAX_TEMPLATES)(chat_template.ChatTemplate)


def serve(fd: int) -> int:
    """Runs until the worker closes the socket."""
    asked = socket.socket(fileno=fd)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asked.sendall(_UP)
    with asked.makefile("rb") as questions:
        while len(head := questions.read(_LENGTH.size)) == _LENGTH.size:
            _limit_time()
            answer = _answer(questions.read(_LENGTH.unpack(head)[0]))
            asked.sendall(_LENGTH.pack(len(answer)) + answer)
    return 0


def _limit_time() -> None:
    """For the case that the worker dies and cannot kill it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime + chat_template.MAX_SECONDS + 2 * _GRACE_S) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


def _answer(payload: bytes) -> bytes:
    try:
        question = orjson.loads(payload)
        template = _template(question["source"], **question["tokens"])
        text = template.render(*question["arguments"], **question["kwargs"])
        return orjson.dumps({"text": text, "adaptations": list(template.adaptations)})
    except MemoryError:
        error: FastrouterError = TooMuchMemory()
    except FastrouterError as problem:
        error = problem
    except Exception as problem:  # untrusted code: it may raise anything
        error = InvalidRequest(f"chat template: {type(problem).__name__}: {problem}")
    return orjson.dumps({"error": error.to_wire()})
