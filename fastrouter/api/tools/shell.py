"""The tools that run a program: one shell command, and the name of the system.

Invariant: when a command is over, or its time is, no process that it has started is left.
"""

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from fastrouter.api.tools.confine import (
    DEVICES,
    PROGRAMS,
    SYSTEM,
    adopt_orphans,
    drop_capabilities,
    in_own_thread,
    limit_resources,
)
from fastrouter.api.tools.folder import Folder, ToolFailed, number_param, text_param
from fastrouter.options.tool_definitions import MAX_TEXT_BYTES, MAX_TIMEOUT_S, USUAL_TIMEOUT_S
from fastrouter.system.confinement import confine_files
from fastrouter.system.reexec import environment_for_others

PIECE_BYTES = 4096
_ROUNDS = 200  # to end processes that start others meanwhile
# Everything else may be a secret, or mean something only to this program.
_PASSED_ON = ("PATH", "LANG", "LANGUAGE", "TZ", "USER", "LOGNAME", "LD_LIBRARY_PATH")
_USUAL_PATH = "/usr/local/bin:/usr/bin:/bin"

OnPiece = Callable[[str], None]


def get_info(folder: Folder, params: dict[str, Any]) -> dict[str, Any]:
    name = os.uname()
    return {"os": f"{name.sysname} {name.release} {name.version} {name.machine}", "cwd": folder.cwd}


def run_command(folder: Folder, params: dict[str, Any], on_piece: OnPiece) -> dict[str, Any]:
    """`on_piece` gets the output as it comes."""
    command = text_param(params, "command")
    if "\0" in command:
        raise ToolFailed("the command has a NUL")
    timeout_s = min(max(1, number_param(params, "timeout", USUAL_TIMEOUT_S)), MAX_TIMEOUT_S)
    most = min(max(0, number_param(params, "max_output_size", MAX_TEXT_BYTES)), MAX_TEXT_BYTES)
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="fastrouter-tool-", ignore_cleanup_errors=True) as own:

        def run() -> str:
            _confine_to(folder, own, timeout_s)
            return _Run(command, folder, own, most, on_piece).follow(time.monotonic() + timeout_s)

        try:
            text = in_own_thread(run)
        finally:
            end_all()
    return {"plain_text_response": text}


def _confine_to(folder: Folder, own: str, timeout_s: int) -> None:
    drop_capabilities()
    readable = (folder.root, *SYSTEM, *PROGRAMS, *_path_folders())
    if not confine_files(readable, (), (folder.root, own, *DEVICES), keeps_network=True):
        raise ToolFailed(f"this kernel cannot confine commands to {folder.root}")
    limit_resources(2 * timeout_s)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory ends, a command is ended first


def _path_folders() -> Iterator[str]:
    """Where the user has programs."""
    home = os.path.expanduser("~")
    for path in os.environ.get("PATH", _USUAL_PATH).split(os.pathsep):
        if os.path.isabs(path) and os.path.realpath(path) not in ("/", home):
            yield path


def _environment(folder: Folder, own: str) -> dict[str, str]:
    ours = environment_for_others(os.environ)
    passed = {name: value for name, value in ours.items() if name in _PASSED_ON or name.startswith("LC_")}
    return {"PATH": _USUAL_PATH, **passed, "HOME": folder.root, "PWD": folder.cwd, "TMPDIR": own, "TERM": "dumb", "SHELL": "/bin/sh"}


class _Run:
    """One command while it runs. Its thread is confined."""

    def __init__(self, command: str, folder: Folder, own: str, most: int, on_piece: OnPiece) -> None:
        self._room = most
        self._on_piece = on_piece
        self._rest = b""  # half a character
        self.text = ""
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                cwd=folder.cwd,
                env=_environment(folder, own),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ToolFailed(f"the command cannot be started: {error.strerror or error}") from None

    def follow(self, deadline: float) -> str:
        """Until the shell ends or the deadline; returns the output and the line about its end."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        os.set_blocking(output, False)
        is_open, is_running = True, True
        while is_running and time.monotonic() < deadline:
            ready, _, _ = select.select([output] if is_open else [], [], [], 0.05)
            is_running = self._process.poll() is None
            is_open = not ready or self._take(output)
        while is_open and not is_running and self._take(output) and select.select([output], [], [], 0)[0]:
            pass  # what it wrote at its end
        tail = self._end(is_late=is_running)
        self._on_piece(tail)
        return self.text + tail

    def _end(self, *, is_late: bool) -> str:
        if is_late:
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        cut = "\n[output truncated]" if self._room <= 0 else ""
        return f"{cut}\n[exit code: {code}]{' [exit due to timed out]' if is_late else ''}"

    def _take(self, output: int) -> bool:
        """False: the output has ended."""
        try:
            piece = os.read(output, PIECE_BYTES)
        except BlockingIOError:
            return True
        if piece and self._room > 0:
            self._keep(piece[: self._room])
            self._room -= len(piece)
        return bool(piece)

    def _keep(self, piece: bytes) -> None:
        whole = self._rest + piece
        at = _last_start(whole)
        text, self._rest = whole[:at].decode("utf-8", "replace"), whole[at:]
        self.text += text
        if text:
            self._on_piece(text)


def _last_start(text: bytes) -> int:
    """Where a character begins that is not complete yet; otherwise the end."""
    for back in range(1, min(4, len(text) + 1)):
        byte = text[-back]
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(text) - back if size > back else len(text)
        if byte < 0x80:
            break
    return len(text)


def end_all() -> None:
    """Ends all processes below this one."""
    for _ in range(_ROUNDS):
        below = _below(os.getpid())
        if not below:
            return
        for pid in below:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)


def _below(pid: int) -> list[int]:
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                parents[int(entry)] = int(file.read().rpartition(b")")[2].split()[1])
    found = [pid]
    for parent in found:  # grows meanwhile
        found += [child for child, of in parents.items() if of == parent]
    return found[1:]
