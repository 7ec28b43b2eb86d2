"""The scheduler: which rows go into the next batch. Real sequences and slots, no model."""

from array import array
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fastrouter.ipc.messages import Generate
from fastrouter.worker.kv.checkpoints import MIN_PROMPT, NUM_LAST
from fastrouter.worker.kv.slots import AdapterSet, Slot
from fastrouter.worker.prefill_speed import MIN_ROWS, PAUSE_NS, PrefillSpeed
from fastrouter.worker.schedule.scheduler import BatchLimits, Step, schedule, shares
from fastrouter.worker.sequence import GenerateRequest, Running, Sequence
from fastrouter.worker.text.prompts import ReadPrompt

ADAPTERS: tuple[AdapterSet, ...] = ((), ((0, 1.0),), ((0, 0.5), (1, 1.0)))
MOST_SLOTS = 8
NOTHING: Any = SimpleNamespace()  # a sampler, a detokenizer


def running(slot_id: int, num_prompt: int, num_held: int, adapters: AdapterSet = (), request_id: int | None = None) -> Running:
    request_id = slot_id if request_id is None else request_id
    request = GenerateRequest(request_id, Generate(prompt=[]), ReadPrompt(array("i", range(num_prompt))), adapters)
    slot = Slot(slot_id)
    slot.tokens.extend(request.prompt[:num_held])
    return Running(Sequence(request, 0, NOTHING, NOTHING, 10), slot)


class House:
    """Sequences in slots, and what happens to them when a step is decoded."""

    def __init__(self, decoding: list[Running], prefilling: list[Running], limits: BatchLimits, speed: PrefillSpeed) -> None:
        self.decoding, self.prefilling, self.limits, self.speed = decoding, prefilling, limits, speed

    def schedule(self, turn: AdapterSet | None = None) -> Step:
        return schedule(self.decoding, self.prefilling, self.limits, self.speed, turn)

    def decode(self, step: Step) -> None:
        for piece in step.pieces:
            running_ = piece.running
            assert len(running_.slot.tokens) == piece.start
            running_.slot.tokens.extend(running_.sequence.prefix[piece.start : piece.end])
            if not running_.num_unread:
                self.prefilling.remove(running_)
                self.decoding = sorted([*self.decoding, running_], key=lambda one: one.slot.id)


@st.composite
def houses(draw: st.DrawFn) -> House:
    """Any order of ages over the slots; a batch has a row for each slot, as Context sees to."""
    slot_ids = draw(st.permutations(range(MOST_SLOTS)))[: draw(st.integers(0, MOST_SLOTS))]
    num_decoding = draw(st.integers(0, len(slot_ids)))
    adapters = st.sampled_from(ADAPTERS)
    decoding = [running(slot_id, 20, 20, draw(adapters)) for slot_id in sorted(slot_ids[:num_decoding])]
    lengths = st.integers(1, 30) | st.integers(MIN_PROMPT - 2, MIN_PROMPT + 70) | st.integers(400, 900)
    prefilling = []
    for slot_id in slot_ids[num_decoding:]:
        length = draw(lengths)
        prefilling.append(running(slot_id, length, draw(st.integers(0, length - 1)), draw(adapters)))
    speed = PrefillSpeed()
    speed.prefill_ns = draw(st.sampled_from((0.0, 1e3, PAUSE_NS / 50, PAUSE_NS / 3, 1e12)))
    num_rows = draw(st.integers(MOST_SLOTS, 64) | st.sampled_from((128, 512, 2048)))
    return House(decoding, prefilling, BatchLimits(num_rows, draw(st.booleans()), draw(st.booleans())), speed)


turns = st.sampled_from((None, *ADAPTERS))


def of_turn(group: list[Running], turn: AdapterSet | None) -> list[Running]:
    return [one for one in group if turn is None or one.sequence.request.adapters == turn]


# ---------------------------------------------------------------- one step


@given(houses(), turns)
def test_all_that_decode_are_in_the_step_by_slot(house: House, turn: AdapterSet | None) -> None:
    step = house.schedule(turn)
    assert list(step.decoding) == of_turn(house.decoding, turn)
    ids = [one.slot.id for one in step.decoding]
    assert ids == sorted(ids)


@given(houses(), turns)
def test_never_more_rows_than_the_batch_has(house: House, turn: AdapterSet | None) -> None:
    step = house.schedule(turn)
    assert len(step.decoding) + step.num_prompt_tokens <= house.limits.num_rows
    assert len(step.decoding) + step.num_prompt_tokens + step.num_free_rows <= house.limits.num_rows


@given(houses(), turns)
def test_pieces_are_what_comes_next_of_each_prompt_oldest_first(house: House, turn: AdapterSet | None) -> None:
    step, mine = house.schedule(turn), of_turn(house.prefilling, turn)
    assert [piece.running for piece in step.pieces] == [one for one in mine if one in [piece.running for piece in step.pieces]]
    for piece in step.pieces:
        assert piece.start == len(piece.running.slot.tokens) < piece.end <= len(piece.running.sequence.prefix)
        assert piece.is_last == (piece.running.num_unread == piece.end - piece.start)
    assert not mine or step.pieces[0].running is mine[0], "the oldest always gets on"


@given(houses(), turns)
def test_guesses_only_where_all_rows_fit_together(house: House, turn: AdapterSet | None) -> None:
    step, mine = house.schedule(turn), of_turn(house.prefilling, turn)
    num_unread = sum(one.num_unread for one in mine)
    if mine and not house.limits.can_guess_beside_prompts:
        assert not step.num_free_rows
    else:
        assert step.num_free_rows == max(0, house.limits.num_rows - len(step.decoding) - num_unread)


@given(houses(), turns)
def test_no_row_stays_empty_that_a_prompt_may_have(house: House, turn: AdapterSet | None) -> None:
    house.limits = replace(house.limits, has_checkpoints=False)  # a piece that ends at one may leave rows
    step, mine = house.schedule(turn), of_turn(house.prefilling, turn)
    room = house.speed.num_rows(len(step.decoding), house.limits.num_rows) - len(step.decoding)
    assert step.num_prompt_tokens == min(room, sum(one.num_unread for one in mine))


@given(houses(), turns)
def test_it_changes_nothing_and_says_the_same_again(house: House, turn: AdapterSet | None) -> None:
    before = [(one.sequence, one.slot, len(one.slot.tokens)) for one in house.decoding + house.prefilling]
    assert house.schedule(turn) == house.schedule(turn)
    assert [(one.sequence, one.slot, len(one.slot.tokens)) for one in house.decoding + house.prefilling] == before


# ---------------------------------------------------------------- step after step


@given(houses())
def test_no_row_is_lost_and_every_prompt_is_done_in_the_end(house: House) -> None:
    everyone = {one.slot.id: one for one in house.decoding + house.prefilling}
    num_unread = sum(one.num_unread for one in house.prefilling)
    num_steps = 0
    while house.prefilling:
        house.decode(house.schedule())
        num_steps += 1
        assert num_steps <= num_unread
    assert {one.slot.id: one for one in house.decoding} == everyone
    assert all(one.slot.tokens == one.sequence.prefix for one in house.decoding)
    assert {one.slot.id for one in house.schedule().decoding} == set(everyone)


@given(houses())
def test_whatever_the_turns_are_every_prompt_is_done_when_its_own_come(house: House) -> None:
    num_steps = 0
    while house.prefilling:
        for turn in ADAPTERS:
            step = house.schedule(turn)
            assert all(one.sequence.request.adapters == turn for one in step.running)
            house.decode(step)
        num_steps += 1
        assert num_steps <= 10_000


@given(houses())
def test_a_prompt_stops_where_its_last_checkpoint_is_taken(house: House) -> None:
    """Unless it is short, or begins after that place."""
    house.limits = BatchLimits(house.limits.num_rows, has_checkpoints=True)
    due = {one.slot.id for one in house.prefilling if len(one.sequence.prefix) >= MIN_PROMPT and one.num_unread > NUM_LAST}
    ends: dict[int, list[int]] = {}
    while house.prefilling:
        step = house.schedule()
        for piece in step.pieces:
            ends.setdefault(piece.running.slot.id, []).append(len(piece.running.sequence.prefix) - piece.end)
        house.decode(step)
    assert {slot_id for slot_id, lefts in ends.items() if NUM_LAST in lefts} >= due


# ---------------------------------------------------------------- examples


def limits(num_rows: int = 512, **more: bool) -> BatchLimits:
    return BatchLimits(num_rows, **more)


def takes(step: Step) -> list[int]:
    return [piece.end - piece.start for piece in step.pieces]


def test_examples() -> None:
    stream, long, short = running(3, 5, 5), running(1, 5000, 0), running(2, 10, 0)
    assert schedule([], [], limits(), PrefillSpeed()) == Step((), (), 512)
    assert schedule([stream], [], limits(), PrefillSpeed()) == Step((stream,), (), 511)
    assert takes(schedule([], [long, short], limits(), PrefillSpeed())) == [502, 10]
    assert takes(schedule([stream], [long], limits(), PrefillSpeed())) == [MIN_ROWS], "nobody knows yet how long a prompt takes"
    step = schedule([stream], [short], limits(), PrefillSpeed())
    assert (step.decoding, takes(step), step.num_free_rows) == ((stream,), [10], 501)
    assert schedule([stream], [short], limits(can_guess_beside_prompts=False), PrefillSpeed()).num_free_rows == 0
    assert schedule([stream], [long], limits(), PrefillSpeed()).num_free_rows == 0, "no guess takes a row from a prompt"


def test_only_a_prompt_that_has_the_step_for_itself_may_end_it() -> None:
    def lone(decoding: list[Running], prefilling: list[Running]) -> int:
        return schedule(decoding, prefilling, limits(), PrefillSpeed()).lone_request_id

    one, sibling = running(1, 50, 0, request_id=7), running(2, 50, 0, request_id=7)
    other, stream = running(3, 50, 0, request_id=8), running(4, 5, 5)
    assert lone([], [one]) == lone([], [one, sibling]) == 7
    assert lone([], [one, other]) == lone([stream], [one]) == lone([stream], []) == 0


# ---------------------------------------------------------------- shares of the room

counts = st.lists(st.integers(1, 5000), min_size=1, max_size=20)


@given(st.integers(0, 2048), counts)
def test_shares_fill_the_room(room: int, unread: list[int]) -> None:
    found = shares(room, unread)
    assert len(found) == len(unread)
    assert all(0 <= take <= count for take, count in zip(found, unread, strict=True))
    assert sum(found) == min(room, sum(unread))


@given(st.integers(156, 2048), counts)
def test_short_prompts_do_not_wait_behind_long_ones(room: int, unread: list[int]) -> None:
    share = room // (2 * len(unread))
    assert all(take >= min(count, share) for take, count in zip(shares(room, unread), unread, strict=True))


@given(st.integers(1, 512), counts)
def test_no_step_is_wasted(room: int, unread: list[int]) -> None:
    left, num_steps = list(unread), 0
    while any(left):
        found = iter(shares(room, [count for count in left if count]))
        left = [count - next(found) if count else 0 for count in left]
        num_steps += 1
    assert num_steps == -(-sum(unread) // room)


def test_examples_of_shares() -> None:
    assert shares(512, [100]) == [100]
    assert shares(508, [5000]) == [508]
    assert shares(0, [5]) == [0]
    assert shares(-88, [5, 5]) == [0, 0]
    assert shares(512, [5000, 10]) == [502, 10]
    assert shares(512, [5000, 5000]) == [384, 128]
    assert shares(2, [9, 9, 9]) == [1, 1, 0]
