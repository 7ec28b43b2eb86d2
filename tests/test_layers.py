"""Imports only go down the rank order; those in braces never import each other."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fastrouter"
RANKS: list[set[str]] = [
    {"_core", "errors", "metrics", "near", "machine", "program", "remembered", "systemd", "build", "sink", "streams"},
    {"messages"},
    {
        "wire",
        "flag",
        "router_flags",
        "model_flags",
        "flag_table",
        "flags",
        "config",
        "gguf",
        "capabilities",
        "builtin_templates",
        "templates",
        "headers",
        "presets",
        "preset_values",
        "sections",
        "difference",
        "sources",
        "spec",
        "variants",
        "samplers",
        "grammars",
        "guessers",
        "logs",
    },
    {"catalog"},
    {"worker", "supervisor", "http", "hub"},
    {"api"},
    {"watch"},
    {"service"},
    {"app", "bench"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
SIBLINGS_MAY_IMPORT = RANKS[0] | RANKS[2]
FILES = sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_units(path: Path) -> set[str]:
    units = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "fastrouter":
                names = [f"fastrouter.{alias.name}" for alias in node.names]
        else:
            continue
        units |= {name.split(".")[1] for name in names if name.startswith("fastrouter.")}
    return units - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    unit = unit_of(path)
    if unit == "__init__":
        assert not imported_units(path)
        return
    for other in imported_units(path) - {unit}:
        lower = RANK[other] < RANK[unit]
        sibling = RANK[other] == RANK[unit] and {unit, other} <= SIBLINGS_MAY_IMPORT
        assert lower or sibling, f"{path.name} ({unit}) imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_hidden_cycles_and_no_pickle(path: Path) -> None:
    text = path.read_text()
    assert "TYPE_CHECKING" not in text
    assert not re.search(r"\b(pickle|marshal|shelve)\b(?! (between|anywhere))|\beval\(|\bexec\(", text.split('"""', 2)[-1])


def test_only_llama_py_imports_llama_cpp() -> None:
    importers = [p for p in FILES if re.search(r"^\s*(import|from) llama_cpp", p.read_text(), re.M)]
    assert [str(p.relative_to(PACKAGE)) for p in importers] == ["worker/binding.py"]
