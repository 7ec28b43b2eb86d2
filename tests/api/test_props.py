"""Reading models: /props and /slots load nothing, wake nothing, wait for nothing and do not change the order of eviction."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import gguf
import pytest
from conftest import Router, StartRouter, eventually
from tiny_models import make_llama


@pytest.fixture
def server(router: StartRouter, models: Path) -> Router:
    return router("--models-max", "2", "--temp", "0.5", "-n", "12", models_dir=models)


def test_nothing_is_loaded(server: Router) -> None:
    props = server.get("/props?model=tiny1").json
    assert (props["is_loaded"], props["is_sleeping"], props["total_slots"], props["n_ctx_train"]) == (False, False, 4, 2048)
    assert props["model_alias"] == "tiny1"
    assert props["model_path"] == str(server.models / "tiny1.gguf")
    assert props["modalities"] == {"vision": False, "video": False, "audio": False}
    settings = props["default_generation_settings"]
    assert (settings["n_ctx"], settings["params"]["temperature"], settings["params"]["n_predict"]) == (2048, 0.5, 12)
    assert server.get("/slots?model=tiny1").json == []
    assert server.get("/slots").json == []
    for name in ("tiny0", "tiny1", "tiny2"):
        assert server.status(name) == "unloaded"
    assert "loading" not in server.log
    assert server.get("/props?model=no-such").status == 400
    assert server.get("/slots?model=no-such").status == 400
    assert server.get("/slots?model=tiny1&fail_on_no_slot=1").json == [], "a request would get a slot"


def test_what_the_file_says_is_what_the_worker_says(server: Router) -> None:
    before = server.get("/props?model=tiny1").json
    server.load("tiny1")
    after = server.get("/props?model=tiny1").json
    assert after["is_loaded"] is True
    for name in ("total_slots", "model_alias", "model_path", "modalities", "chat_template", "is_sleeping"):
        assert before[name] == after[name], name
    params = before["default_generation_settings"]["params"]
    assert params == {name: after["default_generation_settings"]["params"][name] for name in params}
    assert before["default_generation_settings"]["n_ctx"] == after["default_generation_settings"]["n_ctx"]
    assert [slot["id"] for slot in server.get("/slots?model=tiny1").json] == [0, 1, 2, 3]


@pytest.mark.parametrize("flags", ["-np 2 -c 1024", "-np 2 -kvu -c 1024", "-c 100000", "-np 3 -no-kvu"])
def test_context_of_a_model_that_is_not_loaded(router: StartRouter, models: Path, flags: str) -> None:
    server = router(*flags.split(), models_dir=models)
    before = server.get("/props?model=tiny0").json
    server.load("tiny0")
    after = server.get("/props?model=tiny0").json
    assert before["total_slots"] == after["total_slots"]
    # llama.cpp rounds a slot's context up to a multiple of 256
    assert 0 <= after["default_generation_settings"]["n_ctx"] - before["default_generation_settings"]["n_ctx"] < 256


OWN = "{% for message in messages %}{{ message.content }}{% endfor %}"
OTHER = "{{ messages[0].content }}"


def make_models_with_templates(folder: Path) -> None:
    folder.mkdir()
    make_llama(folder / "own.gguf", chat_template=OWN)
    make_llama(folder / "none.gguf", chat_template=None)
    make_llama(folder / "empty.gguf", chat_template="")
    (folder / "broken.gguf").write_bytes((folder / "own.gguf").read_bytes()[:200])


@pytest.mark.parametrize(
    ("flags", "own", "none"),
    [([], OWN, "chatml"), (["--chat-template", "llama2"], "llama2", "llama2"), (["--chat-template-file", "FILE"], OTHER, OTHER)],
    ids=["own", "name", "file"],
)
def test_a_model_that_is_not_loaded_shows_its_own_template(
    router: StartRouter, tmp_path: Path, flags: list[str], own: str, none: str
) -> None:
    make_models_with_templates(tmp_path / "models")
    (tmp_path / "template.jinja").write_text(OTHER)
    server = router(*(flag.replace("FILE", str(tmp_path / "template.jinja")) for flag in flags), models_dir=tmp_path / "models")

    def templates(*names: str) -> list[str]:
        return [server.get(f"/props?model={name}").json["chat_template"] for name in names]

    assert templates("own", "none", "empty") == [own, none, none]
    assert templates("broken") == ["" if not flags else own], "it is not known"
    server.load("own", "none", "empty")
    assert templates("own", "none", "empty") == [own, none, none], "what the workers say"


def test_a_template_that_comes_with_a_changed_file(router: StartRouter, tmp_path: Path) -> None:
    make_models_with_templates(tmp_path / "models")
    server = router(models_dir=tmp_path / "models")
    assert server.get("/props?model=own").json["chat_template"] == OWN
    (tmp_path / "models" / "own.gguf").unlink()
    props = server.get("/props?model=own")
    assert (props.status, props.json["chat_template"]) == (200, "")
    make_llama(tmp_path / "models" / "own.gguf", chat_template=OTHER)
    assert server.get("/props?model=own").json["chat_template"] == OTHER


def test_a_projector_for_audio_promises_no_pictures(router: StartRouter, tmp_path: Path) -> None:
    """Before a load, the listing and /props say what requests may contain."""
    folder = tmp_path / "models" / "sees"
    folder.mkdir(parents=True)
    make_llama(folder / "sees.gguf")
    write_projector(folder / "mmproj-sees.gguf")
    server = router(models_dir=tmp_path / "models")
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}
    props = server.get("/props?model=sees").json
    assert (props["is_loaded"], props["modalities"]) == (False, {"vision": False, "video": False, "audio": True})
    entry = server.get("/v1/models/sees").json
    assert "--mmproj" in entry["status"]["args"]
    assert entry["architecture"] == {"input_modalities": ["text", "audio"], "output_modalities": ["text"]}
    assert {"vision", "audio"} & set(entry["capabilities"]) == {"audio"}
    assert server.post("/v1/chat/completions", {"model": "sees", "messages": [picture]}).status == 400


def write_projector(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", False)
    writer.add_bool("clip.has_audio_encoder", True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def test_the_order_of_eviction_stays(server: Router) -> None:
    server.load("tiny0")
    server.load("tiny1")
    for _ in range(50):
        assert server.get("/slots?model=tiny0").json
        assert server.get("/props?model=tiny0").json["is_loaded"]
        assert len(server.get("/slots").json) == 8
    server.load("tiny2")  # tiny0 is still the least recently used one
    assert [server.status(name) for name in ("tiny0", "tiny1", "tiny2")] == ["unloaded", "loaded", "loaded"]


def test_autoload_said_explicitly(server: Router) -> None:
    for path in ("/slots", "/props"):
        refused = server.get(f"{path}?model=tiny0&autoload=false")
        assert (refused.status, refused.error["message"]) == (400, "model is not loaded")
    assert len(server.get("/slots?model=tiny0&autoload=true").json) == 4
    assert server.status("tiny0") == "loaded"
    assert len(server.get("/slots?model=tiny0&autoload=false").json) == 4


def test_slots_of_the_default_model(router: StartRouter, models: Path) -> None:
    server = router("-m", str(models / "tiny0.gguf"), models_dir=models)
    server.await_status("tiny0", "loaded")
    server.load("tiny1")
    slots = server.get("/slots").json
    assert len(slots) == 4
    assert "model" not in slots[0]
    assert server.get("/props").json["role"] == "router"


# ---------------------------------------------------------------- workers that do not answer


@pytest.fixture
def fakes(router: StartRouter, tmp_path: Path) -> Router:
    """Scripted models: a and b load quickly, slow does not."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name, script in (("a", {}), ("b", {}), ("slow", {"load_s": 2.0, "progress": [0.1, 0.2]})):
        (folder / f"{name}.gguf").write_text(json.dumps(script))
    return router(models_dir=folder, is_fake=True)


def test_a_worker_that_hangs(fakes: Router) -> None:
    """The worker is asked once, for any number of clients. The others answer, and it also answers when it continues."""
    fakes.load("a", "b")
    pid = fakes.get("/props?model=a").json["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda: answers.append(fakes.get("/slots?model=a"))) for _ in range(20)]
        threads.append(threading.Thread(target=lambda: answers.append(fakes.get("/slots"))))
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        assert fakes.get("/props?model=b").json["is_loaded"] is True
        assert fakes.get("/health").status == 200
        for thread in threads:
            thread.join()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert sorted(answer.status for answer in answers) == [200] + [503] * 20
    refused = next(answer for answer in answers if answer.status == 503)
    assert refused.error["message"] == "model a does not answer"
    of_all = next(answer for answer in answers if answer.status == 200).json
    assert of_all[0] == {"model": "a", "id": -1, "is_processing": True, "error": "model a does not answer"}
    assert [slot["model"] for slot in of_all[1:]] == ["b", "b"]
    eventually(lambda: fakes.get("/slots?model=a").status == 200, "an answer")
    assert fakes.get("/props?model=a").json["num_calls"] <= 5, "what could not be answered was not asked again and again"


def test_a_worker_that_computes(router: StartRouter, tmp_path: Path, smollm2: Path) -> None:
    """One step of this prompt takes long; the worker has reported its state before it began."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "smollm2.gguf").symlink_to(smollm2)
    server = router("-t", "1", "-c", "4096", models_dir=folder)
    server.load("smollm2")
    asked = {"model": "smollm2", "prompt": "the cat and " * 150, "n_predict": 2}
    thread = threading.Thread(target=lambda: server.post("/completion", asked))
    thread.start()
    seen = []
    while thread.is_alive():
        for path in ("/slots", "/props", "/lora-adapters"):
            answer = server.get(f"{path}?model=smollm2")
            assert answer.status == 200, answer.body
            seen.append(answer.json)
    thread.join()
    busy = [slots for slots in seen[::3] if any(slot["is_processing"] for slot in slots)]
    assert busy
    assert all(props["is_loaded"] for props in seen[1::3])
    processed = [slot["n_prompt_tokens_processed"] for slots in busy for slot in slots if slot["is_processing"]]
    assert processed == sorted(processed)


def test_a_worker_that_computes_vectors(router: StartRouter, tmp_path: Path, smollm2: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "smollm2.gguf").symlink_to(smollm2)
    server = router("-t", "1", "--embeddings", "--pooling", "last", models_dir=folder)
    server.load("smollm2")
    asked = {"model": "smollm2", "input": "the cat and " * 150}
    thread = threading.Thread(target=lambda: server.post("/v1/embeddings", asked))
    thread.start()
    num_asked = 0
    while thread.is_alive() or not num_asked:
        assert [server.get(f"{path}?model=smollm2").status for path in ("/slots", "/props")] == [200, 200]
        num_asked += 1
    thread.join()


def test_a_worker_that_dies_while_it_is_asked(fakes: Router) -> None:
    fakes.load("a")
    pid = fakes.get("/props?model=a").json["pid"]
    os.kill(pid, signal.SIGSTOP)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(fakes.get("/slots?model=a")))
    thread.start()
    time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert (answers[0].status, answers[0].json) == (200, [])


def test_a_model_on_its_way(fakes: Router) -> None:
    assert fakes.post("/models/load", {"model": "slow"}).status == 200
    assert fakes.get("/slots?model=slow").json == []
    props = fakes.get("/props?model=slow").json
    assert (props["is_loaded"], props["is_sleeping"]) == (False, False)
    assert fakes.status("slow") == "loading"


def test_a_sleeping_model(router: StartRouter, models: Path) -> None:
    server = router("--sleep-idle-seconds", "1", models_dir=models)
    server.load("tiny0")
    server.await_status("tiny0", "sleeping")
    for _ in range(20):
        assert server.get("/slots?model=tiny0").json == []
        props = server.get("/props?model=tiny0").json
        assert (props["is_sleeping"], props["is_loaded"]) == (True, False)
    assert server.get("/slots").json == []
    assert server.status("tiny0") == "sleeping"
    assert server.get("/props?model=tiny0&autoload=true").json["is_sleeping"] is False
    assert server.status("tiny0") == "loaded"


def test_the_router_s_props_show_the_default_model_too(router: StartRouter, models: Path) -> None:
    """A client for a llama-server with one model finds all fields that it needs."""
    server = router("--model", str(models / "tiny0.gguf"), "--sleep-idle-seconds", "1", models_dir=models)
    server.await_status("tiny0", "loaded")
    props = server.get("/props").json
    assert (props["role"], props["max_instances"]) == ("router", 4)
    assert (props["model_alias"], props["model_path"]) == ("tiny0", str(models / "tiny0.gguf"))
    assert props["default_generation_settings"]["n_ctx"] == 2048
    assert props["is_sleeping"] is False
    server.await_status("tiny0", "sleeping")
    props = server.get("/props").json
    assert (props["role"], props["is_sleeping"]) == ("router", True)
    assert server.status("tiny0") == "sleeping"
