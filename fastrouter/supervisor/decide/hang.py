"""When a worker that has work hangs. Pure.

A worker notes two things in shared memory: that its loop turns, and progress: an operation of a graph, a step, a part of a load. While the
notes change, it is not looked at any further. When they do not, its process is looked at, and time counts against it like this:

    stopped by a signal           the time that passes, up to STOPPED_S
    it runs                       the processor time that it gets, so that a busy machine is not its fault; not while it loads
    it sleeps                     the time that passes
    it waits for a disk           nothing
    it is in a debugger           nothing

A worker whose loop turns without progress has the same limit. When the router itself has not run for a while, because it was stopped or
the machine was, all counts begin again.
"""

from dataclasses import dataclass, replace

STOPPED_S = 5.0  # a stopped process does not continue by itself
MAX_GAP_S = 3.0  # between two looks; more means that the router has not run

Life = tuple[int, int]  # notes that (it is alive, it has made progress)


@dataclass(frozen=True, slots=True)
class Look:
    """A process as the system sees it now."""

    state: str  # of its threads together: T stopped, t in a debugger, D waits for a disk, R runs, S sleeps
    cpu_s: float = 0.0  # processor time that it has had
    num_reads: int = 0  # bytes and pages from disks


@dataclass(frozen=True, slots=True)
class Watched:
    """A worker that has work, since it was looked at first."""

    life: Life
    look: Look | None = None  # the last one; None: not needed so far
    stopped_s: float = 0.0
    silent_s: float = 0.0  # no note changes
    stuck_s: float = 0.0  # its loop turns, and that is all


def after(before: Watched, life: Life, passed_s: float) -> Watched | None:
    """What is known without a look at the process. None: that is needed."""
    if passed_s > MAX_GAP_S or life[1] != before.life[1]:
        return Watched(life)
    if life != before.life:
        return Watched(life, stuck_s=before.stuck_s + passed_s)
    return None


def after_look(before: Watched, look: Look | None, passed_s: float, *, is_loading: bool) -> Watched:
    """Nothing was noted meanwhile."""
    if look is None:
        return before
    if look.state == "T":
        return replace(before, look=look, stopped_s=before.stopped_s + passed_s)
    counted_s = _silent_s(before.look, look, passed_s, is_loading)
    return replace(before, look=look, stopped_s=0.0, silent_s=before.silent_s + counted_s)


def _silent_s(before: Look | None, now: Look, passed_s: float, is_loading: bool) -> float:
    if now.state in "Dt" or before is None or now.num_reads != before.num_reads:
        return 0.0
    if now.state == "R":
        return 0.0 if is_loading else min(passed_s, max(0.0, now.cpu_s - before.cpu_s))
    return passed_s


def how_it_hangs(watched: Watched, timeout_s: float) -> str | None:
    """In words; None: it does not."""
    if watched.stopped_s >= min(STOPPED_S, timeout_s):
        return f"it was stopped by a signal for {watched.stopped_s:.0f} s"
    if watched.silent_s >= timeout_s:
        return f"no sign of life for {watched.silent_s:.0f} s (worker-hang-timeout)"
    if watched.stuck_s >= timeout_s:
        return f"no progress for {watched.stuck_s:.0f} s (worker-hang-timeout)"
    return None
