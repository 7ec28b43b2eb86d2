"""foreground.py COMMAND...: runs the command in a separate process group that has the terminal, like a shell. For `make run`.

Ctrl-C then reaches only the command, and not make, which would end with an error although the command has ended well.
"""

import contextlib
import os
import signal
import subprocess
import sys

TERMINAL = 0  # standard input


def hand_over(giver: int, taker: int) -> None:
    """The terminal, if the giver has it."""
    with contextlib.suppress(OSError):  # it has been closed
        if os.tcgetpgrp(TERMINAL) == giver:
            os.tcsetpgrp(TERMINAL, taker)


def run(command: list[str]) -> int:
    """Returns the exit code; 128 plus the signal's number for a command that a signal ended."""
    child = subprocess.Popen(command, process_group=0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # otherwise taking the terminal back would stop us
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: child.send_signal(number))
    group = os.getpgrp()
    while True:
        hand_over(group, child.pid)
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        hand_over(child.pid, group)
        if not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        os.killpg(group, signal.SIGSTOP)  # Ctrl-Z: make stops too, and we continue here when the shell continues both
        os.killpg(child.pid, signal.SIGCONT)


if __name__ == "__main__":
    if not os.isatty(TERMINAL):
        os.execvp(sys.argv[1], sys.argv[1:])
    sys.exit(run(sys.argv[1:]))
