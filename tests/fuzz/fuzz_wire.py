"""Frames between router and worker, and the JSON records of the ring. The first byte: 0 frames, else which record."""

import contextlib

import orjson

from fastrouter.errors import ProtocolError
from fastrouter.ipc.messages import Message, Reply
from fastrouter.ipc.records import MAX_COUNT, Delta, Failure, Finish, PromptProgress
from fastrouter.ipc.wire import FrameReader, decode, encode

RECORDS = (Delta, PromptProgress, Finish, Failure)


def check(data: bytes) -> None:
    which, content = data[:1], data[1:]
    if not which or which == b"\0":
        _check_frames(content)
    else:
        _check_record(which[0] % len(RECORDS), content)


def _check_frames(content: bytes) -> None:
    found, is_refused = _frames([content])
    singly, is_refused_singly = _frames([content[at : at + 1] for at in range(len(content))])
    assert is_refused == is_refused_singly
    assert is_refused or found == singly  # with a bad frame, the good ones before it in the same bytes are dropped: the wire closes
    for message in singly:
        assert isinstance(message, bytes) or decode(encode(message)[4:]) == message


def _frames(pieces: list[bytes]) -> tuple[list[Message | bytes], bool]:
    """The messages, and whether the rest was refused. A reply that is passed on as it came is its bytes."""
    reader, found = FrameReader(), list[Message | bytes]()
    for piece in pieces:
        try:
            found += map(_comparable, reader.feed(piece))
        except ProtocolError:
            return found, True
    return found, False


def _comparable(message: Message) -> Message | bytes:
    if isinstance(message, Reply) and isinstance(message.result, orjson.Fragment):
        return orjson.dumps(message.result)
    return message


def _check_record(which: int, content: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        record = RECORDS[which].from_payload(content)
        if isinstance(record, Finish):
            assert 0 <= record.completion_tokens <= MAX_COUNT
            record.to_payload(1 << 20)
        elif isinstance(record, Failure):
            assert 400 <= record.error.status < 600
            record.to_payload()
        else:
            record.to_payload()
