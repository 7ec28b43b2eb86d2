"""Where ffmpeg is. It is a program of its own, which a user may install."""

import shutil
from pathlib import Path


def find_ffmpeg(folder: Path | None) -> str | None:
    """In this folder, or without one, where programs are."""
    return shutil.which("ffmpeg", path=str(folder) if folder is not None else None)
