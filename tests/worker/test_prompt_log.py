"""--log-prompts-dir writes each prompt into a file; --cache-list prints the models of the caches."""

import os
import subprocess
from pathlib import Path

from conftest import FASTROUTER, StartRouter, environment, eventually
from tiny_models import make_llama

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def test_each_prompt_has_a_file(router: StartRouter, tmp_path: Path) -> None:
    folder, path = tmp_path / "new" / "prompts", tmp_path / "tiny.gguf"
    make_llama(path, chat_template=TEMPLATE)
    running = router("-m", str(path), "-c", "512", "--log-prompts-dir", str(folder))
    chat = {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 1}
    asked = (("/completion", {"prompt": "a dög", "n_predict": 1}), ("/completion", {"prompt": [1, 260], "n_predict": 1}))
    for number, (route, body) in enumerate((*asked, ("/v1/chat/completions", chat)), 1):
        assert running.post(route, body).status == 200
        eventually(lambda number=number: len(list(folder.iterdir())) == number, "its file")
    texts = [file.read_text() for file in sorted(folder.iterdir())]
    assert texts == ["a dög", "[\n  1,\n  260\n]", "<user>the cat<assistant>"]
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert all(file.name.endswith(".txt") and file.stem.isdigit() for file in folder.iterdir())


def test_a_folder_that_vanishes_ends_no_request(router: StartRouter, tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "prompts"
    running = router("-m", str(models / "tiny0.gguf"), "-c", "512", "--log-prompts-dir", str(folder))
    folder.rmdir()
    assert running.post("/completion", {"prompt": "a", "n_predict": 1}).status == 200
    eventually(
        lambda: "--log-prompts-dir: " in running.log or "--log-prompts-dir: " in running.get("/models/logs?model=tiny0").body.decode(),
        "a line",
    )


def test_the_list_of_the_caches(tmp_path: Path) -> None:
    def listed() -> str:
        env = environment(tmp_path, LLAMA_CACHE=str(tmp_path / "cache"))
        return subprocess.run([*FASTROUTER, "-cl"], capture_output=True, text=True, env=env, check=True).stdout

    assert listed() == "number of models in cache: 0\n"
    snapshot = tmp_path / "cache" / "models--u--r" / "snapshots" / ("c" * 40)
    os.makedirs(snapshot)
    for name in ("m-Q4_K_M.gguf", "m-Q8_0.gguf"):
        make_llama(snapshot / name)
    assert listed() == "number of models in cache: 2\n   1. u/r:Q4_K_M\n   2. u/r:Q8_0\n"
