"""Records that wait for room in the ring, in order.

Invariant: records stay in their order. The engine does not decode while one waits, so at most the records of one step wait here.
"""

from collections import deque

from fastrouter._core import ERROR, FINISH, LAST, TokenRing
from fastrouter.errors import FastrouterError
from fastrouter.ipc.records import MAX_MESSAGE, Failure, Finish

_HEADER_BYTES = 64  # of a record and its padding, at most

_Record = tuple[int, int, int, int, int, bytes, bytes]


class Outbox:
    """The producing end of a TokenRing that never loses a record."""

    def __init__(self, ring: TokenRing) -> None:
        self._most = ring.capacity // 2 - _HEADER_BYTES  # bytes of a record
        self._try_push = ring.try_push
        self._pending: deque[_Record] = deque()
        self.ring_doorbell = ring.ring_doorbell
        self.watch_cancels = ring.watch
        self.note_alive = ring.note_alive
        self.note_progress = ring.note_progress

    def __repr__(self) -> str:
        return f"<Outbox {len(self._pending)} pending>"

    @property
    def is_blocked(self) -> bool:
        return bool(self._pending)

    def push(self, request_id: int, kind: int, choice: int, flags: int, num_tokens: int, payload: bytes, words: bytes = b"") -> None:
        """`words`: see worker/resumed.py."""
        if len(payload) + len(words) > self._most:
            problem = FastrouterError(f"a part of the answer has {len(payload)} bytes, more than the limit of {self._most}")
            kind, choice, flags, num_tokens, payload, words = ERROR, 0, LAST, 0, Failure(problem).to_payload(), b""
        if self._pending or not self._try_push(request_id, kind, choice, flags, num_tokens, payload, words):
            self._pending.append((request_id, kind, choice, flags, num_tokens, payload, words))

    def finish(self, request_id: int, choice: int, is_last: bool, finish: Finish) -> None:
        self.push(request_id, FINISH, choice, LAST if is_last else 0, 0, finish.to_payload(self._most // 2))

    def error(self, request_id: int, error: FastrouterError) -> None:
        self.push(request_id, ERROR, 0, LAST, 0, Failure(error).to_payload(min(MAX_MESSAGE, self._most // 8)))

    def drop(self, request_id: int) -> None:
        """The records of this request are not needed any more."""
        self._pending = deque(record for record in self._pending if record[0] != request_id)

    def flush(self) -> bool:
        """Write what waits; True when nothing is left."""
        pending = self._pending
        while pending and self._try_push(*pending[0]):
            pending.popleft()
        self.ring_doorbell()
        return not pending
