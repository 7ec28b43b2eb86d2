"""Probabilities of one sequence's tokens until they are sent, with llama-server's names. Never imports: worker.sampling.sampler,
worker.sequence.

Invariant: each token has one entry, which is sent with the first text that holds a byte of it; entries of tokens that a stop string cuts
off are never sent.
"""

import math
from typing import Any

from fastrouter.worker.text.detokenizer import PieceTable

_LEAST = -3.4028235e38  # llama-server's logarithm of 0, which JSON can hold
_MAX_ENTRIES = 500  # in one record: tokens and other likely tokens

Found = tuple[float, list[tuple[int, float]]]  # LogitSampler.probabilities


class Probabilities:
    def __init__(self, pieces: PieceTable, *, is_after: bool) -> None:
        """`is_after`: they are those after the chain, which are shown without a logarithm."""
        self._pieces = pieces
        self._is_after = is_after
        self._pending: list[dict[str, Any]] = []
        self._unsent_bytes = 0  # of the text so far, the part that is held back; a guess if it is not UTF-8

    def __repr__(self) -> str:
        return f"<Probabilities {len(self._pending)} pending>"

    def add(self, token: int, found: Found | None) -> None:
        if found is not None:
            self._pending.append(self.made(token, found))

    def made(self, token: int, found: Found) -> dict[str, Any]:
        own, best = found
        rivals = [self._entry(rival, p) for rival, p in best]
        return {**self._entry(token, own), "top_probs" if self._is_after else "top_logprobs": rivals}

    def made_unknown(self, token: int) -> dict[str, Any]:
        """For a token before which there is none."""
        return {**self._entry(token, 1.0), "logprob": None, "top_logprobs": []}

    def in_records(self, entries: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """In lists for one record each."""
        rivals = max((len(entry["top_probs" if self._is_after else "top_logprobs"]) for entry in entries), default=0)
        most = max(1, _MAX_ENTRIES // (1 + rivals))
        return [entries[start : start + most] for start in range(0, len(entries), most)]

    def _entry(self, token: int, p: float) -> dict[str, Any]:
        piece = self._pieces.piece(token)
        value = {"prob": p} if self._is_after else {"logprob": math.log(p) if p > 0 else _LEAST}
        return {"id": token, "token": piece.decode("utf-8", "ignore"), "bytes": list(piece), **value}

    def cut(self, num_bytes: int) -> None:
        """A stop string was found: only this much of what was held back is sent."""
        begin = self._unsent_bytes  # of the first pending token
        kept = []
        for entry in self._pending:
            if begin < num_bytes:
                kept.append(entry)
            begin += len(entry["bytes"])
        self._pending = kept

    def take(self, num_bytes: int) -> list[list[dict[str, Any]]]:
        """All that waits, in lists for one record each (at least one list), with a text of `num_bytes` bytes."""
        pending, self._pending = self._pending, []
        self._unsent_bytes = max(0, self._unsent_bytes + sum(len(entry["bytes"]) for entry in pending) - num_bytes)
        return self.in_records(pending) or [[]]

    @property
    def is_pending(self) -> bool:
        return bool(self._pending)
