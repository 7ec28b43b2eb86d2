"""The shared-memory ring: order, room, wake-ups, and a producer that lies or dies."""

import mmap
import os
import random
import select
import signal
import subprocess
import sys
import zlib
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrouter._core import EVENT, FINISH, LAST, PROGRESS, REASONING, TEXT, Sink, TextCollector, TokenRing
from fastrouter.errors import ProtocolError, Unavailable

PAGE = os.sysconf("SC_PAGE_SIZE")
PRODUCER = Path(__file__).parent.parent / "support" / "ring_producer.py"


class Recorder(Sink):
    """Keeps every record that the ring delivers."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int, int, bytes]] = []

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        self.records.append((kind, choice, flags, payload))

    def fail(self, error: Exception) -> None:
        raise AssertionError(error)


def pair(capacity: int = 1 << 16, page_bytes: int | None = None) -> tuple[TokenRing, TokenRing]:
    """(consumer, producer)"""
    ring = TokenRing.create(capacity, page_bytes)
    return ring, TokenRing.open(os.dup(ring.memory_fd), os.dup(ring.doorbell_fd), page_bytes)


def is_rung(ring: TokenRing) -> bool:
    return bool(select.select([ring.doorbell_fd], [], [], 0)[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 255), st.binary(max_size=1500)), max_size=60))
def test_records_come_out_as_they_went_in(records: list[tuple[int, int, bytes]]) -> None:
    ring, producer = pair(PAGE)
    sink = Recorder()
    request_id = ring.attach(sink)
    for kind, choice, payload in records:
        while not producer.try_push(request_id, kind, choice, 0, 1, payload):
            assert ring.drain() > 0
    ring.drain()
    assert sink.records == [(kind, choice, 0, payload) for kind, choice, payload in records]
    assert sink.num_tokens == len(records)
    ring.close()
    producer.close()


def test_a_full_ring_says_so_and_goes_on_after_a_drain() -> None:
    ring, producer = pair(PAGE)
    sink = Recorder()
    request_id = ring.attach(sink)
    count = 0
    while producer.try_push(request_id, EVENT, 0, 0, 0, b"x" * 100):
        count += 1
    assert count == PAGE // 128
    assert ring.drain() == count
    assert producer.try_push(request_id, EVENT, 0, 0, 0, b"more")
    with pytest.raises(ValueError, match="never fits"):
        producer.try_push(request_id, EVENT, 0, 0, 0, b"x" * (PAGE // 2))


def test_the_last_record_detaches_before_it_is_delivered() -> None:
    ring, producer = pair()
    seen: list[int] = []

    class Last(Recorder):
        def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
            seen.append(self.request_id)

    sink = Last()
    request_id = ring.attach(sink)
    producer.try_push(request_id, FINISH, 0, LAST, 0, b"{}")
    producer.try_push(request_id, EVENT, 0, 0, 0, b"nobody hears this")
    ring.drain()
    assert seen == [0]
    assert ring.sinks() == []


def test_ids_are_never_zero_and_not_soon_reused() -> None:
    ring, _ = pair()
    seen = set()
    for _ in range(20_000):
        request_id = ring.attach(Recorder())
        assert request_id
        assert request_id not in seen
        seen.add(request_id)
        ring.detach(request_id)
        ring.detach(request_id)


def test_records_of_a_detached_request_are_dropped() -> None:
    ring, producer = pair()
    left, stays = Recorder(), Recorder()
    old, other = ring.attach(left), ring.attach(stays)
    producer.try_push(old, EVENT, 0, 0, 0, b"a")
    ring.detach(old)
    producer.try_push(other, EVENT, 0, 0, 0, b"b")
    assert ring.drain() == 2
    assert (left.records, [payload for *_, payload in stays.records]) == ([], [b"b"])


def test_a_sink_that_raises_is_detached_and_the_others_go_on() -> None:
    ring, producer = pair()
    failed: list[tuple[Sink, BaseException]] = []
    ring.on_sink_error = lambda sink, error: failed.append((sink, error))

    class Broken(Recorder):
        def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
            raise RuntimeError("ours")

    broken, healthy = Broken(), Recorder()
    first, second = ring.attach(broken), ring.attach(healthy)
    for _ in range(2):
        producer.try_push(first, EVENT, 0, 0, 0, b"x")
        producer.try_push(second, EVENT, 0, 0, 0, b"y")
    ring.drain()
    assert [(sink, str(error)) for sink, error in failed] == [(broken, "ours")]
    assert len(healthy.records) == 2
    assert ring.sinks() == [healthy]


def test_one_drain_is_bounded_and_calls_itself_back() -> None:
    ring, producer = pair(PAGE)
    request_id = ring.attach(Feeding(producer))
    producer.try_push(request_id, EVENT, 0, 0, 0, b"first")
    assert ring.drain() <= 2 * PAGE // 32
    assert is_rung(ring)


class Feeding(Recorder):
    """Writes two records for each that it gets: the ring would never be empty."""

    def __init__(self, producer: TokenRing) -> None:
        super().__init__()
        self.producer = producer

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        for _ in range(2):
            self.producer.try_push(self.request_id, EVENT, 0, 0, 0, b"again")


def test_the_doorbell_rings_only_for_a_sleeper() -> None:
    ring, producer = pair()
    request_id = ring.attach(Recorder())
    producer.try_push(request_id, EVENT, 0, 0, 0, b"x")
    producer.ring_doorbell()
    assert is_rung(ring)
    ring.drain()
    assert not is_rung(ring)
    producer.ring_doorbell()
    assert is_rung(ring)  # asleep again since the drain found the ring empty


def test_a_full_counter_is_no_error() -> None:
    ring, producer = pair()
    os.eventfd_write(ring.doorbell_fd, 2**64 - 2)
    producer.ring_doorbell()
    ring.drain()
    assert not is_rung(ring)


def test_a_doorbell_that_does_not_work_is_an_error_on_both_sides() -> None:
    ring, producer = pair()
    with open(os.devnull, "rb") as silent:  # reads end at once, writes are refused
        for end in (ring, producer):
            os.dup2(silent.fileno(), end.doorbell_fd)
    with pytest.raises(ProtocolError, match="doorbell of a ring does not work: Bad file descriptor"):
        producer.ring_doorbell()
    with pytest.raises(ProtocolError, match="doorbell of a ring does not work: Input/output error"):
        ring.drain()


@pytest.mark.parametrize("page_bytes", [PAGE, 4 * PAGE, 16 * PAGE])
def test_the_layout_follows_the_size_of_a_page(page_bytes: int) -> None:
    """As on systems whose pages have 16 or 64 KiB: the control page of a file is as large, and the data begins after it."""
    assert TokenRing.create().page_bytes == PAGE
    ring, producer = pair(page_bytes, page_bytes)
    assert (ring.page_bytes, producer.capacity, os.fstat(ring.memory_fd).st_size) == (page_bytes, page_bytes, 2 * page_bytes)
    sink = Recorder()
    request_id = ring.attach(sink)
    payloads = [bytes([number]) * (page_bytes // 5) for number in range(20)]  # more than four times the capacity
    for payload in payloads:
        assert producer.try_push(request_id, EVENT, 0, 0, 0, payload)
        ring.drain()
    assert [payload for *_, payload in sink.records] == payloads
    with mmap.mmap(ring.memory_fd, 2 * page_bytes) as memory:
        assert memory[page_bytes + 24 : page_bytes + 32] != bytes(8), "a record begins where the data does"
        assert memory[264:page_bytes] == bytes(page_bytes - 264), "nothing is written between the indices and the data"


def test_a_page_that_mmap_does_not_take_is_refused() -> None:
    with pytest.raises(OSError, match="cannot map"):
        TokenRing.create(PAGE, PAGE // 2)


def test_the_memory_cannot_be_truncated_by_the_other_side() -> None:
    _, producer = pair()
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(producer.memory_fd, size)


def test_closing_twice_is_fine_and_closed_rings_are_quiet() -> None:
    before = len(os.listdir("/proc/self/fd"))
    ring, producer = pair()
    for _ in range(2):
        ring.close()
        producer.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert ring.drain() == 0
    with pytest.raises(ValueError, match="closed"):
        producer.try_push(4097, TEXT, 0, 0, 0, b"")


def test_a_forgotten_ring_closes_its_descriptors() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        pair(PAGE)
    assert len(os.listdir("/proc/self/fd")) == before


def test_either_end_may_be_asked_anything() -> None:
    ring, producer = pair()
    for each in (ring, producer, TokenRing()):
        each.detach(4097)
        assert each.sinks() == []
        assert each.attach(Recorder()) > 0
        with pytest.raises(TypeError):
            each.attach(None)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            each.try_push(1, TEXT, 0, 0, 0, None)  # type: ignore[arg-type]
    for capacity in (0, 1, PAGE // 2, PAGE + 8, 3 * PAGE):
        with pytest.raises(ValueError, match="power of two"):
            TokenRing.create(capacity)


def test_too_many_requests_are_refused_until_one_ends() -> None:
    ring, _ = pair()
    ids = [ring.attach(Recorder()) for _ in range(4095)]
    assert len(set(ids)) == 4095
    with pytest.raises(Unavailable):
        ring.attach(Recorder())
    ring.detach(ids[7])
    assert ring.attach(Recorder()) not in ids


HOSTILE = """
import mmap, os, random, sys
sys.path.insert(0, {tests!r})
from test_ring import PAGE, Recorder, pair
from fastrouter.errors import ProtocolError
random.seed({seed})
refused = 0
for round_index in range(400):
    ring, producer = pair(PAGE)
    sink = Recorder()
    request_id = ring.attach(sink)
    memory = mmap.mmap(ring.memory_fd, 2 * PAGE)
    for _ in range(random.randrange(8)):
        producer.try_push(request_id, random.randrange(1, 7), 0, 0, 1, os.urandom(random.randrange(200)))
    for _ in range(random.randrange(1, 6)):
        target = random.choice([0, 64, 128, 192, PAGE, PAGE + random.randrange(512)])
        value = random.choice([0, 1, 7, 8, 2**31, 2**32 - 1, 2**63, 2**64 - 1, PAGE, PAGE + 8, random.getrandbits(64)])
        memory[target:target + 8] = value.to_bytes(8, "little")
        try:
            ring.drain()
        except ProtocolError:
            refused += 1
    memory.close()
    ring.close()
    producer.close()
print(refused)
"""


@pytest.mark.parametrize("seed", range(5))
def test_hostile_memory_is_refused_and_never_crashes_the_reader(seed: int) -> None:
    script = HOSTILE.format(tests=str(Path(__file__).parent), seed=seed)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_impossible_indices_are_named() -> None:
    ring, _ = pair(PAGE)
    with mmap.mmap(ring.memory_fd, 2 * PAGE) as memory:
        memory[128:136] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(ProtocolError, match="impossible"):
        ring.drain()


class Checker(Sink):
    """Records numbered from 0, each with its checksum."""

    def __init__(self) -> None:
        self.count = 0
        self.is_over = False

    def on_record(self, kind: int, choice: int, flags: int, payload: bytes) -> None:
        if kind == FINISH:
            self.is_over = True
            return
        assert int.from_bytes(payload[:8], "little") == self.count
        assert zlib.crc32(payload[12:]) == int.from_bytes(payload[8:12], "little")
        self.count += 1

    def fail(self, error: Exception) -> None:
        raise AssertionError(error)


def start_producer(ring: TokenRing, request_id: int, count: int) -> "subprocess.Popen[bytes]":
    arguments = [str(ring.memory_fd), str(ring.doorbell_fd), str(request_id), str(count)]
    return subprocess.Popen([sys.executable, str(PRODUCER), *arguments], pass_fds=[ring.memory_fd, ring.doorbell_fd])


def test_two_processes_lose_no_record_and_no_wake_up() -> None:
    ring = TokenRing.create(1 << 14)
    errors: list[BaseException] = []
    ring.on_sink_error = lambda sink, error: errors.append(error)
    sink = Checker()
    child = start_producer(ring, ring.attach(sink), 300_000)
    waiter = select.poll()
    waiter.register(ring.doorbell_fd, select.POLLIN)
    while not sink.is_over and not errors:
        assert waiter.poll(20_000), "a wake-up was lost"
        ring.drain()
    assert child.wait(10) == 0
    assert (errors, sink.count) == ([], 300_000)


def test_a_killed_producer_leaves_only_whole_records() -> None:
    for seed in range(6):
        ring = TokenRing.create(1 << 14)
        errors: list[BaseException] = []
        ring.on_sink_error = lambda sink, error, errors=errors: errors.append(error)
        sink = Checker()
        child = start_producer(ring, ring.attach(sink), 10**9)
        waiter = select.poll()
        waiter.register(ring.doorbell_fd, select.POLLIN)
        wanted = random.Random(seed).randrange(1, 5000)
        while sink.count < wanted:
            assert waiter.poll(20_000)
            ring.drain()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        while ring.drain():
            pass
        assert not errors
        ring.close()


# ---------------------------------------------------------------- what another worker would need


def words_of(*numbers: int) -> bytes:
    return array("i", numbers).tobytes()


def test_words_are_kept_for_each_choice_and_never_delivered() -> None:
    ring, producer = pair()
    sink = Recorder()
    request_id = ring.attach(sink)
    assert sink.trail() == []
    for kind, choice, words in (
        (TEXT, 1, (5, -1)),
        (PROGRESS, 0, ()),
        (EVENT, 1, (6,)),
        (TEXT, 0, ()),
        (REASONING, 1, (7, 8)),
        (FINISH, 1, ()),
    ):
        assert producer.try_push(request_id, kind, choice, 0, 1, b"text", words_of(*words))
    ring.drain()
    assert all(payload == b"text" for *_, payload in sink.records)
    assert sink.trail() == [(b"", 1, False), (words_of(5, -1, 6, 7, 8), 3, True)]
    assert sink.trail_ns > 0
    sink.drop_trail()
    assert (sink.trail(), sink.trail_ns) == ([], 0)
    with pytest.raises(ValueError, match="four bytes"):
        producer.try_push(request_id, TEXT, 0, 0, 1, b"", b"abc")


def test_a_record_of_plain_text_takes_four_bytes_more() -> None:
    """A token of up to four bytes takes no more room than before; all records are padded to eight bytes."""
    sizes = []
    for words in (b"", words_of(7)):
        ring, producer = pair()
        request_id, count = ring.attach(Recorder()), 0
        while producer.try_push(request_id, TEXT, 0, 0, 1, b" the", words):
            count += 1
        sizes.append((1 << 16) // count)
    assert sizes == [32, 32]


def test_words_beyond_the_limit_are_dropped() -> None:
    ring, producer = pair(1 << 20)
    sink = Recorder()
    request_id = ring.attach(sink)
    for number in range(3):
        assert producer.try_push(request_id, TEXT, number, 0, 1, b"", words_of(*range(100_000)))
        ring.drain()
        assert (sink.trail() is None) == (number == 2), "262,144 are kept"
    sink.drop_trail()
    assert sink.trail() == []


def test_more_words_than_a_record_has_room_for_are_refused() -> None:
    ring, producer = pair()
    sink = Recorder()
    request_id = ring.attach(sink)
    producer.try_push(request_id, TEXT, 0, 0, 1, b"12345678", words_of(1))
    for num_words in (4, 1 << 30, (1 << 32) - 1):
        with mmap.mmap(ring.memory_fd, 2 * PAGE) as memory:
            memory[PAGE + 20 : PAGE + 24] = num_words.to_bytes(4, "little")
        with pytest.raises(ProtocolError, match="impossible record"):
            ring.drain()
    assert not sink.records


def test_a_sink_is_told_once_that_something_has_come() -> None:
    ring, producer = pair()
    sink, calls = Recorder(), list[int]()
    request_id = ring.attach(sink)
    sink.on_drain = lambda: calls.append(len(sink.records))
    for _ in range(3):
        producer.try_push(request_id, TEXT, 0, 0, 1, b"a")
        producer.try_push(request_id, TEXT, 0, 0, 1, b"b")
        ring.drain()
    assert calls == [2]


def test_a_collector_keeps_text_by_choice() -> None:
    ring, producer = pair()
    sink = TextCollector()
    request_id = ring.attach(sink)
    for choice, text in ((0, b"a"), (1, b"b"), (0, b"c")):
        producer.try_push(request_id, TEXT, choice, 0, 1, text)
    ring.drain()
    assert (sink.text(0), sink.text(1), sink.text(7)) == (b"ac", b"b", b"")
    assert sink.first_text_ns > 0
    assert sink.restart()
    assert (sink.text(0), sink.num_tokens) == (b"", 0)
