"""A model of the ring's protocol, and an explorer of all its interleavings.

Two processes take the steps of core/ring.pxi, one shared access at a time. Each has a store buffer as a processor has: a store waits
there until it reaches memory, in any order that the step allows (a release store goes after all earlier ones; a fence waits for all). The
producer may die before each step; what is in its buffer reaches memory. Loads happen in the order of the program.

`STEPS` quotes the line of ring.pxi that each step stands for, so a change there makes test_ring_model.py fail until the model follows.
`BUGS` are mistakes that can be switched on, to show that the explorer finds them.

What must be true: the router reads exactly what was written, in order, each record once; a worker that has died leaves all that it
published; from every state without a death, everything can still arrive (otherwise a wake-up was lost); nobody rings an awake router.
"""

from collections.abc import Iterator
from typing import NamedTuple

CAPACITY = 4  # units; ring.pxi: bytes
SIZES = (2, 1, 2, 1)  # of the records, in units: together more than the capacity, so the ring is full once and wraps
MAX_UNITS = 2  # that one drain takes, so that it calls itself back

# step -> (function in ring.pxi, its line)
STEPS = {
    "producer: look at tail": ("try_push", "self._tail = fr_load(self._control, TAIL)"),
    "producer: write": ("try_push", "memcpy(<char *>record + HEADER_BYTES, PyBytes_AS_STRING(payload), size)"),
    "producer: publish": ("try_push", "fr_store(self._control, HEAD, self._head)"),
    "producer: fence": ("fr_take_asleep", "__atomic_thread_fence(__ATOMIC_SEQ_CST);"),
    "producer: look at asleep": ("fr_take_asleep", "if (!__atomic_load_n((uint32_t *)(control + FR_ASLEEP), __ATOMIC_RELAXED)) return 0;"),
    "producer: take asleep": ("fr_take_asleep", "return __atomic_exchange_n((uint32_t *)(control + FR_ASLEEP), 0, __ATOMIC_SEQ_CST) != 0;"),
    "producer: ring_doorbell": ("ring_doorbell", "if self._control != NULL and fr_take_asleep(self._control):"),
    "producer: ring": ("ring_doorbell", "self._check_doorbell(fr_signal(self.doorbell_fd))"),
    "consumer: clear doorbell": ("drain", "self._check_doorbell(fr_clear(self.doorbell_fd))"),
    "consumer: wake": ("drain", "fr_set_asleep(self._control, 0)"),
    "consumer: look at head": ("drain", "head = fr_load(self._control, HEAD)"),
    "consumer: sleep": ("drain", "fr_set_asleep(self._control, 1)"),
    "consumer: store asleep": ("fr_set_asleep", "__atomic_store_n((uint32_t *)(control + FR_ASLEEP), value, __ATOMIC_SEQ_CST);"),
    "consumer: fence": ("fr_set_asleep", "__atomic_thread_fence(__ATOMIC_SEQ_CST);"),
    "consumer: look again": ("drain", "if fr_load(self._control, HEAD) == self._tail:"),
    "consumer: call itself back": (
        "drain",
        "self._check_doorbell(fr_signal(self.doorbell_fd))  # continue after the other events of the loop",
    ),
    "consumer: read": ("_deliver", "memcpy(&record, at, HEADER_BYTES)"),
    "consumer: free": ("_deliver", "fr_store(self._control, TAIL, self._tail)"),
    "consumer: cancel": ("cancel", "fr_store(self._control, CANCELLED, request_id)"),
    "producer: watch": ("fr_watch_for", "__atomic_store_n(&watch->watched, id, __ATOMIC_RELAXED);"),
    "producer: what is watched": ("fr_is_cancelled", "uint64_t watched = __atomic_load_n(&asked->watched, __ATOMIC_RELAXED);"),
    "producer: is cancelled": ("fr_is_cancelled", "return watched && __atomic_load_n(asked->cancelled, __ATOMIC_RELAXED) == watched;"),
}

BUGS = {
    "publish before write": "the head is stored before the record",
    "relaxed publish": "the head is not a release store, so it may be seen before the record",
    "no fence of the producer": "it looks at asleep while its head is still in the store buffer",
    "no fence of the consumer": "it looks again while asleep is still in the store buffer",
    "no second look": "the consumer sleeps without looking again",
    "late clear": "the doorbell is cleared at the end of a drain, not at its beginning",
    "early free": "the tail is stored before the record is read",
    "room for one more": "the check of the room is off by one",
    "no check of the room": "the producer writes without looking at the tail",
    "ring before publish": "the doorbell is rung before the head is stored",
    "asleep stays": "the producer does not take asleep away, and rings again and again",
    "no call back": "a drain that ends early does not ring for itself",
    "half a record": "the head is stored before the second half of the record",
    "no last drain": "the router closes the ring of a dead worker without a last drain",
}
CANCEL_BUGS = {
    "cancel anything": "a decode stops for the cancel of any request",
    "watch nothing": "a decode without a watched request compares 0 with 0, and stops",
    "late watch": "the watch of the last request is still there in the next decode",
}

HEAD, TAIL, ASLEEP, SLOTS = 0, 1, 2, 3  # addresses; slots follow
Store = tuple[int, object, bool]  # address, value, whether it is a release store
Buffer = tuple[Store, ...]


class State(NamedTuple):
    memory: tuple[object, ...] = (0, 0, 1, *[None] * CAPACITY)
    bell: int = 0
    sleeps: int = 1  # for which nobody has rung; more than 2 count as 2
    # producer
    at: str = "room"  # "over", "dead"
    record: int = 0
    unit: int = 0
    head: int = 0
    seen_tail: int = 0
    buffer: Buffer = ()
    # consumer
    doing: str = "wait"  # "done": the router knows of the death, and has drained
    tail: int = 0
    waiting: int = 0
    read: int = 0  # units of the record that is being read
    taken: int = 0  # units in this drain
    num_read: int = 0  # records
    consumer_buffer: Buffer = ()
    is_last: bool = False  # this drain follows the death


class Broken(Exception):
    """A property does not hold; `path` are the steps that lead there."""

    def __init__(self, why: str, path: list[str]) -> None:
        super().__init__(why)
        self.path = path


class _Wrong(Exception):
    pass


def _load(memory: tuple[object, ...], buffer: Buffer, address: int) -> object:
    """A process sees its own stores before they are in memory."""
    return next((value for at, value, _ in reversed(buffer) if at == address), memory[address])


def _flushes(memory: tuple[object, ...], buffer: Buffer) -> Iterator[tuple[tuple[object, ...], Buffer]]:
    """What may reach memory next."""
    for index, (address, value, is_release) in enumerate(buffer):
        if (is_release and index) or any(at == address for at, _, _ in buffer[:index]):
            continue
        yield (*memory[:address], value, *memory[address + 1 :]), buffer[:index] + buffer[index + 1 :]


def successors(state: State, bug: str, can_die: bool) -> Iterator[tuple[str, State]]:
    """All steps that can be next. Raises _Wrong."""
    for memory, buffer in _flushes(state.memory, state.buffer):
        yield "producer: a store reaches memory", state._replace(memory=memory, buffer=buffer)
    for memory, buffer in _flushes(state.memory, state.consumer_buffer):
        yield "consumer: a store reaches memory", state._replace(memory=memory, consumer_buffer=buffer)
    if state.at not in ("over", "dead"):
        yield from _produce(state, bug)
        if can_die:
            yield "producer: dies", state._replace(at="dead")
    yield from _consume(state, bug)


# ---------------------------------------------------------------- producer


def _produce(state: State, bug: str) -> Iterator[tuple[str, State]]:
    match state.at:
        case "room":
            yield "producer: look at room", state._replace(at="write" if _has_room(state, bug) else "tail")
        case "tail":
            seen = state._replace(seen_tail=_load(state.memory, state.buffer, TAIL))  # type: ignore[arg-type]
            yield "producer: look at tail", seen._replace(at="write" if _has_room(seen, bug) else "fence")
        case "write":
            yield from _write(state, bug)
        case "publish":
            published = _publish(state, bug)
            yield "producer: publish", published._replace(at=_next(published, bug) if bug == "ring before publish" else "ring or push")
        case "ring or push":  # one doorbell for several records
            has_more = state.record < len(SIZES)
            if has_more:
                yield "producer: push the next one first", state._replace(at="room")
            yield "producer: ring_doorbell", state._replace(at="fence")
        case "fence":
            if bug == "no fence of the producer" or not state.buffer:
                yield "producer: fence", state._replace(at="look")
        case "look":
            is_asleep = _load(state.memory, state.buffer, ASLEEP)
            yield "producer: look at asleep", state._replace(at="take" if is_asleep else _next(state, bug))
        case "take":
            if bug == "asleep stays":
                yield "producer: take asleep", state._replace(at="ring")
            elif not state.buffer:
                was_asleep = state.memory[ASLEEP]
                memory = (*state.memory[:ASLEEP], 0, *state.memory[ASLEEP + 1 :])
                yield "producer: take asleep", state._replace(memory=memory, at="ring" if was_asleep else _next(state, bug))
        case "ring":
            if not state.buffer:  # a system call
                if not state.sleeps:
                    raise _Wrong("the doorbell was rung twice for one sleep")
                yield "producer: ring", state._replace(bell=1, sleeps=state.sleeps - 1, at=_next(state, bug))


def _has_room(state: State, bug: str) -> bool:
    if bug == "no check of the room":
        return True
    return state.head + SIZES[state.record] - state.seen_tail <= CAPACITY + (bug == "room for one more")


def _next(state: State, bug: str) -> str:
    """After the doorbell."""
    if bug == "ring before publish" and state.unit:
        return "publish"
    return "room" if state.record < len(SIZES) else "over"


def _write(state: State, bug: str) -> Iterator[tuple[str, State]]:
    size = SIZES[state.record]
    if bug == "publish before write" and not state.unit:
        state = state._replace(buffer=(*state.buffer, (HEAD, state.head + size, True)))
    if bug == "half a record" and state.unit == size - 1:
        state = state._replace(buffer=(*state.buffer, (HEAD, state.head + size, True)))
    address = SLOTS + (state.head + state.unit) % CAPACITY
    written = state._replace(buffer=(*state.buffer, (address, (state.record, state.unit), False)), unit=state.unit + 1)
    after = "fence" if bug == "ring before publish" else "publish"
    yield "producer: write", written._replace(at=after if written.unit == size else "write")


def _publish(state: State, bug: str) -> State:
    head = state.head + SIZES[state.record]
    stored = () if bug in ("publish before write", "half a record") else ((HEAD, head, bug != "relaxed publish"),)
    return state._replace(head=head, record=state.record + 1, unit=0, buffer=(*state.buffer, *stored))


# ---------------------------------------------------------------- consumer


def _consume(state: State, bug: str) -> Iterator[tuple[str, State]]:
    memory, buffer = state.memory, state.consumer_buffer
    match state.doing:
        case "wait":
            if state.bell:
                yield "consumer: the event loop sees the doorbell", state._replace(doing="clear")
            if state.at == "dead" and not state.buffer:
                seen = "done" if bug == "no last drain" else "clear"
                yield "consumer: the event loop sees the death", state._replace(doing=seen, is_last=True)
        case "clear":
            cleared = state if bug == "late clear" else state._replace(bell=0)
            yield "consumer: clear doorbell", cleared._replace(doing="wake", taken=0)
        case "wake":
            yield "consumer: store asleep", state._replace(consumer_buffer=(*buffer, (ASLEEP, 0, False)), doing="wake fence")
        case "wake fence":
            if not buffer:
                yield "consumer: fence", state._replace(doing="head")
        case "head":
            yield "consumer: look at head", _seen_head(state, bug)
        case "sleep":
            sleeps = min(state.sleeps + 1, 2)
            yield (
                "consumer: store asleep",
                state._replace(consumer_buffer=(*buffer, (ASLEEP, 1, False)), doing="sleep fence", sleeps=sleeps),
            )
        case "sleep fence":
            if bug == "no fence of the consumer" or not buffer:
                yield "consumer: fence", state._replace(doing="end" if bug == "no second look" else "again")
        case "again":
            is_empty = _load(memory, buffer, HEAD) == state.tail
            yield "consumer: look again", state._replace(doing="end" if is_empty else "wake")
        case "back":
            if not buffer:
                yield "consumer: call itself back", state._replace(bell=state.bell if bug == "no call back" else 1, doing="end")
        case "early free":
            freed = state.tail + state.waiting
            yield "consumer: free", state._replace(consumer_buffer=(*buffer, (TAIL, freed, True)), doing="read")
        case "read":
            yield "consumer: read", _read(state, bug)
        case "free":
            stored = () if bug == "early free" else ((TAIL, state.tail, True),)
            yield "consumer: free", state._replace(consumer_buffer=(*buffer, *stored), doing="head")
        case "end":
            ended = state._replace(bell=0) if bug == "late clear" else state
            yield "consumer: drain ends", ended._replace(doing="done" if state.is_last else "wait")


def _seen_head(state: State, bug: str) -> State:
    waiting = _load(state.memory, state.consumer_buffer, HEAD) - state.tail  # type: ignore[operator]
    if waiting > CAPACITY:
        raise _Wrong("impossible indices")
    if not waiting:
        return state._replace(doing="sleep")
    if state.taken >= MAX_UNITS:
        return state._replace(doing="back")
    return state._replace(waiting=waiting, taken=state.taken + waiting, doing="early free" if bug == "early free" else "read")


def _read(state: State, bug: str) -> State:
    found = _load(state.memory, state.consumer_buffer, SLOTS + state.tail % CAPACITY)
    if found != (state.num_read, state.read):
        raise _Wrong(f"the consumer reads {found}, not {(state.num_read, state.read)}")
    waiting, is_whole = state.waiting - 1, state.read + 1 == SIZES[state.num_read]
    num_read, read = (state.num_read + 1, 0) if is_whole else (state.num_read, state.read + 1)
    return state._replace(tail=state.tail + 1, waiting=waiting, num_read=num_read, read=read, doing="read" if waiting else "free")


# ---------------------------------------------------------------- all interleavings


def explore(bug: str = "", *, can_die: bool = True) -> int:
    """Goes through all states. Returns how many there are. Raises Broken."""
    first = State()
    came_from: dict[State, tuple[str, State] | None] = {first: None}
    before: dict[State, list[State]] = {}
    todo, arrived = [first], []
    for state in todo:  # grows meanwhile
        try:
            for step, following in successors(state, bug, can_die):
                before.setdefault(following, []).append(state)
                if following not in came_from:
                    came_from[following] = step, state
                    todo.append(following)
        except _Wrong as wrong:
            raise Broken(str(wrong), _path(came_from, state)) from None
        if state.doing == "done":
            _check_end(state, came_from)
        if state.doing in ("wait", "done") and (state.doing == "done" or state.num_read == len(SIZES)):
            arrived.append(state)
    reaching = set(arrived)
    for state in arrived:  # grows meanwhile
        for earlier in before.get(state, ()):
            if earlier not in reaching:
                reaching.add(earlier)
                arrived.append(earlier)
    for state in todo:
        if state not in reaching:
            raise Broken("something never arrives: a wake-up was lost", _path(came_from, state))
    return len(todo)


def _check_end(state: State, came_from: dict[State, tuple[str, State] | None]) -> None:
    if state.memory[HEAD] != state.tail or state.read:
        raise Broken("a dead worker's records were not all read", _path(came_from, state))


def _path(came_from: dict[State, tuple[str, State] | None], state: State) -> list[str]:
    steps = []
    while (earlier := came_from[state]) is not None:
        step, state = earlier
        steps.append(step)
    return steps[::-1]


# ---------------------------------------------------------------- cancelled requests


class Cancel(NamedTuple):
    """Requests 1 and 2 are decoded one after the other; the router may cancel each, at any time, in this order."""

    cancelled: int = 0  # in memory
    pending: tuple[int, ...] = ()  # stores of the router that are not in memory yet
    asked: tuple[int, ...] = ()
    watched: int = 1
    decoding: int = 1  # the request of this decode; 0: a decode for several requests, which must not stop
    round: int = 0


_ROUNDS = (1, 0, 2, 0)


def explore_cancels(bug: str = "") -> int:
    """Returns the number of states. Raises Broken when a decode stops for a request that is not its own, or was not cancelled."""
    todo = [Cancel()]
    seen = set(todo)
    for state in todo:  # grows meanwhile
        for following in _cancel_steps(state, bug):
            if following not in seen:
                seen.add(following)
                todo.append(following)
    stops = {state.decoding for state in todo if state.decoding and _is_cancelled(state, bug)}
    if stops != {1, 2}:
        raise Broken(f"cancels are seen only for {stops}", [])
    return len(todo)


def _is_cancelled(state: Cancel, bug: str) -> bool:
    if bug == "cancel anything":
        return bool(state.watched and state.cancelled)
    if bug == "watch nothing":
        return state.cancelled == state.watched
    return bool(state.watched and state.cancelled == state.watched)


def _cancel_steps(state: Cancel, bug: str) -> Iterator[Cancel]:
    for request_id in (1, 2):
        if request_id not in state.asked:
            yield state._replace(asked=(*state.asked, request_id), pending=(*state.pending, request_id))
    if state.pending:
        yield state._replace(cancelled=state.pending[0], pending=state.pending[1:])
    if state.round < len(_ROUNDS):
        current = _ROUNDS[state.round]
        is_stopped = _is_cancelled(state, bug)
        if is_stopped and (not current or current not in state.asked):
            raise Broken(f"the decode of {current or 'several requests'} stops for another request", [])
        following = _ROUNDS[state.round + 1] if state.round + 1 < len(_ROUNDS) else 0
        keeps = bug == "late watch" and not following
        yield state._replace(round=state.round + 1, decoding=following, watched=state.watched if keeps else following)
