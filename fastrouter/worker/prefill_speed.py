"""How fast prompts are computed here, and so how many of their tokens may share a step with streams that wait for their next token.
Pure.

Invariant: when no stream waits, a prompt gets whole micro-batches, which are the fastest, or halves of them when a whole one takes too
long for requests that come meanwhile. There are few sizes, so the same prompt is computed in the same pieces.
"""

PAUSE_NS = 200_000_000  # a prompt may add this to the time between two tokens of a stream
ALONE_NS = 500_000_000  # a step with only prompts may take this long: requests that come meanwhile wait for its end
LONG_NS = 100_000_000  # a step that the router notices
PARAMETERS_PER_NS = 30  # a guess for a CPU, for one token, before anything is measured
MIN_ROWS = 32  # fewer rows cost more for each token: all weights are read for every batch
MIN_MEASURED = 8  # tokens


class PrefillSpeed:
    """For one model."""

    def __init__(self, num_parameters: int = 0) -> None:
        self.prefill_ns = 0.0  # per token, smoothed; 0: not measured yet
        self._guessed_ns = num_parameters / PARAMETERS_PER_NS

    def __repr__(self) -> str:
        return f"<PrefillSpeed {self.prefill_ns / 1e3:.0f} us a token>"

    def note_prefill(self, num_tokens: int, duration_ns: int) -> None:
        """A step that was mostly for a prompt."""
        if num_tokens >= MIN_MEASURED:
            measured = duration_ns / num_tokens
            self.prefill_ns = 0.8 * self.prefill_ns + 0.2 * measured if self.prefill_ns else measured

    def expected_ns(self, num_tokens: int) -> float:
        """The time of a step with this many tokens of prompts."""
        return num_tokens * (self.prefill_ns or self._guessed_ns)

    def num_rows(self, num_decoding: int, most: int) -> int:
        """Rows of the next batch, including `num_decoding` for streams that continue; at most `most`."""
        if not num_decoding:
            return self._num_alone(most)
        fitting = int(PAUSE_NS / self.prefill_ns) if self.prefill_ns else 0  # 0: the first piece will show it
        return min(most, num_decoding + max(MIN_ROWS, fitting))

    def _num_alone(self, most: int) -> int:
        while most // 2 >= MIN_ROWS and most * self.prefill_ns > ALONE_NS:
            most //= 2
        return most
