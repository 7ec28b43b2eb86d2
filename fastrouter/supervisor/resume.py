"""Requests that outlive their worker: which of them another worker continues, in which order, and which ones are to blame.

A worker that dies by a fault dies of one of its requests, but the router cannot know which one. So the next worker gets them one by
one: each when the one before has sent something. The one after which the worker dies again is refused from then on.
Never imports: supervisor.decide. Invariant: a request is refused only if it was in two workers that died within MEMORY_S, and nothing
came from the second one.
"""

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import orjson

from fastrouter.errors import FastrouterError, KillsWorkers
from fastrouter.ipc.messages import Generate
from fastrouter.supervisor.timers import Timers
from fastrouter.supervisor.workers.instance import Instance, fail_sink
from fastrouter.supervisor.workers.stream import WorkerStream

MEMORY_S = 60.0  # how long a death counts, and how long a request that has killed is refused
TRIAL_S = 5.0  # then the next one follows, even if nothing came
MAX_DEATHS = 5  # of one request, whoever is to blame
NUM_STUCK = 1  # deaths in a row without progress between them that a request may survive
NUM_STUCK_OUTSIDE = 2  # the same if a signal from outside ended the last worker


class Condemned:
    """Requests that have killed two workers."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._until: dict[bytes, float] = {}  # by digest

    def __repr__(self) -> str:
        return f"<Condemned {len(self._until)}>"

    def add(self, model_id: str, generate: Generate) -> None:
        self._until[_digest(model_id, generate)] = self._timers.now() + MEMORY_S

    def check(self, model_id: str, generates: Iterable[Generate]) -> None:
        """Raises KillsWorkers. Free while there are none."""
        if not self._until:
            return
        now = self._timers.now()
        self._until = {digest: until for digest, until in self._until.items() if until > now}
        if self._until and any(_digest(model_id, generate) in self._until for generate in generates):
            raise KillsWorkers(model_id)


def _digest(model_id: str, generate: Generate) -> bytes:
    """Of all that the client has sent."""
    asked = replace(generate, caller=0, exchange=0, chance=0, asked_at=0.0)
    return hashlib.blake2b(orjson.dumps([model_id, asked]), digest_size=16).digest()


@dataclass(slots=True)
class Verdict:
    """What follows for the streams of a dead worker."""

    again: list[WorkerStream] = field(default_factory=list)
    lost: list[WorkerStream] = field(default_factory=list)
    guilty: list[WorkerStream] = field(default_factory=list)


def judge(
    streams: list[WorkerStream], now: float, *, num_stuck: int, is_fault: bool, may_continue: bool, latest: WorkerStream | None = None
) -> Verdict:
    """`num_stuck`: see NUM_STUCK. `is_fault`: the worker did not end by a signal from outside. `latest`: the last one that it got, if it
    got them one by one."""
    for stream in streams:
        stream.note_death(now, MEMORY_S)
    streams = [stream for stream in streams if not stream.owner.is_released]
    stuck = [stream for stream in streams if stream.num_stuck > num_stuck]
    if is_fault and len(stuck) > 1:  # it was the latest, or it is not known yet: the next worker gets them one by one
        stuck = [stream for stream in stuck if stream is latest]
    verdict = Verdict()
    for stream in streams:
        stream.is_suspect = is_fault and len(streams) > 1
        if not may_continue or stream.num_deaths >= MAX_DEATHS or (stream in stuck and not is_fault):
            verdict.lost.append(stream)
        elif stream in stuck:
            verdict.guilty.append(stream)
        else:
            (verdict.again if stream.can_continue() else verdict.lost).append(stream)
    return verdict


class Trial:
    """The streams of one instance that follow each other."""

    def __init__(self, model_id: str, streams: Iterable[WorkerStream], timers: Timers) -> None:
        self._timer = f"trial {model_id}"  # a model has one instance at a time
        self._line = deque(streams)
        self._timers = timers
        self.latest: WorkerStream | None = None
        self._tested_at = 0.0

    def __repr__(self) -> str:
        return f"<Trial {len(self._line)} waiting>"

    @property
    def waiting(self) -> list[WorkerStream]:
        return [stream for stream in self._line if not stream.owner.is_released]

    def close(self) -> None:
        self._line.clear()
        self._timers.cancel(self._timer)

    def advance(self) -> None:
        """Submit the next one, unless the last one has not shown yet that it does no harm."""
        while self._line and not self._is_pending():
            stream = self._line.popleft()
            if not stream.owner.is_released:
                self.latest, self._tested_at = stream, self._timers.now()
                stream.sink.on_drain = self.advance
                resubmit(stream)
                self._timers.at(self._timer, self._tested_at + TRIAL_S, self.advance)

    def _is_pending(self) -> bool:
        stream = self.latest
        if stream is None or stream.has_progress or stream.is_over or self._timers.now() - self._tested_at >= TRIAL_S:
            return False
        stream.sink.on_drain = self.advance
        return True


class Resumption:
    """All streams that move to new workers."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._trials: dict[Instance, Trial] = {}

    def __repr__(self) -> str:
        return f"<Resumption {self._trials}>"

    def start(self, instance: Instance, streams: list[WorkerStream]) -> None:
        """The instance is loaded; these streams have lost their workers."""
        suspects = [stream for stream in streams if stream.is_suspect]
        for stream in streams:
            if stream not in suspects:
                resubmit(stream)
        trial = Trial(instance.spec.id, suspects, self._timers)
        if len(suspects) > 1:
            self._trials[instance] = trial
        trial.advance()

    def note_release(self, instance: Instance) -> None:
        """A client has left or is done; perhaps others waited for it."""
        if instance in self._trials:
            self._trials[instance].advance()

    def take(self, instance: Instance) -> tuple[list[WorkerStream], WorkerStream | None]:
        """(those that the instance, which has ended, did not get yet; the last one that it got)"""
        trial = self._trials.pop(instance, None)
        if trial is None:
            return [], None
        waiting = trial.waiting
        trial.close()
        return waiting, trial.latest


def resubmit(stream: WorkerStream) -> None:
    try:
        stream.owner.resubmit(stream)
    except FastrouterError as error:
        fail_sink(stream.sink, error)
