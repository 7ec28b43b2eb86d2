"""The router's side of built-in tools: a process for each call, a limit of calls at a time.

Invariant: when a call is over, by its result, its time or a client that left, its process has been told to end.
"""

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import orjson

from fastrouter.api.tools.job import MAX_REPORT_BYTES, ToolJob, start_process, to_message
from fastrouter.errors import FastrouterError, Unavailable
from fastrouter.options.tool_definitions import MAX_TIMEOUT_S

log = logging.getLogger("fastrouter.tools")

MAX_RUNNING = 8
DEADLINE_S = MAX_TIMEOUT_S + 10.0
FILE_DEADLINE_S = 30.0
GRACE_S = 3.0  # to end what it has started


class ToolError(FastrouterError):
    """The process of a tool did not give a result."""


class ToolProcesses:
    def __init__(self) -> None:
        self._num_running = 0

    def __repr__(self) -> str:
        return f"<ToolProcesses {self._num_running} running>"

    async def call(self, job: ToolJob) -> dict[str, Any]:
        """Raises FastrouterError."""
        result: dict[str, Any] = {}
        async for report in self.follow(job):
            result = report.get("result", result)
        return result

    async def follow(self, job: ToolJob) -> AsyncIterator[dict[str, Any]]:
        """`chunk`s, then the `result`. Raises FastrouterError."""
        if self._num_running >= MAX_RUNNING:
            raise Unavailable(f"{MAX_RUNNING} tools are running already")
        self._num_running += 1
        try:
            async with asyncio.timeout(DEADLINE_S if job.tool == "exec_shell_command" else FILE_DEADLINE_S):
                async with contextlib.aclosing(_reports(job)) as reports:
                    async for report in reports:
                        yield report
        except TimeoutError:
            raise ToolError(f"the tool {job.tool} took too long") from None
        finally:
            self._num_running -= 1


async def _reports(job: ToolJob) -> AsyncGenerator[dict[str, Any], None]:
    loop = asyncio.get_running_loop()
    try:
        process = await loop.run_in_executor(None, start_process, to_message(job))
    except OSError as error:
        raise ToolError(f"the tool cannot be started: {error}") from None
    assert process.stdout is not None
    reader = asyncio.StreamReader(limit=MAX_REPORT_BYTES)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    has_result = False
    try:
        while line := await reader.readline():
            report = orjson.loads(line)
            has_result = has_result or "result" in report
            yield report
    except ValueError as error:
        raise ToolError(f"the tool {job.tool} sent something unreadable: {error}") from None
    finally:
        transport.close()
        await asyncio.shield(loop.run_in_executor(None, end, process))
    if not has_result:
        raise ToolError(f"the tool {job.tool} ended without a result: it may have taken too much time or memory")


def end(process: "subprocess.Popen[bytes]") -> None:
    """Blocks until it has ended, with all that it has started."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    await_end(process)


def await_end(process: "subprocess.Popen[bytes]") -> None:
    """The same, when its stdin is closed already."""
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
