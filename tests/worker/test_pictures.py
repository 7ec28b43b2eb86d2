"""Pictures in the engine, on tiny models with tiny projectors: what is computed again and what is not, what goes on meanwhile, what is
refused. That the text is right is shown in tests/rival."""

import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from engine_bench import (
    Bench,
    Client,
    backends,  # noqa: F401 - starts llama.cpp once for the module
)
from tiny_memories import make_sliding
from tiny_models import make_llama
from tiny_projectors import GEMMA3_TOKENS, GIF, JPEG, LLAVA_TOKENS, bmp, make_gemma3, make_llava, picture, png

from fastrouter.worker.llama.projector import Embeddings, PictureChunk
from fastrouter.worker.media import picture_files
from fastrouter.worker.media.pictures import PlacedPicture, tokens_of, tokens_of_each

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
ONE, OTHER = png(picture(1)), png(picture(2, 70, 50))
TOKENS = {"llava": LLAVA_TOKENS, "gemma3": GEMMA3_TOKENS}
KINDS = tuple(TOKENS)
MakeBench = Callable[..., Bench]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    make_llama(folder / "sees.gguf", seed=1, chat_template=TEMPLATE)
    make_sliding(folder / "window.gguf")
    make_llava(folder / "llava.gguf")
    make_gemma3(folder / "gemma3.gguf")
    return folder


@pytest.fixture
def bench(folder: Path) -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(kind: str = "llava", model: str = "sees", **options: Any) -> Bench:
        made.append(Bench(folder / f"{model}.gguf", 1 << 20, mmproj=str(folder / f"{kind}.gguf"), **{"parallel": 2, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ask(bench: Bench, *parts: str | bytes, **more: Any) -> Client:
    client = bench.show(*parts, **more)
    bench.run(client)
    return client


def refusal(bench: Bench, *parts: str | bytes) -> str:
    error = ask(bench, *parts).error
    assert error is not None
    assert error["class"] in ("InvalidRequest", "ModelCannot", "ContextExceeded"), error
    return str(error["message"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_computed_once(bench: MakeBench, kind: str) -> None:
    one = bench(kind)
    first = ask(one, "the cat", ONE)
    again = ask(one, "the cat", ONE)
    assert again.text() == first.text()
    assert again.finish["cached_tokens"] == first.finish["prompt_tokens"] - 1
    assert one.pictures is not None
    assert one.pictures.num_encoded == 1
    alone = ask(one, "the cat", ONE, cache_prompt=False)  # its embeddings are still there
    assert (alone.text(), alone.finish["cached_tokens"], one.pictures.num_encoded) == (first.text(), 0, 1)
    one.check_idle()


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_goes_on_after_its_picture(bench: MakeBench, kind: str) -> None:
    one, alone = bench(kind), bench(kind)
    first = ask(one, "the cat", ONE)
    answer = {"role": "assistant", "content": first.text()}
    second = one.show("and", OTHER, "two", before=[{"role": "user", "content": "the"}, answer])
    one.run(second)
    expected = ask(alone, "and", OTHER, "two", before=[{"role": "user", "content": "the"}, answer])
    assert second.text() == expected.text()
    one.check_idle()


def test_other_pictures_are_other_prompts(bench: MakeBench) -> None:
    one = bench()
    texts = {ask(one, "the cat", file, "is").text() for file in (ONE, OTHER, JPEG, GIF, bmp(picture(4)))}
    assert len(texts) == 5
    assert ask(one, "the cat", png(picture(3, 24, 16)), "is").finish["cached_tokens"] < LLAVA_TOKENS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"parallel": 2, "kv_unified": True}, {"batch_size": 5, "ubatch_size": 5}], ids=str)
def test_pictures_beside_each_other_change_nothing(bench: MakeBench, kind: str, options: dict[str, Any]) -> None:
    lone = bench(kind, parallel=1)
    asked: list[tuple[str | bytes, ...]] = [
        ("the cat", ONE),
        ("a dog", OTHER, "red"),
        (ONE, "we"),
        ("the", ONE, "and", OTHER, "two"),
        ("the",),
    ]
    expected = [ask(lone, *parts, cache_prompt=False).text() for parts in asked]
    one = bench(kind, **options)
    clients = [one.show(*parts) for parts in asked]
    one.run(*clients)
    assert [client.text() for client in clients] == expected
    one.check_idle()


def test_a_window_and_a_picture_that_sees_itself(bench: MakeBench) -> None:
    """As in Gemma 3: a second turn may compute some of it again, and says the same."""
    one, alone = bench("gemma3", "window", chat_template=TEMPLATE), bench("gemma3", "window", chat_template=TEMPLATE)
    first = ask(one, "the cat and the dog", ONE, "we all")
    before = [{"role": "user", "content": "the"}, {"role": "assistant", "content": first.text()}]
    assert ask(one, "two", OTHER, before=before).text() == ask(alone, "two", OTHER, before=before, cache_prompt=False).text()
    assert ask(one, "the cat and the dog", ONE, "we all").text() == first.text()
    one.check_idle()


class SlowProjector:
    """Its pictures are ready when the test says so."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.may_go = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def encode(self, chunk: PictureChunk) -> Embeddings:
        assert self.may_go.wait(60)
        return self._real.encode(chunk)  # type: ignore[no-any-return]


def slow(bench: Bench) -> SlowProjector:
    assert bench.pictures is not None
    bench.pictures._projector = slowed = SlowProjector(bench.pictures._projector)  # type: ignore[assignment]
    return slowed


@pytest.mark.parametrize("kind", KINDS)
def test_streams_go_on_while_a_picture_is_computed(bench: MakeBench, kind: str) -> None:
    one = bench(kind)
    expected = ask(one, "the cat", ONE, cache_prompt=False).text()
    assert one.pictures is not None
    one.pictures._kept.clear()
    gate = slow(one)
    stream = one.submit("two to we all", 400)
    one.step_until(lambda: bool(stream.texts))
    seeing = one.show("the cat", ONE, cache_prompt=False)
    one.step_until(lambda: one.engine.is_encoding)
    told = stream.num_records
    one.step_until(lambda: stream.num_records > told + 50)
    late = one.submit("of you a all", 4, id_slot=-1)
    assert not seeing.texts
    gate.may_go.set()
    one.run(seeing, stream, late)
    assert seeing.text() == expected
    one.check_idle()


def test_a_client_that_leaves_while_its_picture_waits(bench: MakeBench) -> None:
    one = bench()
    gate = slow(one)
    clients = [one.show("the", file) for file in (ONE, OTHER)]
    one.step_until(lambda: one.engine.is_encoding)
    for client in clients:
        request_id = client.request_id
        one.ring.detach(request_id)
        one.engine.abort(request_id)
    one.step()
    gate.may_go.set()
    one.step_until(lambda: not one.engine.is_encoding)
    assert not any(client.is_over for client in clients)
    assert ask(one, "the", OTHER).text()
    one.check_idle()


def test_a_picture_that_cannot_be_computed_fails_its_request(bench: MakeBench) -> None:
    one = bench()
    assert one.pictures is not None
    right = one.pictures._projector.encode

    def encode(chunk: PictureChunk) -> Embeddings:
        raise MemoryError("no room")

    one.pictures._projector.encode = encode  # type: ignore[method-assign]
    stream = one.submit("two to we all", 60)
    failed = one.show("the", ONE)
    one.run(failed, stream)
    assert failed.error is not None
    assert stream.finish["completion_tokens"] == 60
    one.pictures._projector.encode = right  # type: ignore[method-assign]
    assert ask(one, "the", ONE).text()
    one.check_idle()


def test_a_full_cache_with_pictures(bench: MakeBench) -> None:
    """The cells of the younger one are taken, and its picture is computed again later."""
    lone = bench(parallel=1)
    asked = [("the cat", ONE), ("a dog", OTHER)]
    expected = [ask(lone, *parts, max_tokens=100, cache_prompt=False).text() for parts in asked]
    one = bench(parallel=2, kv_unified=True, ctx_size=256)
    clients = [one.show(*parts, max_tokens=100) for parts in asked]
    one.run(*clients)
    assert [client.text() for client in clients] == expected
    one.check_idle()


def test_what_cannot_shift_ends(bench: MakeBench) -> None:
    one = bench(parallel=1, ctx_size=256, context_shift=True)
    client = ask(one, "the cat", ONE, max_tokens=400)
    assert (client.finish["stop_type"], client.finish["truncated"]) == ("limit", True)
    assert one.submit("the cat", 400).finishes == {}


def test_refusals(bench: MakeBench, folder: Path) -> None:
    one = bench("gemma3", ubatch_size=2, batch_size=2)
    assert "--ubatch-size 4" in refusal(one, "the", ONE)
    one = bench(ctx_size=256, parallel=1)
    assert "exceeds the available context size" in refusal(one, *([ONE] * 20), "the")
    assert "ends with a picture" in str(ask(one, "the", ONE, add_generation_prompt=False).error)
    blind = Bench(folder / "sees.gguf", 1 << 20)
    assert "image input is not supported" in refusal(blind, "the", ONE)
    blind.close()


def test_a_prompt_parks_with_its_picture(bench: MakeBench) -> None:
    """What the prompt cache in RAM holds has pictures too."""
    one = bench(parallel=1, cache_ram_mib=64)
    first = ask(one, "the cat and the dog and the man", ONE, "we all")
    one.engine.prefixes.put_away(one.engine.slots.all[0])
    one.engine.prefixes.forget(one.engine.slots.all[0])
    again = ask(one, "the cat and the dog and the man", ONE, "we all")
    assert again.text() == first.text()


def test_tokens_of_pictures() -> None:
    tokens = tokens_of(("a", 0), 64)
    assert max(tokens) < 0
    assert len(set(tokens)) == 64
    assert tokens != tokens_of(("b", 0), 64) != tokens_of(("b", 1), 64)


def test_tokens_of_each_file() -> None:
    def placed(*keys: str) -> list[PlacedPicture]:
        chunks = [PictureChunk((key[0], int(key[1])), 4, 4, 0, None) for key in keys]  # type: ignore[arg-type]
        return [PlacedPicture(10 * at, 10 * at + 4 + at, chunk) for at, chunk in enumerate(chunks)]

    assert tokens_of_each(placed("a0", "b0", "a1"), 3) == [4, 5, 6]
    assert tokens_of_each(placed("a0", "a1", "b0", "b1"), 2) == [9, 13]  # each is cut into two
    assert tokens_of_each(placed("a0", "a1", "a2", "a3"), 2) == []
    assert tokens_of_each([], 0) == []


# ---------------------------------------------------------------- files


def test_sizes_are_read_before_anything_is_decoded() -> None:
    for file in (ONE, OTHER, JPEG, GIF, bmp(picture(4))):
        picture_files.check(file)
    wide = bytearray(ONE)
    wide[16:24] = b"\0\0\xc3\x50" * 2  # 50,000 x 50,000
    for file, problem in (
        (bytes(wide), "50000 x 50000"),
        (b"GIF89a\xff\xff\xff\xff", "65535 x 65535"),
        (b"", "empty"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "cut short"),
        (b"<svg>", "SVG"),
        (b"ID3", "is not a picture"),
        (ONE[:20], "cut short"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI", "is not a picture"),
        (JPEG[:2] + b"\xff\xda\0\2" * 200, "scans"),
    ):
        with pytest.raises(ValueError, match=problem):
            picture_files.check(file)


def test_a_bomb_is_not_unpacked() -> None:
    content = zlib.compress(bytes(64 << 20), 9)
    bomb = ONE[:33] + len(content).to_bytes(4) + b"IDAT" + content + bytes(4) + ONE[-12:]
    with pytest.raises(ValueError, match="far more content"):
        picture_files.check(bomb)


def mutations(count: int) -> Iterator[bytes]:
    random = Random(17)
    files = (ONE, JPEG, GIF, bmp(picture(4, 8, 8)))
    for _ in range(count):
        file = bytearray(random.choice(files))
        for _ in range(random.randint(0, 8)):
            file[random.randrange(len(file))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
        if random.random() < 0.3:
            del file[random.randrange(len(file)) :]
        if random.random() < 0.2:
            at = random.randrange(len(file) + 1)
            file[at:at] = random.randbytes(random.randrange(40))
        yield bytes(file)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a template's time may be over inside a weakref's callback
def test_broken_files_are_refused_or_shown(bench: MakeBench) -> None:
    """Three hundred of them, beside a stream."""
    one = bench(parallel=4)
    stream = one.submit("two to we all", 400)
    clients = [one.show("the", file, max_tokens=1) for file in mutations(300)]
    one.run(*clients)
    errors = [client.error for client in clients if client.error is not None]
    assert {error["class"] for error in errors} == {"InvalidRequest"}
    assert all("field 'picture 0'" in error["message"] for error in errors)
    assert 50 < len(errors) < 300
    one.run(stream)
    assert stream.finish["completion_tokens"] == 400
    assert np.isfinite(stream.finish["timings"]["predicted_ms"])
    one.check_idle()
