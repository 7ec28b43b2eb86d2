"""The pictures, audio and videos of a request on their way to a worker: does the model understand them, and where their bytes come from.

Never imports: api.flavours, api.serving.answer. Invariant: addresses are fetched and files are read before a lease is taken, and the event
loop continues meanwhile.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from fastrouter.api.requests.bodies import read_long
from fastrouter.api.requests.pictures import AUDIO, IMAGE, MAX_ALL_BYTES, VIDEO, Pictures, check_left
from fastrouter.api.serving.picture_fetch import Fetcher
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import CannotHear, CannotSee, CannotWatch, ModelCannot, Unavailable
from fastrouter.ipc.attached_files import AttachedFiles

ReadVideo = Callable[[str, bytes], Awaitable[bytes]]  # (name of its field, its file) -> its frames

_NOT_ITS_PROJECTOR = "image input is not supported: this model's projector is not for pictures"
_CANNOT = {IMAGE: CannotSee, AUDIO: CannotHear, VIDEO: CannotWatch}


class Media:
    """`folder`: of files that are file:// URLs; None: there are none. `fetcher`: for those that are addresses. `read_video` None: videos go
    to the worker as they are."""

    def __init__(self, folder: Path | None = None, fetcher: Fetcher | None = None, read_video: ReadVideo | None = None) -> None:
        self._folder = folder
        self._fetcher = fetcher or Fetcher(())
        self._read_video = read_video

    async def attach(self, spec: ModelSpec, files: Pictures) -> AttachedFiles | None:
        """Pictures that the model cannot see and need not are hidden. None: no file is left. Raises FastrouterError."""
        if not may_see(spec, files):
            files.hide()
        if not files.all:
            return None
        self._fetcher.check(files)
        await self._fetcher.fetch(files)
        contents = await read_long(partial(files.contents, self._folder))
        if self._read_video is not None and VIDEO in files.kinds:
            contents = await _with_frames(files, contents, self._read_video)
        return await read_long(partial(_attached, files, contents))


async def _with_frames(files: Pictures, contents: list[bytes], read_video: ReadVideo) -> list[bytes]:
    """Videos one after the other."""
    left = MAX_ALL_BYTES
    for index, file in enumerate(files.all):
        if file.kind == VIDEO:
            contents[index] = await read_video(file.name, contents[index])
            left -= len(contents[index])
            check_left(file.name, left)
    return contents


def _attached(files: Pictures, contents: list[bytes]) -> AttachedFiles:
    """In a thread: it may be much."""
    try:
        found = AttachedFiles(contents)
    except OSError as error:
        raise Unavailable(f"there is no room for the files of this request: {error.strerror}") from None
    for file in files.all:
        file.content = None  # the attached file has it
    return found


def may_see(spec: ModelSpec, files: Pictures) -> bool:
    """False: pictures are hidden from it. Raises ModelCannot for a picture, audio or video that the model must understand and cannot."""
    if spec.runner.wanted is not None:
        return True
    modalities = spec.runner.modalities
    can = set(modalities) | ({VIDEO} if IMAGE in modalities else set())  # without ffmpeg, the error is another
    for kind in sorted(files.kinds - can):
        has_other = kind == IMAGE and spec.runner.mmproj is not None and len(modalities) == 1
        raise ModelCannot(_NOT_ITS_PROJECTOR) if has_other else _CANNOT[kind]
    return IMAGE in modalities
