"""Sequence breakers of DRY: texts -> the tokens at which a repetition ends. Never imports: worker.sequence.

Invariant: the search for a vocabulary and its texts is done once; walking through a vocabulary takes milliseconds.
"""

from functools import lru_cache

from fastrouter._core import Breakers
from fastrouter.worker.llama.vocab import Vocab

MAX_TEXT_BYTES, MAX_TAIL_TOKENS = 40, 20  # llama.cpp's limits


@lru_cache(maxsize=64)
def dry_breakers_of(vocab: Vocab, texts: tuple[str, ...]) -> Breakers:
    singles: list[int] = []
    longer: dict[tuple[int, tuple[int, ...]], None] = {}
    for text in texts:
        word = text.encode("utf-8", "replace")[:MAX_TEXT_BYTES]
        starts = tuple(word[:size] for size in range(1, len(word)))
        for token, piece in enumerate(vocab.pieces):
            if word and word in piece:
                singles.append(token)
            elif word[:1] in piece and piece.endswith(starts):
                for size in range(1, len(word)):
                    if piece.endswith(word[:size]):
                        tail = vocab.tokenize(word[size:], add_special=False, parse_special=False)
                        longer[token, tuple(tail[:MAX_TAIL_TOKENS])] = None
    return Breakers(vocab.n_tokens, singles, [(head, list(tail)) for head, tail in longer])
