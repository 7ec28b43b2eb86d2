"""Imports only go down: between packages by FLOORS, inside each package by its tuple. No module is in a circle.

Imports inside functions count like all others. A docstring that says "Never imports: http, ipc.wire." or "Pure." is held here too; that of
a package speaks for all its files.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "fastrouter"
# Bottom first. Packages in one set never import each other.
FLOORS: tuple[set[str], ...] = (
    {"_core"},
    {"errors", "metrics"},
    {"options"},
    {"ipc", "system"},
    {"worker", "http", "config"},
    {"catalog"},
    {"supervisor", "hub"},
    {"api", "simulator"},
    {"app"},
    {"cli"},
    {"__main__"},
)
# Inside each package, bottom first: files and folders. `__init__` is the package itself.
INSIDE: dict[str, tuple[str, ...]] = {
    "options": (
        "limits",
        "endpoints",
        "cors",
        "load",
        "sampling",
        "samplers",
        "guess_types",
        "constraint_text",
        "builtin_templates",
        "tool_definitions",
    ),
    "ipc": ("served", "descriptors", "attached_files", "parked", "messages", "wire", "async_wire", "records"),
    "system": (
        "machine",
        "rpc_dial",
        "read_ahead",
        "confinement",
        "heap",
        "words",
        "text_file",
        "build",
        "fact_file",
        "reexec",
        "line_sink",
        "near_names",
        "standard_streams",
    ),
    "worker": (
        "prefill_speed",
        "resumed",
        "text_jobs",
        "llama",
        "kv",
        "media",
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
        "rpc_server",
        "fork_server",
        "__main__",
    ),
    "http": (
        "response",
        "sse",
        "api_keys",
        "guard",
        "tls",
        "exchange",
        "sockets",
        "connection_state",
        "connection",
        "server",
        "routes",
        "access_log",
    ),
    "config": (
        *("flag", "router_flags", "model_flags", "speculation_flags", "llama_flags", "ready_made", "table", "values", "help"),
        *("preset_values", "tools", "forms", "layers", "remote_presets", "config_files", "config", "presets"),
    ),
    "catalog": (
        "gguf",
        "file_names",
        "variants",
        "capabilities",
        "template_features",
        "sources",
        "spec",
        "header_cache",
        "created",
        "difference",
        "watch",
        "sections",
        "scan",
        "catalog",
    ),
    "supervisor": (
        "timers",
        "events",
        "changes",
        "decide",
        "idle_watch",
        "remedies",
        "workers",
        "resume",
        "lease",
        "trace_writer",
        "parked_files",
        "parking",
        "memory",
        "managed_model",
        "queue",
        "snapshot",
        "next_model",
        "kept_order",
        "foresight",
        "memory_ledger",
        "departures",
        "ahead_loads",
        "preview",
        "succession",
        "deaths",
        "residency",
        "supervisor",
    ),
    "hub": ("job", "http_client", "retry", "select_files", "cache", "remove", "direct", "fetch", "before_start", "downloads", "__main__"),
    "api": (
        "identity",
        "answer_shapes",
        "response_store",
        "requests",
        "models",
        "serving",
        "operations",
        "tools",
        "flavours",
        "control",
        "wrong_paths",
        "openapi",
        "routes",
    ),
    "simulator": ("loop", "workers", "trace", "simulation", "grid"),
    "app": ("systemd", "logs", "service", "router"),
    "cli": (
        "sse",
        "client",
        "bars",
        "logs",
        "presets",
        "completion_model",
        "shells",
        "arguments",
        "devices",
        "rpc_worker",
        "serve",
        "template",
        "pull",
        "terminal",
        "simulate",
        "bench",
        "listing",
        "chat",
        "verb_names",
        "verbs",
        "completion",
        "__init__",
    ),
}
NEVER = re.compile(r"Never imports:\s+([\w.,\s]+?)\.(?=\s|$)")
PURE = re.compile(r"\bPure[.:;]")
EFFECTS = {"asyncio", "ctypes", "datetime", "logging", "os", "random", "shutil", "signal", "socket", "subprocess", "threading", "time"}
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


def docstring_of(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def forbidden_by(path: Path) -> list[tuple[str, ...]]:
    """The modules and packages that a file's docstring, or that of a package around it, excludes."""
    own = [docstring_of(path)]
    packages = [docstring_of(folder / "__init__.py") for folder in path.parents if PACKAGE in folder.parents]
    return [tuple(name.split(".")) for text in (*own, *packages) for names in NEVER.findall(text) for name in re.split(r",\s*", names)]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_what_a_docstring_says_of_imports_is_true(path: Path) -> None:
    for parts in forbidden_by(path):
        assert is_module(parts) or PACKAGE.joinpath(*parts).is_dir(), f"{path}: there is no {'.'.join(parts)}"
        wrong = [other for other in imports_of(path) if other[: len(parts)] == parts]
        assert not wrong, f"{'.'.join(module_of(path))} imports {wrong}"


def test_some_docstrings_speak_of_imports() -> None:
    assert ("supervisor", "workers") in forbidden_by(PACKAGE / "supervisor" / "queue.py")
    assert ("http",) in forbidden_by(PACKAGE / "supervisor" / "workers" / "instance.py")


@pytest.mark.parametrize(
    "path", [path for path in FILES if PURE.search(docstring_of(path))], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_a_pure_module_imports_nothing_that_has_effects(path: Path) -> None:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & EFFECTS


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
    """Otherwise the name would mean something else in that function than in the rest of the file."""
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
