"""One input of an embedding call with pictures in it: it is computed piece by piece, and one vector is made of those of the pieces.

Never imports: worker.engine.embedder. Invariant: the pieces are computed in their order in one sequence, so each one sees those before it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrouter.options.limits import POOLING
from fastrouter.worker.llama.binding import LlamaError
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.projector import Embeddings
from fastrouter.worker.media.pictures import Key, PlacedPicture

Vectors = NDArray[np.float32]
SEQUENCE = 0


class SeenInput:
    """`tokens`: all of it; those that stand for pictures are not read."""

    def __init__(self, tokens: NDArray[np.int32], pictures: Sequence[PlacedPicture], *, is_causal: bool) -> None:
        """`is_causal`: see worker.media.pictures.Pictures."""
        self.tokens = tokens
        self.pictures = pictures
        self._is_causal = is_causal

    def __len__(self) -> int:
        return len(self.tokens)

    def compute(self, context: Context, embeddings: Mapping[Key, Embeddings]) -> tuple[Vectors, int]:
        """(one row; without pooling one for each token, number of decodes). Raises LlamaError."""
        found: list[Vectors] = []
        counts: list[int] = []
        for piece, pos in self._pieces(context.n_batch, embeddings):
            self._decode(context, piece, pos)
            found.append(_vectors(context, len(piece)))
            counts.append(len(piece))
        return pooled(context.pooling, found, counts), len(counts)

    def _decode(self, context: Context, piece: NDArray[Any], pos: int) -> None:
        if piece.ndim == 1:
            code = context.decode(context.batch.put_outputs(0, piece, pos, SEQUENCE))
        else:
            code = context.decode_embeddings(piece, pos, SEQUENCE, is_causal=self._is_causal, are_outputs=True)
        if code:
            raise LlamaError(f"llama_decode failed with code {code}")

    def _pieces(self, most: int, embeddings: Mapping[Key, Embeddings]) -> Iterator[tuple[NDArray[Any], int]]:
        """(tokens, or rows of a picture; the position of the first one)."""
        start, pos = 0, 0
        for picture in self.pictures:
            text = self.tokens[start : picture.start]
            yield from _cut(text, most, pos)
            rows = embeddings[picture.chunk.key]
            yield from _cut(rows, most if self._is_causal else len(rows), pos + len(text))
            start, pos = picture.end, pos + len(text) + picture.chunk.num_positions
        yield from _cut(self.tokens[start:], most, pos)


def _cut(rows: NDArray[Any], most: int, pos: int) -> Iterator[tuple[NDArray[Any], int]]:
    return ((rows[start : start + most], pos + start) for start in range(0, len(rows), most))


def _vectors(context: Context, num_rows: int) -> Vectors:
    if context.pooling == POOLING["none"]:
        return np.stack([context.token_vector(row) for row in range(num_rows)])
    return context.sequence_vector(SEQUENCE)[np.newaxis]


def pooled(pooling: int, found: Sequence[Vectors], counts: Sequence[int]) -> Vectors:
    """What llama.cpp would have made of all tokens together. `counts`: tokens of each piece."""
    if pooling == POOLING["none"]:
        return np.concatenate(found)
    if pooling == POOLING["mean"]:
        mean: Vectors = np.average(np.concatenate(found), axis=0, weights=counts).astype(np.float32)[np.newaxis]
        return mean
    return found[0 if pooling == POOLING["cls"] else -1]
