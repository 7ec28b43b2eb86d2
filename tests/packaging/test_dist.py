"""The launcher of the executable with a small program instead of the real one; the spec and the packer without a build."""

import ast
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastrouter.system import reexec

PROJECT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(PROJECT / "packaging"))
import elf  # noqa: E402
import entry  # noqa: E402
import pack  # noqa: E402

# The launcher becomes this program: it reports its identity, then follows its first argument.
PROGRAM = """#!/bin/sh
echo "pid $$ of $0: $*"
case "$1" in
exit) exit "$2" ;;
wait) echo up; read -r line; exit 7 ;;
esac
"""


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    output = tmp_path_factory.mktemp("launcher") / "launcher"
    sources = sorted((PROJECT / "packaging/launcher").glob("*.c"))
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-Werror", *sources, "-o", output], check=True)
    return output


class Executable:
    """The launcher with a payload, and a separate cache and temporary folder."""

    def __init__(self, launcher: Path, home: Path, text: str = PROGRAM, size: int = 200_000, **sections: Path) -> None:
        self.home, self.path, self.cache, self.temporary = home, home / "fastrouter", home / "cache", home / "tmp"
        folder = home / "payload"
        (folder / "program/deep").mkdir(parents=True, exist_ok=True)
        (folder / "fastrouter").write_text(text)
        (folder / "fastrouter").chmod(0o755)
        (folder / "program/deep/numbers").write_bytes(bytes(range(256)) * (size // 256))
        (folder / "program/empty").touch()
        if not (folder / "program/link").is_symlink():
            (folder / "program/link").symlink_to("deep/numbers")
        self.temporary.mkdir(exist_ok=True)
        pack.write(launcher, {"PROGRAM": folder, **sections}, self.path, level=0)

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(self.cache), "TMPDIR": str(self.temporary)}

    @property
    def runtimes(self) -> list[Path]:
        return sorted((self.cache / "fastrouter/runtime").glob("[!.]*"))

    def start(self, *arguments: str, **more: str) -> "subprocess.Popen[str]":
        command = [self.path, *arguments]
        return subprocess.Popen(command, env={**self.environment, **more}, stdin=subprocess.PIPE, stdout=-1, stderr=-1, text=True)

    def run(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([self.path, *arguments], env={**self.environment, **more}, capture_output=True, text=True, timeout=30)


@pytest.fixture
def executable(launcher: Path, tmp_path: Path) -> Executable:
    return Executable(launcher, tmp_path)


def up(process: "subprocess.Popen[str]") -> str:
    """Its first output, once it has reported that it is running."""
    assert process.stdout is not None
    first = process.stdout.readline()
    assert process.stdout.readline() == "up\n"
    return first


@pytest.fixture
def waiting(executable: Executable) -> Iterator["subprocess.Popen[str]"]:
    process = executable.start("wait")
    yield process
    process.kill()
    process.communicate()


def eventually(check: "object", what: str) -> None:
    assert callable(check)
    for _ in range(500):
        if check():
            return
        time.sleep(0.01)
    pytest.fail(f"not within 5 s: {what}")


# ---------------------------------------------------------------- the launcher


def test_it_becomes_its_program(executable: Executable) -> None:
    process = executable.start("exit", "3", "a b")
    said, complained = process.communicate(timeout=30)
    [runtime] = executable.runtimes
    assert said == f"pid {process.pid} of {runtime}/fastrouter: exit 3 a b\n"
    assert (process.returncode, complained) == (3, "")


def test_everything_is_unpacked_once_and_privately(executable: Executable) -> None:
    assert executable.run("exit", "0").returncode == 0
    [runtime] = executable.runtimes
    assert runtime.name == pack.key_of(pack.entries_of(executable.home / "payload"))
    assert (runtime / "program/link").read_bytes() == bytes(range(256)) * 781
    assert (runtime / "program/empty").read_bytes() == b""
    for folder in (runtime, runtime.parent, runtime / "program/deep"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in runtime.rglob("*") if path.is_file()} == {0o600, 0o700}
    before = (runtime / "program/deep/numbers").stat()
    assert executable.run("exit", "0").returncode == 0
    assert (runtime / "program/deep/numbers").stat().st_ino == before.st_ino
    assert list(executable.temporary.iterdir()) == []


def test_eight_first_starts_at_once(launcher: Path, tmp_path: Path) -> None:
    executable = Executable(launcher, tmp_path, size=8_000_000)
    processes = [executable.start("exit", "0") for _ in range(8)]
    for process in processes:
        said, complained = process.communicate(timeout=60)
        assert (process.returncode, complained) == (0, "")
        assert said.startswith(f"pid {process.pid} of {executable.runtimes[0]}/")
    assert len(executable.runtimes) == 1
    assert not list(executable.runtimes[0].parent.glob(".new-*"))


@pytest.mark.parametrize("damage", ["truncate", "change", "remove", "open to others", "link"])
def test_a_damaged_runtime_is_unpacked_again(executable: Executable, damage: str) -> None:
    executable.run("exit", "0")
    victim = executable.runtimes[0] / "program/deep/numbers"
    whole = victim.read_bytes()
    if damage == "truncate":
        os.truncate(victim, 100)
    elif damage == "change":
        victim.write_bytes(whole[::-1])
    elif damage == "open to others":
        victim.chmod(0o666)
    else:
        victim.unlink()
    if damage == "link":
        (executable.home / "elsewhere").write_bytes(whole)
        victim.symlink_to(executable.home / "elsewhere")
    assert executable.run("exit", "4").returncode == 4
    assert (executable.runtimes[0] / "program/deep/numbers").read_bytes() == whole
    assert not victim.is_symlink()


def test_killed_in_the_middle(launcher: Path, tmp_path: Path) -> None:
    executable = Executable(launcher, tmp_path, size=64_000_000)
    process = executable.start("exit", "0")
    half = executable.cache / "fastrouter/runtime" / f".new-{process.pid}"
    eventually(lambda: half.exists() or process.poll() is not None, "it unpacks")
    process.kill()
    process.communicate()
    was_half = half.exists()
    assert executable.run("exit", "5").returncode == 5
    assert not half.exists()
    assert len(executable.runtimes) == 1
    assert was_half or process.returncode == 0


def test_signals_reach_the_program(executable: Executable, waiting: "subprocess.Popen[str]") -> None:
    assert up(waiting).startswith(f"pid {waiting.pid} ")
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_descriptors(launcher: Path, tmp_path: Path, closed: str) -> None:
    """Its lock must not become one of the program's standard descriptors."""
    text = '#!/bin/sh\nfor number in 0 1 2; do readlink /proc/$$/fd/$number; done >"$1"\n'
    executable = Executable(launcher, tmp_path, text)
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", str(executable.path), str(tmp_path / "found")]
    subprocess.run(command, env=executable.environment, check=True, timeout=30)
    found = (tmp_path / "found").read_text().splitlines()
    assert [found[int(word[0])] for word in closed.split() if word[0] != "1"] == ["/dev/null"] * len(closed.replace("1>&-", "").split())
    assert not [path for path in found if "fastrouter" in path]


def test_a_version_in_use_stays_and_an_unused_one_goes(executable: Executable, waiting: "subprocess.Popen[str]", launcher: Path) -> None:
    up(waiting)
    [old] = executable.runtimes
    newer = Executable(launcher, executable.home, PROGRAM + "# newer\n")
    assert newer.run("exit", "0").returncode == 0
    assert old in newer.runtimes
    assert len(newer.runtimes) == 2
    waiting.communicate("\n")
    assert waiting.returncode == 7
    newest = Executable(launcher, executable.home, PROGRAM + "# newest\n")
    assert newest.run("exit", "0").returncode == 0
    assert len(newest.runtimes) == 1
    assert old not in newest.runtimes


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_without_a_cache_a_temporary_folder_that_goes(executable: Executable, end: signal.Signals) -> None:
    blocked = executable.home / "file"
    blocked.touch()
    process = executable.start("wait", XDG_CACHE_HOME=str(blocked))
    said = up(process)
    [folder] = executable.temporary.iterdir()
    assert f" of {folder}/" in said
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    process.send_signal(end)
    _, complained = process.communicate(timeout=10)  # the process that cleans up does not hold its pipes
    assert "cannot be used" in complained
    assert str(folder) in complained
    eventually(lambda: not folder.exists(), "the folder is removed")


def test_a_cache_of_another_user_is_not_trusted(executable: Executable) -> None:
    executable.run("exit", "0")
    executable.cache.chmod(0o777)
    result = executable.run("exit", "6")
    assert result.returncode == 6
    assert "cannot be used" in result.stderr
    assert f" of {executable.temporary}/" in result.stdout
    eventually(lambda: not list(executable.temporary.iterdir()), "the folder is removed")


def test_what_a_killed_remover_left_is_swept(executable: Executable) -> None:
    blocked = executable.home / "file"
    blocked.touch()
    left = executable.temporary / "fastrouter-abcdef"
    (left / ("0" * 64) / "program").mkdir(parents=True)
    (left / ".lock").touch()
    (left / ("0" * 64) / ".lock").touch()
    other = executable.temporary / "fastrouter-not-ours"
    other.mkdir()
    for folder in (left, left / ("0" * 64)):
        folder.chmod(0o700)
    assert executable.run("exit", "0", XDG_CACHE_HOME=str(blocked)).returncode == 0
    eventually(lambda: list(executable.temporary.iterdir()) == [other], "only the other folder is left")


def test_without_any_folder_it_says_what_to_set(executable: Executable) -> None:
    environment = {"PATH": os.environ["PATH"], "TMPDIR": "/nonexistent"}
    if os.geteuid() == 0 or any(os.access(folder, os.W_OK) for folder in ("/tmp", "/var/tmp", "/dev/shm")):
        result = subprocess.run([executable.path, "exit", "2"], env=environment, capture_output=True, text=True, timeout=30)
        assert result.returncode == 2  # it found one of the others, and no cache was named: it prints nothing
        assert result.stderr == ""


@pytest.mark.parametrize("where", ["middle", "end", "nothing"])
def test_a_damaged_download(executable: Executable, where: str) -> None:
    content = executable.path.read_bytes()
    executable.path.write_bytes({"middle": content[:-5000], "end": content[:-1] + b"\xff", "nothing": content[:-200_000]}[where])
    result = executable.run("exit", "0")
    assert result.returncode == 1
    assert "this file is damaged" in result.stderr
    assert "download it again" in result.stderr
    assert executable.runtimes == []


def test_other_sections_are_named_to_the_program(launcher: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "tiny.gguf").write_bytes(b"GGUF")
    executable = Executable(launcher, tmp_path, '#!/bin/sh\ncat "$FASTROUTER_MODEL_FILE"; echo "$FASTROUTER_MODEL_FILE"\n', MODEL=model)
    assert re.fullmatch(r"GGUF.*/runtime/[0-9a-f]{64}/tiny\.gguf\n", executable.run().stdout)
    assert len(executable.runtimes) == 2


# ---------------------------------------------------------------- the parts around it


def test_the_same_files_give_the_same_bytes(launcher: Path, tmp_path: Path) -> None:
    first = Executable(launcher, tmp_path).path.read_bytes()
    os.utime(tmp_path / "payload/fastrouter", (1, 1))
    (tmp_path / "payload/fastrouter").chmod(0o711)
    assert Executable(launcher, tmp_path).path.read_bytes() == first


def test_it_starts_itself_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reexec.command_of("fastrouter.worker") == [sys.executable, "-P", "-m", "fastrouter.worker"]
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert reexec.command_of("fastrouter.hub") == [sys.executable, entry.RUN_MODULE, "fastrouter.hub"]
    assert reexec.RUN_MODULE == entry.RUN_MODULE


def test_its_libraries_are_not_for_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"LD_LIBRARY_PATH": "/runtime/program", "LD_LIBRARY_PATH_ORIG": "/opt/lib", "A": "b"}
    assert reexec.environment_for_others(environ) == environ
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert reexec.environment_for_others(environ) == {"LD_LIBRARY_PATH": "/opt/lib", "A": "b"}
    assert reexec.environment_for_others({"LD_LIBRARY_PATH": "/runtime/program", "A": "b"}) == {"A": "b"}


def test_only_its_own_modules_can_be_run() -> None:
    path = PROJECT / "packaging/entry.py"
    for module in ([], ["http.server"]):
        result = subprocess.run([sys.executable, path, entry.RUN_MODULE, *module], capture_output=True, text=True, timeout=30)
        assert result.returncode == 2
        assert "is for fastrouter itself" in result.stderr
    result = subprocess.run([sys.executable, path, entry.RUN_MODULE, "fastrouter.worker"], capture_output=True, text=True, timeout=30)
    assert (result.returncode, "usage:" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "environment", "is_served"),
    [
        ([], {}, True),
        (["--port", "0"], {}, True),
        (["-m", "x.gguf"], {}, False),
        (["--model=x.gguf"], {}, False),
        (["-hf", "a/b"], {}, False),
        ([], {"LLAMA_ARG_MODEL": "x.gguf"}, False),
        (["list"], {}, False),
        (["chat", "smollm2"], {}, False),
    ],
)
def test_its_own_model_is_the_default(arguments: list[str], environment: dict[str, str], is_served: bool) -> None:
    environment = {**environment, "FASTROUTER_MODEL_FILE": "/runtime/smollm2.gguf"}
    expected = [*arguments, "--model", "/runtime/smollm2.gguf"] if is_served else arguments
    assert entry.with_own_model(arguments, environment) == expected
    assert entry.with_own_model(arguments, {}) == arguments


def test_the_spec_leaves_nothing_out_that_is_imported() -> None:
    text = (PROJECT / "packaging/fastrouter.spec").read_text()
    [excluded] = [node.value for node in ast.parse(text).body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "UNUSED"]
    unused = set(ast.literal_eval(excluded))
    assert "jinja2.debug" not in unused  # Jinja imports it when a template is wrong: an ImportError then ended the router
    for path in (PROJECT / "fastrouter").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names if path.name != "webp.py" else ():  # it works without Pillow, and says so
                parts = name.split(".")
                assert not {".".join(parts[: index + 1]) for index in range(len(parts))} & unused, f"{path.name} imports {name}"


def test_the_client_of_mcp_works_with_the_stand_ins() -> None:
    code = "import cryptography, fastrouter.api.tools.mcp_host as host; print(cryptography.__file__, host.Host([], 1.0)._servers)"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT / "packaging/stand_ins"), str(PROJECT)])}
    found = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)
    assert found.stdout == f"{PROJECT}/packaging/stand_ins/cryptography.py {{}}\n", found.stderr


def test_each_of_its_tests_exists() -> None:
    text = (PROJECT / "Makefile").read_text().replace("\\\n", " ")
    names = text.partition("\nDIST_TESTS :=")[2].partition("\n")[0].split()
    assert len(names) > 20
    assert [name for name in names if len(list((PROJECT / "tests").glob(f"*/test_{name}.py"))) != 1] == []


def test_the_pinned_versions_are_those_that_are_asked_for() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = (PROJECT / "packaging/dist-constraints.txt").read_text().splitlines()
    pins = {name.lower().replace("_", "-").replace(".", "-"): version for name, _, version in (line.partition("==") for line in lines)}
    for line in [*project["dependencies"], *project["optional-dependencies"]["package"]]:
        wanted = requirements.Requirement(line)
        name = wanted.name.lower().replace("_", "-").replace(".", "-")
        if name != "llama-cpp-python":  # a build of our own
            assert wanted.specifier.contains(pins[name]), line


def test_the_newest_glibc_symbol_is_found(launcher: Path) -> None:
    if not shutil.which("objdump"):
        pytest.skip("needs objdump")
    major, minor = elf.glibc_floor(launcher)
    assert major == 2
    assert minor >= 2
    assert elf.elf_files(launcher.parent) == [launcher]
