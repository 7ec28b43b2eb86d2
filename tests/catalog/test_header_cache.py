"""A file that has not changed is not opened again, in this process or the next."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_llama

from fastrouter.catalog import header_cache as module
from fastrouter.catalog.gguf import GgufError, Unreadable, Unusual, read_header
from fastrouter.catalog.header_cache import Headers, template_of

TEMPLATE = "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking %}<think>{% endif %}{{ messages }}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fastrouter" / "headers.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_llama(tmp_path / "a.gguf", chat_template=TEMPLATE)


def test_known_in_the_next_process(model: Path, cache: Path) -> None:
    first = Headers()
    known = first.read(str(model))
    assert (first.read(str(model)), first.num_reads) == (known, 1)
    first.save()
    second = Headers()
    assert (second.read(str(model)), second.num_reads) == (known, 0)
    assert known.header.architecture == "llama"
    assert known.template is not None
    assert (known.template.tools, known.template.thinking, known.template.kwargs) == (True, True, ("enable_thinking",))
    assert TEMPLATE not in cache.read_text()
    assert (known.header.has_chat_template, known.header.chat_template) == (True, None)
    assert repr(second) == f"<Headers 0 files read, <FactFile {cache}: 1 entries>>"


def test_a_template_is_read_again_when_it_is_asked_for(model: Path) -> None:
    path = str(model)
    assert template_of(path) == TEMPLATE
    assert template_of(path) is template_of(path), "the last few are kept"
    make_llama(model, chat_template="{{ messages }}, but longer")
    assert template_of(path) == "{{ messages }}, but longer"
    make_llama(model, chat_template=None)
    assert template_of(path) is None
    model.unlink()
    with pytest.raises(Unreadable):
        template_of(path)


def test_a_changed_file_is_read_again(model: Path) -> None:
    headers = Headers()
    first = headers.read(str(model))
    whole = model.read_bytes()
    model.write_bytes(whole[:100])
    for _ in range(2):
        with pytest.raises(GgufError, match="ends at byte 100"):
            headers.read(str(model))
    assert headers.num_reads == 2
    model.write_bytes(whole)
    assert headers.read(str(model)) == first
    os.utime(model, ns=(1, 1))
    assert headers.read(str(model)) == first
    assert headers.num_reads == 4


def test_another_file_of_the_same_size_and_time_is_read(model: Path) -> None:
    headers = Headers()
    first = headers.read(str(model)).header
    other = make_llama(model.parent / "other", seed=3, chat_template=TEMPLATE)
    os.utime(other, ns=(0, model.stat().st_mtime_ns))
    assert other.stat().st_size == model.stat().st_size
    other.replace(model)
    assert (first.name, headers.read(str(model)).header.name) == ("tiny-0", "tiny-3")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"GGUF", GgufError, "the file ends at byte 4"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), Unusual, "says it has 1099511627776 tensors"),
    ],
)
def test_errors_are_known_too(tmp_path: Path, content: bytes, error: type[GgufError], message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    headers = Headers()
    for _ in range(2):
        with pytest.raises(error, match=message) as caught:
            headers.read(str(path))
        assert type(caught.value) is error
    headers.save()
    again = Headers()
    with pytest.raises(error, match=message) as caught:
        again.read(str(path))
    assert type(caught.value) is error
    assert (headers.num_reads, again.num_reads) == (1, 0)


def test_what_could_not_be_read_is_tried_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> Any:
        raise Unreadable("Permission denied")

    headers = Headers()
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_header", refuse)
        with pytest.raises(GgufError, match="Permission denied"):
            headers.read(str(model))
    assert headers.read(str(model)).header.name == read_header(model).name


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "missing", "link to itself", "null byte"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x\0.gguf" if kind == "null byte" else "x.gguf")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path)
    headers = Headers()
    with pytest.raises(Unreadable, match=r"not a regular file|No such file|symbolic links|null"):
        headers.read(str(path))
    assert headers.num_reads == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: 1,
        lambda entry: [],
        lambda entry: entry[:3],
        lambda entry: [*entry[:3], None],
        lambda entry: [*entry[:3], [1]],
        lambda entry: [*entry[:3], [[], None]],
        lambda entry: [*entry[:3], [entry[3][0], [1]]],
        lambda entry: {"a": 1},
    ],
)
def test_entries_of_another_program_are_ignored(model: Path, cache: Path, spoil: Callable[[Any], Any]) -> None:
    first = Headers()
    known = first.read(str(model))
    first.save()
    content = json.loads(cache.read_text())
    content["entries"] = {path: spoil(entry) for path, entry in content["entries"].items()}
    cache.write_text(json.dumps(content))
    second = Headers()
    assert (second.read(str(model)), second.num_reads) == (known, 1)
