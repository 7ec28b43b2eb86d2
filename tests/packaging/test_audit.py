"""The audit of `make check`: what is found fails it, and a database out of reach does not."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPOSITORY

KNOWN = {"id": "CVE-1", "fix_versions": ["2.0"], "description": "bad"}


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "packaging"))
    import audit  # type: ignore[import-not-found]

    assert isinstance(audit, ModuleType)
    return audit


def test_what_is_known_fails_it(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = {"name": "a", "version": "1.0", "vulns": []}, {"name": "b", "version": "1.0", "vulns": [KNOWN]}
    assert audit.report([good, {"name": "c", "skip_reason": "not on PyPI"}]) == 0
    assert audit.report([good, bad]) == 1
    said = capsys.readouterr().out
    assert "not in the database: c\naudited 1 dependencies: 0 known vulnerabilities\n" in said
    assert said.endswith("b 1.0: CVE-1, fixed in 2.0: bad\naudited 2 dependencies: 1 known vulnerabilities\n")


def test_what_is_asked_about(audit: ModuleType) -> None:
    lines = audit.pins(audit.closure(["fastrouter"])).splitlines()
    assert len(lines) > 10
    assert [line for line in lines if line.startswith(("fastrouter", "pytest"))] == []
    assert any(line.startswith("llama-cpp-python==") for line in lines)


def test_without_a_network(tmp_path: Path) -> None:
    """Nothing listens on the proxy."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    environ = {**os.environ, **proxies, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "no_proxy": "", "NO_PROXY": ""}
    command = [sys.executable, str(REPOSITORY / "packaging" / "audit.py")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=110)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("dependencies are not audited, because no database of vulnerabilities can be reached (pypi: ")
    assert done.stdout.count("\n") == 1
