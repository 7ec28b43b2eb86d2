"""Coverage-guided fuzzing with atheris: each target in a process of its own, on the Cython core built with sanitizers and coverage.

    python tests/fuzz/campaign.py [--seconds 60] [NAME ...]

What is found is in build/fuzz: a folder of inputs for each target, and crash-* files. Copy a crash into tests/fuzz/corpus/NAME with its
fix. Exit code 1 when something was found. Without gcc's sanitizers only the Python code is guided by coverage, on the usual core.
"""

import argparse
import ctypes
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
RESULTS = REPOSITORY / "build" / "fuzz"
NAMES = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize=alignment -fno-sanitize-recover=undefined"
COVERAGE = f"-fsanitize-coverage=trace-pc,trace-cmp -include {HERE / 'coverage.h'}"
NUM_COUNTERS = 65536  # as in coverage.h
OPTIONS = {
    # Python keeps memory until its end, so what is not freed says nothing.
    "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0:allocator_may_return_null=1:abort_on_error=1",
    "UBSAN_OPTIONS": "abort_on_error=1:print_stacktrace=1",  # libFuzzer keeps the input of an abort
    "PYTHONMALLOC": "malloc",  # each object is an allocation of its own, which the sanitizer watches
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the readers, guided by coverage.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; all of them when none is given")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(NAMES)
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; the targets are {', '.join(NAMES)}")
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed; run `make fuzz`, which installs it")
    RESULTS.mkdir(parents=True, exist_ok=True)
    core, library = _build_core()
    results = [_campaign(name, asked.seconds, core, library) for name in asked.names or NAMES]
    return 0 if all(results) else 1


def _build_core() -> tuple[Path | None, str]:
    """The extension with sanitizers and coverage, and what must be loaded before Python; (None, "") without them."""
    compiler = shutil.which("gcc")
    asked = [compiler or "", "-print-file-name=libasan.so"]
    library = subprocess.run(asked, capture_output=True, text=True).stdout.strip() if compiler else ""
    if not Path(library).is_absolute():
        print("gcc has no address sanitizer here: the usual core is used, without coverage inside it")
        return None, ""
    flags = f"-O1 -g -fno-omit-frame-pointer {SANITIZERS}"
    environment = {**os.environ, "CC": compiler or "", "CFLAGS": f"{flags} {COVERAGE}", "LDFLAGS": SANITIZERS}
    places = [f"--build-lib={RESULTS / 'core'}", f"--build-temp={RESULTS / 'objects'}"]
    command = [sys.executable, "setup.py", "-q", "build_ext", *places]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, stderr=subprocess.DEVNULL)
    forward = RESULTS / "forward.so"
    subprocess.run([compiler or "", "-O2", "-shared", "-fPIC", "-o", forward, HERE / "forward.c"], check=True)
    return next((RESULTS / "core").rglob("_core*.so")), f"{forward}:{library}"


def _fuzzer() -> Path:
    """The library with atheris's libFuzzer."""
    spec = importlib.util.find_spec("atheris")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("core_with_libfuzzer*.so"))


def _campaign(name: str, seconds: int, core: Path | None, library: str) -> bool:
    """False when something was found."""
    folder = RESULTS / name
    folder.mkdir(exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={RESULTS}/{name}-", "-timeout=20", "-max_len=4096", "-print_final_stats=1"]
    code = f"import campaign; campaign.fuzz({name!r}, {str(core or '')!r})"
    command = [sys.executable, "-c", code, *options, str(folder), str(HERE / "corpus" / name)]
    path = os.pathsep.join(map(str, (HERE, REPOSITORY / "tests" / "support", REPOSITORY)))
    environment = {**os.environ, "PYTHONPATH": path} | ({**OPTIONS, "LD_PRELOAD": library, "FR_FUZZER": str(_fuzzer())} if core else {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", cwd=RESULTS)
    output = done.stdout + done.stderr
    runs = re.search(r"number_of_executed_units: (\d+)", output)
    covered = re.findall(r"ft: (\d+)", output)
    print(f"{name:8} {runs[1] if runs else '?':>9} inputs, {covered[-1] if covered else '?':>6} features, ", end="")
    print("nothing found" if done.returncode == 0 else f"FOUND:\n{_without_progress(output)}", flush=True)
    return done.returncode == 0


def _without_progress(output: str) -> str:
    return "\n".join(line[:200] for line in output.splitlines() if not line.startswith(("#", "INFO")))


def fuzz(name: str, core: str) -> None:
    """In the process of one target."""
    import atheris

    if core:
        _load_core(core)
    with atheris.instrument_imports(include=["fastrouter"], enable_loader_override=False):
        target = importlib.import_module(f"fuzz_{name}")
    atheris.Setup(sys.argv, target.check)
    atheris.Fuzz()


def _load_core(core: str) -> None:
    """In place of the installed one, with its counters in libFuzzer's hands."""
    import fastrouter

    spec = importlib.util.spec_from_file_location("fastrouter._core", core)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fastrouter._core"] = fastrouter._core = module
    spec.loader.exec_module(module)
    start = ctypes.addressof((ctypes.c_uint8 * NUM_COUNTERS).in_dll(ctypes.CDLL(core), "fr_coverage"))
    fuzzer = ctypes.CDLL(str(_fuzzer()))
    fuzzer.__sanitizer_cov_8bit_counters_init(ctypes.c_void_p(start), ctypes.c_void_p(start + NUM_COUNTERS))


if __name__ == "__main__":
    sys.exit(main())
