"""A worker process: `--nursery FD` serves forks, `--spare CONTROL MEM DOORBELL LIFELINE` is one worker started directly.

This file knows only argv and the environment a worker needs before its imports; the rest is in nursery.py and loop.py.
"""

import os
import sys

_TUNABLE = "glibc.malloc.hugetlb=1"  # malloc asks for huge pages: a large KV cache is made in a third of the time


def with_huge_pages() -> None:
    """glibc reads its tunables at exec only, so a process without them starts itself once more."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" in tunables:
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{_TUNABLE}" if tunables else _TUNABLE
    os.execv(sys.executable, sys.orig_argv)


def main(argv: list[str]) -> int:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's pool would make the nursery multi-threaded, and it forks
    with_huge_pages()
    if len(argv) == 2 and argv[0] == "--nursery":
        from fastrouter.worker import nursery

        return nursery.serve(int(argv[1]))
    if len(argv) == 5 and argv[0] == "--spare":
        from fastrouter.worker import nursery

        control, memory, doorbell, lifeline = map(int, argv[1:])
        return nursery.run_spare(control, memory, doorbell, lifeline)
    sys.stderr.write("usage: python -m fastrouter.worker --nursery FD | --spare CONTROL MEM DOORBELL LIFELINE\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
