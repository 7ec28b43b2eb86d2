"""Preset files: every line is used, or refused with its number; nothing else is raised."""

import re
from pathlib import Path

from fastrouter.config.presets import read_presets

PATH = Path("/nonexistent/presets.ini")


def check(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    presets = read_presets(PATH, text=text)
    lines = re.split(r"\r\n|\n|\r", text)
    numbers = [int(number) for number in presets.lines.values()]
    assert all(1 <= number <= len(lines) for number in numbers)
    for problem in (*presets.problems, *presets.warnings, *(each for faults in presets.faults.values() for each in faults)):
        found = re.search(rf"{PATH}:(\d+)", problem)
        assert found, problem
        assert lines[int(found[1]) - 1].strip(" \t"), problem
