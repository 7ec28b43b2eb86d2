"""Files that belong to a request: bytes in one memory file, whose descriptor is sent beside the Submit. Never imports: ipc.messages.

Invariant: the memory is there as long as the object, so another worker can get the same files after a crash.
"""

import os
from collections.abc import Sequence
from itertools import accumulate


class AttachedFiles:
    """One after the other. It owns its descriptor."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        """Raises OSError."""
        self.fd = -1
        self.sizes = [len(content) for content in contents]
        self.fd = os.memfd_create("fastrouter-files", os.MFD_CLOEXEC)
        with open(self.fd, "wb", closefd=False) as file:
            file.writelines(contents)

    def __repr__(self) -> str:
        return f"<AttachedFiles {self.sizes}>"

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def read_attached(fd: int, sizes: Sequence[int], first: int, end: int) -> tuple[bytes, ...]:
    """The files [first, end). Raises OSError."""
    starts = [0, *accumulate(sizes)]
    return tuple(os.pread(fd, sizes[index], starts[index]) for index in range(first, end))
