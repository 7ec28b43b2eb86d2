"""In which order models are asked for: agents take turns, so the next model can often be foreseen. Learns from requests. No clock, no I/O.

Invariant: it remembers a limited number of clients and of turns, and names a model only when it has followed more often than all others.
"""

from collections import Counter, OrderedDict
from typing import NamedTuple

MAX_CLIENTS = 64
MAX_TURNS = 512  # of one client: pairs of one or two models and the model that followed
MAX_KEPT_TURNS = 128  # of one client, in `record`
MIN_SEEN = 2  # times that a model must have followed
MIN_SHARE = 0.6  # of the times
_MOST_SEEN = 16  # then old turns count half as much
Record = list[tuple[tuple[str, ...], dict[str, int]]]  # after these models, how often each model followed; the latest one last


class Turn(NamedTuple):
    """A request for another model than the one before."""

    foreseen: str | None  # the model that was expected


class _Client:
    """The turns of one client. A turn is another model than before."""

    def __init__(self) -> None:
        self.last: tuple[str, ...] = ()  # the last two models that it asked for, the later one last
        self.next_model: str | None = None
        self._followers: OrderedDict[tuple[str, ...], Counter[str]] = OrderedDict()

    def turn_to(self, model_id: str) -> None:
        for context in {self.last, self.last[-1:]} - {()}:
            self._learn(context, model_id)
        self.last = (*self.last[-1:], model_id)
        self.next_model = self._follower_of(self.last) or self._follower_of(self.last[-1:])

    def _learn(self, context: tuple[str, ...], model_id: str) -> None:
        seen = self._followers.setdefault(context, Counter())
        self._followers.move_to_end(context)
        seen[model_id] += 1
        if seen.total() > _MOST_SEEN:
            self._followers[context] = Counter({follower: times // 2 for follower, times in seen.items() if times > 1})
        if len(self._followers) > MAX_TURNS:
            self._followers.popitem(last=False)

    def record(self) -> Record:
        return [(context, dict(seen)) for context, seen in list(self._followers.items())[-MAX_KEPT_TURNS:]]

    def recall(self, record: Record) -> None:
        self._followers = OrderedDict((context, Counter(seen)) for context, seen in record)

    def _follower_of(self, context: tuple[str, ...]) -> str | None:
        seen = self._followers.get(context)
        if not seen:
            return None
        [(model_id, times)] = seen.most_common(1)
        return model_id if times >= MIN_SEEN and times >= MIN_SHARE * seen.total() else None


class ModelOrder:
    """Of all clients. A client is known by its API key; all requests without a key are one client."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, _Client] = OrderedDict()  # the one that asked last is the last

    def __repr__(self) -> str:
        return f"<ModelOrder of {len(self._clients)} clients, foreseen {self.foreseen()}>"

    def note(self, client: str, model_id: str) -> Turn | None:
        """A request for a model. None: it is the model of the client's last request, so nothing has changed."""
        found = self._clients.setdefault(client, _Client())
        self._clients.move_to_end(client)
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)
        if found.last[-1:] == (model_id,):
            return None
        turn = Turn(found.next_model)
        found.turn_to(model_id)
        return turn

    def knows(self, client: str) -> bool:
        return client in self._clients

    def record(self, client: str) -> Record:
        """What was learned of a client."""
        return self._clients[client].record() if client in self._clients else []

    def recall(self, client: str, record: Record) -> None:
        """What was learned of a client earlier. Its next request is the first one of an order."""
        found = self._clients[client] = _Client()
        found.recall(record)

    def foreseen(self) -> list[str]:
        """Models that are probably asked for next; first the one of the client that asked last."""
        wanted = [client.next_model for client in reversed(self._clients.values()) if client.next_model is not None]
        return list(dict.fromkeys(wanted))
