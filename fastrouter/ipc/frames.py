"""The frames of a video, as the router gives them to a worker: one file with a line about them, and then one picture after the other, as
ffmpeg writes them (PPM). Pure.

Invariant: each frame that is read has exactly as many bytes as its head says.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

_HEAD = re.compile(rb"P6\n(\d{1,5}) (\d{1,5})\n255\n")


@dataclass(frozen=True, slots=True)
class Frame:
    id: str  # of the video and the frame: some models read two frames as one, which then has the id of the first
    width: int
    height: int
    pixels: bytes  # rows of RGB


def to_frames_file(pictures: bytes, fps: float, timestamp_interval_ms: int) -> bytes:
    return json.dumps([fps, timestamp_interval_ms]).encode() + b"\n" + pictures


def count_frames(pictures: bytes) -> int:
    """Raises ValueError."""
    return sum(1 for _ in _places(pictures, 0))


def read_frames(content: bytes) -> Iterator[str | Frame]:
    """The parts of a prompt, with the texts that llama-server puts between them. Raises ValueError."""
    line, _, _ = content.partition(b"\n")
    fps, interval_ms = json.loads(line)
    video = hashlib.sha256(content).hexdigest()
    yield "Video:"
    next_ms = 0.0
    for number, (width, height, start) in enumerate(_places(content, len(line) + 1)):
        yield Frame(f"{video}-{number}", width, height, content[start : start + 3 * width * height])
        elapsed_ms = number / fps * 1000
        if interval_ms > 0 and elapsed_ms >= next_ms:
            minutes, seconds = divmod(elapsed_ms / 1000, 60)
            yield f"[{int(minutes)}m{seconds:.2f}s]"
            next_ms += interval_ms


def _places(content: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """(width, height, start of the pixels)"""
    while at < len(content):
        head = _HEAD.match(content, at)
        width, height = (int(head[1]), int(head[2])) if head is not None else (0, 0)
        if head is None or not width * height or head.end() + 3 * width * height > len(content):
            raise ValueError("a frame is not complete")
        yield width, height, head.end()
        at = head.end() + 3 * width * height
