"""The frames of a video, as a worker reads them."""

from dataclasses import replace

import pytest

from fastrouter.ipc.frames import Frame, count_frames, read_frames, to_frames_file

ONE, OTHER = Frame("", 2, 1, b"abcdef"), Frame("", 1, 1, b"xyz")


def ppm(*frames: Frame) -> bytes:
    return b"".join(b"P6\n%d %d\n255\n%b" % (frame.width, frame.height, frame.pixels) for frame in frames)


def read(content: bytes) -> list[str | Frame]:
    return [part if isinstance(part, str) else replace(part, id="") for part in read_frames(content)]


def test_ids_name_the_video_and_the_frame() -> None:
    first, second, same = (to_frames_file(ppm(*frames), 4, 0) for frames in ([ONE, ONE], [ONE, OTHER], [ONE, ONE]))
    ids = [[part.id for part in read_frames(content) if isinstance(part, Frame)] for content in (first, second, same)]
    assert ids[0] == ids[2]
    assert len({*ids[0], *ids[1]}) == 4, "some models read two frames as one, which has the id of the first"


def test_times_are_between_the_frames() -> None:
    content = to_frames_file(ppm(ONE, OTHER, ONE, OTHER), 0.5, 4000)
    assert read(content) == ["Video:", ONE, "[0m0.00s]", OTHER, ONE, "[0m4.00s]", OTHER]
    assert read(to_frames_file(ppm(ONE, OTHER), 4, 0)) == ["Video:", ONE, OTHER]
    late = read(to_frames_file(ppm(*[ONE] * 3), 1 / 61, 1000))
    assert [part for part in late if isinstance(part, str)] == ["Video:", "[0m0.00s]", "[1m1.00s]", "[2m2.00s]"]


def test_frames_are_counted() -> None:
    assert count_frames(b"") == 0
    assert count_frames(ppm(ONE, OTHER)) == 2


@pytest.mark.parametrize("broken", [b"P6\n1 1\n255\nab", b"P5\n1 1\n255\nabc", b"P6\n0 1\n255\n", b"P6\n999999 1\n255\n", b"nonsense"])
def test_a_frame_that_is_not_complete(broken: bytes) -> None:
    with pytest.raises(ValueError, match="not complete"):
        count_frames(ppm(ONE) + broken)
