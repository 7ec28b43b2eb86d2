"""A draft model: a small one with the same vocabulary that guesses what the large one will say. Greedy, all sequences in one batch.

Owns the second model, its context and its KV cache for each slot. Never imports: worker.speculation.guess_length. Invariant: `_held[i]`
is what the draft's KV holds for slot i. It is compared with the slot's text before each guess, so changes of the slot in between (a
rejected guess, an abort, another prompt, a shift) are handled there and need no call.
"""

from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastrouter._core import LogitSampler
from fastrouter.options.load import LoadOptions
from fastrouter.options.sampling import defaults
from fastrouter.worker.kv.slots import common_prefix
from fastrouter.worker.llama.binding import LlamaError
from fastrouter.worker.llama.context import Context
from fastrouter.worker.llama.model import Model
from fastrouter.worker.llama.vocab import Vocab
from fastrouter.worker.sequence import Running

MAX_READ = 128  # tokens in one step, because the streams wait for it
MAX_SIZE_DIFFERENCE = 128  # between the sizes of the vocabularies: matrices are padded
FIRST_COMPARED = 5  # the first ones are special tokens, whose names may differ

Piece = tuple[Running, "array[int] | list[int]"]  # tokens to be read next


class Draft:
    """`target` is the context that it guesses for, `options` are those of its load."""

    def __init__(
        self,
        target: Context,
        options: LoadOptions,
        *,
        safe_mode: bool = False,
        on_progress: Callable[[float], bool] | None = None,
    ) -> None:
        own = replace(options.of_draft, ctx_size=target.n_ctx)
        path = str(options.speculation["draft_model"])
        if not Path(path).is_file():
            raise LlamaError(f"--model-draft {path}: there is no such file")
        try:
            self.model = Model(path, own, safe_mode=safe_mode, on_progress=on_progress)
        except LlamaError as error:
            raise LlamaError(f"--model-draft {path}: {error.message}") from None
        try:
            problem = difference_of(target.model.vocab, self.model.vocab)
            if problem:
                raise LlamaError(f"--model-draft {path}: it cannot guess for this model: {problem}")
            self.context = Context(self.model, own)
            if not (self.context.memory and self.context.can_cut and self.model.can_generate):
                raise LlamaError(f"--model-draft {path}: a model of this kind cannot guess")
        except BaseException:  # whatever the exception is, the model's memory is freed
            self.model.close()
            raise
        self._n_vocab = min(target.model.vocab.n_tokens, self.model.vocab.n_tokens)  # the tokens that both have
        self._held = [array("i") for _ in range(self.context.num_slots)]
        self._greedy = self._sampler(num_probs=-1)
        self._sure = self._sampler(num_probs=0)  # shows the probability of its best token

    def __repr__(self) -> str:
        return f"<Draft {self.model!r} held {self.held}>"

    def _sampler(self, num_probs: int) -> LogitSampler:
        greedy = {**defaults(), "temperature": 0.0}
        return LogitSampler(self.model.vocab.n_tokens, greedy, seed=0, bias=[], num_probs=num_probs)

    def guess(self, asking: list[tuple[Running, int]]) -> None:
        """Set `draft` of each, at most that many tokens. A sequence whose text has not been read gets none: a piece of it is read
        instead."""
        ready = self._catch_up(asking)
        row_bytes = 4 * self.model.vocab.n_tokens
        found: dict[Running, list[int]] = {running: [] for running, _ in ready}
        while ready:
            address = self.context.logits()
            going = []
            for running, length in ready:
                if self._add(running.sequence.guesser.p_min, found[running], address) and len(found[running]) < length:
                    going.append((running, length))
                address += row_bytes
            ready = going if going and self._decode([(running, found[running][-1:]) for running, _ in going]) else []
        for running, draft in found.items():
            if len(draft) >= running.sequence.guesser.n_min:
                running.sequence.draft = draft

    def _add(self, p_min: float, draft: list[int], address: int) -> bool:
        """The best token of a row, unless its probability is below `p_min`."""
        sampler = self._sure if p_min > 0 else self._greedy
        token = sampler.sample(address, self.model.vocab.n_tokens)
        is_good = token < self._n_vocab and (p_min <= 0 or sampler.probabilities[0] >= p_min)  # type: ignore[index]
        if is_good:
            draft.append(token)
        return is_good

    def _catch_up(self, asking: list[tuple[Running, int]]) -> list[tuple[Running, int]]:
        """Read what is new in their texts, at most one piece of it. Returns those that are read to their end, in the order of their
        logits."""
        room = min(self.context.n_batch, MAX_READ) - len(asking)  # at least one token for each
        pieces: list[Piece] = []
        ready = []
        for running, length in asking:
            text = array("i", running.slot.tokens)
            text.append(running.sequence.next_token)
            if len(text) + length > self.context.n_ctx_slot:
                continue
            start = self._cut(running.slot.id, text)
            piece = text[start : start + 1 + max(0, room)]
            room -= len(piece) - 1
            pieces.append((running, piece))
            if start + len(piece) == len(text):
                ready.append((running, length))
        return ready if pieces and self._decode(pieces, {running for running, _ in ready}) else []

    def _cut(self, slot_id: int, text: "array[int]") -> int:
        """Remove all but a start of the text; the last token is always read again, for its logits. Returns what is left."""
        held = self._held[slot_id]
        shared = min(common_prefix(held, text), len(text) - 1)
        if shared < len(held):
            self.context.remove(slot_id, shared if shared else -1)
            del held[shared:]
        return shared

    def _decode(self, pieces: "list[Piece]", wanted: set[Running] | None = None) -> bool:
        """One decode; logits for the last token of those in `wanted`, or of all. False: there was no room, and idle slots were removed."""
        row = 0
        for running, piece in pieces:
            slot_id = running.slot.id
            tokens = np.array(piece, dtype=np.int32)
            has_logits = wanted is None or running in wanted
            row = self.context.batch.put_prompt(row, tokens, len(self._held[slot_id]), slot_id, wants_logits=has_logits)
        if self.context.decode(row):
            self._forget(but={running.slot.id for running, _ in pieces})
            return False
        for running, piece in pieces:
            self._held[running.slot.id].extend(piece)
        return True

    def _forget(self, but: set[int]) -> None:
        """Remove all slots but these; if that frees nothing, these too."""
        idle = [slot_id for slot_id, held in enumerate(self._held) if held and slot_id not in but]
        for slot_id in idle or list(but):
            self.context.remove(slot_id)
            del self._held[slot_id][:]

    @property
    def held(self) -> list[int]:
        """How many tokens of each slot its KV holds."""
        return [len(held) for held in self._held]

    def close(self) -> None:
        self.context.close()
        self.model.close()


def difference_of(target: Vocab, draft: Vocab) -> str:
    """Why tokens of one are not tokens of the other; empty when they are."""
    if target.type != draft.type:
        return "their vocabularies are of different types"
    for name, one, other in (("BOS", target.bos, draft.bos), ("EOS", target.eos, draft.eos)):
        has = target.add_bos if name == "BOS" else target.add_eos
        if has != (draft.add_bos if name == "BOS" else draft.add_eos) or (has and one != other):
            return f"they do not have the same {name} token"
    if abs(target.n_tokens - draft.n_tokens) > MAX_SIZE_DIFFERENCE:
        return f"it has {draft.n_tokens} tokens, the model {target.n_tokens}"
    pairs = zip(Vocab(target.pointer).pieces[FIRST_COMPARED:], Vocab(draft.pointer).pieces[FIRST_COMPARED:], strict=False)
    for token, (one_piece, other_piece) in enumerate(pairs, FIRST_COMPARED):
        if one_piece != other_piece:
            shown = f"{other_piece.decode('utf-8', 'replace')!r} there and {one_piece.decode('utf-8', 'replace')!r} here"
            return f"token {token} is {shown}"
    return ""
