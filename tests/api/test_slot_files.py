"""POST /slots/{id}?action=save|restore|erase through a real router: files that are restored, and files and names that are refused."""

import os
import struct
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, Router, StartRouter
from tiny_memories import MAKERS
from tiny_models import make_llama, make_lora
from tiny_projectors import image_part, make_llava, make_qwen2vl, picture, png

from fastrouter.api.control.slot_files import is_file_name

TALK = [259 + (step * step) % 69 for step in range(200)]
OTHER = [259 + (7 + step * step * step) % 69 for step in range(200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slots")
    (folder / "saved").mkdir()
    for name, seed in (("tiny", 0), ("other", 1)):
        make_llama(folder / f"{name}.gguf", seed=seed)
    make_lora(folder / "lora.gguf")
    for kind, make in MAKERS.items():
        make(folder / f"{kind}.gguf")
    make_llama(folder / "sees.gguf", seed=1)
    make_llava(folder / "mmproj-sees.gguf")
    make_llava(folder / "mmproj-seesother.gguf", seed=1)
    make_llama(folder / "parts.gguf", seed=1, architecture="qwen2vl")
    make_qwen2vl(folder / "mmproj-parts.gguf")
    return folder


@pytest.fixture(scope="module")
def server(module_router: StartRouter, folder: Path) -> Router:
    names = ("tiny", "other", *MAKERS)
    sections = "".join(f"[{name}]\nmodel = {folder / name}.gguf\n" for name in names)
    tuned = (
        f"[tuned]\nmodel = {folder / 'tiny.gguf'}\nlora = {folder / 'lora.gguf'}\n[short]\nmodel = {folder / 'tiny.gguf'}\nctx-size = 256\n"
    )
    seeing = (
        f"[{name}]\nmodel = {folder / model}.gguf\nchat-template = chatml\nmmproj = {folder / 'mmproj-'}{name}.gguf\n"
        for name, model in (("sees", "sees"), ("parts", "parts"), ("seesother", "sees"))
    )
    blind = f"[blind]\nmodel = {folder / 'sees.gguf'}\nchat-template = chatml\n"
    presets = folder / "presets.ini"
    presets.write_text(f"[*]\nparallel = 2\ncache-ram = 0\nslot-save-path = {folder / 'saved'}\n{sections}{tuned}{''.join(seeing)}{blind}")
    return module_router("--models-preset", str(presets), "--models-max", "0")


def act(server: Router, action: str, model: str = "tiny", slot: int = 0, **body: Any) -> Answer:
    return server.post(f"/slots/{slot}?action={action}", {"model": model, **body})


def ask(server: Router, model: str = "tiny", prompt: list[int] = TALK, slot: int = 0, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = server.post(
        "/completion", {"model": model, "prompt": prompt, "id_slot": slot, "temperature": 0, "n_predict": 12, **more}
    ).json
    return answer


@pytest.mark.parametrize("model", ["tiny", *MAKERS])
def test_save_erase_restore(server: Router, folder: Path, model: str) -> None:
    first = ask(server, model, return_tokens=True)
    saved = act(server, "save", model, filename="talk.bin").json
    size = (folder / "saved" / "talk.bin").stat().st_size
    assert saved["timings"].pop("save_ms") > 0
    assert saved == {"id_slot": 0, "filename": "talk.bin", "n_saved": 211, "n_written": saved["n_written"], "timings": {}}
    assert 0 < saved["n_written"] <= size
    assert act(server, "erase", model).json == {"id_slot": 0, "n_erased": 211}
    assert act(server, "erase", model).json == {"id_slot": 0, "n_erased": 0}
    restored = act(server, "restore", model, slot=1, filename="talk.bin").json
    assert restored["timings"].pop("restore_ms") > 0
    assert restored == {"id_slot": 1, "filename": "talk.bin", "n_restored": 211, "n_read": saved["n_written"], "timings": {}}
    turn = [*TALK, *first["tokens"], 270, 271]
    fresh = ask(server, model, turn, cache_prompt=False)
    again = ask(server, model, turn, slot=1)
    assert again["content"] == fresh["content"]
    assert again["timings"]["cache_n"] == 211
    assert not list((folder / "saved").glob(".*"))


def show(server: Router, model: str, slot: int, **more: Any) -> dict[str, Any]:
    """A chat with a large picture, which is of 28 tokens and 7 positions in models with M-RoPE."""
    parts = [{"type": "text", "text": "the cat"}, image_part(png(picture(7, 200, 120))), {"type": "text", "text": "is"}]
    body = {"model": model, "messages": [{"role": "user", "content": parts}], "id_slot": slot, "temperature": 0, "max_tokens": 12, **more}
    answer: dict[str, Any] = server.post("/v1/chat/completions", body).json
    return answer


@pytest.mark.parametrize("model", ["sees", "parts"])
def test_a_slot_with_a_picture(server: Router, model: str) -> None:
    """It is saved with its picture, which is not computed again."""
    first = show(server, model, 0)
    saved = act(server, "save", model, filename="seen.bin").json
    num_prompt = first["usage"]["prompt_tokens"]
    assert saved["n_saved"] == num_prompt + 11
    server.unload(model)
    assert act(server, "restore", model, slot=1, filename="seen.bin").json["n_restored"] == saved["n_saved"]
    again = show(server, model, 1)
    assert again["choices"][0]["message"]["content"] == first["choices"][0]["message"]["content"]
    assert again["timings"]["cache_n"] == num_prompt - 1
    for other in ("seesother", "blind") if model == "sees" else ():
        assert "another projector" in act(server, "restore", other, filename="seen.bin").error["message"]


def test_a_slot_with_a_picture_of_llama_server(server: Router, folder: Path) -> None:
    act(server, "erase", "sees")
    ask(server, "sees")
    act(server, "save", "sees", filename="theirs.bin")
    path = folder / "saved" / "theirs.bin"
    content = path.read_bytes()
    length = struct.unpack("<I", content[-12:-8])[0]
    path.write_bytes(content[:12] + struct.pack("<i", -1) + content[16 : -12 - length])
    assert "saved by llama-server" in act(server, "restore", "sees", filename="theirs.bin").error["message"]


def test_it_outlives_its_worker(server: Router) -> None:
    content = ask(server)["content"]
    act(server, "save", filename="kept.bin")
    server.unload("tiny")
    assert act(server, "restore", filename="kept.bin").json["n_restored"] == 211
    again = ask(server)
    assert (again["content"], again["timings"]["cache_n"]) == (content, 199)


def test_a_busy_slot_is_waited_for(server: Router) -> None:
    body = {"model": "tiny", "prompt": OTHER, "id_slot": 1, "n_predict": 300, "temperature": 0, "stream": True, "ignore_eos": True}
    with server.stream("/completion", body) as stream:
        next(iter(stream))
        saved = act(server, "save", slot=1, filename="busy.bin").json
        assert saved["n_saved"] == len(OTHER) + 299
        assert act(server, "erase", slot=1).json["n_erased"] == len(OTHER) + 299


def test_adapters_are_kept(server: Router) -> None:
    prompt = {"model": "tuned", "prompt": TALK}
    plain, with_lora = ([], [{"id": 0, "scale": 0.5}])
    expected = ask(server, **prompt, lora=with_lora, cache_prompt=False)["content"]
    act(server, "save", "tuned", filename="lora.bin")
    act(server, "erase", "tuned")
    act(server, "restore", "tuned", filename="lora.bin")
    again = ask(server, **prompt, lora=with_lora)
    assert (again["content"], again["timings"]["cache_n"]) == (expected, 199)
    act(server, "restore", "tuned", filename="lora.bin")
    assert ask(server, **prompt, lora=plain)["timings"]["cache_n"] == 0
    refused = act(server, "restore", filename="lora.bin")
    assert (refused.status, refused.error["message"]) == (
        400,
        "Unable to restore slot: lora.bin: it was saved with the LoRA adapter lora.gguf, which is not loaded",
    )


def test_files_that_are_not_restored(server: Router, folder: Path) -> None:
    ask(server)
    act(server, "save", filename="good.bin")
    good = (folder / "saved" / "good.bin").read_bytes()
    state_bytes = act(server, "restore", filename="good.bin").json["n_read"]
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    wrong_version = struct.pack("<II", 0x67677371, 99) + good[8:state_bytes]
    files = {
        "cut.bin": (good[: len(good) // 2], "it is cut short"),
        "cut head.bin": (good[:10], "it is not a slot file"),
        "cut foot.bin": (good[:-3], ""),
        "flipped.bin": (bytes(flipped), "it is damaged"),
        "no adapters.bin": (good.replace(b'"adapters"', b'"adopters"'), "it is damaged"),
        "text.bin": (b"this is no file of a slot", "it is not a slot file"),
        "empty.bin": (b"", "it is not a slot file"),
        "version.bin": (wrong_version, "it is cut short, or from another model or llama.cpp"),
        "many.bin": (struct.pack("<III", 0x67677371, 3, 0xFFFFFFF0) + b"x" * 64, "do not fit the context of a slot"),
        "token.bin": (good[:12] + struct.pack("<i", -7) + good[16:state_bytes], "do not match its state or this model"),
        "missing.bin": (None, "there is no such file"),
    }
    for name, (content, reason) in files.items():
        if content is not None:
            (folder / "saved" / name).write_bytes(content)
        answer = act(server, "restore", filename=name)
        if reason:
            assert (answer.status, answer.error["type"]) == (400, "invalid_request_error"), name
            assert answer.error["message"].startswith(f"Unable to restore slot: {name}: "), name
            assert reason in answer.error["message"], name
    os.mkfifo(folder / "saved" / "pipe.bin")
    assert "there is no such file" in act(server, "restore", filename="pipe.bin").error["message"]
    (folder / "saved" / "plain.bin").write_bytes(good[:state_bytes])  # like llama-server
    assert act(server, "restore", filename="plain.bin").json["n_restored"] == 211
    assert ask(server)["timings"]["cache_n"] == 199


def test_a_file_of_another_model(server: Router) -> None:
    ask(server)
    act(server, "save", filename="tiny.bin")
    for model in ("other", *MAKERS):
        answer = act(server, "restore", model, filename="tiny.bin")
        assert (answer.status, answer.error["message"]) == (
            400,
            "Unable to restore slot: tiny.bin: it was saved with another model",
        )
    ask(server, prompt=TALK * 2)
    act(server, "save", filename="long.bin")
    assert "its 411 tokens do not fit the context of a slot" in act(server, "restore", "short", filename="long.bin").error["message"]


def test_a_disk_that_does_not_take_it(server: Router, folder: Path) -> None:
    (folder / "saved" / "dir.bin").mkdir()
    answer = act(server, "save", filename="dir.bin")
    assert (answer.status, "dir.bin" in answer.error["message"]) == (500, True)
    assert not list((folder / "saved").glob(".*"))


def test_what_is_refused(server: Router, folder: Path) -> None:
    before = sorted(path.name for path in folder.rglob("*"))
    for name in (
        "../out.bin",
        "..",
        ".",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "",
        "a" * 256,
        "a\u0000",
        " a",
        "a ",
        "a.",
        "a:b",
        "\uff0e\uff0e\u2215x",
    ):
        for action in ("save", "restore"):
            answer = act(server, action, filename=name)
            assert (answer.status, answer.error["message"]) == (400, "Invalid filename"), name
    assert sorted(path.name for path in folder.rglob("*")) == before
    for filename in ({}, {"filename": 7}):
        answer = act(server, "save", **filename)
        assert (answer.status, answer.error["message"]) == (400, "field 'filename' must be a string")
    for slot, action, message in (
        ("2", "erase", "Invalid slot ID"),
        ("-1", "erase", "Invalid slot ID"),
        ("x", "erase", "Invalid slot ID"),
        ("99999999999", "erase", "Invalid slot ID"),
        ("0", "drop", "Invalid action"),
        ("0", "", "Invalid action"),
    ):
        answer = server.post(f"/slots/{slot}?action={action}&model=tiny", {"filename": "x"})
        assert (answer.status, answer.error["message"]) == (400, message)
    assert server.post("/slots/0?action=erase&model=nobody", {}).status == 400
    assert server.post("/slots/0?action=erase&model=tiny", b"").json["id_slot"] == 0


def test_an_idle_slot_says_what_it_did(server: Router) -> None:
    server.unload("other")
    server.load("other")
    assert [sorted(slot) for slot in server.get("/slots?model=other").json] == [
        ["id", "is_processing", "n_ctx", "n_prompt_tokens", "speculative"]
    ] * 2
    for _ in range(2):
        ask(server, "other")
    slot, _ = server.get("/slots?model=other").json
    expected = {"id": 0, "is_processing": False, "n_prompt_tokens": 211, "n_prompt_tokens_cache": 0, "n_prompt_tokens_processed": 0}
    assert {name: slot[name] for name in expected} == expected
    assert slot["next_token"] == [{"has_next_token": False, "has_new_line": False, "n_remain": -1, "n_decoded": 0}]
    assert (slot["params"]["n_predict"], slot["params"]["temperature"], slot["params"]["lora"]) == (12, 0.0, [])
    act(server, "erase", "other")
    assert server.get("/slots?model=other").json[0]["n_prompt_tokens"] == 0


def test_without_a_folder(router: StartRouter, models: Path) -> None:
    server = router(models_dir=models)
    answer = server.post("/slots/0?action=save&model=tiny0", {"filename": "x"})
    assert (answer.status, answer.error["type"]) == (501, "not_supported_error")
    assert "--slot-save-path" in answer.error["message"]
    assert server.status("tiny0") == "unloaded"


@pytest.mark.parametrize("name", ["talk.bin", "a b.bin", "Ä.bin", "日本", "a" * 255, ".hidden"])
def test_names_that_are_fine(name: str) -> None:
    assert is_file_name(name)
