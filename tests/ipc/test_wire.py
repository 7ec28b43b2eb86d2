"""Messages over a socketpair: whole, in pieces, and wrong."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from functools import reduce
from typing import Any

import orjson
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrouter.errors import InvalidRequest, ProtocolError, from_wire
from fastrouter.ipc.async_wire import AsyncWire
from fastrouter.ipc.messages import Abort, Call, Failed, Generate, Hello, Load, Message, Notice, Progress, Ready, Reply, Submit
from fastrouter.ipc.wire import MAX_FRAME_BYTES, BlockingWire, FrameReader, decode, encode, encode_reply
from fastrouter.options.load import LoadOptions

MESSAGES: list[Message] = [
    Hello(123),
    Load("m", "m.gguf", LoadOptions(ctx_size=512, sampling={"temperature": 0.5}), safe_mode=True),
    Submit(7, Generate(prompt=["text", 1, 2], stop=["\n"], sampling={"seed": 2**64 - 1})),
    Submit(8, Generate(messages=[{"role": "user", "content": "ü\u2028\x00😀"}])),
    Abort(7),
    Call(1, "tokenize", {"content": "x"}),
    Progress(1),
    Progress(0.25),
    Ready({"n_ctx": 512}),
    Failed("no such file"),
    Reply(1, result=[1, 2]),
    Reply(2, error={"class": "InvalidRequest", "message": "no"}),
    Notice("warning", "safe mode"),
]


def frame(payload: bytes) -> bytes:
    return struct.pack("<I", len(payload)) + payload


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(message: Message) -> None:
    assert decode(encode(message)[4:]) == message


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1 << 20])
def test_pieces(size: int) -> None:
    data = b"".join(map(encode, MESSAGES))
    reader = FrameReader()
    found = [message for at in range(0, len(data), size) for message in reader.feed(data[at : at + size])]
    assert found == MESSAGES


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"Hello"',
        b"{}",
        b'{"type":"Nobody"}',
        b'{"type":["Hello"]}',
        b'{"type":"Hello"}',
        b'{"type":"Hello","pid":"1"}',
        b'{"type":"Hello","pid":true}',
        b'{"type":"Hello","pid":1.5}',
        b'{"type":"Hello","pid":1,"more":1}',
        b'{"type":"Progress","value":null}',
        b'{"type":"Progress","value":NaN}',
        b'{"type":"Ready","meta":[]}',
        b'{"type":"Failed","error":{}}',
        b'{"type":"Reply","request_id":"1"}',
        b'{"type":"Reply","request_id":1,"error":"no"}',
        b'{"type":"Notice","level":1,"text":"x"}',
        b'{"type":"Load","model_id":"m","path":"p","options":7}',
        b'{"type":"Load","model_id":"m","path":"p","options":{"nothing":7}}',
        b'{"type":"Load","model_id":"m","path":"p"}',
        b'{"type":"Generate","prompt":"not in an envelope"}',
        b'{"type":"Submit","request_id":1}',
        b'{"type":"Submit","request_id":1,"generate":7}',
        b'{"type":"Submit","request_id":1,"generate":{"n":"x"}}',
        b'{"type":"Submit","request_id":1,"generate":{"nothing":7}}',
        b"[" * 100_000,
        b'{"type":"Hello","pid":\xff}',
    ],
)
def test_bad_frames(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(payload)
    with pytest.raises(ProtocolError):
        FrameReader().feed(encode(Hello(1)) + frame(payload))


def test_frame_too_long() -> None:
    with pytest.raises(ProtocolError):
        FrameReader().feed(struct.pack("<I", MAX_FRAME_BYTES + 1))
    assert FrameReader().feed(struct.pack("<I", MAX_FRAME_BYTES)) == []
    with pytest.raises(ProtocolError):
        encode(Failed("x" * MAX_FRAME_BYTES))


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        ("x" * MAX_FRAME_BYTES, "larger than the limit of 48 MiB"),
        ({"tokens": ["x" * 1024] * (50 << 10)}, "the answer would have 50 MiB"),
        ({"content": "\ud800"}, "cannot be written as JSON"),
        ({"n": 2**70}, "cannot be written as JSON"),
        ({"x": b"bytes"}, "cannot be written as JSON"),
        (reduce(lambda inner, _: [inner], range(300), ()), "cannot be written as JSON"),
    ],
    ids=["frame", "answer", "surrogate", "number", "bytes", "deep"],
)
def test_an_answer_that_cannot_travel_is_an_error_of_its_call(result: Any, problem: str) -> None:
    [reply] = FrameReader().feed(encode_reply(Reply(7, result=result)))
    assert isinstance(reply, Reply)
    assert reply.request_id == 7
    error = from_wire(reply.error or {})
    assert (error.status, problem in error.message) == (400, True), error.message


def test_a_large_answer_is_passed_on_unread() -> None:
    large, small = {"tokens": [7] * 100_000}, {"tokens": [7]}
    replies = FrameReader().feed(b"".join(encode_reply(Reply(9, result=result), is_passed_on=True) for result in (large, small, large)))
    assert [type(reply.result) for reply in replies if isinstance(reply, Reply)] == [orjson.Fragment, dict, orjson.Fragment]
    for reply, result in zip(replies, (large, small, large), strict=True):
        assert isinstance(reply, Reply)
        assert (reply.request_id, reply.error, orjson.dumps(reply.result)) == (9, None, orjson.dumps(result))
    for cut in (b"=", b"=1234567"):
        with pytest.raises(ProtocolError):
            decode(cut)


@pytest.mark.parametrize("message", ["plain", "caf\u00e9", "half of a pair \udcff", "\ud800\udc00"])
def test_any_error_can_travel(message: str) -> None:
    [reply] = FrameReader().feed(encode_reply(Reply(1, error=InvalidRequest(message).to_wire())))
    assert isinstance(reply, Reply)
    assert reply.error is not None
    [failed] = FrameReader().feed(encode(Failed(InvalidRequest(message).message)))
    assert isinstance(failed, Failed)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(MESSAGES), st.data())
def test_mutations(message: Message, data: st.DataObject) -> None:
    """Every mutation is a message or a ProtocolError."""
    frame_bytes = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        frame_bytes[data.draw(st.integers(0, len(frame_bytes) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = FrameReader().feed(bytes(frame_bytes))
    except ProtocolError:
        return
    assert all(orjson.dumps({"type": type(m).__name__}) for m in found)


# ---------------------------------------------------------------- both ends


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


class Ends:
    """A router's end that records its messages, and a worker's end."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.ours, self.theirs = socket.socketpair()
        self.wire = AsyncWire(self.heard.append, self.on_close)
        self.worker = BlockingWire(self.theirs)

    def on_close(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(error)

    async def close(self) -> None:
        self.wire.close()
        await asyncio.sleep(0.01)  # the transport closes its socket in the next rounds of the loop
        self.ours.close()
        self.worker.close()

    async def worker_sees_the_end(self) -> None:
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                assert await asyncio.to_thread(self.worker.poll, 30) == []


def test_both_ways() -> None:
    async def body() -> None:
        ends = Ends()
        ends.wire.send(Abort(1))  # before the connection
        await ends.wire.connect(ends.ours)
        ends.wire.send(Abort(2))
        heard: list[Message] = []
        while len(heard) < 2:
            heard += await asyncio.to_thread(ends.worker.poll, 10)
        assert heard == [Abort(1), Abort(2)]
        assert ends.worker.poll(0) == []
        big = Ready({"text": "x" * (4 << 20)})
        await asyncio.to_thread(ends.worker.send, big)
        ends.worker.send(Hello(1))
        ends.worker.close()
        assert await asyncio.wait_for(ends.closed, 30) is None
        assert ends.heard == [big, Hello(1)]
        ends.wire.send(Abort(3))  # does nothing
        await ends.close()

    run(body())


def test_broken_frame_closes() -> None:
    async def body() -> None:
        ends = Ends()
        await ends.wire.connect(ends.ours)
        ends.theirs.sendall(frame(b"nonsense"))
        assert isinstance(await asyncio.wait_for(ends.closed, 30), ProtocolError)
        await ends.worker_sees_the_end()
        await ends.close()

    run(body())


def test_a_refused_message_closes() -> None:
    async def body() -> None:
        ends = Ends()

        def refuse(message: Message) -> None:
            raise ProtocolError("not now")

        ends.wire = AsyncWire(refuse, ends.on_close)
        await ends.wire.connect(ends.ours)
        ends.worker.send(Hello(1))
        assert str(await asyncio.wait_for(ends.closed, 30)) == "not now"
        await ends.close()

    run(body())


def test_closed_before_the_connection() -> None:
    async def body() -> None:
        ends = Ends()
        ends.wire.send(Abort(1))
        ends.wire.close()
        await ends.wire.connect(ends.ours)
        assert await asyncio.wait_for(ends.closed, 30) is None
        await ends.worker_sees_the_end()
        await ends.close()

    run(body())


def test_an_error_of_a_subclass_arrives_as_the_class_that_both_know() -> None:
    class OfTheWorker(InvalidRequest):
        pass

    error = from_wire(OfTheWorker("too slow").to_wire())
    assert (type(error), error.message, error.status) == (InvalidRequest, "too slow", 400)
