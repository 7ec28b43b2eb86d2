"""Looks for workers that have work and hang, and ends them. The rule is in decide/hang.py.

Invariant: without work there is no timer, so an idle machine is not woken. A worker that hangs while it is idle is found when its next
request comes.
"""

import logging
from collections.abc import Callable, Iterable

from fastrouter.supervisor.decide.hang import Watched, after, after_look, how_it_hangs
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.timers import Timers
from fastrouter.supervisor.workers.instance import Instance

log = logging.getLogger("fastrouter.supervisor")

LOOK_S = 1.0


class HangWatch:
    def __init__(self, timers: Timers, timeout_s: float, instances: Callable[[], Iterable[Instance]]) -> None:
        """`timeout_s` 0: nothing is watched."""
        self._timers = timers
        self._timeout_s = timeout_s
        self._instances = instances
        self._watched: dict[Instance, Watched] = {}
        self._looked_at: float | None = None  # None: no worker has work

    def __repr__(self) -> str:
        return f"<HangWatch of {len(self._watched)}>"

    def watch(self) -> None:
        """A worker has work now. Cheap: every request needs it."""
        if self._looked_at is None and self._timeout_s:
            self._look_later()

    def _look_later(self) -> None:
        self._looked_at = self._timers.now()
        self._timers.at("hang", self._looked_at + LOOK_S, self._look)

    def _look(self) -> None:
        assert self._looked_at is not None
        passed_s = self._timers.now() - self._looked_at
        self._watched = {instance: self._again(instance, passed_s) for instance in self._instances() if instance.has_work}
        for instance, watched in list(self._watched.items()):
            how = how_it_hangs(watched, self._timeout_s)
            if how is not None and instance.hang is None:
                log.error(
                    "%s: its worker hangs and is killed: %s", instance.spec.id, how, extra={"model": instance.spec.id, "event": "hang"}
                )
                instance.end_hung(how)
        if self._watched:
            self._look_later()
        else:
            self._looked_at = None

    def _again(self, instance: Instance, passed_s: float) -> Watched:
        life, before = instance.process.ring.life, self._watched.get(instance)
        if before is None:
            return Watched(life)
        known = after(before, life, passed_s)
        if known is not None:
            return known
        is_loading = instance.state is State.LOADING and instance.has_begun
        return after_look(before, instance.process.look(), passed_s, is_loading=is_loading)
