"""`fastrouter template check` and `template parse`: what a chat template can do, and how a model's output is read as a message.

Needs no running router and loads no model. Invariant: exit code 0 only when the template can be used and its own messages come back.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrouter.catalog.catalog import Catalog
from fastrouter.catalog.gguf import GgufError, read_header
from fastrouter.cli.arguments import Parser
from fastrouter.config.config import parse
from fastrouter.errors import ConfigError, FastrouterError
from fastrouter.options.builtin_templates import FALLBACK
from fastrouter.system.near_names import did_you_mean
from fastrouter.system.text_file import read_text, why_no_file
from fastrouter.worker.text.parsers.format import Calls, Format
from fastrouter.worker.text.parsers.round_trip import read
from fastrouter.worker.text.rendering import Chat, Renderer
from fastrouter.worker.text.template_format import DERIVED, GENERIC_WAY, TABLE
from fastrouter.worker.text.template_report import Report, report

_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
_ORIGINS = {
    TABLE: "known by texts in the template",
    DERIVED: "derived from the template",
    GENERIC_WAY: "the generic one: the template knows no tool calls",
}
_CHECK = "print what a chat template can do, and whether its own messages can be read back"
_PARSE = "read what a model has written from standard input; print the message as JSON"


def make_parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(prog="fastrouter template", description="what a chat template can do")
    actions = parser.add_subparsers(dest="action", required=True)
    check = actions.add_parser("check", help=_CHECK, description=_CHECK, epilog="Flags of the router, such as --models-dir, may follow.")
    check.add_argument("source", metavar="FILE|MODEL", help="a template, a GGUF file that has one, or a model's name")
    check.add_argument("--json", action="store_true", help="the result, as JSON")
    reading = actions.add_parser("parse", help=_PARSE, description=_PARSE)
    reading.add_argument("--template", metavar="FILE", required=True, help="a template, or a GGUF file that has one")
    reading.add_argument("--tools", metavar="FILE", help="tools as JSON, as in a request: a list")
    reading.add_argument("--json", action="store_true", help="on one line")
    return parser


def run_template(arguments: Sequence[str]) -> int:
    parser = make_parser()
    options, flags = parser.parse_known_args(arguments)
    if options.action == "parse" and flags:
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    try:
        return _check(options, flags) if options.action == "check" else _parse(options)
    except FastrouterError as error:
        print(f"fastrouter: {error.message}", file=sys.stderr)
        return 1


# ---------------------------------------------------------------- templates


def _template_in(path: Path) -> str:
    """Of a GGUF file, or the text of any other."""
    if path.is_file() and path.open("rb").read(4) == b"GGUF":
        try:
            header = read_header(path)
        except GgufError as error:
            raise ConfigError(f"{path}: {error.message}") from None
        if header.has_chat_template and header.chat_template is None:
            raise ConfigError(f"{path}: its chat template is too long")
        return header.chat_template or FALLBACK
    return read_text(path, str(path))


def _template_of(name: str, flags: Sequence[str]) -> str:
    """Of a file, or of a model in the catalog."""
    path = Path(name)
    if path.exists() or name.endswith((".jinja", ".gguf")):
        if flags:
            raise ConfigError(f"{name} is a file: flags of the router are for a model's name")
        return _template_in(path)
    catalog = Catalog(parse([*flags], os.environ))
    spec = catalog.get(name)
    if spec is None:
        hint = did_you_mean(name, [model.id for model in catalog.models()])
        raise ConfigError(f"{name}: {why_no_file(path)}, and there is no model of this name{hint or '; name a folder with --models-dir'}")
    return spec.defaults.chat_template or spec.options.chat_template or _template_in(Path(spec.path))


# ---------------------------------------------------------------- check


def _check(options: argparse.Namespace, flags: Sequence[str]) -> int:
    renderer = Renderer(_template_of(options.source, flags), _TOKENS)
    try:
        found = report(renderer)
    finally:
        renderer.close()
    print(json.dumps(found.to_json(), ensure_ascii=False, indent=2) if options.json else _in_words(found))
    return 0 if found.is_good else 1


def _in_words(found: Report) -> str:
    format = found.format.format
    lines = [
        f"format: {format.name} ({_ORIGINS[found.format.origin]})",
        *([f"tool calls: {_calls_in_words(format.calls)}"] if format.calls is not None else []),
        *_thoughts_in_words(format, found),
        *([f"end of an answer: {_texts(format.ends)}"] if format.ends else []),
        "",
        "messages:",
        *_table(found.conversations),
        "",
        "round trips:",
        *_table(found.round_trips),
    ]
    return "\n".join(lines)


def _calls_in_words(calls: Calls) -> str:
    parts = [type(calls.syntax).__name__]
    around = (("in", calls.section_open, calls.section_close), ("each in", calls.open, calls.close))
    parts += [f"{word} {_texts(opening)} ... {json.dumps(close, ensure_ascii=False)}" for word, opening, close in around if opening]
    return ", ".join([*parts, *(["without a marker"] if calls.bare else [])])


def _thoughts_in_words(format: Format, found: Report) -> list[str]:
    if format.thought is None:
        return ["thoughts: none"]
    opens = found.opens_thought_if
    prompt = "opens the thought" if found.opens_thought else "does not open the thought"
    if opens["true"] != opens["false"]:
        prompt += ", unless enable_thinking is false" if found.opens_thought else ", unless enable_thinking is true"
    kept = "kept" if found.keeps_earlier_thoughts else "kept for the last answer only" if found.keeps_thoughts else "dropped"
    return [
        f"thoughts: {_texts(format.thought.open)} ... {_texts(format.thought.close)}; the prompt {prompt}",
        f"thoughts of earlier answers: {kept}",
    ]


def _texts(texts: Sequence[str]) -> str:
    return " or ".join(json.dumps(text, ensure_ascii=False) for text in texts)


def _table(rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows))
    return [f"  {name:{width}}  {text}" for name, text in rows.items()]


# ---------------------------------------------------------------- parse


def _parse(options: argparse.Namespace) -> int:
    tools = _tools_in(options.tools) if options.tools else []
    renderer = Renderer(_template_in(Path(options.template)), _TOKENS)
    try:
        renderer.check()
        format = (renderer.format_now(None) or renderer.find_format(None)).format
        prompt = renderer.show(Chat(None, ([{"role": "user", "content": "Hello"}], tools, True, False), {})).text
    finally:
        renderer.close()
    text = sys.stdin.read()
    message = read(format, [text], reasoning_open=_begins_in_thought(format, prompt, text), tools=tools)
    print(json.dumps(message, ensure_ascii=False, indent=None if options.json else 2))
    return 0


def _begins_in_thought(format: Format, prompt: str, text: str) -> bool:
    """The prompt has opened the thought, and the text does not open it again."""
    thought = format.thought
    return thought is not None and thought.is_open(prompt) and not text.lstrip().startswith(tuple(mark.strip() for mark in thought.open))


def _tools_in(path: str) -> list[dict[str, Any]]:
    try:
        tools = json.loads(read_text(Path(path), path))
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) and isinstance(tool.get("function"), dict) for tool in tools):
        raise ConfigError(f'{path}: must be a list of tools, each {{"type": "function", "function": {{...}}}}')
    return tools
