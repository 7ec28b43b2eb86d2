"""Timers on a fake loop; decisions and their performer use no others."""

import re
from pathlib import Path

from fastrouter.simulator.loop import SimulatedLoop
from fastrouter.supervisor.timers import CLOCK_STEP_S, Timers

SUPERVISOR = Path(__file__).parent.parent.parent / "fastrouter" / "supervisor"
PROCESSES = ("fork_server.py", "process.py", "stream.py", "worker_log.py")


def test_timers_of_a_name_replace_each_other() -> None:
    loop, fired = SimulatedLoop(), []
    timers = Timers(loop.time, loop)
    timers.at("x", loop.now + 5, lambda: fired.append("first"))
    timers.at("x", loop.now + 3, lambda: fired.append("second"))
    timers.at("y", loop.now + 3, lambda: fired.append("other"))
    timers.at("y", None, lambda: fired.append("never"))
    loop.advance(3)
    assert not fired, "the event loop may be early by a step of its clock"
    loop.advance(CLOCK_STEP_S)
    assert fired == ["second"]
    timers.at("x", loop.now - 10, lambda: fired.append("late"))
    timers.cancel("z")
    loop.advance(10)
    assert fired == ["second", "late"]
    assert repr(timers) == "<Timers 0 and >"


def test_timers_that_are_many() -> None:
    loop, fired = SimulatedLoop(), []
    timers = Timers(loop.time, loop)
    timers.soon(lambda: fired.append("soon"))
    cancel = timers.after(1, lambda: fired.append("never"))
    timers.after(2, lambda: fired.append("after"))
    assert not fired
    loop.advance()
    cancel()
    loop.advance(2)
    assert fired == ["soon", "after"]
    cancel()


def test_none_fires_after_the_end() -> None:
    loop, fired = SimulatedLoop(), []
    timers = Timers(loop.time, loop)
    timers.after(1, lambda: fired.append("a"))
    timers.at("x", loop.now + 1, lambda: fired.append("b"))
    timers.soon(lambda: fired.append("soon"))
    timers.close()
    timers.after(1, lambda: fired.append("c"))
    timers.at("x", loop.now + 1, lambda: fired.append("d"))
    loop.advance(10)
    assert not fired


def test_until() -> None:
    loop, done = SimulatedLoop(), []
    timers = Timers(loop.time, loop)
    by_itself, too_late = (loop.create_task(timers.until(lambda: bool(done), timeout_s)) for timeout_s in (10, 1))
    given_up = loop.create_task(timers.until(lambda: False, 10))
    loop.advance(1.1)
    assert (by_itself.done(), too_late.done()) == (False, True)
    done.append(1)
    given_up.cancel()
    loop.advance(0.1)
    assert by_itself.done()
    assert given_up.cancelled()


def test_there_is_no_other_clock() -> None:
    other = re.compile(r"^import time|call_later|call_soon|asyncio\.sleep", re.M)
    users = [path.name for path in SUPERVISOR.rglob("*.py") if other.search(path.read_text())]
    assert sorted(users) == sorted([*PROCESSES, "timers.py"])
