"""Descriptors beside the wire: in any order, missing, never taken, too many."""

import os
from collections.abc import Iterator

import pytest
from waiting import descriptors

from fastrouter.errors import ProtocolError
from fastrouter.ipc import descriptors as descriptors_module
from fastrouter.ipc.descriptors import Descriptors, descriptor_pair

Pair = tuple[Descriptors, Descriptors]


@pytest.fixture
def pair() -> Iterator[Pair]:
    before = descriptors()
    ours, theirs = descriptor_pair()
    ends = Descriptors(ours), Descriptors(theirs)
    yield ends
    for end in ends:
        end.close()
        end.close()
    assert descriptors() == before


def send_file(end: Descriptors, number: int, content: bytes) -> None:
    fd = os.memfd_create("test")
    os.write(fd, content)
    assert end.send(number, fd)
    os.close(fd)


def content_of(fd: int) -> bytes:
    try:
        return os.pread(fd, 100, 0)
    finally:
        os.close(fd)


def test_they_are_taken_by_number(pair: Pair) -> None:
    for number in (7, 1 << 52, 9):
        send_file(pair[0], number, b"%d" % number)
    send_file(pair[1], 7, b"the other way")
    assert [content_of(pair[1].take(number)) for number in (9, 7, 1 << 52)] == [b"9", b"7", b"%d" % (1 << 52)]
    assert content_of(pair[0].take(7)) == b"the other way"
    fd = pair[1].take(send_and_number(pair[0], 3))
    assert not os.get_inheritable(fd)
    os.close(fd)


def send_and_number(end: Descriptors, number: int) -> int:
    send_file(end, number, b"")
    return number


def test_what_was_not_sent_cannot_be_taken(pair: Pair) -> None:
    send_file(pair[0], 1, b"")
    with pytest.raises(ProtocolError, match="descriptor 2 was not sent"):
        pair[1].take(2)
    os.close(pair[1].take(1))
    with pytest.raises(ProtocolError):
        pair[1].take(1)


def test_what_nobody_takes_is_closed_at_the_end(pair: Pair) -> None:
    for number in (1, 2):
        send_file(pair[0], number, b"%d" % number)
    with pytest.raises(ProtocolError):
        pair[1].take(3)


def test_a_full_socket_and_a_closed_one_refuse(pair: Pair) -> None:
    fd = os.memfd_create("test")
    num_sent = 0
    while pair[0].send(num_sent, fd):
        num_sent += 1
        assert num_sent < 100_000
    assert num_sent > 16
    pair[1].close()
    assert not pair[0].send(1, fd)
    os.close(fd)


def test_too_many_that_are_not_named(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors_module, "MAX_UNTAKEN", 3)
    for number in range(5):
        send_file(pair[0], number, b"%d" % number)
    assert content_of(pair[1].take(2)) == b"2"
    with pytest.raises(ProtocolError, match="too many"):
        pair[1].take(4)


def test_packets_of_another_kind_are_ignored() -> None:
    ours, theirs = descriptor_pair()
    end = Descriptors(theirs)
    ours.send(b"no descriptor")
    ours.send(b"12345678")
    good = Descriptors(ours)
    send_file(good, 4, b"good")
    assert content_of(end.take(4)) == b"good"
    good.close()
    end.close()
