"""`fastrouter list` and `ps`: the models as a table, with their states, aliases and problems. Never imports: catalog, supervisor."""

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fastrouter.cli.client import Client
from fastrouter.cli.terminal import Look, look_of, pad, plain
from fastrouter.system.words import size_text

_MARKS = {  # of a state: the mark, in ASCII, its colour
    "loaded": ("●", "*", "good"),
    "loading": ("◐", "~", "busy"),
    "downloading": ("↓", "~", "busy"),
    "sleeping": ("◌", ".", "faint"),
    "unloaded": ("○", "-", "faint"),
    "failed": ("✗", "!", "bad"),
}
_GAP = "  "
_STATUS = 1  # its column
_MAX_LINES = 2  # of a model's problem


@dataclass(frozen=True, slots=True)
class Row:
    cells: tuple[str, ...]
    state: str
    problem: str
    folder: str  # of its file, with the slash; or empty


def list_models(client: Client, options: argparse.Namespace) -> None:
    models = client.call("GET", "/v1/models")["data"]
    if not models:
        print("no models yet: put .gguf files into the router's --models-dir, or use: fastrouter pull USER/REPO[:QUANT]", file=sys.stderr)
    print_models(models, is_verbose=options.verbose)


def print_models(models: Sequence[dict[str, Any]], *, is_verbose: bool = False) -> None:
    look = look_of(sys.stdout)
    rows = [_row(model, look, _size((model.get("meta") or {}).get("size")), _context(model), model["source"]) for model in models]
    _print(("MODEL", "STATUS", "SIZE", "CONTEXT", "SOURCE"), rows, frozenset((2, 3)), models, look, is_verbose=is_verbose)


def list_running(client: Client, options: argparse.Namespace) -> None:
    """What is in memory or loading, and how it is used; a variant is shown with the model whose process it shares."""
    listed = client.call("GET", "/v1/models")["data"]
    running = [model for model in listed if model["status"]["value"] != "unloaded" and "base" not in model["status"]]
    models = [client.call("GET", f"/v1/models/{quote(model['id'])}") for model in running]
    look = look_of(sys.stdout)
    rows = [_row(model, look, *_use_of(model)) for model in models]
    heads = ("MODEL", "STATUS", "MEMORY", "CONTEXT", "RUNNING", "WAITING", "UNTIL")
    _print(heads, rows, frozenset((2, 3, 4, 5)), models, look, is_verbose=options.verbose)


def _use_of(model: dict[str, Any]) -> tuple[str, ...]:
    usage = model.get("usage")
    if usage is None:  # a download
        return ("", "", "", "", "")
    memory = _size(usage["memory_bytes"] + usage["device_memory_bytes"])
    context = str((model.get("meta") or {}).get("n_ctx") or "")
    return (memory, context, str(usage["running"] or ""), str(usage["waiting"] or ""), _until(usage))


def _until(usage: dict[str, Any]) -> str:
    """When it is unloaded if no request comes."""
    if usage["pinned"]:
        return "pinned"
    return f"{usage['expires_in_s']:.0f} s" if usage["expires_in_s"] is not None else ""


# ---------------------------------------------------------------- rows


def state_of(model: dict[str, Any]) -> str:
    """One word: llama-server calls a model `unloaded` also when it failed or cannot be loaded."""
    status: dict[str, Any] = model["status"]
    value: str = status["value"]
    return "failed" if value == "unloaded" and (status.get("failed") or status.get("error")) else value


def problem_of(model: dict[str, Any]) -> str:
    if state_of(model) != "failed":
        return ""
    status = model["status"]
    return plain(status.get("error") or f"its process ended with exit code {status.get('exit_code')}; see: fastrouter logs {model['id']}")


def _row(model: dict[str, Any], look: Look, *more: str) -> Row:
    state = state_of(model)
    return Row((plain(model["id"]), _marked(model, state, look), *more), state, problem_of(model), _folder_of(model))


def _folder_of(model: dict[str, Any]) -> str:
    args = model["status"].get("args") or []
    path = args[args.index("--model") + 1] if "--model" in args[:-1] else ""
    return os.path.join(os.path.dirname(path), "") if os.path.isabs(path) else ""


def _marked(model: dict[str, Any], state: str, look: Look) -> str:
    percent = f" {_percent_of(model['status'].get('progress') or {})}%" if state == "downloading" else ""
    if not look.is_terminal or state not in _MARKS:
        return state + percent
    mark, ascii_mark, _ = _MARKS[state]
    return f"{mark if look.has_unicode else ascii_mark} {state}{percent}"


def _aliases(model: dict[str, Any], *, is_verbose: bool) -> str:
    """Aliases that a user gave it; `is_verbose`: also the spellings of its file, which every model has."""
    hidden = () if is_verbose else model.get("spellings") or ()
    return ", ".join(plain(alias) for alias in model.get("aliases") or () if alias not in hidden)


def _context(model: dict[str, Any]) -> str:
    meta = model.get("meta") or {}
    return str(meta.get("n_ctx") or meta.get("n_ctx_train") or "")


def _percent_of(files: dict[str, dict[str, int]]) -> int:
    total = sum(file["total"] for file in files.values())
    return 100 * sum(file["done"] for file in files.values()) // total if total else 0


def _size(num_bytes: int | None) -> str:
    return size_text(num_bytes) if num_bytes else ""


# ---------------------------------------------------------------- the table


def _print(
    heads: tuple[str, ...], rows: Sequence[Row], right: frozenset[int], models: Sequence[dict[str, Any]], look: Look, *, is_verbose: bool
) -> None:
    """The problem of a model is shown below it on a terminal, and in a last column elsewhere, so that one line is one model."""
    table = [heads, *(row.cells for row in rows)]
    aliases = [_aliases(model, is_verbose=is_verbose) for model in models]
    if any(aliases):
        table = [(*cells, more) for cells, more in zip(table, ("ALIASES", *aliases), strict=True)]
    if not look.is_terminal and any(row.problem for row in rows):
        table = [(*cells, more) for cells, more in zip(table, ("PROBLEM", *(row.problem for row in rows)), strict=True)]
    first, *lines = pad(table, right)
    print(look.paint(_GAP.join(first).rstrip(), "faint"))
    for cells, row in zip(lines, rows, strict=True):
        print(_line(cells, row, look, is_cut=bool(any(aliases)) and not is_verbose))
        if look.is_terminal and row.problem:
            _print_problem(row, look, is_verbose=is_verbose)


def _print_problem(row: Row, look: Look, *, is_verbose: bool) -> None:
    """On a few lines, without the folder of the file unless everything is asked for."""
    text = row.problem if is_verbose or not row.folder else row.problem.replace(row.folder, "")
    lines = textwrap.wrap(text, max(look.width - len(_GAP), 20))
    if len(lines) > _MAX_LINES and not is_verbose:
        lines[_MAX_LINES - 1 :] = [look.shorten(" ".join(lines[_MAX_LINES - 1 :]), look.width - len(_GAP))]
    for line in lines:
        print(look.paint(_GAP + line, "bad"))


def _line(cells: list[str], row: Row, look: Look, *, is_cut: bool) -> str:
    """`is_cut`: its last cell may be shortened to the terminal's width."""
    *before, last = cells
    if is_cut:
        last = look.shorten(last.rstrip(), look.width - len(_GAP.join([*before, ""])))
    _, _, colour = _MARKS.get(row.state, ("", "", ""))
    before[_STATUS] = look.paint(before[_STATUS], colour)
    return _GAP.join([*before, last]).rstrip()
