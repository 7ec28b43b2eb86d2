"""How many tokens of one sequence are worth guessing now. Pure: results of guesses and costs of rows in, a length out; no tokens, no
clock.

From the results of the last guesses it estimates how many tokens a guess of each length brings; a guess is made when that is more than
its rows cost. When no length is worth it, there is no guess for some steps, and then one is tried again. Each pause is twice as long as
the last one, so a text that cannot be guessed costs only a few steps in total.
"""

from collections.abc import Callable
from functools import cache

FIRST_REST = 16  # steps
MAX_REST = 512
MEMORY = 0.85  # weight of earlier results, from guess to guess
PRIOR_HELD, PRIOR_TRIED = 1.5, 2.0  # tokens: the estimate at the start
MIN_GAIN = 1.05  # the estimates are rough

CostOf = Callable[[int], float]  # rows -> what they add to a step, in steps


class GuessLength:
    __slots__ = ("_first", "_has_held", "_held", "_is_trial", "_limit", "_most", "_pause", "_rest", "_tried")

    def __init__(self, first: int, most: int) -> None:
        self._first = min(first, most)
        self._most = most
        self._limit = self._first  # a guess may be twice as long as the last one that held
        self._held, self._tried = PRIOR_HELD, PRIOR_TRIED
        self._has_held = False  # all tokens of the last guess held
        self._is_trial = True  # the next guess is made whatever it costs
        self._pause = 0  # steps without a guess that are left
        self._rest = FIRST_REST

    def __repr__(self) -> str:
        return (
            f"<GuessLength {f'rests {self._pause}' if self._pause else self._limit} of {self._most}, {self._held / self._tried:.0%} hold>"
        )

    def next(self, cost_of: CostOf, num_sharing: int = 1) -> int:
        """How many tokens to guess in this step, which `num_sharing` sequences share; called once in each step."""
        return 0 if self.is_resting() else self.length(cost_of, num_sharing)

    def is_resting(self) -> bool:
        """Called once in each step; if it returns False, `length` may follow."""
        if self._pause:
            self._pause -= 1
            return True
        return False

    def length(self, cost_of: CostOf, num_sharing: int = 1) -> int:
        """See `next`."""
        if self._is_trial:
            return self._first
        length = self._best(cost_of, num_sharing)
        if not length:
            self.rest()
        elif self._has_held:
            self._rest = FIRST_REST
        return length

    def _best(self, cost_of: CostOf, num_sharing: int) -> int:
        """The length with the most tokens for each step; 0: none is better than no guess."""
        chance = self._held / self._tried
        best, best_gain = 0, MIN_GAIN
        brought, holds, length = 0.0, 1.0, 0
        for candidate in _lengths(self._limit):
            while length < candidate:
                holds *= chance
                brought += holds
                length += 1
            gain = (1 + brought / num_sharing) / (1 + cost_of(length))
            if gain > best_gain:
                best, best_gain = length, gain
        return best

    def note(self, num_guessed: int, num_accepted: int) -> None:
        """The result of a guess."""
        self._is_trial, self._has_held = False, num_accepted == num_guessed
        self._held = MEMORY * self._held + num_accepted
        self._tried = MEMORY * self._tried + min(num_guessed, num_accepted + 1)  # what follows a failure was not tried
        if self._has_held:
            self._limit = min(self._most, max(self._limit, 2 * num_guessed))
        else:
            self._limit = max(self._first, min(self._limit, 2 * num_accepted))

    def rest(self) -> None:
        """No guess for some steps, then a trial."""
        self._pause, self._rest = self._rest, min(MAX_REST, 2 * self._rest)
        self._limit = self._first
        self._held, self._tried = PRIOR_HELD, PRIOR_TRIED
        self._is_trial = True


@cache
def _lengths(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16 ... and `most`."""
    found = [length for power in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) for length in (power, power + power // 2) if length < most]
    return [*sorted(set(found)), most]
