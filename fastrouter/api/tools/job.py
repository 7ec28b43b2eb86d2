"""The messages of a tool's process: one job as a JSON line in, pieces and a result as JSON lines out; and how it is started."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fastrouter.system.reexec import command_of, environment_for_own, start

COMMAND = command_of("fastrouter.api.tools")
MAX_REPORT_BYTES = 16 << 20
MCP = "mcp"  # the kind of a process that talks to MCP servers
TOOL = "tool"
VIDEO_FLAG = "--video"  # an argument instead of a first message: a command of ffmpeg follows


@dataclass(frozen=True, slots=True)
class ToolJob:
    tool: str
    params: dict[str, Any]
    root: str  # the folder of --tools-dir
    cwd: str = ""
    is_stream: bool = False


def start_process(first: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
    """The caller keeps its stdin open: the process and all that it has started end at the end of stdin. Raises OSError."""
    process = start(COMMAND, environment_for_own(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        send(process, first)
    except OSError:
        process.kill()
        process.wait()
        raise
    return process


def send(process: "subprocess.Popen[bytes]", message: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()


def to_message(job: ToolJob) -> dict[str, Any]:
    return {"kind": TOOL, **asdict(job)}


def read_job(message: dict[str, Any]) -> ToolJob:
    return ToolJob(**{name: value for name, value in message.items() if name != "kind"})
