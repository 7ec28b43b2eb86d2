"""npm's `ai` with `@ai-sdk/openai-compatible` at their defaults: a tool loop to its end, streamed and not, and an object."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import Router, StartRouter
from scripted_models import make_scripted
from test_tool_loops import INPUT, SCRIPTS, TEMPLATE, THOUGHT

FOLDER = Path(__file__).parent.parent.parent / "build" / "ai_sdk"
pytestmark = pytest.mark.skipif(not (FOLDER / "node_modules" / "ai").exists(), reason="no packages: run packaging/ai_sdk build/ai_sdk")


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Router:
    folder = tmp_path_factory.mktemp("node")
    make_scripted(folder / "agent.gguf", SCRIPTS, chat_template=TEMPLATE, n_ctx=1 << 12)
    (folder / "smollm2.gguf").symlink_to(smollm2)
    return module_router("-c", "4096", "--temp", "0", models_dir=folder)


def test_a_tool_loop(server: Router) -> None:
    made = subprocess.run(["node", "loop.mjs", f"{server.url}/v1"], cwd=FOLDER, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert found["given"] == [INPUT, INPUT]
    for way in ("whole", "stream"):
        calling, answering = found[way]["steps"]
        assert calling == {"reasoningText": THOUGHT, "text": "I call it.", "calls": 1, "finishReason": "tool-calls"}
        assert (answering["text"], answering["finishReason"]) == ("So the sum is 7.", "stop")
        assert found[way]["text"] == "So the sum is 7."
    assert {"reasoning-delta", "text-delta", "tool-input-delta", "tool-call", "tool-result"} <= set(found["stream"]["kinds"])
    assert found["stream"]["usage"] > 10
    assert isinstance(found["answer"]["isBlue"], bool)
