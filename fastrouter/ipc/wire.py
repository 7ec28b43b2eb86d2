"""Length-prefixed JSON over a socketpair: `u32 little-endian length | {"type": ..., fields}`. The worker's end is in this file.

A large answer that the router only passes on has another frame: `length | "=" | u64 request id | the result as JSON`. The
router does not parse it.

The router's end is asynchronous (`AsyncWire` in async_wire.py), the worker's is blocking (`BlockingWire`). Neither trusts the other: a
frame above MAX_FRAME_BYTES, bad JSON, an unknown type, a wrong field or a value of a wrong type raises ProtocolError.
"""

import select
import socket
import struct
import types
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin

import orjson

from fastrouter.errors import InvalidRequest, ProtocolError
from fastrouter.ipc.messages import MESSAGE_TYPES, Generate, Message, Reply
from fastrouter.options.load import LoadOptions

MAX_FRAME_BYTES = 96 << 20  # a body of 64 MiB, escaped, fits
MAX_ANSWER_BYTES = 48 << 20  # of a Reply: the router reads it as a whole
_LENGTH = struct.Struct("<I")
_PASSED_ON = struct.Struct("<cQ")
_PASSED_ON_MARK = b"="
_PASSED_ON_BYTES = 64 << 10  # smaller answers are parsed quickly


def _types_of(annotation: Any) -> frozenset[Any]:
    """The types that a field's value may have in JSON; empty: any."""
    if annotation is Any:
        return frozenset()
    if get_origin(annotation) is types.UnionType:
        return frozenset().union(*map(_types_of, get_args(annotation)))
    return frozenset({int, float} if annotation is float else {get_origin(annotation) or annotation})


_FIELDS = {cls: {f.name: _types_of(f.type) for f in fields(cls)} for cls in (*MESSAGE_TYPES.values(), Generate)}


def _check_types(value: Any) -> None:
    """Raises TypeError."""
    for field, allowed in _FIELDS[type(value)].items():
        if allowed and type(getattr(value, field)) not in allowed:
            raise TypeError(f"{type(value).__name__}.{field} has a wrong type")


def encode(message: Message) -> bytes:
    """One frame with its length."""
    payload = orjson.dumps({"type": type(message).__name__, **{f: getattr(message, f) for f in _FIELDS[type(message)]}})
    if len(payload) > MAX_FRAME_BYTES:
        raise ProtocolError(f"message of {len(payload)} bytes is over the wire's limit")
    return _LENGTH.pack(len(payload)) + payload


def decode(payload: bytes) -> Message:
    """The message in the payload of one frame. Raises ProtocolError."""
    if payload.startswith(_PASSED_ON_MARK) and len(payload) > _PASSED_ON.size:
        return Reply(_PASSED_ON.unpack_from(payload)[1], result=orjson.Fragment(payload[_PASSED_ON.size :]))
    try:
        values = orjson.loads(payload)
        cls = MESSAGE_TYPES[values.pop("type")]
        if "options" in values:
            values["options"] = LoadOptions(**values["options"])
        if "generate" in values:
            values["generate"] = Generate(**values["generate"])
            _check_types(values["generate"])
        message = cls(**values)
        _check_types(message)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"bad frame on the wire: {error}") from None
    assert is_dataclass(message)
    return message  # type: ignore[return-value]  # the table holds Message's own members


def encode_reply(reply: Reply, limit: int = MAX_ANSWER_BYTES, *, is_passed_on: bool = False) -> bytes:
    """One frame. An answer that cannot be encoded, or is too large, becomes the error of that call. `is_passed_on`: the router does not
    look into the result; a large one becomes an orjson.Fragment there."""
    try:
        frame = _encode_passed_on(reply) if is_passed_on else encode(reply)
        if len(frame) <= limit:
            return frame
        problem = f"the answer would have {len(frame) >> 20} MiB, more than the limit of {limit >> 20} MiB; send less at a time"
    except ProtocolError:
        problem = f"the answer would be larger than the limit of {limit >> 20} MiB; send less at a time"
    except TypeError as error:  # half a surrogate pair, a number of more than 64 bits, too deep
        problem = f"the answer cannot be written as JSON: {error}"
    return encode(Reply(reply.request_id, error=InvalidRequest(problem).to_wire()))


def _encode_passed_on(reply: Reply) -> bytes:
    result = orjson.dumps(reply.result)
    if len(result) < _PASSED_ON_BYTES:
        return encode(reply)
    return _LENGTH.pack(_PASSED_ON.size + len(result)) + _PASSED_ON.pack(_PASSED_ON_MARK, reply.request_id) + result


class FrameReader:
    """Bytes in, messages out. Both ends use it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        start = 0
        while len(buffer) - start >= 4:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(f"frame of {length} bytes is over the wire's limit")
            if len(buffer) - start - 4 < length:
                break
            with memoryview(buffer) as view:
                payload = bytes(view[start + 4 : start + 4 + length])
            messages.append(decode(payload))
            start += 4 + length
        if start:
            del buffer[:start]
        return messages


class BlockingWire:
    """The worker's end: `poll` never blocks longer than asked. EOFError when the router has ended."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Message) -> None:
        self.send_frame(encode_reply(message) if isinstance(message, Reply) else encode(message))

    def send_frame(self, frame: bytes) -> None:
        """A frame that is encoded already."""
        self._sock.setblocking(True)
        self._sock.sendall(frame)

    def poll(self, timeout_s: float | None) -> list[Message]:
        """Messages that have arrived; waits up to `timeout_s` for the first bytes (None: without a limit, 0: not at all)."""
        if timeout_s != 0 and not self._poll.poll(None if timeout_s is None else timeout_s * 1000):
            return []
        try:
            data = self._sock.recv(1 << 18, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        if not data:
            raise EOFError("the router closed the wire")
        return self._reader.feed(data)

    def close(self) -> None:
        self._sock.close()
