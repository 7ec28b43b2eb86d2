"""Waiting for events in other processes, and counting what they leave."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import parents

FAKE = [sys.executable, str(Path(__file__).parent / "fake_worker.py")]
DEADLINE_S = 30.0
PR_SET_CHILD_SUBREAPER = 36


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return {entry for entry in found if not entry.endswith("/dev/null")}  # libuv keeps one open


def children() -> list[int]:
    return [pid for pid, parent in parents().items() if parent == os.getpid()]


async def until(is_so: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (value := is_so()):
        assert time.monotonic() < end, f"{what}: still not so"
        await asyncio.sleep(0.005)
    return value
