"""Audio in the engine, on tiny models with tiny projectors: what is computed again and what is not, long files, what is refused. That the
text is right is shown in tests/rival."""

import ctypes
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from engine_bench import (
    Bench,
    backends,  # noqa: F401 - starts llama.cpp once for the module
    refusal,
)
from engine_bench import show as ask
from tiny_audio import CHUNK_TOKENS, FLAC, MP3, RATE, make_both, make_ultravox, sound, wav
from tiny_models import make_llama
from tiny_projectors import GEMMA3_TOKENS, make_gemma3, picture, png

from fastrouter.worker.llama.projector import BrokenFile, Embeddings, PictureChunk
from fastrouter.worker.media import audio_files

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
ONE, OTHER = wav(sound(1)), wav(sound(2, 0.7))
LONG = wav(sound(3, 65))
PICTURE = png(picture(1))
KINDS = ("ultravox", "both")
MakeBench = Callable[..., Bench]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    make_llama(folder / "hears.gguf", seed=1, chat_template=TEMPLATE)
    make_ultravox(folder / "ultravox.gguf")
    make_both(folder / "both.gguf")
    make_gemma3(folder / "gemma3.gguf")
    return folder


@pytest.fixture
def bench(folder: Path) -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(kind: str = "ultravox", **options: Any) -> Bench:
        made.append(Bench(folder / "hears.gguf", 1 << 20, mmproj=str(folder / f"{kind}.gguf"), **{"parallel": 2, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("kind", KINDS)
def test_audio_is_computed_once(bench: MakeBench, kind: str) -> None:
    one = bench(kind)
    first = ask(one, "the cat", ONE)
    again = ask(one, "the cat", ONE)
    assert again.text() == first.text()
    assert again.finish["cached_tokens"] == first.finish["prompt_tokens"] - 1
    assert first.finish["sound_ms"] == 1000
    assert one.pictures is not None
    assert one.pictures.num_encoded == 1
    alone = ask(one, "the cat", ONE, cache_prompt=False)
    assert (alone.text(), alone.finish["cached_tokens"], one.pictures.num_encoded) == (first.text(), 0, 1)
    one.check_idle()


def test_the_second_turn_computes_only_what_is_new(bench: MakeBench) -> None:
    one, alone = bench(), bench()
    first = ask(one, "the cat", ONE)
    answer = {"role": "assistant", "content": first.text()}
    second = ask(one, "and", OTHER, "two", before=[{"role": "user", "content": "the"}, answer])
    expected = ask(alone, "and", OTHER, "two", before=[{"role": "user", "content": "the"}, answer])
    assert second.text() == expected.text()
    assert one.pictures is not None
    assert one.pictures.num_encoded == 2


def test_long_audio_has_several_chunks(bench: MakeBench) -> None:
    one, lone = bench(), bench(parallel=1, batch_size=8, ubatch_size=8)
    short, long = ask(one, "the", ONE), ask(one, "the", LONG)
    assert long.finish["prompt_tokens"] - short.finish["prompt_tokens"] == 2 * CHUNK_TOKENS
    assert long.finish["sound_ms"] == 65_000
    assert one.pictures is not None
    assert one.pictures.num_encoded == 4
    assert ask(lone, "the", LONG, cache_prompt=False).text() == long.text()
    changed = ask(one, "the", wav(sound(3, 66)))
    assert changed.finish["cached_tokens"] < short.finish["prompt_tokens"]
    assert changed.text() != long.text()


def test_audio_and_pictures_beside_each_other_change_nothing(bench: MakeBench) -> None:
    """A picture of Gemma 3 sees itself as a whole, audio is read like text."""
    asked: list[tuple[str | bytes, ...]] = [
        ("the cat", ONE),
        (OTHER, "we"),
        ("the", ONE, "and", PICTURE, "two"),
        ("the", PICTURE, OTHER, "two"),
        ("the",),
    ]
    lone, one = bench("both", parallel=1), bench("both", batch_size=7, ubatch_size=7)
    expected = [ask(lone, *parts, cache_prompt=False).text() for parts in asked]
    clients = [one.show(*parts) for parts in asked]
    one.run(*clients)
    assert [client.text() for client in clients] == expected
    assert clients[2].finish["prompt_tokens"] > CHUNK_TOKENS + GEMMA3_TOKENS
    one.check_idle()


def test_streams_go_on_while_audio_is_computed(bench: MakeBench) -> None:
    one = bench()
    expected = ask(one, "the", LONG, cache_prompt=False).text()
    assert one.pictures is not None
    one.pictures._kept.clear()
    may_go, right = threading.Event(), one.pictures._projector.encode

    def encode(chunk: PictureChunk) -> Embeddings:
        assert may_go.wait(60)
        return right(chunk)

    one.pictures._projector.encode = encode  # type: ignore[method-assign]
    hearing = one.show("the", LONG, cache_prompt=False)
    one.step_until(lambda: one.engine.is_encoding)
    stream = one.submit("two to we all", 400)
    one.run(stream)
    assert stream.finish["completion_tokens"] == 400
    assert not hearing.texts
    may_go.set()
    one.run(hearing)
    assert hearing.text() == expected
    one.check_idle()


class Spoilt:
    """libmtmd, whose results are no numbers."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def mtmd_get_output_embd(self, pointer: int) -> Any:
        return ctypes.cast((ctypes.c_float * 10_000)(*[float("nan")] * 10_000), ctypes.POINTER(ctypes.c_float))


def test_what_is_no_number_stays_out_of_the_cache(bench: MakeBench) -> None:
    one = bench()
    for value in (np.nan, np.inf, -np.inf, 1e30):
        assert "no sound" in refusal(one, "the", wav(np.full(RATE, value, np.float32), encoding=3))
    assert one.pictures is not None
    one.pictures._projector._lib = Spoilt(one.pictures._projector._lib)
    failed = ask(one, "the", ONE)
    assert failed.error is not None
    assert "infinite numbers" in failed.error["message"]
    one.check_idle()


def test_refusals(bench: MakeBench, folder: Path) -> None:
    assert "image input is not supported" in refusal(bench(), "the", PICTURE)
    assert "audio input is not supported" in refusal(bench("gemma3"), "the", ONE)
    one = bench()
    assert "less than 0.1 seconds" in refusal(one, "the", wav(sound(1, 0.05)))
    assert "without sound" in refusal(one, "the", wav(sound(1, 0)))
    assert "field 'audio 0' is a WAV file" in refusal(one, "the", ONE[:30])
    assert "cannot be decoded" in refusal(one, "the", b"ID3" + bytes(2000))
    assert "exceeds the available context size" in refusal(bench(ctx_size=256, parallel=1), "the", *[LONG] * 6)


# ---------------------------------------------------------------- files


def head_of_wav(encoding: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, align: int | None = None) -> bytes:
    align = channels * bits // 8 if align is None else align
    return struct.pack("<HHIIHH", encoding, channels, rate, rate * align, align, bits)


def wav_with(head: bytes, size: int, content: bytes = bytes(4000)) -> bytes:
    return b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", size) + content


def flac_with(num_samples: int, rate: int = RATE) -> bytes:
    return b"fLaC\0\0\0\x22" + bytes(10) + (rate << 44 | 15 << 36 | num_samples).to_bytes(8) + bytes(2000)


def test_lengths_are_read_before_anything_is_decoded() -> None:
    for file in (ONE, OTHER, MP3, FLAC, wav_with(head_of_wav(), 0xFFFFFFFF)):
        audio_files.check(file)
    frame = b"\xff\xf3\x18\xc0" + bytes(32)  # 36 ms of silence in 36 bytes
    free = b"\xff\xf3\x08\xc0" + bytes(28)  # its size is not said
    for file, problem in (
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "picture"),
        (b"OggS" + bytes(40), "Ogg"),
        (b"\0\0\0\x20ftypM4A ", "M4A"),
        (b"ID3\4\0\0\0\0\0\0OggS" + bytes(40), "is not audio"),
        (b"RIFF\0\0\0\0WAVE" + bytes(40), "without sound"),
        (wav_with(head_of_wav(encoding=2, bits=4, align=1), 100), "encoding that cannot be read"),
        (wav_with(head_of_wav(encoding=85), 100), "encoding that cannot be read"),
        (wav_with(head_of_wav(bits=17), 100), "encoding that cannot be read"),
        (wav_with(head_of_wav(rate=1), 4000), "cannot be read"),
        (wav_with(head_of_wav(channels=250), 4000), "cannot be read"),
        (wav_with(head_of_wav(align=1), 4000), "cannot be read"),
        (wav_with(head_of_wav(rate=1000), 1 << 30, bytes(4_000_000)), "about 2000 seconds"),
        (flac_with((1 << 36) - 1), "about 4294967 seconds"),
        (flac_with(0), "does not say how long"),
        (flac_with(100, rate=0), "cannot be decoded"),
        (frame * 100_000, "seconds, but at most"),
        (free * 100_000, "seconds, but at most"),
        (
            MP3[:20] + b"\0" + MP3[21 : MP3.index(b"Info") + 7] + b"\1\xff\xff\xff\xff" + MP3[MP3.index(b"Info") + 12 :],
            "seconds, but at most",
        ),
        (MP3[: MP3.index(b"Info") + 7] + b"\1\xff\xff\xff\xff" + MP3[MP3.index(b"Info") + 12 :], "seconds, but at most"),
    ):
        with pytest.raises(ValueError, match=problem):
            audio_files.check(file)


def test_an_estimate_is_near_the_truth() -> None:
    start = audio_files._after_tag(MP3, 0)
    assert 0.4 <= audio_files._seconds_of_mp3(MP3, start) <= 0.8
    assert audio_files._seconds_of_mp3(Random(1).randbytes(1 << 20), 0) < 5


def mutations(count: int) -> Iterator[bytes]:
    random = Random(18)
    files = (wav(sound(1, 0.2)), MP3, FLAC, wav(sound(1, 0.2).astype(np.float32), encoding=3))
    for _ in range(count):
        file = bytearray(random.choice(files))
        for _ in range(random.randint(0, 8)):
            at = random.randrange(60) if random.random() < 0.5 else random.randrange(len(file))  # more often in its head
            file[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
        if random.random() < 0.3:
            del file[random.randrange(len(file)) :]
        if random.random() < 0.2:
            at = random.randrange(len(file) + 1)
            file[at:at] = random.randbytes(random.randrange(40))
        yield bytes(file)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a template's time may be over inside a weakref's callback
def test_broken_files_are_refused_or_heard(bench: MakeBench) -> None:
    """A thousand are decoded, and twenty of them are heard, beside a stream."""
    one = bench(parallel=4)
    assert one.pictures is not None
    projector = one.pictures._projector
    refused, files = 0, list(mutations(1000))
    for file in files:
        try:
            audio_files.check(file)
            bitmap = projector._decode(file, 0, is_counted=False)
            projector._sound_of(bitmap, 0)
            projector._lib.mtmd_bitmap_free(bitmap)
        except (ValueError, BrokenFile):
            refused += 1
    assert 100 < refused < 900
    stream = one.submit("two to we all", 400)
    clients = [one.show("the", file, max_tokens=1) for file in files[:20]]
    one.run(*clients)
    errors = [client.error for client in clients if client.error is not None]
    assert {error["class"] for error in errors} <= {"InvalidRequest", "ModelCannot"}
    one.run(stream)
    assert stream.finish["completion_tokens"] == 400
    one.check_idle()
