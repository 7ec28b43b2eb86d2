"""The pictures of a request on their way to a worker: may the model see them, and where their bytes come from.

Never imports: api.flavours, api.serving.answer. Invariant: addresses are fetched and files are read before a lease is taken, and the event
loop continues meanwhile.
"""

from functools import partial
from pathlib import Path

from fastrouter.api.requests.bodies import read_long
from fastrouter.api.requests.pictures import Pictures
from fastrouter.api.serving.picture_fetch import Fetcher
from fastrouter.catalog.spec import ModelSpec
from fastrouter.errors import CannotSee, ModelCannot, Unavailable
from fastrouter.ipc.attached_files import AttachedFiles

_NOT_ITS_PROJECTOR = "image input is not supported: this model's projector is not for pictures"


class Media:
    """`folder`: of pictures that are file:// URLs; None: there are none. `fetcher`: for those that are addresses."""

    def __init__(self, folder: Path | None = None, fetcher: Fetcher | None = None) -> None:
        self._folder = folder
        self._fetcher = fetcher or Fetcher(())

    async def attach(self, spec: ModelSpec, pictures: Pictures) -> AttachedFiles | None:
        """None: the model cannot see and need not, because all pictures are optional. Raises FastrouterError."""
        if not may_see(spec, pictures):
            return None
        self._fetcher.check(pictures)
        await self._fetcher.fetch(pictures)
        return await read_long(partial(self._attach, pictures))

    def _attach(self, pictures: Pictures) -> AttachedFiles:
        """In a thread: files may have to be read."""
        try:
            files = AttachedFiles(pictures.contents(self._folder))
        except OSError as error:
            raise Unavailable(f"there is no room for the pictures of this request: {error.strerror}") from None
        for picture in pictures.all:
            picture.content = None  # the file has it
        return files


def may_see(spec: ModelSpec, pictures: Pictures) -> bool:
    """Raises CannotSee for a picture that the model must see and cannot."""
    if "image" in spec.runner.modalities or spec.runner.wanted is not None:
        return True
    if not all(picture.is_optional for picture in pictures.all):
        raise CannotSee if spec.runner.mmproj is None else ModelCannot(_NOT_ITS_PROJECTOR)
    return False
