"""The pictures in prompts: their embeddings go into the KV cache, at most one batch of them in each step of the engine.

Never imports: worker.engine.engine. Invariant: a sequence whose picture is still being computed is not in a step, and delays no other;
the tokens of a picture that all see each other are in the KV together, or not at all.
"""

import time
from collections.abc import Callable, Sequence

from fastrouter.errors import FastrouterError
from fastrouter.worker.engine.adapters import Adapters
from fastrouter.worker.engine.recovery import Recovery
from fastrouter.worker.kv.prefixes import Prefixes
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.picture_tokens import count_in_place
from fastrouter.worker.llama.projector import Embeddings
from fastrouter.worker.media.pictures import Pictures, PlacedPicture
from fastrouter.worker.prefill_speed import LONG_NS
from fastrouter.worker.schedule.scheduler import Piece, Step
from fastrouter.worker.sequence import Running


class PictureSteps:
    """For one engine. `fail`: end a request with an error. `on_done`: this many tokens of a prompt more are in the KV."""

    def __init__(
        self,
        pictures: Pictures,
        context: Context,
        prefixes: Prefixes,
        adapters: Adapters,
        recovery: Recovery,
        fail: Callable[[int, FastrouterError | None], None],
        on_done: Callable[[Running], None],
    ) -> None:
        self._pictures = pictures
        self._context = context
        self._prefixes = prefixes
        self._adapters = adapters
        self._recovery = recovery
        self._fail = fail
        self._on_done = on_done
        self.before_long_step: Callable[[], None] = lambda: None  # no call is answered while a picture goes into the cache
        self.watch: Callable[[int], None] = lambda request_id: None  # this request's decode ends early when its client leaves; 0: none

    def __repr__(self) -> str:
        return f"<PictureSteps {self._pictures!r}>"

    @property
    def is_encoding(self) -> bool:
        return self._pictures.is_encoding

    def step(self, prefilling: Sequence[Running], num_decoding: int) -> bool:
        """Every sequence's next picture is ordered; the first that is ready, and whose place is next, is computed. True: something was
        done."""
        wanted = [(running, picture) for running in prefilling if (picture := _next_of(running)) is not None]
        self._pictures.forget_all_but({picture.chunk.key for _, picture in wanted})
        for running, picture in wanted:
            try:
                embeddings = self._pictures.get(picture.chunk)
            except FastrouterError as error:
                self._fail(running.sequence.request.id, error)
                return True
            if embeddings is not None and len(running.slot.tokens) >= picture.start:
                self._decode(running, picture, embeddings, num_decoding)
                return True
        return False

    def _decode(self, running: Running, picture: PlacedPicture, embeddings: Embeddings, num_decoding: int) -> None:
        sequence, slot = running.sequence, running.slot
        is_causal = picture.chunk.is_causal
        if not is_causal and len(slot.tokens) > picture.start:  # the start of it is of another picture
            self._prefixes.cut(slot, picture.start)
            return
        start, end = len(slot.tokens), picture.end
        if is_causal:
            end = min(end, start + max(1, self._prefixes.speed.num_rows(num_decoding, self._context.n_batch)))
        if not sequence.started_ns:
            sequence.started_ns = time.monotonic_ns()
        if self._adapters.all:
            self._adapters.use(sequence.request.adapters, self._context)
        if self._prefixes.speed.expected_ns(end - start) > LONG_NS:
            self.before_long_step()
        part = slice(start - picture.start, end - picture.start)
        rows, positions = embeddings[part], self._pictures.positions(picture.chunk, slot.pos_of(picture.start))[:, part]
        begun_ns = time.monotonic_ns()
        self.watch(sequence.request.id)
        code = self._context.decode_embeddings(rows, positions, slot.id, is_causal=is_causal)
        self.watch(0)
        if code:
            self._recovery.recover(code, Step((), (Piece(running, start, end),), 0))
            return
        self._prefixes.speed.note_prefill(len(rows), time.monotonic_ns() - begun_ns)
        added = sequence.prefix[start:end]
        slot.tokens.extend(added)
        slot.num_in_place += count_in_place(added)
        self._on_done(running)


def _next_of(running: Running) -> PlacedPicture | None:
    sequence = running.sequence
    return sequence.picture_after(len(running.slot.tokens)) if sequence.request.pictures else None
