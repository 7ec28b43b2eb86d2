"""A download process: one job from stdin, reports to stdout. It ends with its parent: by a signal, or at the end of stdin.

Invariant: its last report is `finished` or `failed`, unless it is killed.
"""

import ctypes
import json
import os
import signal
import sys
import threading
from typing import Any

from fastrouter.errors import FastrouterError
from fastrouter.hub.job import DownloadFailed, Refused, read_job
from fastrouter.system.standard_streams import open_missing

_PR_SET_PDEATHSIG = 1
_NICENESS = 10


def main() -> int:
    open_missing()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the parent too, and the parent decides
    line = sys.stdin.buffer.readline()
    if not line:
        return 1
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(_NICENESS)
    try:
        from fastrouter.hub.fetch import Fetch  # the hub's library, imported when it is first needed

        Fetch(read_job(line), _report).run()
    except DownloadFailed as error:
        return _fail(type(error).__name__, error.message)
    except FastrouterError as error:
        return _fail(Refused.__name__, error.message)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(DownloadFailed.__name__, f"{where}{error.strerror or error}")
    except Exception as error:  # the hub's answer can be anything, and the library is not ours
        return _fail(DownloadFailed.__name__, f"the hub's answer cannot be read ({type(error).__name__}: {str(error)[:200]})")
    return 0


def _report(report: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(report).encode() + b"\n")
    sys.stdout.buffer.flush()


def _fail(kind: str, message: str) -> int:
    _report({"event": "failed", "kind": kind, "message": message})
    return 1


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not through the buffer: its lock would block our own end
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
