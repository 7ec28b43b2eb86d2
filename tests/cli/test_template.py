"""`fastrouter template`, run as users run it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CHATML, MISTRAL, QWEN_TOOLS, TOOLS
from conftest import FASTROUTER, environment
from gguf import GGUFReader, GGUFWriter

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
THINKS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}{% endif %}"
)


def run(folder: Path, *words: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    command = [*FASTROUTER, "template", *words]
    return subprocess.run(command, cwd=folder, env=environment(folder), input=given, capture_output=True, text=True, timeout=120)


def written(folder: Path, source: str, name: str = "template.jinja") -> str:
    (folder / name).write_text(source)
    return name


def with_template(path: Path, source: str | None) -> Path:
    writer = GGUFWriter(path, "llama")
    if source is not None:
        writer.add_chat_template(source)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert GGUFReader(path)
    return path


def checked(folder: Path, *words: str, code: int = 0) -> dict[str, Any]:
    result = run(folder, "check", *words, "--json")
    assert (result.returncode, result.stderr) == (code, ""), result
    found: dict[str, Any] = json.loads(result.stdout)
    return found


# ---------------------------------------------------------------- check


def test_check(tmp_path: Path) -> None:
    result = run(tmp_path, "check", written(tmp_path, QWEN_TOOLS))
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "format: hermes (known by texts in the template)"
    assert "  tool call and result     accepted unchanged" in lines
    assert "  two calls                ok" in lines


def test_check_as_json(tmp_path: Path) -> None:
    found = checked(tmp_path, written(tmp_path, MISTRAL))
    assert (found["format"]["origin"], found["format"]["syntax"]) == ("generic", "JsonObject")
    assert found["conversations"]["system message"] == "the system message is put before the first user message"
    assert found["conversations"]["two questions in a row"] == "messages of one role in a row are joined"
    assert set(found["round_trips"].values()) == {"ok"}


def test_check_thoughts(tmp_path: Path) -> None:
    name = written(tmp_path, THINKS)
    found = checked(tmp_path, name)
    assert found["format"]["thought"]["open"] == ["<think>"]
    assert (found["opens_thought"], found["opens_thought_if"]) == (True, {"true": True, "false": False})
    assert found["keeps_thoughts"] is found["keeps_earlier_thoughts"] is True
    words = run(tmp_path, "check", name).stdout
    assert 'thoughts: "<think>" ... "</think>"; the prompt opens the thought, unless enable_thinking is false' in words


def test_check_a_gguf_file(tmp_path: Path) -> None:
    assert checked(tmp_path, str(with_template(tmp_path / "a.gguf", QWEN_TOOLS)))["format"]["name"] == "hermes"
    assert checked(tmp_path, str(with_template(tmp_path / "b.gguf", None)))["format"]["ends"] == ["<|im_end|>"]  # it gets ChatML


def test_check_a_model(tmp_path: Path, models: Path) -> None:
    found = checked(tmp_path, "tiny0", "--models-dir", str(models), "--chat-template-file", written(tmp_path, QWEN_TOOLS))
    assert found["format"]["name"] == "hermes"
    result = run(tmp_path, "check", "tiny", "--models-dir", str(models))
    assert (result.returncode, result.stdout) == (1, "")
    assert "there is no model of this name, did you mean tiny" in result.stderr


def test_a_template_that_does_not_come_back_ends_with_1(tmp_path: Path) -> None:
    loses = QWEN_TOOLS.replace("tool_call.arguments | tojson", "tool_call.arguments | tojson | replace('ZQX', 'zqx')")
    found = checked(tmp_path, written(tmp_path, loses), code=1)
    assert found["round_trips"]["text"] == "ok"
    assert "is read as" in found["round_trips"]["call"]


def test_a_template_that_takes_a_question_with_a_remedy_ends_with_0(tmp_path: Path) -> None:
    counts = "{{ raise_exception('no list') if tools is not iterable }}" + CHATML
    found = checked(tmp_path, written(tmp_path, counts))
    assert found["conversations"]["question"] == "an empty list of tools is shown if there are none"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("check", "no.jinja"), "no.jinja: there is no such file"),
        (("check", "."), "is a folder, not a file"),
        (("check", "no-model"), "there is no model of this name"),
        (("check", "bad.jinja"), "chat template: line 1: "),
        (("check", "ok.jinja", "--models-dir", "x"), "flags of the router are for a model's name"),
        (("check", "x", "--no-such-flag"), "--no-such-flag"),
        (("parse", "--template", "no.gguf"), "no.gguf: there is no such file"),
        (("parse", "--template", "broken.gguf"), "broken.gguf"),
        (("parse", "--template", "ok.jinja", "--tools", "bad.jinja"), "bad.jinja: is not JSON"),
        (("parse", "--template", "ok.jinja", "--tools", "object.json"), "must be a list of tools"),
    ],
)
def test_errors_name_what_is_wrong(tmp_path: Path, words: tuple[str, ...], error: str) -> None:
    written(tmp_path, CHATML, "ok.jinja")
    written(tmp_path, "{% if %}", "bad.jinja")
    written(tmp_path, "{}", "object.json")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\3")
    result = run(tmp_path, *words)
    assert (result.returncode, result.stdout) == (1, ""), result
    assert error in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("words", [(), ("nothing",), ("check",), ("parse",), ("parse", "--template", "x", "--nothing")])
def test_usage(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = run(tmp_path, *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: fastrouter template")


@pytest.mark.parametrize("words", [("--help",), ("check", "--help"), ("parse", "-h")])
def test_help(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = run(tmp_path, *words)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: fastrouter template")


# ---------------------------------------------------------------- parse


def parsed(folder: Path, source: str, text: str, *words: str) -> dict[str, Any]:
    result = run(folder, "parse", "--template", written(folder, source), *words, given=text)
    assert (result.returncode, result.stderr) == (0, ""), result
    message: dict[str, Any] = json.loads(result.stdout)
    return message


def test_parse(tmp_path: Path) -> None:
    message = parsed(tmp_path, QWEN_TOOLS, f"<think>\nHm.\n</think>\n\nI look.\n{CALL}<|im_end|>")
    assert message == {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "Hm.",
        "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Zürich"}'}}],
    }


def test_parse_with_tools_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    result = run(tmp_path, "parse", "--template", written(tmp_path, QWEN_TOOLS), "--tools", "tools.json", "--json", given=f"{CALL}\n{CALL}")
    assert result.stdout.count("\n") == 1
    assert [call["function"]["name"] for call in json.loads(result.stdout)["tool_calls"]] == ["get_weather", "get_weather"]


def test_parse_behind_a_prompt_that_opens_the_thought(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    assert parsed(tmp_path, THINKS, "Hm.</think>Yes.<|end|>") == message
    assert parsed(tmp_path, THINKS, "<think>Hm.</think>Yes.<|end|>") == message


def test_parse_text(tmp_path: Path) -> None:
    assert parsed(tmp_path, CHATML, "Just <b>text</b>, {1}.") == {"role": "assistant", "content": "Just <b>text</b>, {1}."}
    assert parsed(tmp_path, CHATML, "") == {"role": "assistant", "content": ""}
