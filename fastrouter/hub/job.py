"""The messages of a download process: one job as a JSON line in, reports as JSON lines out; and how it is started.

Invariant: the token is in the job and nowhere else: in no argument, environment variable, report or repr.
"""

import json
import os
import subprocess
from dataclasses import asdict, dataclass, field
from typing import Any

from fastrouter.errors import FastrouterError
from fastrouter.system.reexec import command_of, environment_for_own, start

COMMAND = command_of("fastrouter.hub")
MAX_REPORT_BYTES = 1 << 20
_TELLS_THE_TOKEN = "HF_DEBUG"  # it makes the hub's library print its requests


@dataclass(frozen=True, slots=True)
class DownloadJob:
    repo: str
    quant: str | None
    file: str | None  # this file, whatever its quant is
    cache_dir: str  # in the layout of Hugging Face
    endpoint: str  # without a slash at its end
    token: str | None = field(default=None, repr=False)
    with_projector: bool = True
    pause_s: float = 0.5  # after the first failed attempt; then it doubles


class DownloadFailed(FastrouterError):
    """The hub or this machine prevented it; the message ends with the cause. What has been downloaded stays for the next attempt."""


class Refused(DownloadFailed):
    """A repeated request will not help: no such repository, or no right to read it."""

    status = 400
    type = "invalid_request_error"


class HubUnavailable(DownloadFailed):
    """A later request may help."""

    status = 503
    type = "unavailable_error"
    retry_after_s = 10


_BY_KIND: dict[str, type[DownloadFailed]] = {cls.__name__: cls for cls in (DownloadFailed, Refused, HubUnavailable)}


def to_failure(report: dict[str, Any]) -> DownloadFailed:
    """The error of a `failed` report."""
    return _BY_KIND.get(str(report.get("kind")), DownloadFailed)(str(report.get("message", "no cause given")))


def start_process(job: DownloadJob, stderr: int | None = None) -> "subprocess.Popen[bytes]":
    """The caller keeps its stdin open: the process ends at the end of stdin, or with the thread that called. Raises OSError."""
    environment = {name: value for name, value in environment_for_own(os.environ).items() if name != _TELLS_THE_TOKEN}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = start(COMMAND, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")  # far less than the capacity of a pipe
    process.stdin.flush()
    return process


def read_job(line: bytes) -> DownloadJob:
    return DownloadJob(**json.loads(line))
