"""How fast prompts are computed here, so how many of their tokens may share a step with streams that wait for their next one. Pure.

Knows no sequence. Invariant: with nobody waiting a prompt gets whole micro-batches, which are computed fastest.
"""

PAUSE_NS = 200_000_000  # what a prompt may add to the time between two tokens of somebody else
MIN_ROWS = 32  # fewer cost more for each token: all weights are read for every batch
MIN_MEASURED = 8  # tokens


class Chunking:
    """Of one model."""

    def __init__(self) -> None:
        self.prefill_ns = 0.0  # per token, smoothed; 0: not measured yet

    def __repr__(self) -> str:
        return f"<Chunking {self.prefill_ns / 1e3:.0f} us a token>"

    def note_prefill(self, num_tokens: int, duration_ns: int) -> None:
        """A step that was a prompt's, mostly."""
        if num_tokens >= MIN_MEASURED:
            measured = duration_ns / num_tokens
            self.prefill_ns = 0.8 * self.prefill_ns + 0.2 * measured if self.prefill_ns else measured

    def num_rows(self, num_decoding: int, most: int) -> int:
        """Rows of the next batch, `num_decoding` of them for streams that go on; at most `most`."""
        if not num_decoding:
            return most
        fitting = int(PAUSE_NS / self.prefill_ns) if self.prefill_ns else 0  # 0: the first piece will tell
        return min(most, num_decoding + max(MIN_ROWS, fitting))
