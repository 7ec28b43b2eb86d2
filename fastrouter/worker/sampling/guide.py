"""A sampler that knows the thought before the answer: it ends a thought whose budget is used up, and only the answer follows a grammar.

Owns the place of its sequence, and the tokens that come next whatever the model prefers. Knows no slots or rings. Invariant: a forced
token is the only one that is allowed, and its probability is the model's.
"""

import codecs
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrouter.worker.llama.vocab import Vocab
from fastrouter.worker.resumed import CUT_THOUGHT, END_THOUGHT, FREE_CALL
from fastrouter.worker.sampling.grammar import Matcher, no_token, sample_allowed
from fastrouter.worker.sampling.quiet_tokens import QUIET, QuietTokens
from fastrouter.worker.sampling.sampler import Sampler
from fastrouter.worker.sampling.thought import MarkerWatch, Place, ThoughtWatch

_THOUGHT, _ANSWER = Place.THOUGHT, Place.ANSWER  # an attribute of an Enum takes longer
_decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class Guidance:
    """For one request."""

    opens: tuple[str, ...]  # texts that begin a thought
    closes: tuple[str, ...]  # texts that end one
    is_open: bool  # the prompt has opened the thought
    before: str = ""  # the text before an answer without a thought
    after: str = ""  # the text between a thought and an answer
    budget: int = -1  # tokens of each thought; -1: no limit
    message: str = ""  # the last words of a thought that the budget has ended
    calls: tuple[str, ...] = ()  # an answer that begins with one of these is a tool call, without the answer's grammar
    triggers: tuple[str, ...] = ()  # the grammar of a tool call begins after one of these
    calls_in_thought: bool = False  # also in an open thought

    @property
    def watched(self) -> tuple[str, ...]:
        """The markers that matter in a thought or an answer."""
        return (*self.closes, *self.triggers)


class GuidedSampler(Sampler):
    """Like a ConstrainedSampler, but for the answer only."""

    def __init__(
        self,
        vocab: Vocab,
        settings: dict[str, Any],
        load_defaults: dict[str, Any],
        guidance: Guidance,
        matcher: Matcher | None,
        piece: Callable[[int], bytes],
        quiet: QuietTokens,
        calls: Callable[[], Matcher | None] = lambda: None,
        **options: Any,
    ) -> None:
        """`matcher`: of the answer; None: it has no grammar. `piece`: a token's bytes, with those of markers. `quiet`: for the markers that
        are watched. `calls`: the matcher of the text after a trigger; None if it is not ready: then the call does not follow a grammar."""
        super().__init__(vocab, settings, load_defaults, **options)
        self._vocab = vocab
        self._guidance = guidance
        self._matcher = matcher
        self._is_bound = False  # the answer has begun, and follows its grammar
        self._is_call = False  # and that is the grammar of a call that the model has begun by itself
        self._piece = piece
        self._quiet = quiet
        self._is_quiet = False  # a quiet token changes nothing here
        self._calls = calls
        self._triggers = MarkerWatch(guidance.triggers) if guidance.triggers else None
        self._watch = ThoughtWatch(guidance.opens, guidance.closes, is_open=guidance.is_open)
        self._forced: deque[int] = deque()
        self._marks: list[int] = []
        self._budget = guidance.budget  # of the thought that is open, or of the next one
        self._num_thought = 0  # tokens of it
        self._decoder = _decoder("replace")
        self._mask = np.zeros((vocab.n_tokens + 31) // 32, np.uint32)
        if matcher is not None:
            self._force(guidance.before)

    def end_thought(self) -> bool:
        """Ends the thought when its last character is complete. False if none is open."""
        is_open = self._watch.place is _THOUGHT
        if is_open and not self._forced:
            self._budget = 0
            self._is_quiet = False
            self._mark(END_THOUGHT)
        return is_open

    def _mark(self, mark: int) -> None:
        self._marks.append(mark)
        self.has_marks = True

    def take_marks(self) -> Sequence[int]:
        marks, self._marks = [*self._marks, *super().take_marks()], []
        self.has_marks = self.has_mu
        return marks

    # ------------------------------------------------------------ a sample

    def sample(self, address: int, n_vocab: int, mask: int = 0) -> int:
        token = -1
        if self._is_quiet:  # nearly always
            token = Sampler.sample(self, address, n_vocab)
            is_quiet = (self._quiet.kinds[token] or self._quiet.look(token)) == QUIET
            if is_quiet and (self._matcher is None or not self._vocab.is_eog(token)):
                return token
        token = self._sample_next(token, address, n_vocab)
        self._is_quiet = self._will_be_quiet()
        return token

    def _will_be_quiet(self) -> bool:
        """Nothing is forced or bound, and no marker may have begun."""
        triggers, place = self._triggers, self._watch.place
        if self._is_bound or self._forced or not self._watch.is_quiet or (triggers is not None and not triggers.is_quiet):
            return False
        if place is _THOUGHT:
            return self._budget < 0 and not self._decoder.getstate()[0]
        return place is _ANSWER and self._matcher is None

    def _sample_next(self, token: int, address: int, n_vocab: int) -> int:
        """`token`: what was sampled already, or -1."""
        matcher = self._matcher
        if self._is_bound and matcher is not None:
            return self._sample_bound(matcher, address, n_vocab)
        if not self._forced and self._is_spent():
            self._force_end()
        if self._forced:
            token = self._sample_forced(address, n_vocab)
        else:
            token = super().sample(address, n_vocab) if token < 0 else token
            if matcher is not None:
                token = self._settle(matcher, token, address, n_vocab)
        if not self._is_bound:
            self._note(self._piece(token))
        return token

    def _sample_bound(self, matcher: Matcher, address: int, n_vocab: int) -> int:
        token = sample_allowed(matcher, super().sample, address, n_vocab)
        if token < 0 and self._is_call:
            self._is_bound, self._matcher = False, None
            self._mark(FREE_CALL)
            return super().sample(address, n_vocab)
        if token < 0:
            self.error = no_token(matcher)
        self.is_complete = matcher.is_complete
        return token

    def _sample_forced(self, address: int, n_vocab: int) -> int:
        token = self._forced.popleft()
        self._mask[token // 32] = 1 << token % 32
        super().sample(address, n_vocab, self._mask.ctypes.data)
        self._mask[token // 32] = 0
        return token

    def _settle(self, matcher: Matcher, token: int, address: int, n_vocab: int) -> int:
        """The token that replaces this one, or this one. A thought is free; after it comes the answer, a call or another thought."""
        if self._watch.place is _THOUGHT:
            if not self._vocab.is_eog(token):
                return token
            self._force_end()
            self._mark(CUT_THOUGHT)
            return self._sample_forced(address, n_vocab) if self._forced else token
        if not matcher.allows(token) and self._begins_marker(self._piece(token)):
            return token
        self._is_bound = True
        if not matcher.allows(token):
            return self._sample_bound(matcher, address, n_vocab)
        self._accept(matcher, token)
        return token

    # ------------------------------------------------------------ a token that another worker has chosen

    def follow(self, token: int, marks: Sequence[int] = ()) -> None:
        super().follow(token, marks)
        self._is_quiet = False
        for mark in marks:
            self._follow_mark(mark)
        if self._is_bound and self._matcher is not None:
            self._accept(self._matcher, token)
            return
        if not self._forced and self._is_spent():
            self._force_end()
        if self._forced:
            self._forced.popleft()
        elif self._matcher is not None and self._watch.place is not _THOUGHT:
            self._follow_answer(self._matcher, token)
        if not self._is_bound:
            self._note(self._piece(token))

    def _follow_mark(self, mark: int) -> None:
        if mark == END_THOUGHT:
            self._budget = 0
        elif mark == CUT_THOUGHT:
            self._force_end()
        elif mark == FREE_CALL:
            self._calls = lambda: None
            if self._is_call:
                self._is_bound, self._matcher = False, None

    def _follow_answer(self, matcher: Matcher, token: int) -> None:
        if matcher.allows(token) or not self._begins_marker(self._piece(token)):
            self._is_bound = True
            self._accept(matcher, token)

    def _accept(self, matcher: Matcher, token: int) -> None:
        matcher.accept(token)
        self.is_complete = matcher.is_complete

    def _begins_marker(self, piece: bytes) -> bool:
        """If a marker begins with this piece, its rest is forced: an incomplete marker would be text outside of the grammar."""
        guidance = self._guidance
        for text in (*guidance.calls, *guidance.opens):
            marker = text.strip().encode()
            if piece and (marker.startswith(piece) or piece.startswith(marker)):
                self._force(marker[len(piece) :].decode("utf-8", "ignore"))
                if text in guidance.calls:
                    self._matcher = None
                return True
        return False

    # ------------------------------------------------------------ the thought

    def _note(self, piece: bytes) -> None:
        watch = self._watch
        if watch.place is _ANSWER:  # nearly all tokens: no thought can begin any more
            self._look_for_call(piece)
            return
        was_open = watch.place is _THOUGHT
        has_closed = watch.push(piece)
        is_open = watch.place is _THOUGHT
        self._num_thought = self._num_thought + 1 if was_open and is_open else 0
        if is_open:
            self._decoder.decode(piece)
        if has_closed:
            self._budget = self._guidance.budget
            self._decoder.reset()
            if self._matcher is not None and not self._forced and not watch.rest:
                self._force(self._guidance.after)
        if not is_open or self._guidance.calls_in_thought:
            self._look_for_call(piece)

    def _look_for_call(self, piece: bytes) -> None:
        if self._triggers is not None and (rest := self._triggers.push(piece)) is not None:
            self._begin_call(rest)

    def _begin_call(self, rest: bytes) -> None:
        """A trigger has been written. `rest`: the text after it in its last token."""
        self._triggers = None
        matcher = self._calls()
        if matcher is None:
            self._mark(FREE_CALL)
        elif all(map(matcher.accept, self._tokens_of(rest.decode("utf-8", "replace")))):
            self._matcher, self._is_bound, self._is_call = matcher, True, True

    def _is_spent(self) -> bool:
        """Whether the budget is used up, and no character is incomplete."""
        is_over = 0 <= self._budget <= self._num_thought and self._watch.place is _THOUGHT
        return is_over and not self._decoder.getstate()[0]

    def _force_end(self) -> None:
        self._budget = -1  # once is enough
        self._force(self._guidance.message + self._guidance.closes[0])

    def _force(self, text: str) -> None:
        self._forced.extend(self._tokens_of(text))

    def _tokens_of(self, text: str) -> list[int]:
        tokens = self._vocab.tokenize(text, add_special=False, parse_special=True) if text else []
        is_padded = tokens and self._piece(tokens[0]) == b" " and not text.startswith(" ")  # some vocabularies begin each text with a blank
        return tokens[1:] if is_padded else tokens
