"""One download: the hub's listing -> the files of a model -> the cache. Runs in a separate process and reports its progress.

The hub's library lists, signs and maps errors. The transfer is ours, because the library's starts again in each process and checks only
sizes. Invariant: all that `finished` names is complete and has the hub's checksums.
"""

import time
from collections.abc import Callable
from typing import Any, BinaryIO
from urllib.parse import quote

from huggingface_hub import HfApi, constants
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from fastrouter import __version__
from fastrouter.hub.cache import Repository
from fastrouter.hub.http_client import open_session
from fastrouter.hub.job import DownloadFailed, DownloadJob, Refused
from fastrouter.hub.retry import CutShort, keep_trying
from fastrouter.hub.select_files import RemoteFile, choose

REPORT_S = 0.25
MAX_DOWNLOADS = 2  # of a file whose content turns out to be wrong

Report = Callable[[dict[str, Any]], None]


class Fetch:
    def __init__(self, job: DownloadJob, report: Report) -> None:
        self._job = job
        self._report = report
        self._reported_at = 0.0
        self._repository = Repository(job.cache_dir, job.repo)
        self._progress: dict[str, dict[str, int]] = {}  # by URL
        self._headers = build_hf_headers(token=job.token or False, library_name="fastrouter", library_version=__version__)
        self._headers["Accept-Encoding"] = "identity"  # the sizes are those of the files

    def run(self) -> None:
        """Raises FastrouterError, OSError."""
        if constants.HF_HUB_OFFLINE:
            raise Refused("HF_HUB_OFFLINE is set")
        open_session(self._job.endpoint)
        commit, listing = keep_trying(self._list, lambda: False, self._job.repo, self._job.pause_s, self._say_waiting)
        job = self._job
        files = choose(listing, job.quant, job.file, with_projector=job.with_projector)
        urls = {remote: f"{job.endpoint}/{job.repo}/resolve/{commit}/{quote(remote.path)}" for remote in files}
        for remote in files:
            self._progress[urls[remote]] = {"done": self._repository.done_bytes(remote), "total": remote.size_bytes}
        self._repository.check_space(files)
        self._report({"event": "planned", "files": self._progress, "parts": [self._repository.part(remote) for remote in files]})
        for remote in files:
            self._fetch(remote, urls[remote])
        self._repository.publish(commit, files)
        self._say_progress(is_last=True)
        self._report({"event": "finished", "path": files[0].path})

    def _list(self) -> tuple[str, list[RemoteFile]]:
        """(revision, files) of the main branch."""
        api = HfApi(self._job.endpoint, self._job.token or False, library_name="fastrouter", library_version=__version__)
        found = api.model_info(self._job.repo, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        files = []
        for sibling in found.siblings or []:
            checksum = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
            size = sibling.lfs.size if sibling.lfs is not None else sibling.size
            if isinstance(checksum, str) and isinstance(size, int):
                files.append(RemoteFile(sibling.rfilename, size, checksum))
        return str(found.sha), files

    def _fetch(self, remote: RemoteFile, url: str) -> None:
        """Until its blob is complete, by us or by another process."""
        num_wrong = 0
        while num_wrong < MAX_DOWNLOADS:
            if self._repository.has(remote):
                return
            with self._repository.open_part(remote) as part:
                if part is not None:
                    self._transfer(remote, url, part)
                    num_wrong += not self._repository.keep(remote, part)
        raise DownloadFailed(f"{remote.path}: the downloaded data does not match the hub's checksum ({remote.checksum})")

    def _transfer(self, remote: RemoteFile, url: str, part: BinaryIO) -> None:
        """Until the part has its full size. An attempt continues where the last one was cut."""
        furthest = part.tell()

        def has_progressed() -> bool:
            nonlocal furthest
            was, furthest = furthest, max(furthest, part.tell())
            return furthest > was

        while part.tell() < remote.size_bytes:
            keep_trying(lambda: self._read_once(remote, url, part), has_progressed, remote.path, self._job.pause_s, self._say_waiting)

    def _read_once(self, remote: RemoteFile, url: str, part: BinaryIO) -> None:
        start = part.tell()
        headers = {**self._headers, **({"Range": f"bytes={start}-"} if start else {})}
        with get_session().stream("GET", url, headers=headers) as response:
            if response.status_code == 416:
                _empty(part)
                raise CutShort("the hub does not have the rest of it")
            hf_raise_for_status(response)
            if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                _empty(part)  # the hub sends all of it again
            for block in response.iter_bytes():
                _write(part, block[: remote.size_bytes - part.tell()])
                self._progress[url]["done"] = part.tell()
                self._say_progress()
                if part.tell() == remote.size_bytes:
                    return  # more data may follow, but it does not belong to the file; the checksum decides
        raise CutShort(f"the transfer ended at byte {part.tell()} of {remote.size_bytes}")

    def _say_waiting(self, why: str, pause_s: float) -> None:
        self._report({"event": "waiting", "why": why, "pause_s": pause_s})

    def _say_progress(self, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if is_last or now - self._reported_at >= REPORT_S:
            self._reported_at = now
            self._report({"event": "progress", "files": self._progress})


def _empty(part: BinaryIO) -> None:
    part.seek(0)
    part.truncate()


def _write(part: BinaryIO, block: bytes) -> None:
    """A raw file may write less than all of it. Raises OSError."""
    view = memoryview(block)
    while view:
        view = view[part.write(view) :]
