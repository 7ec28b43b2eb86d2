"""The recordings of all clients, by their owner and the name that the client has given. Never imports: api.flavours, supervisor.

Invariant: an owner finds only its own. Their number, their bytes and the time that they are kept after their end are limited.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fastrouter.api.serving.recording import Recording
from fastrouter.errors import Unavailable

HEADER = "x-conversation-id"
SEPARATOR = "::"  # llama-server's page: conversation::model


@dataclass(frozen=True, slots=True)
class Limits:
    max_bytes: int = 8 << 20  # of one recording: about 35,000 tokens of a chat
    max_total_bytes: int = 256 << 20
    max_recordings: int = 1024
    kept_s: float = 300.0  # after the end


class Recordings:
    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._all: dict[tuple[str, str], Recording] = {}  # by owner and name, the oldest first
        self._num_bytes = 0

    def __repr__(self) -> str:
        return f"<Recordings {len(self._all)} with {self._num_bytes} bytes>"

    def start(self, owner: str, name: str, model_id: str) -> Recording:
        """A new recording, in place of the one that has this name. Raises Unavailable."""
        self._stop((owner, name), "a newer request has the same X-Conversation-Id")
        while len(self._all) >= self._limits.max_recordings:
            if not self._drop_oldest():
                raise Unavailable(f"{len(self._all)} answers with an {HEADER} header are running: try again later, or leave out the header")
        key = (owner, name)
        recording = Recording(model_id, self._limits.max_bytes, self._grow, lambda: self._ended(key, recording))
        self._all[key] = recording
        return recording

    def find(self, owner: str, name: str) -> Recording | None:
        return self._all.get((owner, name))

    def matching(self, owner: str, name: str) -> Iterator[tuple[str, Recording]]:
        """The one with this name, and those whose name begins with it and a separator."""
        for (of, other), recording in self._all.items():
            if of == owner and (other == name or other.startswith(name + SEPARATOR)):
                yield other, recording

    def stop(self, owner: str, name: str) -> None:
        """Ends the generation and forgets the recording. Idempotent."""
        self._stop((owner, name), "a client has stopped it")

    def keep_models(self, is_known: Callable[[str], bool]) -> None:
        """Those of other models end."""
        for key in [key for key, recording in self._all.items() if not is_known(recording.model_id)]:
            self._stop(key, "its model was removed")

    def close(self) -> None:
        """The server stops."""
        for key in list(self._all):
            self._stop(key, "the server is stopping")

    def _stop(self, key: tuple[str, str], why: str) -> None:
        recording = self._all.get(key)
        if recording is not None:
            recording.stop(why)
            self._drop(key, recording)

    # ------------------------------------------------------------ limits

    def _ended(self, key: tuple[str, str], recording: Recording) -> None:
        """An answer that was refused is kept only for a client that has not got its error."""
        if recording.refusal is not None and recording.has_readers:
            self._drop(key, recording)
        else:
            recording.expiry = asyncio.get_running_loop().call_later(self._limits.kept_s, self._drop, key, recording)

    def _grow(self, num_bytes: int) -> bool:
        self._num_bytes += num_bytes
        while self._num_bytes > self._limits.max_total_bytes:
            if not self._drop_oldest():
                return False
        return True

    def _drop_oldest(self) -> bool:
        """Of those that have ended. False: there is none."""
        for key, recording in self._all.items():
            if recording.is_over:
                self._drop(key, recording)
                return True
        return False

    def _drop(self, key: tuple[str, str], recording: Recording) -> None:
        """Idempotent."""
        if self._all.get(key) is recording:
            if recording.expiry is not None:
                recording.expiry.cancel()  # it would hold the bytes
            del self._all[key]
            self._num_bytes -= recording.num_kept
