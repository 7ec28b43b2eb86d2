"""What a choice did in a worker that has died. This worker follows it, token by token, until it is where that one was.

The dead worker wrote words with its records: int32 that the router keeps and never reads. Of each choice the first two say how many tokens
of the prompt were in the KV cache, and how many microseconds the others took. After them come its tokens, and marks: negative numbers for
what the tokens and the request do not tell. Pure.
Invariant: a token is among the words before any of its text leaves the worker, so no text is in doubt.
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastrouter.errors import FastrouterError

# Marks, before the token that they concern.
END_THOUGHT = -1  # someone asked for the end of the thought
CUT_THOUGHT = -2  # the model wanted to end the answer inside its thought, so the end of the thought was forced
FREE_CALL = -3  # this call does not follow a grammar
MU = -4  # the next word is mirostat's state after this token, as the bits of a float

NUM_MEASURED = 256  # the last tokens whose probabilities are computed again, because they may be unsent
NUM_EXACT = 512  # up to this many tokens of a reproducible answer are decoded one by one, as they were the first time

_FLOAT, _WORD = struct.Struct("<f"), struct.Struct("<i")


@dataclass(slots=True, eq=False)
class Resumed:
    """One choice."""

    num_records: int  # with text, that the router has
    num_cached: int
    prompt_ns: int
    tokens: "array[int]"
    marks: dict[int, list[int]] = field(default_factory=dict)  # by the index of the token after them
    mu: float | None = None  # after the last token
    num_read: int = 0  # tokens that have been followed

    def __repr__(self) -> str:
        return f"<Resumed {self.num_read} of {len(self.tokens)} tokens, {self.num_records} records>"

    @property
    def is_done(self) -> bool:
        return self.num_read == len(self.tokens)

    def num_prefilled(self, num_prompt: int, n_ctx: int, *, is_exact: bool, is_measured: bool) -> int:
        """How many of its tokens are computed together with the prompt, which is faster. The others are decoded one by one: llama.cpp's
        results depend on how many tokens it computes together (`is_exact`: that matters), the context shifts between them, or their
        probabilities are needed (`is_measured`)."""
        if is_exact and len(self.tokens) <= NUM_EXACT:
            return 0
        count = min(len(self.tokens), max(0, n_ctx - 2 - num_prompt))
        return max(0, min(count, len(self.tokens) - NUM_MEASURED)) if is_measured else count

    def next(self) -> tuple[int, Sequence[int]]:
        """(token, the marks before it)"""
        index = self.num_read
        self.num_read += 1
        return self.tokens[index], self.marks.get(index, ())


@dataclass(frozen=True, slots=True)
class ResumedRequest:
    """All choices of one request."""

    elapsed_ns: int = 0  # since its first token
    choices: dict[int, Resumed] = field(default_factory=dict)  # those that have begun
    finished: frozenset[int] = frozenset()


def read_resumed(given: dict[str, Any], n_vocab: int) -> ResumedRequest:
    """From a Submit. Raises FastrouterError."""
    choices: dict[int, Resumed] = {}
    finished = set()
    try:
        for choice, (words, num_records, is_over) in enumerate(given["choices"]):
            if is_over:
                finished.add(choice)
            elif words:
                choices[choice] = _read_choice(array("i", words), num_records, n_vocab)
        return ResumedRequest(int(given["elapsed_ms"]) * 1_000_000, choices, frozenset(finished))
    except (LookupError, TypeError, ValueError, OverflowError, StopIteration) as error:
        raise FastrouterError(f"the answer cannot be continued: its last worker left wrong data: {error}") from None


def _read_choice(words: "array[int]", num_records: int, n_vocab: int) -> Resumed:
    found = Resumed(int(num_records), max(0, words[0]), max(0, words[1]) * 1000, array("i"))
    rest: Iterator[int] = iter(words[2:])
    for word in rest:
        if word >= n_vocab:
            raise ValueError(f"token {word} is not in the vocabulary")
        if word >= 0:
            found.tokens.append(word)
        elif word == MU:
            found.mu = mu_of(next(rest))
        else:
            found.marks.setdefault(len(found.tokens), []).append(word)
    return found


def mu_words(mu: float) -> tuple[int, int]:
    return MU, _WORD.unpack(_FLOAT.pack(mu))[0]


def mu_of(word: int) -> float:
    value: float = _FLOAT.unpack(_WORD.pack(word))[0]
    return value
