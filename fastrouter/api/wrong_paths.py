"""Hints for an unknown path: the base URL is too long or too short, or there is a typing error. Pure."""

import difflib
from collections.abc import Iterable

_MAX_LENGTH = 256  # of a path that is compared with others


def hint(path: str, known: Iterable[str]) -> str:
    """`path` has no doubled or trailing slashes. Empty when no path is similar."""
    paths = [each for each in dict.fromkeys(known) if each != "/"]
    if path == "/v1":
        return "this is the base URL for clients; ask for /v1/models or /v1/chat/completions below it"
    if len(path) > _MAX_LENGTH:
        return ""
    misspelt = difflib.get_close_matches(path.lower(), [each for each in paths if each.count("/") == path.count("/")], 1, 0.9)
    if misspelt:
        return f"did you mean {misspelt[0]}?"
    inner = _inner(path, paths)
    if inner is not None:
        extra = path[: len(path) - len(inner)]
        return f"did you mean {inner}? Leave {extra} out of the client's base URL"
    longer = sorted((each for each in paths if each.startswith(f"{path}/")), key=len)
    near = longer or difflib.get_close_matches(path, paths, 1, 0.85)
    return f"did you mean {near[0]}?" if near else ""


def _inner(path: str, known: list[str]) -> str | None:
    """The longest end of the path that is one of ours."""
    parts = path.split("/")
    ends = ("/" + "/".join(parts[index:]) for index in range(2, len(parts)))
    return next((end for end in ends if end in known), None)
