"""The first look at an audio file, before it is decoded."""

import contextlib

from fastrouter.worker.media import audio_files


def check(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        audio_files.check(data)
        assert data.startswith((b"RIFF", b"fLaC", b"ID3", b"\xff"))
