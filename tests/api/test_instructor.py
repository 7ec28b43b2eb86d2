"""instructor at its defaults: it forces a call whose arguments are the answer. It has an environment of its own, because it needs an older
`jiter` than the newest `openai`."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import Router, StartRouter
from scripted_models import make_scripted
from test_agent_libraries import LAST_WORD, STEPS

PYTHON = Path(__file__).parent.parent.parent / "build" / "instructor" / "bin" / "python"
PROGRAM = Path(__file__).parent.parent / "support" / "instructor_answers.py"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no instructor: run make build/instructor")


@pytest.fixture(scope="module")
def server(module_router: StartRouter, tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Router:
    folder = tmp_path_factory.mktemp("instructor")
    make_scripted(folder / "steps.gguf", STEPS, chat_template=LAST_WORD, n_ctx=1 << 12)
    (folder / "smollm2.gguf").symlink_to(smollm2)
    return module_router("-c", "4096", "--temp", "0", models_dir=folder)


def test_answers_with_a_form(server: Router) -> None:
    made = subprocess.run([PYTHON, PROGRAM, f"{server.url}/v1"], capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert isinstance(found["is_blue"], bool)
    assert found["whole"] == found["last"] == {"a": 1, "b": "two words"}
    assert found["num_parts"] > 3
