"""GGUF headers: their content, and that no file at all breaks or stalls the reader."""

import contextlib
import os
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_llama, make_vocabulary

from fastrouter._core import skip_strings
from fastrouter.catalog import gguf as module
from fastrouter.catalog.file_names import group_files, quant_of
from fastrouter.catalog.gguf import GgufError, Header, read_header


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: str, kind: int, content: bytes) -> bytes:
    return text(name.encode()) + struct.pack("<I", kind) + content


def u32(name: str, value: int) -> bytes:
    return key(name, 4, struct.pack("<I", value))


ARCHITECTURE = key("general.architecture", 8, text(b"llama"))


def gguf_of(*keys: bytes, tensors: tuple[bytes, ...] = (), content: bytes = b"", version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return head + (b"\0" * (-len(head) % 32) + content if tensors else b"")


def tensor(name: bytes, dimensions: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)


SMALL = gguf_of(
    ARCHITECTURE,
    key("general.name", 8, text(b"small")),
    u32("llama.context_length", 128),
    key("llama.attention.head_count_kv", 9, struct.pack("<IQ3i", 5, 3, 1, 8, 2)),
    key("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + text(b"a") + text(b"") + text("ü".encode())),
    key("tokenizer.ggml.scores", 9, struct.pack("<IQ3f", 6, 3, 0, 1, 2)),
    key("general.flag", 7, b"\1"),
    key("tokenizer.chat_template", 8, text(b"{{ x }}")),
    tensors=(tensor(b"a", (32, 2)), tensor(b"b", (32,), 8, 256)),
    content=b"\0" * 290,
)


def read_bytes(tmp_path: Path, content: bytes) -> Header:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    return read_header(path)


def test_a_real_model(tmp_path: Path) -> None:
    path = make_llama(tmp_path / "a.gguf", n_ctx=512, chat_template="{{ messages }}", half=True)
    header = read_header(path)
    assert (header.architecture, header.name, header.context_length, header.embedding_length) == ("llama", "tiny-0", 512, 64)
    assert (header.block_count, header.head_count, header.head_count_kv, header.file_type) == (2, 4, 4, 1)
    assert header.vocab_size == len(make_vocabulary()[0])
    assert (header.has_chat_template, header.chat_template, header.num_tensors) == (True, "{{ messages }}", 21)
    assert path.stat().st_size - 2**15 < header.size_bytes < path.stat().st_size
    assert header.num_params == 124352
    assert header.pooling_type is header.split_count is None


def test_a_small_one(tmp_path: Path) -> None:
    header = read_bytes(tmp_path, SMALL)
    assert (header.name, header.context_length, header.head_count_kv, header.vocab_size) == ("small", 128, 8, 3)
    assert (header.num_params, header.size_bytes) == (96, 256 + 34)


def test_shards(tmp_path: Path) -> None:
    first = make_llama(tmp_path / "a.gguf", tensors_per_shard=8)
    assert read_header(first).split_count == 3
    assert read_header(str(first).replace("-00001-", "-00002-")).architecture == ""


@pytest.mark.parametrize("length", range(len(SMALL)))
def test_cut_at_every_byte(tmp_path: Path, length: int) -> None:
    with pytest.raises(GgufError, match=r"byte \d+|is empty"):
        read_bytes(tmp_path, SMALL[:length])


@settings(deadline=None, max_examples=400)
@given(flips=st.lists(st.tuples(st.integers(0, len(SMALL) - 291), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bits_end_in_a_header_or_an_error(tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]) -> None:
    content = bytearray(SMALL)
    for index, bits in flips:
        content[index] ^= bits
    start = time.thread_time()  # without the time of other programs
    with contextlib.suppress(GgufError):
        read_bytes(tmp_path_factory.getbasetemp(), bytes(content))
    assert time.thread_time() - start < 5


@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=200))
def test_any_bytes_after_the_magic(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    with pytest.raises(GgufError):
        read_bytes(tmp_path_factory.getbasetemp(), b"GGUF\3\0\0\0" + content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"GGML" + SMALL[4:], "does not begin with GGUF at byte 0"),
        (b"GGUF\0\0\0\3" + SMALL[8:], "big-endian at byte 4"),
        (gguf_of(ARCHITECTURE, version=1), "GGUF version 1 at byte 4"),
        (gguf_of(u32("a", 1)), "general.architecture is missing"),
        (gguf_of(u32("general.architecture", 1)), "general.architecture is missing"),
        (gguf_of(ARCHITECTURE, u32("general.alignment", 3)), "general.alignment is 3"),
        (gguf_of(ARCHITECTURE, key("general.alignment", 8, text(b"x"))), "general.alignment is x"),
        (gguf_of(key("x", 13, b"")), "x has the unknown type 13 at byte"),
        (gguf_of(key("x", 9, struct.pack("<IQ", 9, 1))), "array of the unknown type 9"),
        (gguf_of(key("x", 9, struct.pack("<IQ", 0, 1 << 40))), "x has 1099511627776 items at byte"),
        (gguf_of(key("x", 8, struct.pack("<Q", 2**64 - 1))), "the file ends at byte"),
        (gguf_of(key("x", 9, struct.pack("<IQQ", 8, 2, 2**64 - 1))), "the file ends at byte"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "says it has 1099511627776 tensors at byte 8"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "says it has 1099511627776 keys at byte 16"),
        (gguf_of(ARCHITECTURE, tensors=(tensor(b"t", (1,) * 5),), content=b"\0" * 64), "tensor t has 5 dimensions"),
        (gguf_of(ARCHITECTURE, tensors=(tensor(b"t", (0, 4)),), content=b"\0" * 64), "impossible shape"),
        (gguf_of(ARCHITECTURE, tensors=(tensor(b"t", (31,), 8),), content=b"\0" * 64), "impossible shape"),
        (gguf_of(ARCHITECTURE, tensors=(tensor(b"t", (4,), 4),), content=b"\0" * 64), "tensor t has the unknown type 4"),
        (gguf_of(ARCHITECTURE, tensors=(tensor(b"t", (4,), 0, 1),), content=b"\0" * 64), "not aligned"),
        (gguf_of(ARCHITECTURE, tensors=(tensor(b"t", (2**62, 2**62)),), content=b"\0" * 64), "it is incomplete"),
        (gguf_of(ARCHITECTURE, tensors=(tensor(b"t", (17,)),), content=b"\0" * 67), "it is incomplete"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(GgufError, match=message):
        read_bytes(tmp_path, content)


def test_strings_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BLOCK_BYTES", 16)
    monkeypatch.setattr(module, "MAX_BLOCK_BYTES", 64)
    words = b"".join(text(b"x" * (index % 200)) for index in range(500))
    tokens = key("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 500) + words)
    assert read_bytes(tmp_path, gguf_of(ARCHITECTURE, tokens, u32("llama.block_count", 7))).block_count == 7


def test_a_long_template_is_known_but_not_kept(tmp_path: Path) -> None:
    header = read_bytes(tmp_path, gguf_of(ARCHITECTURE, key("tokenizer.chat_template", 8, text(b"x" * (2 << 20)))))
    assert (header.has_chat_template, header.chat_template) == (True, None)


def test_a_sparse_file_of_zeros_ends_soon(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 16) + key("x", 9, struct.pack("<IQ", 8, 1 << 22)))
    os.truncate(path, 1 << 40)
    start = time.thread_time()
    with pytest.raises(GgufError):
        read_header(path)
    assert time.thread_time() - start < 20


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "missing", "link to itself"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.gguf"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path)
    with pytest.raises(GgufError, match=r"not a regular file|No such file|symbolic links"):
        read_header(path)


@settings(deadline=None, max_examples=300)
@given(
    strings=st.lists(st.integers(0, 40), max_size=20),
    last=st.sampled_from([None, 0, 1, 2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 9, 2**64 - 1]),
    at=st.integers(0, 12),
    cut=st.integers(0, 400),
    count=st.integers(0, 25),
    beyond=st.integers(0, 60),
)
def test_strings_are_skipped_as_python_would(strings: list[int], last: int | None, at: int, cut: int, count: int, beyond: int) -> None:
    content = b"\1" * at + b"".join(text(b"x" * length) for length in strings)
    if last is not None:
        content += struct.pack("<Q", last)
    content = content[:cut]
    end = len(content) + beyond
    position, left = at, count
    while left and position + 8 <= len(content):
        length = int.from_bytes(content[position : position + 8], "little")
        left -= 1
        if position + 8 + length > end:
            position = end + 1
            break
        position += 8 + length
    assert skip_strings(content, at, count, end) == (position, left)


@pytest.mark.parametrize(("at", "end"), [(-1, 5), (0, -1)])
def test_nothing_is_skipped_before_the_beginning(at: int, end: int) -> None:
    with pytest.raises(ValueError, match="before the beginning"):
        skip_strings(b"x" * 20, at, 1, end)


def test_a_large_vocabulary_is_skipped_quickly(tmp_path: Path) -> None:
    words = b"".join(text(b"token%d" % index) for index in range(49152)) * 2
    content = gguf_of(ARCHITECTURE, key("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2 * 49152) + words))
    start = time.thread_time()
    assert read_bytes(tmp_path, content).vocab_size == 2 * 49152
    assert time.thread_time() - start < 0.5  # a few milliseconds; a Python object for each word would take a second


def test_file_names() -> None:
    groups, mmproj = group_files(
        ["b-00002-of-00002.gguf", "a-Q8_0.gguf", "b-00001-of-00002.gguf", "mmproj-a.gguf", "mtp-a.gguf", "c-00002-of-00003.gguf"]
    )
    assert [(group.stem, len(group.names), group.missing) for group in groups] == [
        ("a-Q8_0", 1, ()),
        ("b", 2, ()),
        ("c", 1, ("c-00001-of-00003.gguf", "c-00003-of-00003.gguf")),
    ]
    assert [group.error_in("/m") for group in groups] == [
        None,
        None,
        "shard 1, 3 of 3 is missing: there is no file /m/c-00001-of-00003.gguf; put all shards into one folder",
    ]
    [many], _ = group_files(["d-00001-of-99999.gguf"])
    assert (many.error_in("/m") or "").startswith("shard 2, 3, 4, 5, 6, 7, 8, 9, ... of 99999 is missing: there is no file /m/d-00002-of")
    assert mmproj == "mmproj-a.gguf"
    assert [quant_of(stem) for stem in ("a-Q4_k_m", "a.q8_0", "stories260K")] == ["Q4_K_M", "Q8_0", None]
