"""The documentation's examples are run: the commands of each console block are sent, and their answers have the keys that are shown.

Names on the pages must exist: endpoints, metrics, request fields, files, targets of make.
"""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import pytest
from conftest import REPOSITORY, Router, StartRouter
from tiny_encoders import make_bert
from tiny_models import make_llama, make_lora

from fastrouter.api.requests.fields import FIELDS

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "SECURITY.md", *sorted(DOCS.glob("*.md"))]
ADDRESS = re.compile(r"(?:http://)?(?:localhost|127\.0\.0\.1):8080")
PRESETS = """
[smollm2]
model = {smollm2}
[tales]
model = {folder}/models/tiny.gguf
lora = {folder}/pirate.gguf
lora-scaled = {folder}/formal.gguf:0.5
"""


class Example(NamedTuple):
    """A console block: what a reader would type, one line after the other, with the output that the page shows."""

    page: str
    router_flags: list[str]  # of the router that it starts; empty: the shared router
    commands: list[tuple[str, str]]

    def __str__(self) -> str:
        return f"{self.page}: {self.commands[0][0][:60]}"


def commands_of(block: str) -> Iterator[tuple[str, str]]:
    """(command, output) of a console block."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        lines = part.splitlines()
        for end in range(1, len(lines) + 1):
            command = "\n".join(lines[:end])
            if is_whole(command):
                yield command, "\n".join(lines[end:])
                break


def is_whole(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


def examples() -> Iterator[Example]:
    for page in PAGES:
        for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.M | re.S):
            flags: list[str] = []
            asked = []
            for command, shown in commands_of(block):
                if command.startswith("fastrouter"):
                    assert command.endswith(" &"), f"{page.name}: it is not clear how to run {command}"
                    flags = shlex.split(command)[1:-1]
                elif "/health" not in command:  # its answer depends on milliseconds
                    asked.append((command, shown))
            yield Example(page.name, flags, asked)


EXAMPLES = list(examples())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    folder = tmp_path_factory.mktemp("documentation")
    (folder / "models").mkdir()
    (folder / "slots").mkdir()
    for name in ("tiny", "big"):
        make_llama(folder / "models" / f"{name}.gguf")
    make_llama(folder / "models" / "coder.gguf", seed=1, fim=("pre", "suf", "mid", "pad", "rep", "sep"))
    make_bert(folder / "models" / "mean.gguf")
    make_bert(folder / "models" / "rank.gguf", seed=2, pooling=gguf.PoolingType.RANK)
    make_lora(folder / "pirate.gguf", seed=0)
    make_lora(folder / "formal.gguf", seed=1)
    (folder / "presets.ini").write_text(PRESETS.format(folder=folder, smollm2=smollm2))
    return folder


@pytest.fixture(scope="module")
def fleet(module_router: StartRouter, folder: Path) -> Router:
    files = ("--models-preset", str(folder / "presets.ini"), "--slot-save-path", str(folder / "slots"))
    return module_router("-c", "1024", *files, models_dir=folder / "models")


def shape(value: Any) -> Any:
    """Keys and kinds, without values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return "number" if type(value) in (int, float) else type(value).__name__


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_examples_answer_as_shown(example: Example, fleet: Router, router: StartRouter, folder: Path) -> None:
    server = fleet
    if example.router_flags:
        server = router(*(str(folder / "models" / flag) if flag.endswith(".gguf") else flag for flag in example.router_flags))
    if "/slots/" in example.commands[0][0]:
        server.post("/completion", {"model": "tiny", "prompt": "the cat", "n_predict": 4, "id_slot": 0})
    for command, shown in example.commands:
        command = ADDRESS.sub(server.url, command).replace("curl -", "curl --fail-with-body -", 1)
        result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
        assert '"error"' not in result.stdout
        if shown and "..." not in shown and not shown.startswith("HTTP"):
            assert shape(json.loads(result.stdout)) == shape(json.loads(shown))


PYTHON = [(page, code) for page in PAGES for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)]


def imported(code: str) -> set[str]:
    nodes = ast.walk(ast.parse(code))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {*names, *(node.module or "" for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom))}


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[f"{page.name}: {'+'.join(sorted(imported(code)))}" for page, code in PYTHON])
def test_python_examples_run(page: Path, code: str, fleet: Router) -> None:
    missing = [name for name in imported(code) if importlib.util.find_spec(name.partition(".")[0]) is None]
    if missing:
        pytest.skip(f"not installed: {missing}")
    assert ADDRESS.search(code), f"{page.name}: which router?"
    program = ADDRESS.sub(fleet.url, code)
    offline = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # litellm would fetch prices
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120, env=offline)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_what_clients_may_send(fleet: Router) -> None:
    """See docs/clients.md."""
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}]
    for taken in ({"tool_choice": "auto"}, {"tool_choice": "required"}, {"response_format": {"type": "json_object"}}):
        assert fleet.post("/v1/chat/completions", {**chat, "tools": tools, **taken}).status == 200, taken
    assert fleet.post("/v1/chat/completions", {**chat, "messages": picture}).status == 400


def test_files_for_clients_can_be_read() -> None:
    blocks = re.findall(r"^```(json)\n(.*?)^```", (DOCS / "clients.md").read_text(), re.M | re.S)
    assert blocks
    for _, block in blocks:
        json.loads(block)


def test_there_are_examples() -> None:
    """The pattern above finds them."""
    assert sum(len(example.commands) for example in EXAMPLES) > 12
    assert {example.page for example in EXAMPLES} >= {"operations.md", "requests.md", "llama-server.md", "clients.md"}


def test_metrics_have_these_names(fleet: Router) -> None:
    fleet.post("/completion", {"model": "tiny", "prompt": "the cat", "n_predict": 2})
    section = (DOCS / "operations.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
    families = set(re.findall(r"^# TYPE (\S+)", fleet.get("/metrics").body.decode(), re.M))
    named = set()
    for row in section.splitlines():
        prefix = "llamacpp" if "llamacpp:" in row else "fastrouter"
        for name in re.findall(r"`((?:fastrouter_|llamacpp:|_|:)\w+)(?:\{[\w,]*\})?`", row):
            named.add(name if name.startswith(prefix) else prefix + name)
    assert named == {family for family in families if not family.startswith("process_")}


def test_endpoints_exist(fleet: Router) -> None:
    text = (REPOSITORY / "README.md").read_text()
    paths = set(re.findall(r"`(?:GET |POST |DELETE )?(/[\w/{}-]+)`", text))
    assert len(paths) > 20
    for path in sorted(paths):
        known = {"/slots/{id}": ("POST", "/slots/0"), "/v1/models/{id}": ("GET", "/v1/models/tiny")}
        answer = fleet.request(*known.get(path, ("PUT", path)))  # 405 for any other endpoint
        assert answer.status != 404, path


def test_every_field_of_a_request_is_told() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    code = " ".join(re.findall(r"`([^`\n]+)`", text))
    named = set(re.findall(r"[\w.]+", code)) | set(re.findall(r"\w+", code))
    assert not FIELDS.keys() - named


def test_tests_that_hold_promises_exist() -> None:
    text = "\n".join((REPOSITORY / page).read_text() for page in ("SECURITY.md", "docs/reliability.md", "tests/chaos/page.md"))
    named = set(re.findall(r"`(tests/[a-z_/]+\.py)::(test_\w+)`", text))
    assert len(named) > 70
    assert [name for name in named if f"\ndef {name[1]}(" not in (REPOSITORY / name[0]).read_text()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_targets_exist(page: Path) -> None:
    text = page.read_text()
    for path in set(re.findall(r"[`( ]((?:packaging|tests|bench|fastrouter|docs)/[\w./-]+\w/?)[`) ]", text)):
        assert (REPOSITORY / path).exists() or path.startswith(("packaging/completions", "fastrouter/runtime")), path
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    for target in set(re.findall(r"[`\n]make ([a-z-]+)", text)):
        assert target in targets, target
