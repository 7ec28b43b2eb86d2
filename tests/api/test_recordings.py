"""The limits of recordings: bytes of one and of all, their number, their age, slow clients. Without a network and without time."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from fastrouter.api.serving.recording import PIECE_BYTES, Reader, Recording
from fastrouter.api.serving.recordings import Limits, Recordings
from fastrouter.errors import FastrouterError, StreamStopped, Unavailable
from fastrouter.http.exchange import Exchange
from fastrouter.http.response import Response

SMALL = Limits(max_bytes=100, max_total_bytes=250, max_recordings=3, kept_s=0.0)
KEPT = replace(SMALL, kept_s=1e6)


class FakeExchange:
    """Takes the bytes of one client. Its transport asks for a pause at `room` bytes."""

    def __init__(self, *, chunked: bool = False, room: int = 1 << 30) -> None:
        self.is_chunked = chunked
        self.is_over = False
        self.responder: Any = None
        self.got = b""
        self.end_of: str = ""
        self._room = room

    @property
    def transport(self) -> "FakeExchange":
        return self

    def write(self, data: bytes) -> None:
        self.got += data
        if len(self.got) >= self._room:
            self.responder.pause()

    def stream_head(self, headers: bytes) -> bytes:
        return b"<" + headers + b">"

    def send(self, response: Response) -> None:
        self._finish(f"sent {response.status}")

    def end_stream(self) -> None:
        self._finish("whole")

    def end(self, *, is_whole: bool = True) -> None:
        self._finish("whole" if is_whole else "cut")

    def abort(self) -> None:
        self._finish("aborted")
        self.responder.disconnect()

    def _finish(self, how: str) -> None:
        if not self.is_over:  # as in an Exchange
            self.is_over = True
            self.end_of = how


class FakeStream:
    """What a recording needs of its answer."""

    num_tokens = 7

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def _end(self, error: Exception) -> None:
        self._recording.write(b"!")
        self._recording.end(is_whole=False)

    def cancel(self, error: FastrouterError) -> None:
        assert isinstance(error, StreamStopped)
        self._end(error)

    fail = _end


def started(recordings: Recordings, name: str = "a", owner: str = "") -> Recording:
    recording = recordings.start(owner, name, "model")
    recording.responder = cast(Any, FakeStream(recording))
    recording.stream_head(b"head")
    return recording


def attached(recording: Recording, at: int = 0, **options: Any) -> FakeExchange:
    exchange = FakeExchange(**options)
    recording.attach(cast(Exchange, exchange), at).start()
    return exchange


def reader_of(exchange: FakeExchange) -> Reader:
    return cast(Reader, exchange.responder)


def run(test: Callable[[], None]) -> None:
    async def body() -> None:
        test()

    asyncio.run(body())


def test_readers_get_the_bytes_from_their_place_on() -> None:
    def test() -> None:
        recording = started(Recordings(SMALL))
        first = attached(recording)
        recording.write(b"one")
        second = attached(recording, 2, chunked=True)
        recording.write(b"two")
        recording.end_stream()
        late = attached(recording, 6)
        assert (first.got, first.end_of) == (b"<head>onetwo", "whole")
        assert (second.got, second.end_of) == (b"<head>1\r\ne\r\n3\r\ntwo\r\n0\r\n\r\n", "whole")
        assert (late.got, late.end_of) == (b"<head>", "whole")
        assert (recording.num_tokens, reader_of(late).num_tokens, recording.responder) == (7, 7, None)

    run(test)


def test_a_slow_client_gets_the_rest_later_in_pieces() -> None:
    def test() -> None:
        recording = started(Recordings(Limits()))
        slow = attached(recording, room=1)
        for _ in range(3):
            recording.write(b"x" * PIECE_BYTES)
        recording.end_stream()
        assert slow.got == b"<head>"
        for number in range(1, 4):
            reader_of(slow).resume()
            assert len(slow.got) == 6 + number * PIECE_BYTES
        assert slow.end_of == "whole"

    run(test)


def test_only_bytes_that_a_client_has_are_dropped() -> None:
    def test() -> None:
        recording = started(Recordings(SMALL))
        quick, slow = attached(recording), attached(recording, room=1)
        for _ in range(30):
            recording.write(b"0123456789")
        assert (recording.num_bytes, recording.num_dropped, recording.num_kept) == (300, 200, 100)
        assert (len(quick.got), slow.end_of, recording.is_over) == (306, "aborted", False)
        reader_of(quick).disconnect()
        recording.write(b"x" * 100)
        assert (recording.num_dropped, recording.is_over) == (300, False)
        recording.write(b"y")
        assert (recording.is_over, recording.num_kept) == (True, 102)
        late = attached(recording, 300)
        assert (late.got, late.end_of) == (b"<head>" + b"x" * 100 + b"y!", "cut")

    run(test)


def test_all_recordings_together_have_a_limit() -> None:
    def test() -> None:
        recordings = Recordings(KEPT)
        old, new, last = (started(recordings, name) for name in "abc")
        old.write(b"x" * 100)
        old.end_stream()
        new.write(b"x" * 100)
        assert recordings.find("", "a") is old
        last.write(b"x" * 60)
        assert recordings.find("", "a") is None  # it had ended
        assert not new.is_over
        last.write(b"x" * 40)
        fourth = started(recordings, "d")
        fourth.write(b"x" * 51)  # all others run
        assert [each.is_over for each in (new, last, fourth)] == [False, False, True]
        last.end_stream()
        last = started(recordings, "c")
        last.write(b"x" * 99)
        assert not last.is_over

    run(test)


def test_what_is_forgotten_is_freed_immediately() -> None:
    async def test() -> None:
        recordings = Recordings(KEPT)
        recording, other = started(recordings), started(recordings, "b")
        client = attached(recording)
        for each in (recording, other):
            each.write(b"x")
            each.end_stream()
        client.responder = None  # as an Exchange at its end
        known = [weakref.ref(recording), weakref.ref(other)]
        del recording, other, each
        gc.disable()
        try:
            recordings.stop("", "a")
            recordings.keep_models(lambda model_id: False)
            await asyncio.sleep(0)
            assert [each() for each in known] == [None, None]
        finally:
            gc.enable()

    asyncio.run(test())


def test_there_are_not_too_many() -> None:
    def test() -> None:
        recordings = Recordings(KEPT)
        running = [started(recordings, name) for name in "abc"]
        with pytest.raises(Unavailable):
            started(recordings, "d")
        running[1].end_stream()
        started(recordings, "d")
        assert [recordings.find("", name) is not None for name in "abcd"] == [True, False, True, True]
        again = started(recordings, "a")
        assert (running[0].is_over, again.is_over) == (True, False)

    run(test)


def test_it_is_forgotten_some_time_after_its_end() -> None:
    async def test() -> None:
        recordings = Recordings(SMALL)
        recording = started(recordings)
        await asyncio.sleep(0.01)
        assert recordings.find("", "a") is recording
        recording.end_stream()
        assert recordings.find("", "a") is recording
        await asyncio.sleep(0.01)
        assert recordings.find("", "a") is None
        recording, other = started(recordings), started(recordings, "b")
        recording.end_stream()
        newer = started(recordings)
        await asyncio.sleep(0.01)
        assert recordings.find("", "a") is newer  # the end of the old one does not end the new one
        assert recordings.find("", "b") is other

    asyncio.run(test())


def test_a_refused_answer_is_kept_for_who_has_not_got_it() -> None:
    def test() -> None:
        recordings = Recordings(KEPT)
        heard, unheard = started(recordings), started(recordings, "b")
        client = attached(heard)
        for recording in (heard, unheard):
            recording.send(Response(400))
        assert client.end_of == "sent 400"
        assert recordings.find("", "a") is None
        assert recordings.find("", "b") is unheard
        assert attached(unheard).end_of == "sent 400"

    run(test)


def test_a_stop_ends_the_wait_for_the_model() -> None:
    async def test() -> None:
        recordings = Recordings(KEPT)
        ended: list[str] = []

        async def wait() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append("the wait")

        recording = started(recordings)
        recording.end_count = lambda: ended.append("the count")
        recording.run(wait())
        await asyncio.sleep(0)
        recordings.close()
        await asyncio.sleep(0.01)
        assert ended == ["the count", "the wait"]
        assert recordings.find("", "a") is None

    asyncio.run(test())


def test_the_end_of_the_server_ends_each_client() -> None:
    def test() -> None:
        recording = started(Recordings(KEPT))
        quick, slow = attached(recording), attached(recording, room=1)
        recording.write(b"x")
        for client in (quick, slow):
            if not client.is_over:
                reader_of(client).fail(Unavailable("the server is stopping"))
        assert (quick.got, quick.end_of) == (b"<head>x!", "cut")
        assert (slow.got, slow.end_of) == (b"<head>", "cut")

    run(test)
