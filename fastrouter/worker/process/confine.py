"""What a worker keeps when it loads a model: the model's files, the folder of its slots, and what Python itself needs. A GGUF file that
takes over the process reaches neither the user's other files nor the network.

Never imports: worker.llama.model. Invariant: after `confine`, no thread that starts later has more rights.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import fastrouter
from fastrouter.ipc.messages import Load
from fastrouter.system.confinement import FILES, NETWORK, confine_calls, confine_files
from fastrouter.worker.llama.binding import backend_folder, has_device_backend

# The libraries of the system, time zones, and what describes the machine. Of /proc only a part: it shows the environment of all processes.
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/sys", "/dev"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/loadavg", "/proc/stat"),
)
_PACKAGE = Path(fastrouter.__file__).resolve().parent


# What a program reads to find the address of a name.
_NAMES = ("/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/run/systemd/resolve")


def confine(load: Load, connect: Callable[[], None] = lambda: None) -> list[str]:
    """Returns what is out of reach from now on. `connect` opens connections that stay usable: its threads have lost the files already. A
    GPU's driver needs files that no list has, so with one only the network is."""
    gone = []
    if not has_device_backend():
        rpc, folders = load.options.rpc, (load.options.slot_save_path, load.options.log_prompts_dir)
        writable = ["/dev/null", *filter(None, folders)]
        readable = [*_SYSTEM, *_python(), load.path, *load.files, *(_NAMES if rpc else ())]
        if confine_files(readable, [str(_PACKAGE.parent)], writable, keeps_network=bool(rpc)):
            gone.append(FILES)
    connect()
    if confine_calls():
        gone.append(NETWORK)
    return gone


def _python() -> list[str]:
    """Folders of the interpreter, of its packages and of this program. Modules may be imported late."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    packages = [entry for entry in sys.path if Path(entry).resolve() != _PACKAGE.parent or _PACKAGE.parent.name.endswith("-packages")]
    unpacked = getattr(sys, "_MEIPASS", "")
    found = [sys.prefix, sys.base_prefix, sys.executable, unpacked, str(backend_folder()), str(_PACKAGE), *packages, *libraries]
    return [path for path in found if os.path.isabs(path) and path != "/"]
