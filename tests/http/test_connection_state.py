"""How a connection ends: the table of states, and that connections follow it."""

from itertools import product

import pytest
from raw_http import only_connection, read_answer, request, run, serving, sweep, until

from fastrouter.http.connection import HEAD_SWEEPS, LINGER_SWEEPS, Connection
from fastrouter.http.connection_state import TRANSITIONS, State, Wait, check

OPEN, REFUSING, LINGERING, CUT, LOST = State.OPEN, State.REFUSING, State.LINGERING, State.CUT, State.LOST
ALLOWED = {(OPEN, REFUSING), (OPEN, LINGERING), (OPEN, CUT), (REFUSING, LINGERING), (REFUSING, CUT)} | {
    (state, LOST) for state in State if state is not LOST
}


@pytest.mark.parametrize(("old", "new"), list(product(State, State)))
def test_only_what_the_table_allows(old: State, new: State) -> None:
    if (old, new) in ALLOWED:
        check(old, new)
    else:
        with pytest.raises(AssertionError, match=f"from {old.value} to {new.value}"):
            check(old, new)


def test_there_is_no_way_back() -> None:
    order = list(State)
    assert all(order.index(new) > order.index(old) for old, after in TRANSITIONS.items() for new in after)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """The states that connections of this test enter."""
    entered: list[State] = []
    advance = Connection._advance

    def noted(self: Connection, state: State) -> None:
        advance(self, state)
        entered.append(state)

    monkeypatch.setattr(Connection, "_advance", noted)
    return entered


def test_a_refusal_comes_after_what_came_before(steps: list[State]) -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/slow") + b"\x16 this is TLS")
            connection = await only_connection(site)
            await until(lambda: connection.state is REFUSING)
            assert connection.exchange is not None
            sweep(site, HEAD_SWEEPS + 5)  # an answer may take its time
            assert [(await read_answer(reader))[0] for _ in range(2)] == [200, 400]
            assert connection.state is LINGERING
            writer.write(b"\x16 still TLS")
            sweep(site, LINGER_SWEEPS + 1)
            await until(lambda: connection.state is LOST)
            writer.close()
        assert steps == [REFUSING, LINGERING, LOST]

    run(scenario())


@pytest.mark.parametrize(("data", "last"), [(b"", []), (b"\x16 this is TLS", [REFUSING])], ids=["alone", "before a refusal"])
def test_a_cut_answer_is_the_last(steps: list[State], data: bytes, last: list[State]) -> None:
    async def scenario() -> None:
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(request("/stream") + data)
            await until(lambda: site.streams)
            connection = await only_connection(site)
            await until(lambda: not last or connection.state is REFUSING)
            site.streams[0].fail(ValueError("too bad"))
            assert connection.state is CUT
            connection.refuse(408, "comes too late")
            assert (await reader.read()).endswith(b"data: error\n\n\r\n")
            writer.close()
        assert steps == [*last, CUT, LOST]

    run(scenario())


@pytest.mark.parametrize(
    ("data", "wait"),
    [
        (b"", Wait.REQUEST),
        (b"GET / HT", Wait.HEAD),
        (request("/echo", "POST", b"hello")[:-2], Wait.BODY),
        (request("/never"), Wait.ANSWER),
        (b"\x16 this is TLS", Wait.GOODBYE),
    ],
    ids=lambda value: value.name if isinstance(value, Wait) else "",
)
def test_what_a_connection_waits_for(data: bytes, wait: Wait) -> None:
    async def scenario() -> None:
        async with serving() as site:
            _, writer = await site.connect()
            writer.write(data)
            connection = await only_connection(site)
            await until(lambda: connection._wait() is wait)
            sweep(site, HEAD_SWEEPS - 5)
            if wait is Wait.GOODBYE:
                await until(lambda: connection.state is LOST)
            else:
                assert connection.state is OPEN
            sweep(site, 20)
            if wait is Wait.ANSWER:
                assert connection.state is OPEN
            elif wait in (Wait.HEAD, Wait.BODY):
                assert connection.state is LINGERING
            else:
                await until(lambda: connection.state is LOST)
            writer.close()

    run(scenario())
