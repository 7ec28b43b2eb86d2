"""llama-server's paths of streams that can be resumed: read one from a byte on, stop one, look which ones there are.

Invariant: a key finds only streams that were started with it. Keys that may do everything share theirs.
"""

from typing import Any

from fastrouter._core import Request
from fastrouter.api.models.access import Models, client_of
from fastrouter.api.requests.bodies import parse_object
from fastrouter.api.requests.checks import invalid
from fastrouter.api.serving.recording import Recording
from fastrouter.api.serving.recordings import Recordings
from fastrouter.errors import InvalidRequest, NotFound, Unavailable
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response, encode_json

MAX_LOOKED_UP = 1000
_MAX_DIGITS = 18


class StreamRoutes:
    def __init__(self, models: Models, recordings: Recordings) -> None:
        self._models = models
        self._recordings = recordings

    def show(self, request: Request, exchange: Exchange) -> Response | None:
        """GET /v1/stream?conv_id=NAME&from=N: the bytes from N on, then those that come. With `wait=1` also while the model loads."""
        query = self._models.query(request)
        recording = self._recordings.find(client_of(request), _name_of(query))
        if recording is None:
            raise NotFound("stream not found or expired: there is none with this conv_id")
        at = _offset_of(query, recording)
        if not recording.has_begun and not recording.is_over and query.get("wait") not in ("1", "true"):
            raise Unavailable("the stream has not begun, its model is loading: try again, or add wait=1 to wait for it")
        if request.method == "HEAD":
            return Response(200, recording.headers)
        recording.attach(exchange, at).start()
        return None

    def stop(self, request: Request, exchange: Exchange) -> Response:
        """DELETE /v1/stream?conv_id=NAME. It is no error that there is none: it may have ended meanwhile."""
        self._recordings.stop(client_of(request), _name_of(self._models.query(request)))
        return Response(204)

    def lookup(self, request: Request, exchange: Exchange) -> Response:
        """POST /v1/streams/lookup. A client finds only names that it knows."""
        names = parse_object(request).get("conversation_ids", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > MAX_LOOKED_UP:
            raise invalid("conversation_ids", f"must be a list of at most {MAX_LOOKED_UP} strings")
        owner = client_of(request)
        found = {name: each for wanted in names if wanted for name, each in self._recordings.matching(owner, wanted)}
        return encode_json([_described(name, each) for name, each in found.items()])


def _name_of(query: dict[str, str]) -> str:
    name = query.get("conv_id")
    if not name:
        raise InvalidRequest("conv_id is missing from the query: it is the X-Conversation-Id of the request", param="conv_id")
    return name


def _offset_of(query: dict[str, str], recording: Recording) -> int:
    text = query.get("from") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise invalid("from", "must be a number of bytes")
    offset = int(text)
    if offset < recording.num_dropped:
        raise invalid("from", f"is lost: only bytes from {recording.num_dropped} on are kept, please restart")
    if offset > recording.num_bytes:
        raise invalid("from", f"is after the last byte: the stream has {recording.num_bytes} bytes")
    return offset


def _described(name: str, recording: Recording) -> dict[str, Any]:
    return {
        "conversation_id": name,
        "is_done": recording.is_over,
        "total_bytes": recording.num_bytes,
        "started_at": int(recording.started_at),
        "completed_at": int(recording.completed_at),
    }
