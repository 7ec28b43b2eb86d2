"""Text in, framed events out: escaping, chunks, one write per drain, and a client that reads slowly."""

import os
import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrouter._core import EVENT, FINISH, LAST, REASONING, TEXT, EventLog, ItlHistogram, SseWriter, TextCollector, TokenRing

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Transport:
    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    @property
    def sent(self) -> bytes:
        return b"".join(self.writes)


class Writer(SseWriter):
    def __init__(self, transport: Transport, **options: object) -> None:
        super().__init__(transport, HEAD, **options)  # type: ignore[arg-type]
        self.records: list[tuple[int, bytes]] = []
        self.num_overflows = 0

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        self.records.append((kind, payload))
        self.write_event(b"<%d>" % kind)

    def on_overflow(self) -> None:
        self.num_overflows += 1

    def fail(self, error: Exception) -> None:
        raise AssertionError(error)


class Stage:
    """A ring with a producer and one attached writer."""

    def __init__(self, **options: object) -> None:
        self.ring = TokenRing.create(1 << 16)
        self.producer = TokenRing.open(os.dup(self.ring.memory_fd), os.dup(self.ring.doorbell_fd))
        self.transport = Transport()
        self.writer = Writer(self.transport, **options)
        self.writer.set_template(TEXT, 0, b'data: {"content":"', b'"}\n\n')
        self.request_id = self.ring.attach(self.writer)

    def push(self, *records: tuple[int, bytes], choice: int = 0, flags: int = 0) -> None:
        for kind, payload in records:
            assert self.producer.try_push(self.request_id, kind, choice, flags, 1, payload)

    def text(self, *texts: bytes) -> None:
        self.push(*((TEXT, text) for text in texts))
        self.ring.drain()


def body_of(sent: bytes) -> tuple[bytes, bool]:
    """(body, is it whole) of a chunked response."""
    assert sent.startswith(HEAD)
    rest, body = sent[len(HEAD) :], b""
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            assert rest == b"\r\n"
            return body, True
        body, end, rest = body + rest[:size], rest[size : size + 2], rest[size + 2 :]
        assert end == b"\r\n"
    return body, False


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(codec="utf-8")), min_size=1, max_size=8))
def test_events_parse_back_to_their_text(texts: list[str]) -> None:
    stage = Stage()
    stage.text(*(text.encode() for text in texts))
    stage.writer.finish()
    body, is_whole = body_of(stage.transport.sent)
    events = body.decode().split("\n\n")
    assert [orjson.loads(event.removeprefix("data: "))["content"] for event in events[:-1]] == texts
    assert is_whole


def test_all_text_of_a_drain_is_one_write_and_the_head_goes_with_it() -> None:
    stage = Stage()
    assert not stage.writer.is_started
    stage.ring.drain()
    assert stage.transport.writes == []
    stage.text(*[b"x"] * 100)
    assert len(stage.transport.writes) == 1
    assert stage.writer.is_started
    stage.text(b"y")
    assert len(stage.transport.writes) == 2
    assert stage.writer.num_tokens == stage.writer.text_bytes == 101


def test_first_events_come_once_for_each_choice() -> None:
    stage = Stage()
    stage.writer.set_template(TEXT, 1, b"[", b"]")
    for choice, event in ((0, b"zero "), (1, b"one ")):
        stage.writer.set_first(choice, event)
    for choice in (1, 1, 0):
        stage.push((TEXT, b"t"), choice=choice)
    stage.ring.drain()
    assert body_of(stage.transport.sent)[0] == b'one [t][t]zero data: {"content":"t"}\n\n'
    assert stage.writer.take_first(0) == stage.writer.take_first(5) == b""


def test_take_first_counts_as_sent() -> None:
    stage = Stage()
    stage.writer.set_first(0, b"role")
    assert stage.writer.take_first(0) == b"role"
    stage.text(b"t")
    assert b"role" not in stage.transport.sent


def test_other_records_keep_their_place_between_texts() -> None:
    stage = Stage()
    stage.push((TEXT, b"a"), (EVENT, b"{}"), (TEXT, b"b"), (REASONING, b"no template"))
    stage.push((FINISH, b"{}"), flags=LAST)
    stage.ring.drain()
    assert stage.writer.records == [(EVENT, b"{}"), (REASONING, b"no template"), (FINISH, b"{}")]
    text = b'data: {"content":"%s"}\n\n'
    assert body_of(stage.transport.sent)[0] == text % b"a" + b"<3>" + text % b"b" + b"<2><5>"
    assert stage.writer.request_id == 0


def test_a_paused_writer_holds_and_then_gives_everything() -> None:
    stage = Stage()
    stage.text(b"a")
    stage.writer.pause()
    stage.text(b"b", b"c")
    assert b"b" not in body_of(stage.transport.sent)[0]
    stage.writer.resume()
    assert body_of(stage.transport.sent)[0].count(b"content") == 3


def test_overflow_is_told_once() -> None:
    stage = Stage(max_buffered=200)
    stage.writer.pause()
    for _ in range(30):
        stage.text(b"x" * 20)
    assert stage.writer.num_overflows == 1


def test_finish_and_cut_write_even_when_paused_and_only_once() -> None:
    for end, is_whole in ((SseWriter.finish, True), (SseWriter.cut, False)):
        stage = Stage()
        stage.text(b"a")
        stage.writer.pause()
        stage.text(b"b")
        for _ in range(2):
            end(stage.writer)
        stage.text(b"too late")
        body, was_whole = body_of(stage.transport.sent)
        assert (body.count(b"content"), was_whole) == (2, is_whole)
        assert stage.writer.is_finished


def test_without_chunks_the_body_is_plain() -> None:
    stage = Stage(chunked=False)
    stage.text(b'"')
    stage.writer.finish()
    assert stage.transport.sent == HEAD + b'data: {"content":"\\""}\n\n'


def test_an_empty_finish_still_has_its_head() -> None:
    stage = Stage()
    stage.writer.finish()
    assert body_of(stage.transport.sent) == (b"", True)


def test_restart_only_while_nothing_was_sent() -> None:
    stage = Stage()
    assert stage.writer.restart()
    stage.text(b"x")
    assert not stage.writer.restart()


def test_choices_count_from_zero() -> None:
    writer = Stage().writer
    with pytest.raises(ValueError, match="0"):
        writer.set_first(-1, b"x")
    with pytest.raises(ValueError, match="text"):
        writer.set_template(TEXT, -1, b"", b"")
    assert writer.take_first(-1) == b""


def test_ready_made_events_wait_for_the_flush() -> None:
    stage = Stage()
    stage.writer.write_event(b"one ")
    assert (stage.writer.is_started, stage.transport.writes) == (True, [])
    stage.writer.write_event(b"two")
    stage.writer.flush()
    stage.writer.flush()
    assert len(stage.transport.writes) == 1
    stage.writer.finish()
    stage.writer.write_event(b"late")
    stage.writer.flush()
    assert body_of(stage.transport.sent) == (b"one two", True)


def test_templates_are_for_text_only() -> None:
    with pytest.raises(ValueError, match="text"):
        Stage().writer.set_template(FINISH, 0, b"", b"")


def test_text_goes_to_on_record_once_its_template_is_dropped() -> None:
    stage = Stage()
    stage.text(b"a")
    stage.writer.drop_template(TEXT, 7)
    stage.writer.drop_template(TEXT, 0)
    stage.text(b"b")
    assert [record[-1] for record in stage.writer.records] == [b"b"]
    stage.writer.set_template(TEXT, 0, b"[", b"]")
    stage.text(b"c")
    stage.writer.finish()
    assert body_of(stage.transport.sent) == (b'data: {"content":"a"}\n\n<%d>[c]' % TEXT, True)


# ---------------------------------------------------------------- pings, the head's last moment, gaps


def test_a_ping_brings_the_head_and_counts_as_nothing_of_the_answer() -> None:
    stage = Stage()
    stage.writer.write_ping(b": queued 2\n\n")
    assert body_of(stage.transport.sent) == (b": queued 2\n\n", False)
    assert stage.writer.is_started
    assert stage.writer.restart()
    stage.text(b"x")
    assert not stage.writer.restart()
    stage.writer.finish()
    assert body_of(stage.transport.sent) == (b': queued 2\n\ndata: {"content":"x"}\n\n', True)


def test_no_ping_for_a_client_that_has_something_to_read_or_has_read_all() -> None:
    stage = Stage()
    stage.writer.write_event(b"one")
    stage.writer.write_ping(b"no")
    stage.writer.flush()
    stage.writer.pause()
    stage.writer.write_ping(b"no")
    stage.writer.resume()
    stage.writer.finish()
    stage.writer.write_ping(b"no")
    assert body_of(stage.transport.sent) == (b"one", True)


def test_the_head_is_made_once_and_when_it_goes_out() -> None:
    class Late(Writer):
        heads = 0

        def make_head(self, head: bytes) -> bytes:
            self.heads += 1
            return head[:-2] + b"Late: %d\r\n\r\n" % self.first_text_ns

    transport = Transport()
    writer = Late(transport, chunked=False)
    assert (writer.heads, writer.last_sent_ns) == (0, 0)
    stage = Stage()
    writer.set_template(TEXT, 0, b"", b"")
    stage.request_id = stage.ring.attach(writer)
    stage.text(b"a")
    stage.text(b"b")
    assert writer.heads == 1
    assert transport.sent == HEAD[:-2] + b"Late: %d\r\n\r\nab" % writer.first_text_ns
    assert 0 < writer.first_text_ns <= writer.last_sent_ns <= time.monotonic_ns()


def test_gaps_between_texts_are_counted() -> None:
    stage = Stage()
    histogram = stage.writer.itl = ItlHistogram()
    stage.text(b"a")
    assert sum(histogram.counts) == 0
    time.sleep(0.003)
    stage.text(b"b")
    [bucket] = [index for index, count in enumerate(histogram.counts) if count]
    assert bucket == len(histogram.bounds) or histogram.sum <= histogram.bounds[bucket]
    assert histogram.sum > max(0.003, histogram.bounds[bucket - 1])
    stage.push((TEXT, b"c"), (REASONING, b"d"), (EVENT, b"{}"))
    stage.push((TEXT, b"another choice"), choice=1)
    stage.ring.drain()
    assert sum(histogram.counts) == 4
    assert len(histogram.counts) == len(histogram.bounds) + 1
    assert list(histogram.bounds) == sorted(set(histogram.bounds))


def test_a_collector_forgets_its_times_when_it_restarts() -> None:
    class Collector(TextCollector):
        def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
            raise AssertionError(kind)

    stage, collector = Stage(), Collector()
    collector.itl = ItlHistogram()
    stage.request_id = stage.ring.attach(collector)
    stage.text(b"a")
    assert collector.first_text_ns > 0
    assert collector.restart()
    assert (collector.first_text_ns, collector.num_tokens, collector.text()) == (0, 0, b"")
    stage.text(b"b")
    assert sum(collector.itl.counts) == 0


def test_an_event_that_is_no_answer_leaves_the_way_back_open() -> None:
    stage = Stage()
    stage.writer.write_event(b"data: 50%\n\n", is_answer=False)
    stage.writer.flush()
    assert stage.writer.restart()
    stage.writer.write_event(b"data: x\n\n")
    assert not stage.writer.restart()
    stage.writer.write_event(b"data: 90%\n\n", is_answer=False)
    assert not stage.writer.restart()
    stage.writer.finish()
    assert body_of(stage.transport.sent) == (b"data: 50%\n\ndata: x\n\ndata: 90%\n\n", True)


# ---------------------------------------------------------------- numbered events


def test_events_are_numbered_and_their_text_is_kept() -> None:
    stage, log = Stage(), EventLog()
    assert [log.take_number(), log.take_number()] == [0, 1]
    stage.writer.set_template(TEXT, 0, b"<", b"|", b">", log)
    stage.text(b"a", b'"\n', "é".encode())
    assert body_of(stage.transport.sent)[0].decode() == '<a|2><\\"\\n|3><é|4>'
    log.keep(b"!")
    assert (log.take_text().decode(), log.take_text(), log.take_number()) == ('a"\né!', b"", 5)


@pytest.mark.parametrize("number", [9, 10, 99, 100, 12345])
def test_numbers_of_all_lengths(number: int) -> None:
    stage, log = Stage(), EventLog()
    for _ in range(number):
        log.take_number()
    stage.writer.set_template(TEXT, 0, b"", b"", b"", log)
    stage.text(b"x")
    assert body_of(stage.transport.sent)[0] == b"x%d" % number
