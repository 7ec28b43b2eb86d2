"""Builds ring_stress.c with sanitizers, from the C code in core/ring.pxi, and runs it. `python ring_stress.py RECORDS` runs all kinds, and
five times as many records without a sanitizer."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
RING = HERE.parent.parent / "fastrouter" / "core" / "ring.pxi"
# name -> (how producer and consumer run, flags of the compiler)
KINDS = {
    "thread": ("threads", ["-fsanitize=thread", "-Wno-tsan"]),
    "address, undefined": ("processes", ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]),
    "none": ("processes", []),
}

PLAIN = 5  # so many times the records without a sanitizer


def helpers() -> str:
    """The C code at the top of ring.pxi."""
    text = RING.read_text()
    return text.split('cdef extern from *:\n    """\n', 1)[1].split('    """\n', 1)[0]


def build(kind: str, folder: Path) -> Path | str:
    """The program; in words why there is none."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return "there is no C compiler"
    (folder / "helpers.h").write_text(helpers())
    program = folder / "ring_stress"
    command = [compiler, "-g", "-O1", "-Wall", "-Wno-unused-function", "-Wno-unknown-warning-option", *KINDS[kind][1]]
    done = subprocess.run(
        [*command, "-I", str(folder), str(HERE / "ring_stress.c"), "-o", str(program), "-pthread"], capture_output=True, text=True
    )
    if done.returncode:
        return f"the compiler cannot build it: {done.stderr.strip().splitlines()[-1]}"
    return program


def run(program: Path, kind: str, records: int, seed: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([program, KINDS[kind][0], str(records), str(seed)], capture_output=True, text=True)


def main() -> int:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    has_failed = False
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            program = build(kind, Path(folder))
            if isinstance(program, str):
                print(f"sanitizer {kind}: skipped: {program}")
                continue
            done = run(program, kind, records * (PLAIN if kind == "none" else 1), seed=1)
            print(f"sanitizer {kind}: {'failed' if done.returncode else 'ok'}: {(done.stdout + done.stderr).strip()}")
            has_failed = has_failed or done.returncode != 0
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
