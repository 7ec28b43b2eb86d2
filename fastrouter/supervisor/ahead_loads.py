"""Loads that no request waits for: of a model that is foreseen, into room that nothing else uses. decide/ahead.py has the rule.

Never imports: supervisor.residency. Invariant: from the first request on, an instance that was loaded ahead is like all others, and it is
counted once: as used or as unused.
"""

from collections.abc import Callable

from fastrouter import metrics
from fastrouter.supervisor import snapshot
from fastrouter.supervisor.decide.ahead import may_load_ahead
from fastrouter.supervisor.decide.state import State
from fastrouter.supervisor.foresight import Foresight
from fastrouter.supervisor.managed_model import ManagedModel, ManagedModels
from fastrouter.supervisor.memory_ledger import Memory
from fastrouter.supervisor.queue import Queue
from fastrouter.supervisor.timers import Timers
from fastrouter.supervisor.workers.instance import Instance
from fastrouter.supervisor.workers.spare import Spares

DELAY_S = 0.2  # after what changes the guess: first tokens and the next spare go first
SPARE_DELAY_S = 0.15  # then the spare that the load took is replaced


class AheadLoads:
    """`start` loads a model (`is_ahead`); `limit` begins the time limit of a load."""

    def __init__(
        self,
        models: ManagedModels,
        queue: Queue,
        memory: Memory,
        spares: Spares,
        timers: Timers,
        foresight: Foresight,
        start: Callable[..., None],
        limit: Callable[[ManagedModel, Instance], None],
    ) -> None:
        self._models = models
        self._queue = queue
        self._memory = memory
        self._spares = spares
        self._timers = timers
        self._foresight = foresight
        self._start = start
        self._limit = limit

    def __repr__(self) -> str:
        return f"<AheadLoads {[instance.spec.id for instance in self._models.instances() if instance.is_ahead]}>"

    def look_later(self) -> None:
        """Another model may be foreseen, or there may be room now."""
        self._timers.at("ahead", self._timers.now() + DELAY_S, self._look)

    def _look(self) -> None:
        model = None if self._queue else self._foresight.next_to_load()
        if model is None or self._spares.spare is None or not self._may_load(model):
            return
        self._start(model, is_ahead=True)
        self._timers.after(SPARE_DELAY_S, self._spares.make)

    def _may_load(self, model: ManagedModel) -> bool:
        measures, now = self._memory.measures, self._timers.now()
        if now < max(model.retry_at, model.start_at):
            return False
        residents = snapshot.residents(self._models, measures)
        return may_load_ahead(model.spec.id, measures.need(model.spec), residents, self._memory.spare_limits(), now)

    def claim(self, model: ManagedModel) -> bool:
        """A client asks for this model. True: it was loaded ahead, or loads ahead."""
        instance = model.instance
        if instance is None or not instance.is_ahead or instance.state is State.DYING:
            return False
        if instance.state is State.LOADING:
            instance.hurry()
            self._limit(model, instance)
        else:
            self.note_use(instance)
        return True

    def claim_wanted(self) -> None:
        for model in self._queue.models():
            self.claim(model)

    def note_use(self, instance: Instance) -> None:
        if instance.is_ahead:
            instance.is_ahead = False
            metrics.used_ahead(instance.spec.id, instance.saved_s)

    def note_load(self, instance: Instance, took_s: float) -> float:
        """Returns how long the load took; a load ahead has waited for a free core too, which does not count."""
        if instance.hurried_at is not None:
            metrics.used_ahead(instance.spec.id, instance.saved_s)
        return instance.load_s if instance.is_ahead or instance.hurried_at is not None else took_s

    def note_end(self, instance: Instance) -> None:
        if instance.is_ahead:
            metrics.unused_ahead(instance.spec.id)
