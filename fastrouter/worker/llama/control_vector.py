"""Control vectors: GGUF files with a direction for each layer -> one array that llama.cpp adds to the outputs of layers. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrouter.worker.llama.binding import LlamaError

_NAME = "direction."  # then the number of the layer, from 1


def read(vectors: list[list[Any]]) -> NDArray[np.float32]:
    """The sum of [[path, scale], ...]: a row for each layer, from layer 1. Raises LlamaError."""
    found = [_read_one(path, scale) for path, scale in vectors]
    width = found[0].shape[1]
    for (path, _), rows in zip(vectors, found, strict=True):
        if rows.shape[1] != width:
            raise LlamaError(f"control vector {path}: it is for an embedding of {rows.shape[1]} numbers, an earlier one for {width}")
    total = np.zeros((max(len(rows) for rows in found), width), dtype=np.float32)
    for rows in found:
        total[: len(rows)] += rows
    return total


def _read_one(path: str, scale: float) -> NDArray[np.float32]:
    from gguf import GGUFReader  # takes 0.1 s to import, and few models have such a file

    try:
        tensors = GGUFReader(path).tensors
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise LlamaError(f"control vector {path}: the file cannot be read: {error}") from None
    rows: dict[int, NDArray[np.float32]] = {}
    for tensor in tensors:
        number = tensor.name.removeprefix(_NAME)
        if not tensor.name.startswith(_NAME) or not number.isdecimal() or int(number) == 0:
            raise LlamaError(f"control vector {path}: its tensor {tensor.name} is not named direction.1, direction.2 ...")
        if tensor.tensor_type.name != "F32" or tensor.data.ndim != 1:
            raise LlamaError(f"control vector {path}: its tensor {tensor.name} must be a list of F32 numbers")
        rows[int(number)] = np.asarray(tensor.data, dtype=np.float32)
    if not rows:
        raise LlamaError(f"control vector {path}: it has no tensors")
    sizes = {len(row) for row in rows.values()}
    if len(sizes) > 1:
        raise LlamaError(f"control vector {path}: its tensors have different sizes: {', '.join(map(str, sorted(sizes)))}")
    total = np.zeros((max(rows), sizes.pop()), dtype=np.float32)
    for number_of_layer, row in rows.items():
        total[number_of_layer - 1] = scale * row
    return total
