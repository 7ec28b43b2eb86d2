"""Speculative decoding: tokens are guessed, and one decode shows how many of them hold. Here: who guesses, how many, and with what
result.

Owns each sequence's Guesser and the draft model. Never imports: worker.llama.batch, worker.engine. The engine puts `Sequence.draft` into
its batch and reports the result. Invariant: a guess is accepted only if the sequence's sampler chose the same token, so it changes the
time but not the answer; it never takes a row from another sequence or from a prompt.
"""

import time
from functools import partial
from typing import Any

from fastrouter._core import Lookup
from fastrouter.errors import FastrouterError, InvalidRequest
from fastrouter.ipc.messages import Generate
from fastrouter.options.guess_types import DRAFT, LOOKUPS
from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama.context import Context
from fastrouter.worker.sequence import NO_DRAFT, Running, Sequence
from fastrouter.worker.speculation.draft_model import Draft
from fastrouter.worker.speculation.guess_length import GuessLength
from fastrouter.worker.speculation.row_costs import RowCosts

MAX_ROWS = 32  # of guesses in one step, for all sequences: above that one row more costs as much as a whole step
FIRST_LOOKUP = 4  # tokens of the first guess from a text that has just begun to repeat itself
DRAFT_N_MAX = 3


class Guesser:
    """For one sequence."""

    __slots__ = ("chosen", "draft_length", "lookup", "lookup_length", "n_min", "p_min")

    def __init__(self) -> None:
        self.lookup: Lookup | None = None
        self.lookup_length: GuessLength | None = None
        self.draft_length: GuessLength | None = None
        self.chosen: GuessLength | None = None  # that of the guess in the batch
        self.n_min = 0
        self.p_min = 0.0


class Speculation:
    """For one engine."""

    def __init__(self, context: Context, options: LoadOptions, draft: Draft | None = None) -> None:
        self._context = context
        self._draft = draft
        self._defaults = options.speculation
        self._can_cut = bool(context.memory) and not context.is_embedding and context.can_cut
        self._types = tuple(options.speculation.get("types", ())) or ((DRAFT,) if draft is not None else ())
        self.costs = RowCosts()
        self._num_guessing = 0  # sequences in this step
        self._num_rows = 0  # guessed in this step
        self._has_drafted = False  # the draft model was used in this step
        self._begun_ns = 0
        self.is_wanted = False  # a sequence may have a guess: until then a step does no work here
        self.notice = ""  # what the user should know
        if self._types and not self._can_cut:
            self.notice = "speculative decoding is off: the KV cache of this model cannot drop single tokens"
        elif DRAFT in self._types and draft is None:
            raise FastrouterError(f"--spec-type {DRAFT}: --model-draft is missing")

    def __repr__(self) -> str:
        return f"<Speculation {','.join(self._types) or 'on demand'}{'' if self._can_cut else ', impossible'}>"

    @property
    def is_on(self) -> bool:
        """Also for requests that do not ask for it."""
        return bool(self._types) and self._can_cut

    @property
    def draft(self) -> Draft | None:
        return self._draft

    def share_cores(self, num_busy: int) -> None:
        if self._draft is not None:
            self._draft.context.share_cores(num_busy)

    # ------------------------------------------------------------ a sequence begins

    def check(self, generate: Generate) -> None:
        """Raises InvalidRequest for what this model cannot do."""
        if DRAFT in generate.speculation.get("types", ()) and self._draft is None:
            raise InvalidRequest(f"field 'speculative.type' asks for {DRAFT}, but the model was loaded without a draft model")

    def begin(self, sequence: Sequence) -> None:
        """Its prompt is in the KV. With pictures it does not guess: they are not in the draft model's KV, nor words to look up."""
        if sequence.request.pictures:
            return
        asked = sequence.request.generate.speculation
        types = asked.get("types", self._types)
        if not types or not self._can_cut or asked.get("n_max") == 0:
            return
        guesser = Guesser()
        terms = {**self._defaults, **asked}
        for name in types:
            if name in LOOKUPS and guesser.lookup is None:
                guesser.lookup, guesser.lookup_length = _lookup_of(name, self._defaults, asked)
            elif name == DRAFT and self._draft is not None:
                most = terms.get("n_max", DRAFT_N_MAX)
                guesser.draft_length = GuessLength(most, most) if most else None
        guesser.n_min, guesser.p_min = terms.get("n_min", 0), terms.get("p_min", 0.0)
        if guesser.lookup is not None or guesser.draft_length is not None:
            sequence.guesser = guesser
            self.is_wanted = True

    # ------------------------------------------------------------ one step

    def guess(self, decoding: tuple[Running, ...], num_free_rows: int) -> None:
        """Set `draft` of the sequences that have one. `num_free_rows`: rows of the batch that sequences and prompts do not use."""
        guessing = [running for running in decoding if running.sequence.guesser is not None]
        count = len(decoding)
        self._num_guessing = count if guessing else 0
        if not guessing:
            return
        self._num_rows, self._has_drafted = 0, False
        self._begun_ns = time.monotonic_ns()
        most = min(num_free_rows, MAX_ROWS) // count
        is_split = count > 1 and not self._context.is_unified
        if most < 1 or self.costs.wants_plain(count) or (is_split and len(guessing) < count):
            return
        asking = [ask for ask in (self._guess_one(running, most, count) for running in guessing) if ask is not None]
        if asking and self._draft is not None:
            self._draft.guess(asking)
            self._has_drafted = True
        if is_split:
            _make_equal(decoding)
        self._num_rows = sum(len(running.sequence.draft) for running in decoding)

    def _guess_one(self, running: Running, most: int, count: int) -> tuple[Running, int] | None:
        """Search its text; if that gives nothing, return what to ask the draft model for."""
        sequence, slot = running.sequence, running.slot
        guesser: Guesser = sequence.guesser
        room = min(most, self._room_of(running))
        if room < 1:
            return None
        lookup, guess_length = guesser.lookup, guesser.lookup_length
        if lookup is not None and guess_length is not None and not guess_length.is_resting():
            found = lookup.guess(slot.tokens, sequence.next_token, room)
            if found:
                sequence.draft = found[: guess_length.length(partial(self.costs.of, False, count), count)] or NO_DRAFT
                guesser.chosen = guess_length
        guess_length = guesser.draft_length
        if guess_length is None or sequence.draft:
            return None
        length = min(guess_length.next(partial(self.costs.of, True, count), count), room)
        guesser.chosen = guess_length
        return (running, length) if length else None

    def note_step(self, has_prompts: bool) -> None:
        """The decode is done: its time, with that of the draft model, shows what rows cost."""
        if self._num_guessing and not has_prompts and (self._num_rows or not self._has_drafted):
            self.costs.note(self._has_drafted, self._num_guessing, self._num_rows, time.monotonic_ns() - self._begun_ns)

    def _room_of(self, running: Running) -> int:
        """No guess goes beyond the answer's limit, nor fills the context before the answer ends."""
        sequence, slot = running.sequence, running.slot
        room = self._context.n_ctx_slot - len(slot.tokens) - 3
        return min(room, sequence.max_tokens - sequence.num_generated - 1) if sequence.max_tokens >= 0 else room

    def note(self, sequence: Sequence, num_accepted: int) -> None:
        """`num_accepted` tokens of its guess held; the guess is over."""
        num_guessed = len(sequence.draft)
        sequence.draft = NO_DRAFT
        sequence.num_guesses += 1
        sequence.num_guessed += num_guessed
        sequence.num_accepted += num_accepted
        sequence.guesser.chosen.note(num_guessed, num_accepted)

    def drop(self, decoding: tuple[Running, ...]) -> bool:
        """There was no room for their guesses: the next step goes without them. False: there were none."""
        guessed = [running.sequence for running in decoding if running.sequence.draft]
        for sequence in guessed:
            sequence.draft = NO_DRAFT
            sequence.guesser.chosen.rest()
        return bool(guessed)

    def close(self) -> None:
        if self._draft is not None:
            self._draft.close()


def _make_equal(decoding: tuple[Running, ...]) -> None:
    """A split cache decodes sequences together only for an equal number of rows; the rest would need one more decode."""
    shortest = min(len(running.sequence.draft) for running in decoding)
    for sequence in [running.sequence for running in decoding]:
        sequence.draft = sequence.draft[:shortest] if shortest else NO_DRAFT


def _lookup_of(name: str, defaults: dict[str, Any], asked: dict[str, Any]) -> tuple[Lookup | None, GuessLength | None]:
    """The values of the request, then the flags of this type, then the defaults of the type."""
    flag, (n, m) = name.replace("-", "_"), LOOKUPS[name]
    n = asked.get("ngram_size_n", defaults.get(f"{flag}_size_n", defaults.get(f"{flag}_n_match", n)))
    m = asked.get("ngram_size_m", defaults.get(f"{flag}_size_m", defaults.get(f"{flag}_n_max", m)))
    most = min(m, asked.get("n_max", m))
    min_hits = asked.get("ngram_min_hits", defaults.get(f"{flag}_min_hits", 1))
    return (Lookup(n, min_hits), GuessLength(FIRST_LOOKUP, most)) if most else (None, None)
