"""The GGUF reader: any file gives a header or one of its errors."""

import os

from fastrouter.catalog.gguf import GgufError, read_header


def check(data: bytes) -> None:
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, data)
        header = read_header(f"/proc/self/fd/{descriptor}")
    except GgufError:
        return
    finally:
        os.close(descriptor)
    assert header.architecture
    assert 0 <= header.size_bytes <= len(data)
    assert header.num_tensors >= 0
