"""How many tokens of one sequence are worth guessing now. Pure: counts in, counts out; knows no tokens and no clock.

A guess that holds makes the next one longer; guesses that fail make it short, and then there are none for a while. Each rest is twice as
long as the last, so a text that cannot be guessed costs a few steps in all. No clock decides, so the same text is guessed alike every time.
"""

FIRST_REST = 16  # steps
MAX_REST = 512
MAX_FAILURES = 2  # in a row


class Pace:
    __slots__ = ("_failures", "_first", "_length", "_most", "_pause", "_rest")

    def __init__(self, first: int, most: int) -> None:
        self._first = min(first, most)
        self._most = most
        self._length = self._first
        self._failures = 0
        self._pause = 0  # steps without a guess that are left
        self._rest = FIRST_REST

    def __repr__(self) -> str:
        return f"<Pace {f'rests {self._pause}' if self._pause else self._length} of {self._most}>"

    def next(self) -> int:
        """How many tokens to guess in this step; asked once a step."""
        if self._pause:
            self._pause -= 1
            return 0
        return self._length

    def note(self, num_guessed: int, num_accepted: int) -> None:
        """What became of a guess."""
        if num_accepted == num_guessed:
            self._length = min(self._most, max(self._length, 2 * num_guessed))
            self._failures, self._rest = 0, FIRST_REST
        elif 2 * num_accepted >= num_guessed:
            self._length = max(1, num_accepted)
            self._failures = 0
        else:
            self._length = max(1, num_accepted, min(self._length, num_guessed) // 2)
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                self.rest()

    def rest(self) -> None:
        """No guess for a while; the first one after it has to hold."""
        self._pause, self._rest = self._rest, min(MAX_REST, 2 * self._rest)
        self._failures = MAX_FAILURES - 1
        self._length = self._first
