"""Videos become pictures: ffmpeg does it, in a process of its own, with limits.

Invariant: ffmpeg reads only the bytes of the video, as the kind that they are; it opens no other file and no address. It has little time,
memory and output, and no more than MAX_RUNNING of them run at the same time.
"""

import asyncio
import json
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import IO

from fastrouter.api.requests.checks import invalid
from fastrouter.api.tools.job import COMMAND, VIDEO_FLAG
from fastrouter.errors import Unavailable
from fastrouter.ipc.frames import count_frames, to_frames_file
from fastrouter.system.ffmpeg import find_ffmpeg
from fastrouter.system.reexec import environment_for_own, start

MAX_FRAMES = 128
MAX_SIDE = 768  # pixels of a frame; larger ones are made smaller
MAX_RUNNING, MAX_WAITING = 2, 16
DEADLINE_S = 30.0
_MAX_SHOWN = 200  # characters of what ffmpeg says
_INPUT = "/proc/self/fd/0"
# The first bytes of a file, at which place, and the reader of ffmpeg for it. Its readers of playlists would open other files.
_KINDS = (
    (4, b"ftyp", "mov"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (0, b"OggS", "ogg"),
    (0, b"FLV\1", "flv"),
    (0, b"\0\0\1\xba", "mpeg"),
    (0, b"GIF8", "gif"),
)


class Videos:
    def __init__(self, folder: Path | None, fps: float, timestamp_interval_ms: int) -> None:
        """`folder`: of ffmpeg; None: it is where programs are."""
        self._folder = folder
        self._fps = fps
        self._timestamp_interval_ms = timestamp_interval_ms
        self._places = asyncio.Semaphore(MAX_RUNNING)
        self._num_open = 0

    def __repr__(self) -> str:
        return f"<Videos {self._num_open} open>"

    async def read(self, name: str, content: bytes) -> bytes:
        """The file with its frames, for a worker. `name`: of its field. Raises FastrouterError."""
        if self._num_open >= MAX_RUNNING + MAX_WAITING:
            raise Unavailable("too many videos are being read now; try again later")
        command = self._command(name, content)
        self._num_open += 1
        try:
            async with self._places:
                pictures, problem = await _run(command, content)
        finally:
            self._num_open -= 1
        return await asyncio.get_running_loop().run_in_executor(None, self._checked, name, pictures, problem)

    def _checked(self, name: str, pictures: bytes, problem: str) -> bytes:
        try:
            num_frames = count_frames(pictures)
        except ValueError:
            num_frames = 0
        if problem or not num_frames:
            raise invalid(name, f"is a video that cannot be decoded: {problem or 'its file is broken or cut short'}")
        if num_frames > MAX_FRAMES:
            longest = f"is a video of more than {MAX_FRAMES / self._fps:.0f} seconds"
            raise invalid(name, f"{longest}: send a shorter one, or start the server with a smaller --video-fps")
        return to_frames_file(pictures, self._fps, self._timestamp_interval_ms)

    def _command(self, name: str, content: bytes) -> list[str]:
        program = find_ffmpeg(self._folder)
        if program is None:
            raise invalid(name, NO_FFMPEG)
        kind = next((kind for at, mark, kind in _KINDS if content.startswith(mark, at)), None)
        if kind is None:
            raise invalid(name, "is not a video that can be read: send MP4, MOV, WebM, MKV, AVI, Ogg, FLV, MPEG or GIF")
        smaller = f"scale=w='min({MAX_SIDE},iw)':h='min({MAX_SIDE},ih)':force_original_aspect_ratio=decrease"
        reads = ["-nostdin", "-v", "error", "-threads", "2", "-protocol_whitelist", "file", "-f", kind, "-i", _INPUT, "-map", "0:v:0"]
        frames = ["-vf", f"fps={self._fps:.6f},{smaller}", "-frames:v", str(MAX_FRAMES + 1)]
        return [program, *reads, *frames, "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"]


NO_FFMPEG = (
    "is a video, which needs ffmpeg, and ffmpeg is not installed on this server: install it (for example `apt install ffmpeg`), "
    "or name its folder with --video-ffmpeg-dir"
)


async def _run(command: list[str], content: bytes) -> tuple[bytes, str]:
    """(its output, what is wrong; empty: nothing). The process ends when the task is cancelled."""
    loop = asyncio.get_running_loop()
    with _memory_file() as source, _memory_file() as target, tempfile.TemporaryFile() as said:
        process = await loop.run_in_executor(None, partial(_start, command, content, source, target, said))
        try:
            async with asyncio.timeout(DEADLINE_S):
                await _end_of(process)
        except TimeoutError:
            return b"", f"ffmpeg needed more than {DEADLINE_S:.0f} seconds"
        finally:
            process.kill()  # without effect if it has ended
            process.wait()
        return await loop.run_in_executor(None, _output_of, process.returncode, target, said)


def _start(command: list[str], content: bytes, source: IO[bytes], target: IO[bytes], said: IO[bytes]) -> "subprocess.Popen[bytes]":
    source.write(content)
    source.seek(0)
    own = [*COMMAND, VIDEO_FLAG, json.dumps(command)]
    try:
        return start(own, environment_for_own(os.environ), stdin=source, stdout=target, stderr=said)
    except OSError as error:
        raise Unavailable(f"ffmpeg cannot be started now: {error.strerror}") from None


async def _end_of(process: "subprocess.Popen[bytes]") -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    pidfd = os.pidfd_open(process.pid)
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _output_of(code: int, target: IO[bytes], said: IO[bytes]) -> tuple[bytes, str]:
    said.seek(0)
    words = said.read(4096).decode("utf-8", "replace").strip().splitlines()
    target.seek(0)
    found = target.read()
    return found, "" if found and not code else _shown(words[-1] if words else f"ffmpeg ended with {code}")


def _shown(line: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:_MAX_SHOWN]


def _memory_file() -> IO[bytes]:
    return open(os.memfd_create("fastrouter-video", os.MFD_CLOEXEC), "w+b")
