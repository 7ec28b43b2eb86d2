"""Pictures in the engine, on tiny models with tiny projectors: what is computed again and what is not, what goes on meanwhile, what is
refused. That the text is right is shown in tests/rival."""

import threading
import zlib
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_memories import make_qwen35, make_sliding
from tiny_models import make_llama
from tiny_projectors import (
    GIF,
    JPEG,
    LLAVA_TOKENS,
    bmp,
    make_gemma3,
    make_llava,
    make_qwen2vl,
    make_smolvlm,
    make_smolvlm_text,
    picture,
    png,
)

from fastrouter.worker.engine.recovery import ABORTED
from fastrouter.worker.llama.binding import LlamaError
from fastrouter.worker.llama.picture_tokens import count_in_place, start_outside, tokens_of
from fastrouter.worker.llama.projector import Embeddings, PictureChunk
from fastrouter.worker.media import picture_files
from fastrouter.worker.media.pictures import GivenFile, PlacedPicture, tokens_of_each

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
ONE, OTHER = png(picture(1)), png(picture(2, 70, 50))
LARGE = png(picture(7, 200, 120))  # 7 x 4 tokens of Qwen2-VL
MODELS = {"llava": "sees", "gemma3": "sees", "qwen2vl": "parts", "smolvlm": "tiles"}
KINDS = tuple(MODELS)
MakeBench = Callable[..., Bench]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    make_llama(folder / "sees.gguf", seed=1, chat_template=TEMPLATE)
    make_llama(folder / "parts.gguf", seed=1, chat_template=TEMPLATE, architecture="qwen2vl")
    make_qwen35(folder / "state.gguf", seed=1, chat_template=TEMPLATE)
    make_smolvlm_text(folder / "tiles.gguf", seed=1, chat_template=TEMPLATE)
    make_sliding(folder / "window.gguf")
    make_qwen2vl(folder / "qwen2vl.gguf")
    make_smolvlm(folder / "smolvlm.gguf")
    make_llava(folder / "llava.gguf")
    make_gemma3(folder / "gemma3.gguf")
    return folder


@pytest.fixture
def bench(folder: Path) -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(kind: str = "llava", model: str | None = None, **options: Any) -> Bench:
        path, mmproj = folder / f"{model or MODELS[kind]}.gguf", str(folder / f"{kind}.gguf")
        made.append(Bench(path, 1 << 20, mmproj=mmproj, **{"parallel": 2, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_computed_once(bench: MakeBench, kind: str) -> None:
    one = bench(kind)
    first = ask(one, "the cat", ONE)
    again = ask(one, "the cat", ONE)
    assert again.text() == first.text()
    assert again.finish["cached_tokens"] == first.finish["prompt_tokens"] - 1
    assert one.pictures is not None
    num_parts = 5 if kind == "smolvlm" else 1
    assert one.pictures.num_encoded == num_parts
    alone = ask(one, "the cat", ONE, cache_prompt=False)  # its embeddings are still there
    assert (alone.text(), alone.finish["cached_tokens"], one.pictures.num_encoded) == (first.text(), 0, num_parts)
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


@pytest.mark.parametrize("kind", ["llava", "qwen2vl"])
def test_a_full_cache_with_pictures(bench: MakeBench, kind: str) -> None:
    """The cells of the younger one are taken, and its picture is computed again later."""
    lone = bench(kind, parallel=1)
    asked = [("the cat", ONE), ("a dog", OTHER)]
    expected = [ask(lone, *parts, max_tokens=100, cache_prompt=False).text() for parts in asked]
    one = bench(kind, parallel=2, kv_unified=True, ctx_size=256)
    clients = [one.show(*parts, max_tokens=100) for parts in asked]
    one.run(*clients)
    assert [client.text() for client in clients] == expected
    one.check_idle()


@pytest.mark.parametrize("kind", ["llava", "qwen2vl"])
def test_what_cannot_shift_ends(bench: MakeBench, kind: str) -> None:
    """When its tokens fill the context, whatever their positions are."""
    one = bench(kind, parallel=1, ctx_size=256, context_shift=True)
    client = ask(one, "the cat", LARGE, max_tokens=400)
    assert (client.finish["stop_type"], client.finish["truncated"]) == ("limit", True)
    assert client.finish["prompt_tokens"] + client.finish["completion_tokens"] == 256
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_parks_with_its_picture(bench: MakeBench, kind: str) -> None:
    """What the prompt cache in RAM holds has pictures too."""
    one = bench(kind, parallel=1, cache_ram_mib=64)
    one.engine.prefixes.speed.expected_ns = lambda num_tokens: 1e12  # type: ignore[method-assign]  # so that it is worth a copy
    parts = ("the cat and the dog and the man", LARGE, "we all")
    first = ask(one, *parts)
    slot = one.engine.slots.all[0]
    for end in (("we all",), ("we two",), ("the", OTHER)):
        assert one.engine.prefixes.put_away(slot)
        one.engine.prefixes.forget(slot)
        again = ask(one, *parts[:2], *end)
        assert again.finish["cached_tokens"] > 16 + 28 * (kind == "qwen2vl")
        assert again.text() == ask(one, *parts[:2], *end, cache_prompt=False).text()
    assert first.text() == ask(one, *parts).text()
    one.check_idle()


def test_tokens_of_pictures() -> None:
    tokens = tokens_of(("a", 0), 64, 64)
    assert max(tokens) < 0
    assert len(set(tokens)) == 64
    assert tokens != tokens_of(("b", 0), 64, 64) != tokens_of(("b", 1), 64, 64)


# ---------------------------------------------------------------- M-RoPE


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.integers(0, 5), st.tuples(st.integers(1, 7), st.integers(1, 7))), max_size=5))
def test_positions_come_from_tokens(parts: list[int | tuple[int, int]]) -> None:
    """Texts of so many tokens, and pictures of so many columns and rows."""
    tokens, position, ends = array("i"), 0, [0]
    for part in parts:
        if isinstance(part, int):
            tokens.extend(range(part))
            position += part
            ends += range(len(tokens) - part, len(tokens) + 1)
        else:
            tokens.extend(tokens_of(("a", 0), part[0] * part[1], max(part)))
            position += max(part)
            ends.append(len(tokens))
        assert len(tokens) - count_in_place(tokens) == position
    for length in range(len(tokens) + 1):
        start = start_outside(tokens, length)
        assert start in ends
        assert start == length or (start < length < len(tokens) and tokens[length] < 0)


def test_the_parts_of_positions(bench: MakeBench) -> None:
    """Time, row and column, as the model was trained with."""
    one = bench("qwen2vl")
    assert one.pictures is not None
    _, [picture] = one.pictures.read(["the", 0], [GivenFile("picture 0", LARGE)])
    count = picture.end - picture.start
    assert (count, picture.chunk.num_positions) == (28, 7)
    expected = [(10, 10 + index // 7, 10 + index % 7, 0) for index in range(count)]
    assert [tuple(column) for column in one.pictures.positions(picture.chunk, 10).T] == expected
    ask(one, "the", LARGE)
    assert {slot.num_in_place for slot in one.engine.slots.all} == {0, 28 - 7}


def test_choices_share_a_picture(bench: MakeBench) -> None:
    for options in ({}, {"kv_unified": True}):
        one = bench("qwen2vl", parallel=3, **options)
        client = ask(one, "the cat", LARGE, "is", n=3)
        assert {client.text(choice) for choice in range(3)} == {ask(one, "the cat", LARGE, "is", cache_prompt=False).text()}
        one.check_idle()


@pytest.mark.parametrize("rows", [3, 5, 512])
def test_a_client_that_leaves_in_the_middle_of_a_picture(bench: MakeBench, rows: int) -> None:
    """The next prompt continues there, or computes the picture again, and says the same."""
    one = bench("qwen2vl", parallel=1, batch_size=rows, ubatch_size=rows)
    expected = {end: ask(one, "the cat", LARGE, end, cache_prompt=False).text() for end in ("is", "on")}
    slot = one.engine.slots.all[0]
    for num_steps in range(8):
        one.engine.prefixes.forget(slot)
        left = one.show("the cat", LARGE, "is")
        one.step_until(lambda: min(slot.tokens, default=0) < 0)
        for _ in range(num_steps):
            one.step()
        one.ring.detach(left.request_id)
        one.engine.abort(left.request_id)
        for end in ("on", "is") if num_steps % 2 else ("is", "on"):
            assert ask(one, "the cat", LARGE, end).text() == expected[end]
    one.check_idle()


def test_a_decode_that_is_cut_short_inside_a_picture(bench: MakeBench) -> None:
    one = bench("qwen2vl", parallel=1, batch_size=5, ubatch_size=5)
    expected = ask(one, "the cat", LARGE, "is", cache_prompt=False).text()
    slot, decode = one.engine.slots.all[0], one.context.decode_embeddings
    one.engine.prefixes.forget(slot)
    left = one.show("the cat", LARGE, "is")

    def cut_short(*arguments: Any, **more: Any) -> int:
        code = decode(*arguments, **more)
        return ABORTED if slot.tokens[-1] < 0 else code

    one.context.decode_embeddings = cut_short  # type: ignore[method-assign]
    one.step_until(lambda: not one.engine.has_work)
    assert not left.texts
    one.ring.detach(left.request_id)
    one.context.decode_embeddings = decode  # type: ignore[method-assign]
    assert ask(one, "the cat", LARGE, "is").text() == expected
    one.check_idle()


@pytest.mark.parametrize("rows", [4, 512])
def test_a_recurrent_state_and_positions_with_parts(bench: MakeBench, rows: int) -> None:
    """As in Qwen3.5: what follows a picture begins at a checkpoint, and there is none inside of a picture."""
    options: dict[str, Any] = {"batch_size": rows, "ubatch_size": rows, "checkpoint_min_step": 1, "parallel": 1}
    one, alone = bench("qwen2vl", "state", **options), bench("qwen2vl", "state", **options)
    words = "the cat and the dog and the man and all of you " * 2
    first = (words, LARGE, words)
    for parts in (first, (words, LARGE, "two"), (*first, ONE, words), (*first, ONE, "we"), (words, OTHER)):
        client = ask(one, *parts)
        assert client.text() == ask(alone, *parts, cache_prompt=False).text()
        held = one.engine.slots.all[0]
        assert all(held.tokens[checkpoint.length - 1] >= 0 for checkpoint in held.checkpoints)
    assert client.finish["cached_tokens"] > 0
    one.check_idle()


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("kind", KINDS)
def test_odd_shapes(bench: MakeBench, kind: str) -> None:
    """One pixel, a line, a column."""
    one = bench(kind)
    for width, height in ((1, 1), (1, 100), (100, 1), (3, 2), (29, 500)):
        assert ask(one, "the", png(picture(8, width, height)), "is", max_tokens=4).text()
    one.check_idle()


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
        (png(picture(1, 600, 2)), "600 x 2 pixels, but no side"),
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


def test_a_projector_closes_after_what_it_reads(tmp_path: Path) -> None:
    """In another thread: what libmtmd uses must not be freed meanwhile."""
    make_llama(tmp_path / "sees.gguf", seed=1, chat_template=TEMPLATE)
    make_llava(tmp_path / "llava.gguf")
    one = Bench(tmp_path / "sees.gguf", 1 << 20, mmproj=str(tmp_path / "llava.gguf"), parallel=1)
    assert one.pictures is not None
    projector = one.pictures._projector
    with ThreadPoolExecutor(1) as thread:
        reading = [thread.submit(projector.read, ["the", LARGE]) for _ in range(50)]
        reading[0].result()
        projector.close()
    errors = [job.exception() for job in reading]
    assert all(error is None or "is closed" in str(error) for error in errors)
    with pytest.raises(LlamaError, match="is closed"):
        projector.read(["the", LARGE])
    one.close()
