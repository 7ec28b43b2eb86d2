"""--watch: reports that the preset file, the models folder or a cache has changed and is quiet again.

Never imports: catalog.scan, catalog.gguf. Invariant: it ends only with `stop`; when a folder vanishes or cannot be watched, only its own
changes are missed. One reload at a time.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from fastrouter.config.config import Config

log = logging.getLogger("fastrouter")

QUIET_S = 0.5  # seconds without a change, before a reload
MAX_WAIT_S = 5.0  # a file that grows for an hour must not delay others
LOOK_AGAIN_S = 1.0  # to check whether folders have come or gone
_PASSING = (".incomplete", ".downloadInProgress", ".part", ".partial", ".crdownload", ".lock", ".tmp", ".swp", "~")  # never models


class Watch:
    """Calls `on_change` a short time after the last change."""

    def __init__(self, config: Config, on_change: Callable[[], Awaitable[None]]) -> None:
        folders = [*([config.models_dir] if config.models_dir is not None else []), *config.cache_dirs]
        self._folders = [Path(os.path.abspath(folder)) for folder in folders]
        self._preset = Path(os.path.abspath(config.models_preset)) if config.models_preset is not None else None
        self._on_change = on_change
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._reload_after_changes()), loop.create_task(self._watch(self._folders, recursive=True))]
        if self._preset is not None:  # its folder, because editors replace the file; not what is below, which may be a whole home
            self._tasks.append(loop.create_task(self._watch([self._preset.parent], recursive=False)))

    def __repr__(self) -> str:
        return f"<Watch {', '.join(map(str, [*self._folders, *([self._preset] if self._preset else [])]))}>"

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _reload_after_changes(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            until = loop.time() + MAX_WAIT_S
            while self._changed.is_set() and loop.time() < until:
                self._changed.clear()
                await asyncio.sleep(QUIET_S)
            self._changed.clear()
            await self._on_change()

    async def _watch(self, folders: Iterable[Path], *, recursive: bool) -> None:
        """Until it is cancelled. Watching starts again when one of the folders has come, gone or been replaced."""
        awatch = await asyncio.get_running_loop().run_in_executor(None, _import_awatch)
        is_polling = False
        present = await asyncio.to_thread(_identities, folders)
        while True:
            if not present:
                await asyncio.sleep(LOOK_AGAIN_S)
            else:
                try:
                    await self._watch_present(awatch, present, recursive=recursive, force_polling=is_polling or None)
                except FileNotFoundError:
                    pass  # it was removed a moment ago
                except (OSError, RuntimeError) as error:  # too many folders for inotify, or a file system without it
                    if not is_polling:
                        log.warning("--watch: the system cannot report changes (%s), so folders are polled", error)
                    is_polling = True
                    await asyncio.sleep(LOOK_AGAIN_S)
            now = await asyncio.to_thread(_identities, folders)
            if present and not now:
                self._changed.set()  # no source of changes is left
            present = now

    async def _watch_present(self, awatch: Any, present: dict[Path, Any], **options: bool | None) -> None:
        """Until the set of folders changes."""
        changes = awatch(
            *present,
            watch_filter=self.is_news,
            debounce=200,
            step=50,
            rust_timeout=int(LOOK_AGAIN_S * 1000),
            yield_on_timeout=True,
            raise_interrupt=False,
            ignore_permission_denied=True,
            **options,
        )
        is_new = True
        async with contextlib.aclosing(changes):
            async for found in changes:
                if found or is_new:  # changes before the first round of watching were not reported
                    self._changed.set()
                if is_new:
                    log.info("watching %s", ", ".join(map(str, present)))
                    is_new = False
                if await asyncio.to_thread(_identities, present) != present:
                    return

    def is_news(self, change: Any, path: str) -> bool:
        if self._preset is not None and path == str(self._preset):
            return True
        is_below = any(path.startswith(f"{folder}{os.sep}") for folder in self._folders)
        return is_below and not path.endswith(_PASSING)


def _import_awatch() -> Any:
    from watchfiles import awatch  # slow to import, and needed with --watch only

    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    return awatch


def _identities(folders: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """The folders that exist; a new folder of the same name has another identity."""
    found = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            status = folder.stat()
            found[folder] = (status.st_dev, status.st_ino)
    return found
