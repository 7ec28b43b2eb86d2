"""Imports only go down: between packages by FLOORS, inside each package by its tuple. No module is in a circle.

Imports inside functions count like all others.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "fastrouter"
# Bottom first. Those in one set never import each other.
FLOORS: tuple[set[str], ...] = (
    {"_core"},
    {"errors", "metrics"},
    {"options"},
    {"ipc", "system"},
    {"worker", "http", "config"},
    {"catalog"},
    {"supervisor", "hub"},
    {"api"},
    {"app"},
    {"cli"},
    {"__main__"},
)
# Inside each package, bottom first: files and folders. `__init__` is the package itself.
INSIDE: dict[str, tuple[str, ...]] = {
    "options": ("limits", "load", "sampling", "samplers", "guess_types", "constraint_text", "builtin_templates"),
    "ipc": ("messages", "wire", "records"),
    "system": ("machine", "heap", "words", "text_file", "build", "fact_file", "reexec", "line_sink", "near_names", "standard_streams"),
    "worker": (
        "prefill_speed",
        "text_jobs",
        "llama",
        "kv",
        "text",
        "process",
        "sampling",
        "sequence",
        "schedule",
        "speculation",
        "engine",
        "calls",
        "loading",
        "loop",
        "fork_server",
        "__main__",
    ),
    "http": ("response", "sse", "api_keys", "guard", "tls", "exchange", "sockets", "connection", "server", "routes", "access_log"),
    "config": ("flag", "router_flags", "model_flags", "table", "values", "help", "preset_values", "config", "presets"),
    "catalog": (
        "gguf",
        "file_names",
        "variants",
        "capabilities",
        "template_features",
        "sources",
        "spec",
        "header_cache",
        "difference",
        "watch",
        "sections",
        "scan",
        "catalog",
    ),
    "supervisor": (
        "timers",
        "events",
        "decide",
        "idle_watch",
        "remedies",
        "workers",
        "lease",
        "memory",
        "managed_model",
        "queue",
        "snapshot",
        "next_model",
        "memory_ledger",
        "preview",
        "deaths",
        "residency",
        "supervisor",
    ),
    "hub": ("job", "http_client", "retry", "select_files", "cache", "remove", "fetch", "downloads", "__main__"),
    "api": (
        "identity",
        "response_store",
        "requests",
        "models",
        "serving",
        "operations",
        "flavours",
        "control",
        "wrong_paths",
        "openapi",
        "routes",
    ),
    "app": ("systemd", "logs", "service", "router"),
    "cli": (
        "sse",
        "client",
        "bars",
        "logs",
        "presets",
        "completion_model",
        "shells",
        "serve",
        "arguments",
        "pull",
        "terminal",
        "bench",
        "listing",
        "chat",
        "verb_names",
        "verbs",
        "completion",
        "__init__",
    ),
}
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]


def module_of(path: Path) -> tuple[str, ...]:
    """("worker", "llama", "model"); a package's own file ends with "__init__"."""
    return path.relative_to(PACKAGE).with_suffix("").parts


def is_module(parts: tuple[str, ...]) -> bool:
    return PACKAGE.joinpath(*parts).with_suffix(".py").exists()


def imports_of(path: Path) -> Iterator[tuple[str, ...]]:
    """The modules of this package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            top, *rest = name.split(".")
            if top != "fastrouter" or not rest or rest[0] == "__version__":
                continue
            parts = tuple(rest)
            while parts and not is_module(parts) and parts[0] != "_core":
                if (PACKAGE.joinpath(*parts) / "__init__.py").exists():
                    parts = (*parts, "__init__")
                    break
                parts = parts[:-1]
            yield parts[:1] if parts[0] == "_core" else parts


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_packages_import_only_lower_floors(path: Path) -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    mine = module_of(path)[0]
    for other in imports_of(path):
        assert mine != "__init__", f"fastrouter/__init__.py imports {'.'.join(other)}"
        assert other[0] == mine or floor[other[0]] < floor[mine], f"{'.'.join(module_of(path))} imports {'.'.join(other)}"


@pytest.mark.parametrize("path", [path for path in FILES if len(module_of(path)) > 1], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_package_imports_only_down_inside(path: Path) -> None:
    package, mine, *_ = module_of(path)
    order = INSIDE[package]
    assert mine in order or (mine == "__init__" and not list(imports_of(path))), f"{package}/{mine} has no place in INSIDE"
    for other in imports_of(path):
        if other[0] == package and other[1] != mine:
            assert order.index(other[1]) < order.index(mine), f"{'.'.join(module_of(path))} imports {'.'.join(other)}"


def test_the_tables_name_only_what_is_there() -> None:
    there = {module[0] for module in map(module_of, FILES)} - {"__init__"} | {"_core"}
    assert set().union(*FLOORS) == there
    for package, order in INSIDE.items():
        assert len(set(order)) == len(order)
        assert set(order) <= {module_of(path)[1] for path in FILES if module_of(path)[0] == package and len(module_of(path)) > 1}


def test_no_module_is_in_a_circle() -> None:
    edges = {module_of(path): set(imports_of(path)) for path in FILES}
    while free := [module for module, others in edges.items() if not others & edges.keys() - {module}]:
        for module in free:
            del edges[module]
    assert not edges, f"these import each other, or something that does: {sorted(map('.'.join, edges))}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_hidden_cycles_and_no_pickle(path: Path) -> None:
    text = path.read_text()
    assert "TYPE_CHECKING" not in text
    assert not re.search(r"\b(pickle|marshal|shelve)\b(?! (between|anywhere))|\beval\(|\bexec\(", text.split('"""', 2)[-1])


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_function_takes_the_name_of_an_import_for_a_local(path: Path) -> None:
    """The rest of the function would mean something else by it than the file does."""
    tree = ast.parse(path.read_text())
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name.split(".")[0] for node in imports for alias in node.names}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            stored = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
            names = stored | {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
            assert not names & imported, f"{path}: {function.name} assigns {sorted(names & imported)}"


def test_packages_have_no_file_without_content() -> None:
    """A package's own file says in one line what is inside; only the command has code there."""
    for path in FILES:
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text())), path
    assert [
        name for name, path in zip(NAMES, FILES, strict=True) if path.name != "__init__.py" and len(path.read_text().splitlines()) < 3
    ] == []


def test_only_one_file_imports_llama_cpp() -> None:
    importers = [p for p in FILES if re.search(r"^\s*(import|from) llama_cpp", p.read_text(), re.M)]
    assert [str(p.relative_to(PACKAGE)) for p in importers] == ["worker/llama/binding.py"]
