"""`fastrouter preset check FILE`: what each section of a preset file means here, and all its mistakes. Starts nothing.

Invariant: exit code 0 only when a router would start with the file, and the model of every section could be loaded.
"""

import os
import re
import sys
from collections.abc import Sequence

from fastrouter.catalog.header_cache import Headers
from fastrouter.catalog.scan import Scan
from fastrouter.catalog.spec import ModelSpec
from fastrouter.catalog.template_features import problem_of
from fastrouter.config.config import Config, parse
from fastrouter.errors import ConfigError
from fastrouter.hub.before_start import fetch_named

USAGE = "usage: fastrouter preset check FILE [--models-dir DIR] [flags of the router]"


def run_preset(arguments: Sequence[str]) -> int:
    match arguments:
        case ["preset", "check", path, *flags] if not path.startswith("-"):
            try:
                return check(fetch_named(parse(["--models-preset", path, *flags], os.environ)))
            except ConfigError as error:
                print(f"fastrouter: {error}", file=sys.stderr)
                return 1
        case [*_, "-h" | "--help"]:
            print(USAGE)
            return 0
    print(USAGE, file=sys.stderr)
    return 2


def check(config: Config) -> int:
    scan = Scan(config, Headers(), {}, {})
    specs = [scan.models[name] for name in scan.presets.sections]
    for spec in specs:
        print(describe(spec))
    for warning in scan.presets.warnings:
        print(f"warning: {warning}")
    problems = sorted([*scan.problems, *scan.wrong_sections(), *_wrong_templates(scan, specs)], key=_line_of)
    for problem in problems:
        print(f"problem: {problem}")
    print(f"{_count(len(specs), 'section')}, {_count(len(problems), 'problem')}")
    return 1 if problems else 0


def _wrong_templates(scan: Scan, specs: Sequence[ModelSpec]) -> list[str]:
    """Of sections that have no other mistake."""
    wrong = []
    for spec in specs:
        source = spec.defaults.chat_template or spec.options.chat_template
        if spec.fault is None and source and (problem := problem_of(source)) is not None:
            wrong.append(f"{scan.presets.where(spec.id, 'chat_template')}: {problem}")
    return wrong


def describe(spec: ModelSpec) -> str:
    """A section as a router reads it: its file, and its options as flags with the same meaning."""
    if spec.fault is not None:
        return f"[{spec.id}]\n    cannot be used: see below"
    lines = [f"[{spec.id}]", f"    model: {spec.path}"]
    if spec.wanted is not None:
        lines[-1] = f"    model: to be downloaded from {spec.wanted.repo}"
    own: list[str] = []
    if spec.base is not None:
        lines[-1] = f"    variant of: {spec.base.id}"
        own = [line.replace(" = ", "=", 1) for line in (spec.preset or "").splitlines()[1:]]
    facts = {"aliases": spec.aliases, "tags": spec.tags, "flags": _flags_of(spec), "over them": own, "can": spec.capabilities}
    for name, words in facts.items():
        if words:
            lines.append(f"    {name}: {' '.join(words)}")
    return "\n".join(lines)


def _flags_of(spec: ModelSpec) -> tuple[str, ...]:
    words = spec.args[1:]  # without the program
    while words[:1] in (("--model",), ("--mmproj",), ("--alias",)):
        words = words[2:]
    return words


def _line_of(problem: str) -> int:
    found = re.search(r":(\d+)\b", problem)
    return int(found[1]) if found else 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
