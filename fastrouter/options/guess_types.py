"""Names of the ways to guess tokens (speculative decoding), as in llama-server. Pure.

Invariant: a name that passes is known to the worker; "none" alone is the empty tuple; any other name is a ValueError that repeats it.
"""

from collections.abc import Iterable

DRAFT = "draft-simple"  # by a second, smaller model
# By a look back into the text -> (tokens that must be the same, tokens that are guessed at most).
LOOKUPS: dict[str, tuple[int, int]] = {
    "ngram-simple": (12, 48),
    "ngram-map-k": (12, 48),
    "ngram-map-k4v": (12, 48),
    "ngram-mod": (24, 64),
    "ngram-cache": (4, 8),
}
DEFAULT = "ngram-mod"  # --spec-default of llama-server
MAX_GUESSED = 1024  # tokens in one guess
_NOT_YET = ("draft-eagle3", "draft-mtp", "draft-dflash", "draft-dspark")  # needs parts that are trained for one model


def guessers_of(names: Iterable[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    for name in found:
        if name not in ("none", DRAFT, *LOOKUPS):
            why = f"{name} is not supported yet" if name in _NOT_YET else f"{name!r} is not one of them"
            raise ValueError(f"one of none, {DRAFT}, {', '.join(LOOKUPS)}, but {why}")
    return tuple(name for name in found if name != "none")
