"""One input of an embedding call with pictures in it: it is computed piece by piece, and one vector is made of those of the pieces.

Never imports: worker.engine.embedder. Invariant: the pieces are computed in their order in one sequence, so each one sees those before it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fastrouter.options.limits import POOLING
from fastrouter.worker.llama.binding import LlamaError
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.projector import Embeddings, PictureChunk
from fastrouter.worker.media.pictures import Key, PlacedPicture

Vectors = NDArray[np.float32]
Positions = Callable[[PictureChunk, int], NDArray[np.int32]]  # (chunk, its first position)
SEQUENCE = 0


class SeenInput:
    """`tokens`: all of it; those that stand for pictures are not read."""

    def __init__(self, tokens: NDArray[np.int32], pictures: Sequence[PlacedPicture]) -> None:
        self.tokens = tokens
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.tokens)

    def compute(self, context: Context, embeddings: Mapping[Key, Embeddings], positions: Positions) -> tuple[Vectors, int]:
        """(one row; without pooling one for each token, number of decodes). `positions`: see Projector.positions. Raises LlamaError."""
        found: list[Vectors] = []
        counts: list[int] = []
        for code, count in self._decode(context, embeddings, positions):
            if code:
                raise LlamaError(f"llama_decode failed with code {code}")
            found.append(_vectors(context, count))
            counts.append(count)
        return pooled(context.pooling, found, counts), len(counts)

    def _decode(self, context: Context, embeddings: Mapping[Key, Embeddings], positions: Positions) -> Iterator[tuple[int, int]]:
        """The code of llama_decode and the number of rows, for each piece."""
        start = position = 0
        for picture in (*self.pictures, None):
            tokens = self.tokens[start : picture.start if picture is not None else None]
            for part in _cut(len(tokens), context.n_batch):
                yield context.decode(context.batch.put_outputs(0, tokens[part], position + part.start, SEQUENCE)), len(tokens[part])
            position += len(tokens)
            if picture is not None:
                rows, places = embeddings[picture.chunk.key], positions(picture.chunk, position)
                is_causal = picture.chunk.is_causal
                for part in _cut(len(rows), context.n_batch if is_causal else len(rows)):
                    seen = context.decode_embeddings(rows[part], places[:, part], SEQUENCE, is_causal=is_causal, are_outputs=True)
                    yield seen, len(rows[part])
                start, position = picture.end, position + picture.chunk.num_positions


def _cut(count: int, most: int) -> Iterator[slice]:
    return (slice(start, min(start + most, count)) for start in range(0, count, most))


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
