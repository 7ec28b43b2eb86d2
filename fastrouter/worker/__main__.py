"""A worker process: `--fork-server FD` answers fork requests, `--spare CONTROL MEM DOORBELL LIFELINE DESCRIPTORS` is one worker started
directly; `--render FD` renders chat templates for one worker; `--rpc-server JSON` lends devices to models of other machines.

This file handles only argv and the environment that a worker needs before its imports; the rest is in fork_server.py and loop.py.
"""

import gc
import os
import sys

from fastrouter.system.standard_streams import open_missing


def main(argv: list[str]) -> int:
    open_missing()
    if len(argv) == 2 and argv[0] == "--render":
        from fastrouter.worker.text import render_process

        return render_process.serve(int(argv[1]))
    if len(argv) == 2 and argv[0] == "--rpc-server":
        from fastrouter.worker import rpc_server

        return rpc_server.run(argv[1])
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would make the fork server multi-threaded, and it forks
    gc.disable()  # until everything is imported: that makes no garbage, and collections would take a tenth of the time
    from fastrouter.worker import fork_server

    if len(argv) == 2 and argv[0] == "--fork-server":
        return fork_server.serve(int(argv[1]))
    if len(argv) == 6 and argv[0] == "--spare":
        control, memory, doorbell, lifeline, descriptors = map(int, argv[1:])
        return fork_server.run_spare(control, memory, doorbell, lifeline, descriptors)
    spare = "--spare CONTROL MEM DOORBELL LIFELINE DESCRIPTORS"
    sys.stderr.write(f"usage: python -m fastrouter.worker --fork-server FD | --render FD | --rpc-server JSON | {spare}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
