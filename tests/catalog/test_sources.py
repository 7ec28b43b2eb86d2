"""Folders of any size and with any content: found quickly, never opened twice, and no request waits for them."""

import contextlib
import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Router, StartRouter, eventually
from tiny_models import make_llama
from tiny_projectors import make_gemma3, make_llava

from fastrouter.catalog.catalog import Catalog
from fastrouter.config.config import parse
from fastrouter.options.limits import KEPT_PICTURES_BYTES
from fastrouter.supervisor.memory.estimate import estimate

NUM_FOLDERS = NUM_FILES = 100  # in each folder
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}{% endfor %}{% if tools %}{{ tools }}{% endif %}"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 names of one model with a template, in nested folders."""
    folder = tmp_path_factory.mktemp("many")
    model = make_llama(folder / "m.gguf", chat_template=TEMPLATE)
    for number in range(NUM_FOLDERS):
        below = folder / "models" / f"a{number % 10}" / f"b{number}"
        below.mkdir(parents=True)
        for index in range(NUM_FILES):
            os.link(model, below / f"m{number * NUM_FILES + index}.gguf")
    return folder / "models"


@contextlib.contextmanager
def opened_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The GGUF files that this process opens."""
    opened: list[str] = []
    real = os.open

    def spy(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith(".gguf"):
            opened.append(str(path))
        return real(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", spy)
        yield opened


def test_ten_thousand_files(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(["--models-dir", str(many)], {})
    with opened_models(monkeypatch) as opened:
        start = time.perf_counter()
        catalog = Catalog(config)
        first_s = time.perf_counter() - start
        assert len(opened) == 10_000
        opened.clear()
        start = time.perf_counter()
        difference = catalog.adopt(catalog.scan())
        second_s = time.perf_counter() - start
        assert (str(difference), opened, catalog.version) == ("", [], 1)
        start = time.perf_counter()
        other = Catalog(config)  # like the next process
        third_s = time.perf_counter() - start
        assert opened == []
    print(f"\n10,000 files: first scan {first_s:.2f} s, second {second_s:.2f} s, next process {third_s:.2f} s")
    assert other.models() == catalog.models()
    spec = other.get("m4242")
    assert spec is not None
    assert spec.capabilities == ("completion", "chat", "tools")
    assert len(other.models()) == 10_000
    (many / "a0" / "b0" / "new.gguf").write_bytes(b"GGUF")
    with opened_models(monkeypatch) as opened:
        assert str(catalog.adopt(catalog.scan())) == "added a0/b0/new"
        assert opened == [str(many / "a0" / "b0" / "new.gguf")]
    (many / "a0" / "b0" / "new.gguf").unlink()


def test_the_loop_goes_on_during_a_scan(many: Path, router: StartRouter) -> None:
    server = router(models_dir=many)
    assert len(server.get("/v1/models").json["data"]) == 10_000
    waits: list[float] = []
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(len(server.get("/models?reload=1").json["data"])))
    thread.start()
    while thread.is_alive():
        start = time.perf_counter()
        assert server.get("/health").status == 200
        waits.append(time.perf_counter() - start)
    thread.join()
    print(f"\n/health during a rescan of 10,000 files: {len(waits)} answers, at most {max(waits) * 1000:.0f} ms")
    assert answers == [10_000]
    assert len(waits) > 5


# ---------------------------------------------------------------- odd files


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Path]:
    """A folder with one good model among many other things."""
    folder = tmp_path / "odd"
    folder.mkdir()
    model = make_llama(folder / "good.gguf")
    os.mkfifo(folder / "fifo.gguf")
    (folder / "device.gguf").symlink_to("/dev/zero")
    (folder / "gone.gguf").symlink_to("nowhere")
    (folder / "circle.gguf").symlink_to("circle.gguf")
    (folder / "folder.gguf").mkdir()
    (folder / "full.gguf").mkdir()
    shutil.copy(model, folder / "full.gguf" / "inside.gguf")
    (folder / "up").symlink_to("..")
    (folder / "self").symlink_to(".")
    (folder / "empty.gguf").write_bytes(b"")
    (folder / "text.gguf").write_text("<html>404</html>")
    (folder / "cut.gguf").write_bytes(model.read_bytes()[:-1])
    (folder / "link.gguf").symlink_to("good.gguf")
    shutil.copy(model, os.path.join(os.fsencode(folder), b"no-utf8-\xff.gguf"))
    (folder / "half.gguf.part").write_bytes(b"GGUF")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket.gguf"))
    yield folder
    listener.close()


ERRORS = {
    "circle": "Too many levels of symbolic links",
    "cut": "it is incomplete",
    "device": "device.gguf: is not a regular file",
    "empty": "empty.gguf: is empty",
    "fifo": "fifo.gguf: is not a regular file",
    "folder": "folder.gguf: is not a regular file",
    "gone": "gone.gguf: No such file or directory",
    "no-utf8-\ufffd": "its path is not UTF-8: rename it",
    "socket": "socket.gguf: is not a regular file",
    "text": "does not begin with GGUF at byte 0",
}


def test_odd_things_are_listed_with_their_error(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened_models(monkeypatch) as opened:
        models = {spec.id: spec.error for spec in Catalog(parse(["--models-dir", str(odd)], {})).models()}
    assert sorted(models) == sorted([*ERRORS, "full.gguf", "good", "link"])
    assert [models.pop(name) for name in ("full.gguf", "good", "link")] == [None] * 3
    for name, error in ERRORS.items():
        assert error in (models[name] or ""), name
    assert not [path for path in opened if any(name in path for name in ("fifo", "device", "socket", "folder"))]


def test_what_cannot_be_loaded_says_so_at_once(odd: Path, router: StartRouter) -> None:
    server = router(models_dir=odd)
    listed = {model["id"]: model["status"] for model in server.get("/v1/models").json["data"]}
    for name, error in ERRORS.items():
        assert error in listed[name]["error"]
        for path, body in (("/v1/completions", {"model": name, "prompt": "a"}), ("/models/load", {"model": name})):
            answer = server.post(path, body)
            assert (answer.status, answer.error["type"]) == (400, "invalid_model_error")  # SDKs do not repeat requests with this answer
            assert answer.error["message"] == f"model name={name} failed to load: {listed[name]['error']}"
    assert server.post("/v1/completions", {"model": "good", "prompt": "a", "max_tokens": 2}).status == 200


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_a_file_cut_anywhere_is_listed(tmp_path: Path, length: int) -> None:
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"llama"
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "x.gguf").write_bytes(header[:length])
    [spec] = Catalog(parse(["--models-dir", str(tmp_path / "models")], {})).models()
    assert spec.id == "x"
    assert spec.error is not None
    assert f"byte {length}" in spec.error or "x.gguf: is empty; get another copy of the file" in spec.error


# ---------------------------------------------------------------- what the listing says


def entry_of(server: Router, model: str) -> dict[str, Any]:
    """Its entry in the listing; the entry of a single model also says how it is used."""
    found: dict[str, Any] = server.get(f"/v1/models/{model}").json
    assert found.pop("usage")["running"] == 0
    return found


def test_an_unloaded_model_is_described_as_a_loaded_one(tmp_path: Path, router: StartRouter) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    make_llama(folder / "m.gguf", chat_template=TEMPLATE, n_ctx=512, half=True)
    server = router("--ctx-size", "256", models_dir=folder)
    before = entry_of(server, "m")
    assert (before["chat_template"], before["aliases"]) == (True, ["m.gguf"])
    assert before["capabilities"] == ["completion", "chat", "tools"]
    assert before["chat_template_caps"] == {
        "supports_tools": True,
        "supports_system_role": True,
        "supports_thinking": False,
        "supports_reasoning_effort": False,
        "kwargs": [],
    }
    assert before["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text"]}
    assert before["details"] == {"format": "gguf", "family": "llama"}
    assert before["meta"]["ftype"] == "F16"
    assert server.get("/v1/models").json["data"] == [before]
    server.load("m")
    after = entry_of(server, "m")
    for name in ("n_vocab", "n_ctx", "n_ctx_train", "n_embd", "n_params", "ftype"):
        assert after["meta"][name] == before["meta"][name], name
    assert after["meta"]["n_ctx"] == 256
    assert {**after, "status": None, "meta": None} == {**before, "status": None, "meta": None}
    assert server.get("/v1/models").json["data"] == [after]
    server.unload("m")
    eventually(lambda: entry_of(server, "m")["meta"] == before["meta"], "the header's facts again")


@pytest.mark.parametrize("flags", ["", "-c 300", "-c 100000", "-c 1000 -np 3", "-c 1000 -np 3 -kvu", "-c 100"])
def test_the_context_is_known_before_a_load(tmp_path: Path, router: StartRouter, flags: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    make_llama(folder / "m.gguf", n_ctx=640)
    server = router(*flags.split(), models_dir=folder)
    before = entry_of(server, "m")["meta"]
    server.load("m")
    after = entry_of(server, "m")["meta"]
    assert (before["n_ctx"], before["n_ctx_train"]) == (after["n_ctx"], after["n_ctx_train"]) == (after["n_ctx"], 640)


def test_a_projector_tells_what_its_model_understands(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "v"
    folder.mkdir(parents=True)
    make_llama(folder / "m.gguf", chat_template=TEMPLATE)

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    keys = text(b"general.architecture") + struct.pack("<I", 8) + text(b"clip")
    keys += text(b"clip.has_audio_encoder") + struct.pack("<I?", 7, True)
    (folder / "mmproj-m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + keys)
    [spec] = Catalog(parse(["--models-dir", str(tmp_path / "models")], {})).models()
    assert (spec.modalities, spec.capabilities) == (("text", "audio"), ("completion", "chat", "tools", "audio"))
    assert Catalog(parse(["--models-dir", str(tmp_path / "models"), "--no-mmproj"], {})).models()[0].modalities == ("text",)


def projectors(folder: Path) -> tuple[Path, Path]:
    """A model with a projector beside it, and another projector."""
    model, other = folder / "models" / "v" / "m.gguf", folder / "other.gguf"
    model.parent.mkdir(parents=True)
    make_llama(model, chat_template=TEMPLATE)
    make_gemma3(model.with_name("mmproj-m.gguf"))
    make_llava(other)
    return model, other


def test_which_projector_a_model_gets(tmp_path: Path) -> None:
    model, other = projectors(tmp_path)
    beside, models = str(model.with_name("mmproj-m.gguf")), ["--models-dir", str(tmp_path / "models")]
    preset = tmp_path / "preset.ini"
    preset.write_text(f"[v]\nmmproj = {other}\n[w]\nmodel = {model}\n[u]\nmodel = {model}\nmmproj = {other}\n")

    def found(*flags: str) -> dict[str, tuple[str | None, bool]]:
        specs = Catalog(parse(list(flags), {})).models()
        return {spec.id: (spec.options.mmproj, "image" in spec.modalities and "vision" in spec.capabilities) for spec in specs}

    assert found(*models) == {"v": (beside, True)}
    assert found(*models, "--no-mmproj") == {"v": (None, False)}
    assert found("-m", str(model)) == {"m": (None, False)}
    assert found("-m", str(model), "--mmproj", str(other)) == {"m": (str(other), True)}
    named = found(*models, "--models-preset", str(preset))
    assert named == {"v": (str(other), True), "w": (None, False), "u": (str(other), True)}


def test_models_with_positions_of_several_parts_see(tmp_path: Path) -> None:
    model, _ = projectors(tmp_path)
    make_llama(model, architecture="qwen2vl", chat_template=TEMPLATE)
    [spec] = Catalog(parse(["--models-dir", str(tmp_path / "models")], {})).models()
    assert (spec.options.mmproj, spec.modalities) == (spec.mmproj, ("text", "image"))
    assert "vision" in spec.capabilities


def test_a_projector_counts_in_the_need_of_its_model(tmp_path: Path) -> None:
    projectors(tmp_path)
    models = ["--models-dir", str(tmp_path / "models")]
    [with_it], [without] = (Catalog(parse([*models, *flags], {})).models() for flags in ([], ["--no-mmproj"]))
    more = estimate(with_it, devices={}).host_bytes - estimate(without, devices={}).host_bytes
    assert with_it.projector is not None
    assert more >= with_it.projector.size_bytes + KEPT_PICTURES_BYTES
