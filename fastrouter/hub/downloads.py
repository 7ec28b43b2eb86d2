"""The router's side of downloads: one process for each model, several at the same time, and their reports. Never imports: catalog.

Invariant: a model is downloaded by at most one process; when a download is over, its process has ended.
"""

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from fastrouter.errors import FastrouterError, Unavailable
from fastrouter.hub.job import MAX_REPORT_BYTES, DownloadFailed, DownloadJob, start_process, to_failure

log = logging.getLogger("fastrouter.hub")

MAX_RUNNING = 2
MAX_WAITING = 64
MAX_REMEMBERED = 64  # failures

OnEvent = Callable[[str, str, dict[str, Any]], None]  # model, event, data
OnFinished = Callable[["Download"], Awaitable[str]]  # returns the id that the model has from now on


class Cancelled(DownloadFailed):
    """By a user, or because the router ends."""


class Download:
    """One model that is being downloaded."""

    def __init__(self, name: str, job: DownloadJob) -> None:
        self.name = name
        self.job = job
        self.files: dict[str, dict[str, int]] = {}  # {done, total} by URL
        self.parts: list[str] = []  # unfinished files
        self.path = ""  # at the end: that of its first file inside the repository
        self.error: FastrouterError | None = None
        self.is_known = asyncio.Event()  # the hub has it and the download has begun, or it is over
        self.is_over = False

    def __repr__(self) -> str:
        return f"<Download {self.name} {self.percent}%>"

    @property
    def percent(self) -> int:
        total = sum(file["total"] for file in self.files.values())
        return 100 * sum(file["done"] for file in self.files.values()) // total if total else 0

    def read(self, report: dict[str, Any]) -> None:
        """Take a report of its process."""
        kind = report.get("event")
        if kind in ("planned", "progress"):
            self.files = report["files"]
            self.parts = report.get("parts", self.parts)
            self.is_known.set()
        elif kind == "waiting":
            log.warning("%s: %s; trying again in %g s", self.name, report["why"], report["pause_s"])
        elif kind == "finished":
            self.path = report["path"]
        elif kind == "failed":
            self.error = to_failure(report)


class Downloads:
    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._room = asyncio.Semaphore(MAX_RUNNING)
        self._running: dict[str, tuple[Download, asyncio.Task[None]]] = {}  # by name in lower case
        self._failures: dict[str, FastrouterError] = {}

    def __repr__(self) -> str:
        return f"<Downloads {self.all()}>"

    def all(self) -> list[Download]:
        return [download for download, _ in self._running.values()]

    def find(self, name: str) -> Download | None:
        found = self._running.get(name.casefold())
        return found[0] if found else None

    def failure_of(self, name: str) -> FastrouterError | None:
        """Why the last attempt failed."""
        return self._failures.get(name.casefold())

    def start(self, name: str, job: DownloadJob, on_finished: OnFinished) -> Download:
        """In the background, or as soon as another download ends. Raises Unavailable."""
        assert self.find(name) is None
        if len(self._running) >= MAX_RUNNING + MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} downloads are waiting already")
        key = name.casefold()
        self._failures.pop(key, None)
        download = Download(name, job)
        self._running[key] = download, asyncio.create_task(self._run(key, download, on_finished))
        self._on_event(name, "model_status", {"status": "downloading"})
        return download

    async def cancel(self, name: str) -> Download | None:
        """What has been downloaded stays for the next attempt. None: nothing was running. Returns when the process has ended."""
        found = self._running.get(name.casefold())
        if found is None:
            return None
        download, task = found
        task.cancel()
        await asyncio.wait({task})
        return download

    async def stop(self) -> None:
        for download in self.all():
            await self.cancel(download.name)

    # ------------------------------------------------------------ one download

    async def _run(self, key: str, download: Download, on_finished: OnFinished) -> None:
        done: dict[str, Any] = {}
        try:
            async with self._room:
                await self._follow(download)
            if download.error is None:
                done = {"id": await on_finished(download)}
        except asyncio.CancelledError:  # by `cancel`; the task ends here
            download.error = Cancelled("it was cancelled")
        except FastrouterError as error:
            download.error = error
        except Exception as error:  # a mistake of ours ends one download, with its cause
            log.exception("%s: the download", download.name)
            download.error = DownloadFailed(f"{type(error).__name__}: {error}")
        del self._running[key]
        download.is_over = True
        download.is_known.set()
        self._tell_end(key, download, done)

    def _tell_end(self, key: str, download: Download, done: dict[str, Any]) -> None:
        if download.error is None:
            log.info("%s: downloaded", download.name)
            self._on_event(download.name, "download_finished", done)
            return
        if len(self._failures) >= MAX_REMEMBERED:
            self._failures.pop(next(iter(self._failures)))
        self._failures[key] = download.error
        level = logging.INFO if isinstance(download.error, Cancelled) else logging.ERROR
        log.log(level, "%s: not downloaded: %s", download.name, download.error.message)
        self._on_event(download.name, "download_failed", {"error": download.error.message})

    async def _follow(self, download: Download) -> None:
        """Until its process has ended. Raises FastrouterError."""
        try:
            process = start_process(download.job, stderr=subprocess.DEVNULL)  # it reports on stdout; ours may be a pipe without a reader
        except OSError as error:
            raise DownloadFailed(f"cannot start a download process: {error}") from None
        assert process.stdout is not None
        reader = asyncio.StreamReader(limit=MAX_REPORT_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
        try:
            while line := await reader.readline():
                download.read(orjson.loads(line))
                if download.files:
                    self._on_event(download.name, "download_progress", download.files)
        except (ValueError, KeyError, TypeError) as error:
            raise DownloadFailed(f"the download process sent something unreadable: {error}") from None
        finally:
            process.kill()
            transport.close()
            await asyncio.shield(loop.run_in_executor(None, _collect, process))
        if not download.path and download.error is None:
            raise DownloadFailed("the download process ended unexpectedly")


def _collect(process: "subprocess.Popen[bytes]") -> None:
    """It may take as long as the disk needs."""
    with contextlib.suppress(OSError):
        assert process.stdin is not None
        process.stdin.close()
    process.wait()
