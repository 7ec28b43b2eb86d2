"""Videos over HTTP, with the ffmpeg of the package `imageio-ffmpeg`; and what is said without ffmpeg."""

import asyncio
import base64
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Answer, Router, StartRouter
from tiny_models import make_llama
from tiny_projectors import GEMMA3_TOKENS, make_gemma3, picture
from tiny_video import make_programs

from fastrouter.api.requests.pictures import MAX_ALL_BYTES, VIDEO, Pictures
from fastrouter.api.serving.media import _with_frames
from fastrouter.api.tools import video
from fastrouter.errors import InvalidRequest
from fastrouter.ipc.frames import Frame, read_frames

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
WIDTH, HEIGHT = 48, 32
MakeVideo = Callable[..., bytes]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ffmpeg."""
    return make_programs(tmp_path_factory.mktemp("some") / "programs")


@pytest.fixture(scope="module")
def make_video(programs: Path) -> MakeVideo:
    def make(num_frames: int = 8, rate: int = 4, container: str = "mov", codec: str = "png", width: int = WIDTH) -> bytes:
        pixels = b"".join(picture(seed % 8, width, HEIGHT).tobytes() for seed in range(num_frames))
        reads = ["-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{HEIGHT}", "-r", str(rate), "-i", "pipe:0"]
        target = programs / f"made.{container}"
        subprocess.run([programs / "ffmpeg", "-y", *reads, "-c:v", codec, target], input=pixels, check=True, timeout=60)
        return target.read_bytes()

    return make


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Router:
    folder = tmp_path_factory.mktemp("watching") / "sees"
    folder.mkdir()
    make_llama(folder / "sees.gguf", seed=1, chat_template=TEMPLATE)
    make_gemma3(folder / "mmproj-sees.gguf")
    return module_router("--video-ffmpeg-dir", str(programs), models_dir=folder.parent)


def ask(server: Router, part: dict[str, Any], n: int = 8) -> Answer:
    messages = [{"role": "user", "content": [{"type": "text", "text": "the"}, part, {"type": "text", "text": "two"}]}]
    return server.post("/v1/chat/completions", {"model": "sees", "messages": messages, "max_tokens": n, "temperature": 0})


def url(content: bytes, kind: str = "mp4") -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": f"data:video/{kind};base64,{base64.b64encode(content).decode()}"}}


def frames_of(programs: Path, content: bytes, **more: Any) -> list[str | Frame]:
    videos = video.Videos(programs, **{"fps": 4.0, "timestamp_interval_ms": 1000, **more})
    return list(read_frames(asyncio.run(videos.read("field", content))))


def test_a_video_is_its_frames(server: Router, make_video: MakeVideo) -> None:
    file = make_video()
    answer = ask(server, url(file))
    assert answer.status == 200, answer.body
    assert answer.json["usage"]["prompt_tokens"] > 8 * GEMMA3_TOKENS
    text = answer.json["choices"][0]["message"]["content"]
    encoded = base64.b64encode(file).decode()
    for same in ({"type": "input_video", "input_video": {"data": encoded}}, {"type": "input_video", "input_video": {"url": encoded}}):
        again = ask(server, same).json
        assert again["choices"][0]["message"]["content"] == text
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 8 * GEMMA3_TOKENS
    assert ask(server, url(make_video(4))).json["choices"][0]["message"]["content"] != text


def test_models_that_watch_are_listed(server: Router, module_router: StartRouter) -> None:
    assert server.get("/v1/models/sees").json["architecture"]["input_modalities"] == ["text", "image", "video"]
    assert server.get("/props?model=sees").json["modalities"] == {"vision": True, "video": True, "audio": False}


@pytest.mark.parametrize(("container", "codec"), [("mov", "png"), ("mkv", "png"), ("avi", "png"), ("mp4", "mpeg4"), ("gif", "gif")])
def test_every_kind_has_the_same_frames(programs: Path, make_video: MakeVideo, container: str, codec: str) -> None:
    found = frames_of(programs, make_video(container=container, codec=codec))
    assert [part for part in found if isinstance(part, str)] == ["Video:", "[0m0.00s]", "[0m1.00s]"]
    frames = [part for part in found if isinstance(part, Frame)]
    assert {(frame.width, frame.height) for frame in frames} == {(WIDTH, HEIGHT)}
    assert len(frames) == 8
    if codec == "png":
        assert [frame.pixels for frame in frames] == [picture(seed, WIDTH, HEIGHT).tobytes() for seed in range(8)]


def test_frames_are_fewer_and_smaller(programs: Path, make_video: MakeVideo) -> None:
    [*_, frame, last] = frames_of(programs, make_video(8, width=1536), fps=2.0, timestamp_interval_ms=0)
    assert isinstance(frame, Frame)
    assert isinstance(last, Frame)
    assert (frame.width, frame.height) == (video.MAX_SIDE, HEIGHT // 2)
    assert len(frames_of(programs, make_video(8), fps=2.0, timestamp_interval_ms=0)) == 1 + 4
    assert np.frombuffer(frame.pixels, np.uint8).std() > 10


def test_what_is_wrong_is_named(server: Router, make_video: MakeVideo) -> None:
    good = make_video()
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    for content, problem in (
        (make_video(video.MAX_FRAMES + 4), "of more than 32 seconds"),
        (good[: len(good) // 2], "cannot be decoded"),
        (b"\0\0\0\x18ftyp" + bytes(100), "cannot be decoded"),
        (playlist, "is not a video that can be read"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "is not a video that can be read"),
        (b"\x1aE\xdf\xa3" + playlist, "cannot be decoded"),
    ):
        answer = ask(server, url(content))
        assert answer.status == 400, answer.body
        assert answer.error["message"].startswith("field 'messages[0].content[1].video_url' is ")
        assert problem in answer.error["message"]
    assert "without content" in ask(server, url(b"")).error["message"]
    assert 'must begin with "data:video/' in ask(server, url(good) | {"video_url": {"url": "data:image/png;base64,AAAA"}}).error["message"]
    assert ask(server, url(good)).status == 200


def test_ffmpeg_may_open_nothing_else(programs: Path, tmp_path: Path, make_video: MakeVideo) -> None:
    """A file of the user, given to it as an input, is not read."""
    secret = tmp_path / "secret.mov"
    secret.write_bytes(make_video())
    command = [str(programs / "ffmpeg"), "-nostdin", "-v", "error", "-i", str(secret), "-f", "image2pipe", "-c:v", "ppm", "pipe:1"]
    found, problem = asyncio.run(video._run(command, b""))
    assert found == b""
    assert "ermission denied" in problem


def test_a_video_that_takes_too_long(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "DEADLINE_S", 1.0)
    endless = [str(programs / "ffmpeg"), "-v", "error", "-f", "lavfi", "-i", "testsrc", "-f", "null", "-"]
    assert asyncio.run(video._run(endless, b"")) == (b"", "ffmpeg needed more than 1 seconds")


def test_without_ffmpeg(router: StartRouter, server: Router, make_video: MakeVideo, tmp_path: Path) -> None:
    other = router("--video-ffmpeg-dir", str(tmp_path), models_dir=server.models)
    assert other.get("/v1/models/sees").json["architecture"]["input_modalities"] == ["text", "image"]
    answer = ask(other, url(make_video()))
    assert answer.status == 400
    assert "ffmpeg is not installed on this server" in answer.error["message"]
    assert "--video-ffmpeg-dir" in answer.error["message"]


def test_all_frames_of_a_request_are_bounded() -> None:
    async def read_video(name: str, content: bytes) -> bytes:
        return bytes(MAX_ALL_BYTES // 2 - 1)

    files = Pictures()
    for number in range(3):
        files.add_content(f"video {number}", b"x", VIDEO)
    with pytest.raises(InvalidRequest, match="field 'video 2' is too much"):
        asyncio.run(_with_frames(files, [b"x"] * 3, read_video))
