"""What is prepared for the model that is probably asked for next: it is loaded if there is room; otherwise a spare opens it if it is small,
and its file is read ahead.

Owns the order of the models and the hints of clients. Never imports: supervisor.residency. Invariant: nothing is prepared for a model
that is in memory, cannot be loaded, or has left because it was idle; a wrong guess costs no request anything.
"""

from collections.abc import Callable

from fastrouter import metrics
from fastrouter.catalog.spec import ModelSpec
from fastrouter.ipc.messages import Prime
from fastrouter.supervisor.decide.model_order import ModelOrder
from fastrouter.supervisor.kept_order import KeptOrder
from fastrouter.supervisor.managed_model import ManagedModel, ManagedModels
from fastrouter.supervisor.next_model import next_model
from fastrouter.supervisor.remedies import Remedy
from fastrouter.supervisor.timers import Timers
from fastrouter.system.machine import available_bytes
from fastrouter.system.read_ahead import read_ahead

AUTO = -1
READ_AHEAD_SHARE = 2  # this part of the free memory may be filled with a file that is read ahead
SAVE_DELAY_S = 5.0
Find = Callable[[str], ModelSpec | None]  # in the catalog


class Foresight:
    def __init__(
        self,
        models: ManagedModels,
        timers: Timers,
        kept: KeptOrder,
        find: Find,
        *,
        is_on: bool = True,
        may_load: bool = True,
        read_ahead_mib: int = AUTO,
    ) -> None:
        """`find` a model that no request has asked for since the start. `may_load`: a model may be loaded before it is asked for."""
        self._models = models
        self._timers = timers
        self._kept = kept
        self._find = find
        self._is_on = is_on
        self._may_load = is_on and may_load
        self._read_ahead_mib = read_ahead_mib
        self._order = ModelOrder()
        self._changed: set[str] = set()  # clients of which more was learned than is kept
        self._hints: list[str] = []  # models that clients have announced, the last one first
        self._reading: tuple[str, ...] = ()  # the files that are read ahead now
        self.on_change: Callable[[], None] = lambda: None  # other models may be foreseen now

    def __repr__(self) -> str:
        return f"<Foresight {self.foreseen()}>"

    def note(self, client: str, model: ManagedModel) -> None:
        """A request for a model. Cheap: every request needs one."""
        if model.spec.id in self._hints:
            self._hints.remove(model.spec.id)
        if not self._is_on:
            return
        if not self._order.knows(client):
            self._order.recall(client, self._kept.get(client))
        turn = self._order.note(client, model.spec.id)
        if turn is None:
            return
        if turn.foreseen is not None:
            metrics.foreseen(model.spec.id, turn.foreseen == model.spec.id)
        self._save_later(client)
        if self._away():
            self._timers.soon(self.on_change)

    def expect(self, model: ManagedModel) -> None:
        """A client says that it will ask for this model."""
        self._hints = [model.spec.id, *(other for other in self._hints if other != model.spec.id)][:4]
        model.has_expired = model.is_sent_away = False
        self.on_change()

    def foreseen(self) -> list[str]:
        """The most likely one first."""
        return list(dict.fromkeys([*self._hints, *self._order.foreseen()]))

    def _away(self) -> list[ManagedModel]:
        """Foreseen models that a load would bring."""
        found = [self._model(model_id) for model_id in self.foreseen()]
        return [model for model in found if model is not None and model.instance is None and model.error is None and not model.has_expired]

    def _model(self, model_id: str) -> ManagedModel | None:
        model = self._models.get(model_id)
        if model is None and (spec := self._find(model_id)) is not None and spec.can_be_tried and spec.wanted is None:
            model = self._models.of(spec)
        return model

    def next_to_load(self) -> ManagedModel | None:
        """The most likely model that may be loaded before a request asks for it."""
        if not self._may_load:
            return None
        found = (model for model in self._away() if not (model.is_sent_away or model.is_pinned or model.is_asleep or model.waiters))
        return next(found, None)

    def prepare(self, remedy: Remedy) -> Prime:
        """What the spare is told. Files that are too large for a spare are read ahead."""
        free_bytes, away = available_bytes(), self._away()
        if away:
            self._read_ahead(away[0], free_bytes)
        return next_model(self._models, free_bytes, remedy, away)

    def _read_ahead(self, model: ManagedModel, free_bytes: int) -> None:
        paths = model.spec.files or (model.spec.path,)
        limit = free_bytes // READ_AHEAD_SHARE if self._read_ahead_mib == AUTO else min(self._read_ahead_mib << 20, free_bytes)
        if self._reading == paths or model.spec.size_bytes > limit:
            return
        self._reading = paths
        self._timers.aside(lambda: self._read(paths))

    def _read(self, paths: tuple[str, ...]) -> None:
        """In a thread. It ends early when another model is foreseen."""
        read_ahead(paths, lambda: self._reading == paths)

    # ------------------------------------------------------------ over a restart

    def _save_later(self, client: str) -> None:
        if not self._changed:
            self._timers.at("order", self._timers.now() + SAVE_DELAY_S, lambda: self._timers.aside(self._record().save))
        self._changed.add(client)

    def _record(self) -> KeptOrder:
        for client in self._changed:
            self._kept.put(client, self._order.record(client))
        self._changed.clear()
        return self._kept

    def stop(self) -> None:
        """Blocks until the order is written to disk."""
        self._reading = ()
        self._record().save()
