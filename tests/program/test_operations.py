"""The pages are correct: the preset file runs, examples of presets can be read, flags, variables, verbs and links exist."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, StartRouter, environment, eventually
from tiny_models import make_llama

from fastrouter.cli.completion import all_verbs
from fastrouter.config.config import parse
from fastrouter.config.presets import read_presets
from fastrouter.config.values import BY_ENV, BY_NAME

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
WITH_PRESETS = [page for page in PAGES if "```ini" in page.read_text()]
SCRIPTS = "\n".join(
    path.read_text() for name in ("packaging", "bench", "tests/llama_cpp") for path in sorted((REPOSITORY / name).glob("*.py"))
)
VERBS = {verb.name: verb for verb in all_verbs()}
OF_VERBS = {name for verb in VERBS.values() for name in verb.option_names}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the models that the preset file names, and the file."""
    (tmp_path / "models").mkdir()
    for seed, name in enumerate(("planner", "coder", "coder-small", "night", "clerk")):
        make_llama(tmp_path / "models" / f"{name}.gguf", seed=seed)
    shutil.copy(DOCS / "presets.ini", tmp_path)
    return tmp_path


def test_the_complete_preset_file(router: StartRouter, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "fastrouter", "preset", "check", "presets.ini", "--models-dir", "models"],
        cwd=place, env=environment(place), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "5 sections, 0 problems" in checked.stdout
    server = router("--models-preset", str(place / "presets.ini"), models_dir=place / "models")
    server.await_status("planner", "loaded")
    for model in ("plan", "coder", "reviewer", "night", "reviewer"):
        body = {"model": model, "messages": [{"role": "user", "content": "the red cat"}], "max_tokens": 4}
        assert server.post("/v1/chat/completions", body).status == 200
    listed = {model["id"]: model for model in server.get("/v1/models").json["data"]}
    assert listed.keys() == {"planner", "coder", "reviewer", "night", "clerk", "coder-small"}
    assert listed["planner"]["aliases"][:2] == ["plan", "chat"]
    assert listed["reviewer"]["status"]["base"] == "coder"
    usage = {name: server.get(f"/v1/models/{name}").json["usage"] for name in listed}
    assert [name for name, used in usage.items() if used["pinned"]] == ["planner"]
    assert usage["coder"]["expires_in_s"] > 800
    assert usage["planner"]["expires_in_s"] is None
    assert all(slot["speculative"] for slot in server.get("/slots?model=coder").json)
    answer = server.post("/v1/chat/completions", {"model": "clerk", "messages": [{"role": "user", "content": "the red cat"}]}).json
    form = json.loads(answer["choices"][0]["message"]["content"])
    assert (type(form["topic"]), type(form["urgent"])) == (str, bool)


def test_the_complete_preset_file_starts_without_its_models(router: StartRouter) -> None:
    """`fastrouter --models-preset docs/presets.ini`, as the page says: every section is listed with what is missing."""
    server = router("--models-preset", str(DOCS / "presets.ini"))
    listed = {model["id"]: model["status"] for model in server.get("/v1/models").json["data"]}
    assert listed.keys() == {"planner", "coder", "reviewer", "night", "clerk"}
    for model, status in listed.items():
        assert (status["value"], status["failed"]) == ("unloaded", True)
        assert status["error"].startswith(f"{DOCS / 'presets.ini'}:")
        assert f"  {model} ({status['error']})" in eventually(lambda: "None of them" in server.out and server.out, "the list")
    assert f"looked for {DOCS}/night.gguf and " in listed["night"]["error"]
    refused = server.post("/v1/chat/completions", {"model": "night", "messages": [{"role": "user", "content": "hello"}]})
    assert (refused.status, refused.error["message"].endswith(listed["night"]["error"])) == (400, True)


def test_pages_have_examples_of_presets() -> None:
    assert {page.name for page in WITH_PRESETS} >= {"README.md", "models.md", "requests.md"}


@pytest.mark.parametrize("page", WITH_PRESETS, ids=lambda page: page.name)
def test_examples_of_presets_can_be_read(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```ini\n(.*?)```", page.read_text(), re.S)
    assert blocks
    (tmp_path / "models").mkdir()
    for block in blocks:
        path = tmp_path / "presets.ini"
        path.write_text(block)
        if not re.search(r"^\[", block, re.M):  # a configuration file
            assert parse(["--config", str(path)], {}).config_files == (path,)
            continue
        presets = read_presets(path)
        assert presets.sections
        assert not presets.problems


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_and_verbs_exist(page: Path) -> None:
    text = page.read_text()
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", text)):
        assert flag in BY_NAME or flag in OF_VERBS or f'"{flag}"' in SCRIPTS, f"{page.name} names {flag}"
    for name in set(re.findall(r"LLAMA_ARG_[A-Z_]+[A-Z]", text)):
        assert name in BY_ENV, f"{page.name} names {name}"
    code = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.S))
    for verb in set(re.findall(r"^(?:\$ )?fastrouter ([a-z][a-z-]*)", code, re.M)):
        assert verb in VERBS, f"{page.name} names the verb {verb}"


def anchors_of(page: Path) -> set[str]:
    text = page.read_text()
    titles = (line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("#"))
    return {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles} | set(re.findall(r'<a id="([\w-]+)">', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors_of(path), f"{page.name}: {target}"


def test_every_page_is_linked_from_the_readme() -> None:
    readme = PAGES[0].read_text()
    assert not [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in readme]
