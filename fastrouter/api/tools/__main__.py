"""A tool's process: one built-in tool, or all conversations with MCP servers. It ends at the end of stdin, with all that it has started.

Invariant: the last report of a built-in tool is its `result`, unless the process is killed.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from fastrouter.api.tools.confine import in_own_thread, limit_resources
from fastrouter.api.tools.ffmpeg import become
from fastrouter.api.tools.files import edit_file, read_file, write_file
from fastrouter.api.tools.folder import Folder, ToolFailed
from fastrouter.api.tools.job import MCP, VIDEO_FLAG, ToolJob, read_job
from fastrouter.api.tools.search import file_glob_search, grep_search
from fastrouter.api.tools.shell import end_all, get_info, run_command
from fastrouter.options.tool_definitions import BY_NAME
from fastrouter.system.confinement import confine_files
from fastrouter.system.standard_streams import open_missing

_SEARCH_S = 15  # of a CPU
_MEMORY_BYTES = 2 << 30
_NICENESS = 5

_OF_FILES: dict[str, Callable[[Folder, dict[str, Any]], dict[str, Any]]] = {
    "read_file": read_file,
    "write_file": write_file,
    "edit_file": edit_file,
    "file_glob_search": file_glob_search,
    "grep_search": grep_search,
    "get_info": get_info,
}


def main() -> int:
    open_missing()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the parent too, and the parent decides
    if sys.argv[1:2] == [VIDEO_FLAG]:
        return become(json.loads(sys.argv[2]))
    line = sys.stdin.buffer.readline()
    if not line:
        return 1
    message = json.loads(line)
    if message["kind"] == MCP:
        from fastrouter.api.tools.mcp_host import run_host  # with the package `mcp`, which takes a second to import

        return run_host(message)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(_NICENESS)
    _report({"result": _result_of(read_job(message))})
    return 0


def _result_of(job: ToolJob) -> dict[str, Any]:
    try:
        return _run(job, Folder(job.root, job.cwd))
    except ToolFailed as error:
        return {"error": str(error)}
    except (RecursionError, MemoryError, OSError) as error:
        return {"error": f"the tool failed: {type(error).__name__} {error}"}


def _run(job: ToolJob, folder: Folder) -> dict[str, Any]:
    if job.tool == "exec_shell_command":
        return run_command(folder, job.params, _tell if job.is_stream else lambda piece: None)
    limit_resources(_SEARCH_S, _MEMORY_BYTES)

    def use() -> dict[str, Any]:
        _confine_to_folder(folder, can_write=BY_NAME[job.tool].can_write)
        return _OF_FILES[job.tool](folder, job.params)

    return in_own_thread(use)


def _confine_to_folder(folder: Folder, *, can_write: bool) -> None:
    """A kernel without Landlock cannot; the names of the files are checked all the same."""
    confine_files((folder.root,), (), (folder.root,) if can_write else ())


def _tell(piece: str) -> None:
    _report({"chunk": piece})


def _report(report: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(report).encode() + b"\n")
    sys.stdout.buffer.flush()


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not through the buffer: its lock would block our own end
        pass
    end_all()
    threading.main_thread().join(1)  # it removes the command's own folder
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
