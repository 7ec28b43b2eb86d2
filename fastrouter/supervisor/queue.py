"""The requests that wait for a model: first come, first served for each model. The planner decides in which order models are served.

Never imports: supervisor.workers, supervisor.decide. Invariant: a model is in the queue exactly while it has waiters; a closed queue is
empty.
"""

from fastrouter.errors import FastrouterError, Unavailable
from fastrouter.supervisor.lease import Lease
from fastrouter.supervisor.managed_model import ManagedModel, Waiter


class Queue:
    """Models with waiters, ordered by the time of their first waiter."""

    def __init__(self) -> None:
        self._models: dict[str, ManagedModel] = {}
        self.is_closed = False

    def __repr__(self) -> str:
        return f"<Queue {' '.join(f'{model_id}:{len(model.waiters)}' for model_id, model in self._models.items())}>"

    def __bool__(self) -> bool:
        return bool(self._models)

    @property
    def num_waiters(self) -> int:
        return sum(len(model.waiters) for model in self._models.values())

    def num_waiting(self) -> dict[str, int]:
        """Requests of each model."""
        return {model_id: len(model.waiters) for model_id, model in self._models.items()}

    def models(self) -> list[ManagedModel]:
        return list(self._models.values())

    def check_open(self) -> None:
        """Raises Unavailable."""
        if self.is_closed:
            raise Unavailable("the server is stopping")

    def close(self) -> None:
        """Refuse all waiters, and all that come later. Idempotent."""
        self.is_closed = True
        for model in self.models():
            self.refuse_all(model, Unavailable("the server is stopping"))

    def add(self, model: ManagedModel, waiter: Waiter, now: float) -> None:
        """The caller starts a rebalance afterwards."""
        assert not self.is_closed
        if not model.waiters:
            model.since = now
            self._models[model.spec.id] = model
        model.waiters.append(waiter)

    def remove(self, model: ManagedModel, waiter: Waiter) -> bool:
        """True: it was in the queue."""
        if waiter not in model.waiters:
            return False
        model.waiters.remove(waiter)
        if not model.waiters:
            del self._models[model.spec.id]
        return True

    def take_all(self, model: ManagedModel) -> list[Waiter]:
        """The model's waiters, the oldest first; the model leaves the queue."""
        self._models.pop(model.spec.id, None)
        waiters = list(model.waiters)
        model.waiters.clear()
        return waiters

    def refuse_all(self, model: ManagedModel, error: FastrouterError) -> None:
        for waiter in self.take_all(model):
            waiter.refuse(error)

    def take_where(self, model: ManagedModel, *, can_start: bool | None = None, wants_lease: bool | None = None) -> list[Waiter]:
        """Those of the model's waiters that match."""
        found = [w for w in model.waiters if can_start in (None, w.can_start) and wants_lease in (None, w.wants_lease)]
        for waiter in found:
            self.remove(model, waiter)
        return found

    def remove_lease(self, lease: Lease) -> None:
        """The holder of this lease does not want the next worker any more."""
        for model in self.models():
            for waiter in [waiter for waiter in model.waiters if waiter.lease is lease]:
                self.remove(model, waiter)
