"""The first look at a picture's file, before it is decoded."""

import contextlib

from fastrouter.worker.media import picture_files


def check(data: bytes) -> None:
    is_good = False
    with contextlib.suppress(ValueError):
        picture_files.check(data)
        is_good = True
    if is_good:
        width, height = picture_files.size_of(data) or (0, 0)
        assert 0 < width * height <= picture_files.MAX_PIXELS
