"""What a process cannot do any more. Each scene runs in a process of its own, because rights do not come back."""

import subprocess
import sys
from pathlib import Path

import pytest

from fastrouter.system.confinement import confine_calls, confine_files

SCENE = """
import ctypes, os, socket, subprocess, sys, threading
from fastrouter.system.confinement import confine_calls, confine_files

def outcome(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "done"

def read(path):
    return outcome(lambda: open(path, "rb").read())

def write(path):
    return outcome(lambda: open(path, "wb").write(b"x"))

allowed, secret, folder = sys.argv[1:4]
"""


def play(scene: str, folder: Path) -> str:
    allowed, secret, inside = folder / "model.gguf", folder / "secret", folder / "slots"
    allowed.write_bytes(b"GGUF")
    secret.write_bytes(b"secret")
    inside.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SCENE + scene, str(allowed), str(secret), str(inside)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def needs(can: str) -> None:
    """Skips the test where the kernel cannot do it."""
    code = f"import sys; from fastrouter.system.confinement import *; sys.exit(not {can})"
    if subprocess.run([sys.executable, "-c", code], timeout=60).returncode:
        pytest.skip(f"this kernel has no {can.partition('(')[0]}")


def test_only_the_named_files_are_left(tmp_path: Path) -> None:
    needs("confine_files([], [], [])")
    scene = """
assert confine_files([allowed], [], [folder])
print(read(allowed), read(secret), write(allowed), write(secret), write(os.path.join(folder, "a")), read("/etc/passwd"))
print(outcome(lambda: os.rename(os.path.join(folder, "a"), os.path.join(folder, "b"))), outcome(lambda: os.listdir("/")))
thread = threading.Thread(target=lambda: print(read(secret)))
thread.start(), thread.join()
"""
    first, second, third = play(scene, tmp_path).splitlines()
    assert first == "done PermissionError PermissionError PermissionError done PermissionError"
    assert (second, third) == ("done PermissionError", "PermissionError")


def test_a_child_has_no_more_rights(tmp_path: Path) -> None:
    needs("confine_files([], [], [])")
    scene = """
assert confine_files(["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", allowed], [], [])
for path in (allowed, secret):
    print(subprocess.run(["/bin/cat", path], capture_output=True).returncode)
"""
    assert play(scene, tmp_path).split() == ["0", "1"]


def test_no_network_and_no_other_process(tmp_path: Path) -> None:
    needs("confine_calls()")
    scene = """
before = socket.socketpair()
worker = threading.Thread(target=lambda: (go.wait(), print(outcome(lambda: socket.socket(socket.AF_INET6)))))
go = threading.Event()
worker.start()
assert confine_calls()
print(*[outcome(lambda: socket.socket(family)) for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK)])
go.set(), worker.join()
before[0].send(b"x")
print(before[1].recv(1), socket.socketpair()[0].fileno() > 0)
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(16, os.getppid(), 0, 0), ctypes.get_errno())
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(("NoNewPrivs", "Seccomp:"))])
"""
    lines = play(scene, tmp_path).splitlines()
    assert lines[0] == " ".join(["PermissionError"] * 4)
    assert lines[1] == "PermissionError"  # also in a thread that was there before
    assert lines[2:] == ["b'x' True", "-1 1", "['1', '2']"]


@pytest.mark.parametrize("act", [confine_calls, lambda: confine_files([], [], [])], ids=["calls", "files"])
def test_other_machines_are_told(act: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    monkeypatch.setattr("fastrouter.system.confinement._libc.syscall", lambda *_: -1)
    assert act() is False  # type: ignore[operator]
