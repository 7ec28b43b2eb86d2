"""Which waiting sequence gets the next free slot. Callers share the slots, and so do the HTTP requests of one caller. Pure: no clock.

Never imports: worker.kv. Invariant: a caller or a request that holds fewer slots comes before one that holds more; of equals, the
one comes first that has waited longest since it came or last gave back a slot. So no second choice or prompt of one request comes before
the first of another, and all get their turn.
A sequence that had to give back its slot while it ran comes before all others.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from fastrouter.worker.sequence import Sequence

RequestKey = tuple[int, int, int]


class _Share:
    """Of a caller, or of a request."""

    __slots__ = ("num_running", "num_waiting", "tick")

    def __init__(self, tick: int) -> None:
        self.num_running = 0
        self.num_waiting = 0
        self.tick = tick  # when it came, or last gave back a slot

    @property
    def rank(self) -> tuple[int, int]:
        return self.num_running, self.tick

    @property
    def is_over(self) -> bool:
        return not self.num_running and not self.num_waiting


class FairQueue:
    """The sequences of one model that wait for a slot; it counts those that have one."""

    def __init__(self) -> None:
        self._begun: list[Sequence] = []  # they gave their slots back; the oldest first
        self._lines: dict[RequestKey, deque[Sequence]] = {}
        self._requests: dict[RequestKey, _Share] = {}
        self._callers: dict[int, _Share] = {}
        self._tick = 0

    def __repr__(self) -> str:
        return f"<FairQueue {len(self)} of {len(self._callers)} callers, {len(self._begun)} begun>"

    def __len__(self) -> int:
        return len(self._begun) + sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._begun or self._lines)

    # ------------------------------------------------------------ waiting sequences

    @property
    def has_begun(self) -> bool:
        """Some of them ran before and have to continue."""
        return bool(self._begun)

    def add(self, sequence: Sequence) -> None:
        """After the others of its request."""
        self._line_of(sequence).append(sequence)

    def add_first(self, sequences: list[Sequence]) -> None:
        """Before the others of their request, in this order."""
        for sequence in reversed(sequences):
            self._line_of(sequence).appendleft(sequence)

    def _line_of(self, sequence: Sequence) -> "deque[Sequence]":
        for share in self._shares(sequence):
            share.num_waiting += 1
        return self._lines.setdefault(_key(sequence), deque())

    def forget(self, request_id: int) -> None:
        gone = [sequence for sequence in self if sequence.request.id == request_id]
        for sequence in gone:
            self._remove(sequence)
        self._drop_empty(gone)

    def __iter__(self) -> Iterator[Sequence]:
        """All of them, in any order."""
        yield from self._begun
        for line in self._lines.values():
            yield from line

    def heads(self) -> list[Sequence]:
        """Those that may be next, the best first: all that ran before, and the first one of each request."""
        ranked = sorted(self._lines, key=lambda key: (*self._callers[key[0]].rank, *self._requests[key].rank))
        return self._begun + [self._lines[key][0] for key in ranked]

    # ------------------------------------------------------------ slots

    def start(self, sequence: Sequence, *, has_waited: bool = True) -> None:
        """It has a slot now."""
        if has_waited:
            self._remove(sequence)
        for share in self._shares(sequence):
            share.num_running += 1

    def end(self, sequence: Sequence) -> None:
        """It has given back its slot, and has ended."""
        self._tick += 1
        for share in self._shares(sequence):
            share.num_running -= 1
            share.tick = self._tick
        self._drop_empty([sequence])

    def put_back(self, sequence: Sequence) -> None:
        """It has given back its slot, and will continue later."""
        for share in self._shares(sequence):
            share.num_running -= 1
            share.num_waiting += 1
        self._begun = sorted([*self._begun, sequence], key=lambda begun: begun.number)

    # ------------------------------------------------------------ shares

    def _shares(self, sequence: Sequence) -> tuple[_Share, _Share]:
        key = _key(sequence)
        if key not in self._requests:
            self._tick += 1
            self._requests[key] = _Share(self._tick)
            self._callers.setdefault(key[0], _Share(self._tick))
        return self._callers[key[0]], self._requests[key]

    def _remove(self, sequence: Sequence) -> None:
        if sequence in self._begun:
            self._begun.remove(sequence)
        else:
            line = self._lines[_key(sequence)]
            line.remove(sequence)
            if not line:
                del self._lines[_key(sequence)]
        for share in self._shares(sequence):
            share.num_waiting -= 1

    def _drop_empty(self, sequences: Iterable[Sequence]) -> None:
        for key in {_key(sequence) for sequence in sequences}:
            if self._requests[key].is_over:
                del self._requests[key]
            if self._callers[key[0]].is_over:
                del self._callers[key[0]]


def _key(sequence: Sequence) -> RequestKey:
    """Its HTTP request, if the router has sent that number."""
    asked = sequence.request.generate
    return asked.caller, asked.exchange, 0 if asked.exchange else sequence.request.id
