"""The process that becomes ffmpeg: it takes its own rights away first. See video.py."""

import os
import sys

from fastrouter.api.tools.confine import DEVICES, PROGRAMS, SYSTEM, drop_capabilities, limit_resources
from fastrouter.system.confinement import confine_files
from fastrouter.system.reexec import environment_for_others

_CPU_S = 30
_MEMORY_BYTES = 2 << 30
_NICENESS = 5


def become(command: list[str]) -> int:
    """Does not return, unless the program cannot be started. A kernel without Landlock leaves it the files that its user may read."""
    os.nice(_NICENESS)
    drop_capabilities()
    limit_resources(_CPU_S, _MEMORY_BYTES)
    confine_files((os.path.dirname(os.path.realpath(command[0])), *PROGRAMS, *SYSTEM), (), DEVICES)
    try:
        os.execve(command[0], command, environment_for_others(os.environ))
    except OSError as error:
        sys.stderr.write(f"ffmpeg cannot be started: {error.strerror}\n")
    return 1
