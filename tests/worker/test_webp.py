"""WebP: its sizes are read before it is decoded, its pixels are those of the same PNG, broken files cost one request."""

import io
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from engine_bench import (
    Bench,
    Client,
    backends,  # noqa: F401 - starts llama.cpp once for the module
)
from PIL import Image
from tiny_models import make_llama
from tiny_projectors import make_llava, picture, png

from fastrouter.worker.media import picture_files, webp

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def file_of(*seeds: int, alpha: bool = False, **more: Any) -> bytes:
    """Several seeds: an animation."""
    frames = [Image.fromarray(picture(seed)) for seed in seeds]
    if alpha:
        frames[0].putalpha(128)
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=len(frames) > 1, append_images=frames[1:], **more)
    return file.getvalue()


LOSSLESS = file_of(1, lossless=True)
KINDS = {"VP8 ": file_of(1), "VP8L": LOSSLESS, "VP8X": file_of(1, 2, lossless=True)}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("webp")
    make_llama(folder / "sees.gguf", seed=1, chat_template=TEMPLATE)
    make_llava(folder / "llava.gguf")
    bench = Bench(folder / "sees.gguf", 1 << 20, mmproj=str(folder / "llava.gguf"), parallel=2)
    yield bench
    bench.close()


def ask(bench: Bench, file: bytes) -> Client:
    client = bench.show("the cat", file)
    bench.run(client)
    return client


def message_of(bench: Bench, file: bytes) -> str:
    error = ask(bench, file).error
    assert error is not None
    assert error["class"] == "InvalidRequest"
    return str(error["message"])


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_of_every_kind(kind: str) -> None:
    assert KINDS[kind][12:16] == kind.encode()
    assert picture_files.size_of(KINDS[kind]) == (40, 30)
    picture_files.check(KINDS[kind])


def test_pixels_are_those_of_the_same_png(bench: Bench) -> None:
    expected = ask(bench, png(picture(1))).text()
    for file in (LOSSLESS, KINDS["VP8X"], file_of(1, alpha=True, lossless=True, exact=True)):
        assert ask(bench, file).text() == expected
    assert ask(bench, file_of(2, lossless=True)).text() != expected
    assert ask(bench, KINDS["VP8 "]).text()
    bench.check_idle()


def test_a_picture_is_known_again(bench: Bench) -> None:
    ask(bench, LOSSLESS)
    again = ask(bench, LOSSLESS)
    assert again.finish["cached_tokens"] == again.finish["prompt_tokens"] - 1


def test_large_ones_are_not_decoded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webp, "to_bmp", lambda file: pytest.fail("it was decoded"))
    wide = bytearray(KINDS["VP8X"])
    wide[24:30] = b"\xff\x3f\0" * 2
    assert "16384 x 16384 pixels" in message_of(bench, bytes(wide))
    for kind, start in (("VP8L", 21), ("VP8 ", 26)):
        large = bytearray(KINDS[kind])
        large[start : start + 4] = b"\xff\xff\xff\x3f"
        assert "pixels, but at most" in message_of(bench, bytes(large))
    assert "cut short" in message_of(bench, LOSSLESS[:12] + b"ALPH" + LOSSLESS[16:])


def test_without_pillow_the_error_has_the_way_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webp, "is_installed", lambda: False)
    assert message_of(bench, LOSSLESS).endswith("is WebP, which this server cannot decode: install fastrouter[webp], or send PNG or JPEG")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a template's time may be over inside a weakref's callback
def test_broken_files_are_refused_or_shown(bench: Bench) -> None:
    random = Random(18)
    clients = []
    for number in range(200):
        file = bytearray(list(KINDS.values())[number % 3])
        for _ in range(random.randint(0, 6)):
            file[random.randrange(len(file))] = random.choice((0, 0xFF, random.randrange(256)))
        if random.random() < 0.4:
            del file[random.randrange(len(file)) :]
        clients.append(bench.show("the", bytes(file), max_tokens=1))
    bench.run(*clients)
    errors = [client.error for client in clients if client.error is not None]
    assert {error["class"] for error in errors} == {"InvalidRequest"}
    assert 50 < len(errors) < 200
    bench.check_idle()
