"""llama.cpp's own server tests against fastrouter: `make llama-cpp-tests`, or

python tests/llama_cpp/run_llama_cpp.py [--source FOLDER] [--hub FOLDER] [--server FILE] [--report FILE] [--jobs N] [TEST ...]

Every test that does not pass must be in expected.toml with its reason, and every test there must still not pass.
"""

import argparse
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path += [str(HERE.parent / "support"), str(REPOSITORY / "packaging")]

import llama_tests  # noqa: E402
from fake_hub import FakeHub, serving  # noqa: E402
from llama_cpp_hub import PICTURES, make_downloadable, make_downloads, make_hub  # noqa: E402
from llama_cpp_outcomes import read_expected, read_outcomes, surprises, table, with_table  # noqa: E402
from picture_site import picture_site  # noqa: E402

WORK = REPOSITORY / "build" / "llama-cpp"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, help="a source tree of llama.cpp (default: the one in llama-cpp-python's source package)")
    parser.add_argument("--hub", type=Path, help="a cache folder with the real models instead of tiny stand-ins")
    parser.add_argument("--server", type=Path, help="another program to test, such as llama-server: nothing is compared, only told")
    parser.add_argument("--report", type=Path, help="the page whose table of results is replaced")
    parser.add_argument("--jobs", default="2")
    parser.add_argument("tests", nargs="*", help="files or tests, such as unit/test_basic.py (default: all)")
    asked = parser.parse_args()
    if asked.report is not None and asked.tests:
        parser.error("--report needs a run of all tests")
    if not prepare(asked.source, asked.hub):
        return 1
    run(asked.server or program(), asked.hub or WORK / "hub", asked.jobs, asked.tests)
    outcomes, expected = read_outcomes(WORK / "outcomes.jsonl"), read_expected()
    print(table(outcomes, expected))
    if asked.server is not None:
        return 0
    if asked.report is not None:
        asked.report.write_text(with_table(asked.report.read_text(), table(outcomes, expected)))
    found = surprises(outcomes, expected, is_trained=asked.hub is not None, is_whole=not asked.tests)
    print("\n".join(found) or "as expected")
    return int(bool(found))


def prepare(source: Path | None, hub: Path | None) -> bool:
    """build/llama-cpp: the tests, the models, the program."""
    shutil.rmtree(WORK, ignore_errors=True)
    if source is not None:
        llama_tests.copy(source, WORK)
    elif llama_tests.main(WORK):
        return False
    (WORK / llama_tests.TESTS / "tmp").mkdir(exist_ok=True)
    make_downloads(WORK / "downloads")
    if hub is None:
        make_hub(WORK / "hub", WORK)
    return True


def program() -> Path:
    path = WORK / "llama-server"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "as_llama_server.py"}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run(server: Path, hub: Path, jobs: str, tests: list[str]) -> None:
    """Their pytest, in their folder."""
    cache = WORK / "cache"
    shutil.copytree(hub, cache)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "llama_cpp_plugin", "-p", "no:cacheprovider", "--tb=short"]
    shown = {f"/{name}": (WORK / "downloads" / name).read_bytes() for name in PICTURES}
    with serving(FakeHub(repos=make_downloadable())) as downloads, picture_site(shown) as pictures:
        given = {
            "LLAMA_SERVER_BIN_PATH": str(server.absolute()),
            "LLAMA_CACHE": str(cache),
            "LLAMA_CPP_DOWNLOADS": str(WORK / "downloads"),
            "LLAMA_CPP_PICTURES": f"http://127.0.0.1:{pictures.port}",
            "LLAMA_CPP_OUTCOMES": str(WORK / "outcomes.jsonl"),
            "HF_ENDPOINT": downloads.url,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(REPOSITORY)]),
        }
        parallel = ["-n", jobs, "--dist", "loadfile"] if jobs != "1" else []
        subprocess.run([*command, *parallel, *tests], cwd=WORK / llama_tests.TESTS, env={**os.environ, **given}, check=False)


if __name__ == "__main__":
    sys.exit(main())
