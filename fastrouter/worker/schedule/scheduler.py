"""Which rows go into the next batch. Pure: running sequences and a few numbers in, a Step out; no clock, no llama.cpp.

Rows of a batch, in this order: one for each decoding sequence, by slot, followed by its guess; then pieces of prompts, the oldest first.
Invariant: a step is at most one batch that is computed together, so a prompt, however long, delays running streams and new requests by
one batch; and every decoding sequence of the turn is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fastrouter.worker.kv.checkpoints import stop_at_checkpoint
from fastrouter.worker.kv.slots import AdapterSet
from fastrouter.worker.prefill_speed import PrefillSpeed
from fastrouter.worker.sequence import Running

MAX_READ_ROWS = 32  # of a prompt whose tokens all need logits: more would take much memory, and hold up other sequences


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """For the batches of one context."""

    num_rows: int  # rows that are computed together
    has_checkpoints: bool = False  # a piece of a prompt ends where a checkpoint is taken
    can_guess_beside_prompts: bool = True


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of a prompt: `start` is how many of them are already in the KV."""

    running: Running
    start: int
    end: int

    @property
    def is_last(self) -> bool:
        """The next token is sampled from its logits."""
        return self.end == len(self.running.sequence.prefix)


@dataclass(slots=True)  # a frozen one would take a microsecond more in each step
class Step:
    """What one llama_decode computes. It is not changed. `num_free_rows`: rows for guesses."""

    decoding: tuple[Running, ...]
    pieces: tuple[Piece, ...]
    num_free_rows: int

    @property
    def num_prompt_tokens(self) -> int:
        return sum(piece.end - piece.start for piece in self.pieces)

    @property
    def lone_request_id(self) -> int:
        """The only request with rows in it, while its prompt is computed; 0: there are others, or it decodes."""
        ids = {piece.running.sequence.request.id for piece in self.pieces}
        return ids.pop() if len(ids) == 1 and not self.decoding else 0

    @property
    def running(self) -> list[Running]:
        return [*self.decoding, *(piece.running for piece in self.pieces)]


def schedule(
    decoding: Sequence[Running], prefilling: Sequence[Running], limits: BatchLimits, speed: PrefillSpeed, turn: AdapterSet | None = None
) -> Step:
    """`decoding`: by slot; `prefilling`: the oldest first. `turn`: only sequences with these adapters share the step; None: all do."""
    if turn is not None:
        decoding, prefilling = _with(turn, decoding), _with(turn, prefilling)
    num_free_rows = limits.num_rows - len(decoding)
    if not prefilling:
        return Step(tuple(decoding), (), num_free_rows)
    unread = [running.num_unread for running in prefilling]
    takes = shares(speed.num_rows(len(decoding), limits.num_rows) - len(decoding), unread)
    pieces = tuple(_piece(running, take, limits) for running, take in zip(prefilling, takes, strict=True) if take)
    return Step(tuple(decoding), pieces, max(0, num_free_rows - sum(unread)) if limits.can_guess_beside_prompts else 0)


def shares(room: int, unread: Sequence[int]) -> list[int]:
    """How many of its unread tokens each prompt (the oldest first) gets of `room` rows.

    Half of the room is divided evenly, so a short prompt does not wait for a long one; the rest goes to the oldest.
    """
    if room <= 0:
        return [0] * len(unread)
    share = max(1, room // (2 * len(unread)))
    takes = []
    for count in unread:
        take = min(count, share, room)
        takes.append(take)
        room -= take
    for index, count in enumerate(unread):
        more = min(count - takes[index], room)
        takes[index] += more
        room -= more
    return takes


def _with(adapters: AdapterSet, group: Sequence[Running]) -> Sequence[Running]:
    return [running for running in group if running.sequence.request.adapters == adapters]


def _piece(running: Running, take: int, limits: BatchLimits) -> Piece:
    sequence, slot = running.sequence, running.slot
    start = len(slot.tokens)
    end = start + (min(take, MAX_READ_ROWS) if sequence.reads_prompt else take)
    return Piece(running, start, stop_at_checkpoint(len(sequence.prefix), start, end) if limits.has_checkpoints else end)
