"""Events for clients: each change of a model's state, in llama-server's words.

Invariant: a subscriber that raises does not affect the others.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("fastrouter.supervisor")

_NAMES = ("model_status", "status_change")  # llama-server's documentation and its code use different names


@dataclass(frozen=True, slots=True)
class Event:
    """A change that clients may watch; `event` and `data` in llama-server's words."""

    model: str
    event: str
    data: dict[str, Any]


class Events:
    def __init__(self, subscriber: Callable[[Event], None] | None = None) -> None:
        self._subscribers = [subscriber] if subscriber is not None else []

    def __repr__(self) -> str:
        return f"<Events {len(self._subscribers)} subscribers>"

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Call `subscriber` for each event, until the returned function is called."""
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return unsubscribe

    def loading(self, model_id: str, progress: float) -> None:
        stage = {"stages": ["text_model"], "current": "text_model", "value": progress}
        self._emit(model_id, {"status": "loading", "progress": stage})

    def loaded(self, model_id: str, meta: dict[str, Any] | None) -> None:
        self._emit(model_id, {"status": "loaded", "info": meta})

    def unloaded(self, model_id: str, reason: str) -> None:
        """`reason`: count, memory, ttl, unload, reload; crash: its worker has ended, and another worker takes over."""
        self._emit(model_id, {"status": "unloaded", "exit_code": 0, "reason": reason})

    def sleeping(self, model_id: str) -> None:
        self._emit(model_id, {"status": "sleeping"})

    def failed(self, model_id: str, exit_code: int | None, error: str, stderr_tail: Sequence[str]) -> None:
        details = {"error": error, "log": list(stderr_tail)}
        self._emit(model_id, {"status": "unloaded", "exit_code": exit_code, "failed": True, **details})

    def parked(self, model_id: str, num_entries: int, num_bytes: int) -> None:
        """What is parked for the model has changed."""
        self.tell(model_id, "parked", {"entries": num_entries, "bytes": num_bytes})

    def reloaded(self) -> None:
        self.tell("*", "models_reload", {})

    def tell(self, model_id: str, event: str, values: dict[str, Any]) -> None:
        """Publish an event; a change of state is published under both of its names."""
        for name in _NAMES if event in _NAMES else (event,):
            self._send(Event(model_id, name, values))

    def _emit(self, model_id: str, values: dict[str, Any]) -> None:
        self.tell(model_id, _NAMES[0], values)

    def _send(self, event: Event) -> None:
        for subscriber in list(self._subscribers):
            try:
                subscriber(event)
            except Exception:  # a mistake in one subscriber must not stop the others or the supervisor
                log.exception("a subscriber of %s failed", event.event)
