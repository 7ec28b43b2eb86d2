"""Names of the ways to guess tokens ahead (speculative decoding), as llama-server has them. Must never know how a guess is made.

Invariant: what passes is a name that the worker knows; "none" alone is the empty tuple; any other name is a ValueError that repeats it.
"""

from collections.abc import Iterable

DRAFT = "draft-simple"  # by a second, smaller model
# By looking back into the text itself -> (tokens that must be the same, tokens that are guessed at most).
LOOKUPS: dict[str, tuple[int, int]] = {
    "ngram-simple": (12, 48),
    "ngram-map-k": (12, 48),
    "ngram-map-k4v": (12, 48),
    "ngram-mod": (24, 64),
    "ngram-cache": (4, 8),
}
DEFAULT = "ngram-mod"  # llama-server's --spec-default
MAX_GUESSED = 1024  # tokens at a time
_NOT_YET = ("draft-eagle3", "draft-mtp", "draft-dflash", "draft-dspark")  # heads that are trained for one model


def guessers_of(names: Iterable[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    for name in found:
        if name not in ("none", DRAFT, *LOOKUPS):
            why = f"{name} is not supported yet" if name in _NOT_YET else f"{name!r} is none"
            raise ValueError(f"one of none, {DRAFT}, {', '.join(LOOKUPS)}, but {why}")
    return tuple(name for name in found if name != "none")
