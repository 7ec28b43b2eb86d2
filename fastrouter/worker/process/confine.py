"""What a worker keeps when it loads a model: the model's files, the folder of its slots, and what Python itself needs. A GGUF file that
takes over the process reaches neither the user's other files nor the network.

Never imports: worker.llama.model. Invariant: after `confine`, no thread that starts later has more rights.
"""

import os
import sys
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


def confine(load: Load) -> list[str]:
    """Returns what is out of reach from now on. A GPU's driver needs files that nobody lists, so with one only the network is."""
    gone = []
    if not has_device_backend():
        folders = (load.options.slot_save_path, load.options.log_prompts_dir)
        writable = ["/dev/null", *filter(None, folders)]
        if confine_files([*_SYSTEM, *_python(), load.path, *load.files], [str(_PACKAGE.parent)], writable):
            gone.append(FILES)
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
