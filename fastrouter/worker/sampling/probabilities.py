"""Probabilities of one sequence's tokens on their way out, in llama-server's shape. Knows no sampler's inside and no API.

Invariant: each token has one entry, which leaves with the first text that holds a byte of it; what a stop string cuts off leaves never.
"""

import math
from typing import Any

from fastrouter.worker.text.detokenizer import PieceTable

_LEAST = -3.4028235e38  # llama-server's logarithm of 0, which JSON can hold
_MAX_ENTRIES = 500  # of one record: tokens and their rivals

Found = tuple[float, list[tuple[int, float]]]  # LogitSampler.probabilities


class Probabilities:
    def __init__(self, pieces: PieceTable, *, is_after: bool) -> None:
        """`is_after`: they are those of after the chain, which are shown as they are and not as logarithms."""
        self._pieces = pieces
        self._is_after = is_after
        self._pending: list[dict[str, Any]] = []
        self._unsent_bytes = 0  # of the text so far, what is held back; a guess where it is not UTF-8

    def __repr__(self) -> str:
        return f"<Probabilities {len(self._pending)} pending>"

    def add(self, token: int, found: Found | None) -> None:
        if found is not None:
            own, best = found
            rivals = [self._entry(rival, p) for rival, p in best]
            self._pending.append({**self._entry(token, own), "top_probs" if self._is_after else "top_logprobs": rivals})

    def _entry(self, token: int, p: float) -> dict[str, Any]:
        piece = self._pieces.piece(token)
        value = {"prob": p} if self._is_after else {"logprob": math.log(p) if p > 0 else _LEAST}
        return {"id": token, "token": piece.decode("utf-8", "ignore"), "bytes": list(piece), **value}

    def cut(self, num_bytes: int) -> None:
        """A stop string was found: of what was held back, only so much goes out."""
        begin = self._unsent_bytes  # of the first pending token
        kept = []
        for entry in self._pending:
            if begin < num_bytes:
                kept.append(entry)
            begin += len(entry["bytes"])
        self._pending = kept

    def take(self, num_bytes: int) -> list[list[dict[str, Any]]]:
        """All that waits, in lists that a record can hold (at least one list), with a text of so many bytes."""
        pending, self._pending = self._pending, []
        self._unsent_bytes = max(0, self._unsent_bytes + sum(len(entry["bytes"]) for entry in pending) - num_bytes)
        most = max(1, _MAX_ENTRIES // (1 + len(pending[0]["top_probs" if self._is_after else "top_logprobs"]))) if pending else 1
        return [pending[start : start + most] for start in range(0, len(pending), most)] or [[]]

    @property
    def is_pending(self) -> bool:
        return bool(self._pending)
