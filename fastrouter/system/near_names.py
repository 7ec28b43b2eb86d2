"""Names that a user may have meant. Never imports: system.text_file, system.fact_file.

Invariant: it takes at most a few milliseconds, whatever the word is and however many names there are.
"""

from collections.abc import Iterable

MAX_LENGTH = 200  # of a word that is compared
MAX_COMPARED = 300  # names that are compared letter by letter
MAX_FOUND = 3


def near(word: str, names: Iterable[str]) -> list[str]:
    """The best first: the same word in another case, then names that contain it, then similar ones."""
    if not word or len(word) > MAX_LENGTH:
        return []
    folded = word.casefold()
    by_folded = [(name.casefold(), name) for name in dict.fromkeys(names) if name != word]
    same = [name for other, name in by_folded if other == folded]
    parts = [name for other, name in by_folded if folded in other]
    found = same or (sorted(parts, key=len) if len(folded) > 2 else []) or _alike(folded, by_folded)
    return found[:MAX_FOUND]


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """The end of a message; "" when no name is similar."""
    found = near(word, names)
    return f", did you mean {' or '.join(found)}?" if found else ""


def _alike(folded: str, by_folded: list[tuple[str, str]]) -> list[str]:
    import difflib  # slow to import, and needed only for an error

    if len(by_folded) > MAX_COMPARED:
        by_folded = [pair for pair in by_folded if pair[0][:1] == folded[:1]][:MAX_COMPARED]
    named = dict(reversed(by_folded))
    return [named[match] for match in difflib.get_close_matches(folded, named, MAX_FOUND)]
