"""What answers contain about the server: the build, and the ids of completions."""

import os

from fastrouter import __version__
from fastrouter.system.build import LLAMA_BUILD

BUILD_INFO = f"b{LLAMA_BUILD}-fastrouter-{__version__}"


def new_completion_id(prefix: str) -> str:
    return f"{prefix}-{os.urandom(16).hex()}"
