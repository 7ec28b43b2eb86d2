"""The events of /models/sse for one client."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastrouter.api.models.live import LiveStream
from fastrouter.api.models.usage import visible, visible_past
from fastrouter.http.exchange import Exchange
from fastrouter.supervisor.supervisor import Event


class ModelFeed(LiveStream):
    """One client's stream of model events: a snapshot, then changes."""

    def __init__(self, exchange: Exchange, variants_of: Callable[[str], Sequence[str]], can_see: Callable[[str], bool]) -> None:
        super().__init__(exchange)
        self._variants_of = variants_of
        self._can_see = can_see

    def tell(self, event: Event) -> None:
        for model_id in (event.model, *self._variants_of(event.model)):
            if self._can_see(model_id):
                self.send({"model": model_id, "event": event.event, "data": event.data})

    def tell_past(self, past: Iterable[dict[str, Any]]) -> None:
        self.send({"model": "*", "event": "history", "data": visible_past(past, self._can_see)})

    def tell_usage(self, usage: dict[str, Any]) -> None:
        self.send({"model": "*", "event": "usage", "data": visible(usage, self._can_see)})
