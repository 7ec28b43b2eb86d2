"""How much time guessed rows add to a step, measured while steps run: almost nothing on a device, as much as whole steps on a few cores.

Costs are in steps without a guess, with the same number of sequences. Invariant: an unmeasured cost is assumed to be low, so that it is
tried; after that, measurements decide.
"""

UNMEASURED = 0.1  # for a row, in steps
NEW_SHARE = 0.25  # weight of a new measurement in the smoothed one
MAX_AGE = 64  # after this many steps with a guess one without a guess is needed: a context grows, and other models may have come or gone


class RowCosts:
    """For one context."""

    def __init__(self) -> None:
        self._plain_ns: dict[int, float] = {}  # sequences -> time of a step without a guess
        self._ages: dict[int, int] = {}  # sequences -> steps with a guess since
        self._row_costs: dict[tuple[bool, int, int], float] = {}  # by (guessed by a draft model, sequences, bits of the number of rows)

    def __repr__(self) -> str:
        return f"<RowCosts {len(self._row_costs)} measured>"

    def wants_plain(self, num_sequences: int) -> bool:
        """A step without a guess is needed for comparison."""
        return self._ages.get(num_sequences, MAX_AGE) >= MAX_AGE

    def of(self, is_drafted: bool, num_sequences: int, num_rows: int) -> float:
        """What `num_rows` rows add. `is_drafted`: a draft model guesses them, which takes time too."""
        return num_rows * self._row_costs.get((is_drafted, num_sequences, num_rows.bit_length()), UNMEASURED)

    def note(self, is_drafted: bool, num_sequences: int, num_rows: int, duration_ns: int) -> None:
        """The time of a step of `num_sequences` with `num_rows` guessed rows, and no prompt."""
        if not num_rows:
            self._plain_ns[num_sequences] = _smoothed(self._plain_ns.get(num_sequences), duration_ns)
            self._ages[num_sequences] = 0
        elif num_sequences in self._plain_ns:
            self._ages[num_sequences] += 1
            plain = self._plain_ns[num_sequences]
            key = is_drafted, num_sequences, num_rows.bit_length()
            self._row_costs[key] = _smoothed(self._row_costs.get(key), max(0.0, duration_ns / plain - 1) / num_rows)


def _smoothed(known: float | None, measured: float) -> float:
    return measured if known is None else known + NEW_SHARE * (measured - known)
