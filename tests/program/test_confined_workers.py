"""Workers of a real router, also of the executable: a loaded model's process has given up its rights, and still does all its work."""

from pathlib import Path

import pytest
from conftest import Router, StartRouter, descendants_that_run, eventually

from fastrouter.system.confinement import landlock_version

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def rights_of(pid: int) -> tuple[str, str]:
    """Can it gain privileges by starting programs, and which calls does the kernel check?"""
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return lines["NoNewPrivs"], lines["Seccomp"]


def log_of(server: Router, model: str) -> str:
    return server.get(f"/models/logs?model={model}").body.decode()


@pytest.mark.parametrize("is_confined", [True, False])
def test_a_loaded_worker_has_no_rights_that_it_does_not_need(router: StartRouter, models: Path, is_confined: bool) -> None:
    server = router(*([] if is_confined else ["--no-confine-workers"]), models_dir=models)
    server.load("tiny0")
    assert (rights_of(server.worker_of("tiny0"))[0] == "1") is is_confined
    gone = "files and network" if landlock_version() else "network"
    said = f"no access to other {gone}"
    if is_confined:
        assert rights_of(server.worker_of("tiny0"))[1] == "2"
        eventually(lambda: said in log_of(server, "tiny0"), f'"{said}" in the log of the worker')
    else:
        assert "no access to other" not in log_of(server, "tiny0")


def test_what_a_confined_worker_imports_late_is_in_its_reach(router: StartRouter, smollm2: Path, tmp_path: Path) -> None:
    server = router("-m", str(smollm2), "--alias", "smollm2", "-c", "1024", "--slot-save-path", str(tmp_path))
    asked = {"prompt": "the cat", "max_tokens": 24}
    for more in ({"json_schema": SCHEMA}, {"grammar": 'root ::= "a"'}, {"logprobs": 2}, {"n": 2}):
        assert server.post("/v1/completions", {**asked, **more}).status == 200, more
    chat = {"messages": [{"role": "user", "content": "Look at 7."}], "max_tokens": 48}
    tools = [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}]
    for more in ({}, {"tools": tools, "tool_choice": "required"}):
        assert server.post("/v1/chat/completions", {**chat, **more}).status == 200, more
    assert server.post("/slots/0?action=save", {"filename": "kept"}).status == 200
    assert (tmp_path / "kept").exists()
    assert not [line for line in log_of(server, "smollm2").splitlines() if "Error" in line or "Permission denied" in line]


def test_a_confined_worker_starts_the_process_that_renders(router: StartRouter, models: Path, tmp_path: Path) -> None:
    """For templates with steps that may take long, as this filter."""
    (tmp_path / "counts.jinja").write_text("{% for message in messages %}{{ message.content | wordcount }} words{% endfor %}")
    server = router("--chat-template-file", str(tmp_path / "counts.jinja"), models_dir=models)
    answer = server.post("/apply-template", {"model": "tiny0", "messages": [{"role": "user", "content": "the cat and the dog"}]})
    assert answer.json == {"prompt": "5 words"}
    assert descendants_that_run(server.process.pid, b"--render")
