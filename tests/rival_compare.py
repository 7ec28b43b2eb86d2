"""What is the same: two answers to one request -> where they differ. Pure.

Invariant: everything counts but what a rule below or the case itself names, with the reason.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

TOLERANCE = 2e-3  # of numbers that a CPU computes

# Values that no two runs share; their types count.
VOLATILE = {
    "*timings.*": "times",
    "*.id": "made for each answer",
    "*.created": "the clock",
    "json.created": "the clock",
    "*system_fingerprint": "another program",
    "*build_info": "another program",
}
# Keys and values that are meant to differ everywhere.
DIFFERENT: dict[str, str] = {}


def differences(theirs: dict[str, Any], ours: dict[str, Any], allowed: dict[str, str]) -> list[str]:
    """`allowed`: paths that need not agree."""
    return list(_compare("", _canonical(theirs), _canonical(ours), {**DIFFERENT, **allowed}))


def _matches(path: str, patterns: dict[str, str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _compare(path: str, theirs: Any, ours: Any, allowed: dict[str, str]) -> Iterator[str]:
    if _matches(path, allowed):
        return
    if isinstance(theirs, dict) and isinstance(ours, dict):
        yield from _compare_objects(path, theirs, ours, allowed)
    elif isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            yield f"{path}: {len(theirs)} items there, {len(ours)} here: {theirs!r:.300} / {ours!r:.300}"
        for index, (their, our) in enumerate(zip(theirs, ours, strict=False)):
            yield from _compare(f"{path}.{index}", their, our, allowed)
    elif _kind(theirs) != _kind(ours) or not (_matches(path, VOLATILE) or _is_same(theirs, ours)):
        yield f"{path}: {theirs!r:.300} there, {ours!r:.300} here"


def _compare_objects(path: str, theirs: dict[str, Any], ours: dict[str, Any], allowed: dict[str, str]) -> Iterator[str]:
    for key in sorted(theirs.keys() | ours.keys()):
        here = f"{path}.{key}" if path else key
        if key in theirs and key in ours:
            yield from _compare(here, theirs[key], ours[key], allowed)
        elif not _matches(here, allowed):
            yield f"{here}: only {'there' if key in theirs else 'here'}: {theirs.get(key, ours.get(key))!r:.200}"


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def _is_same(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, float) or isinstance(ours, float):
        return bool(abs(theirs - ours) <= TOLERANCE * max(1.0, abs(theirs)))
    return bool(theirs == ours)


# ---------------------------------------------------------------- streams


def _canonical(answer: dict[str, Any]) -> dict[str, Any]:
    """Which tokens share an event is no promise: the texts of a stream are joined, and each shape of its events counts once."""
    if "events" not in answer:
        return answer
    shapes: dict[str, Any] = {}
    for event in answer["events"]:
        shapes.setdefault(_shape(event), event)
    events = answer["events"]
    texts = "".join(_text(event) for event in events)
    return {
        **answer,
        "events": {"text": texts, "shapes": list(shapes), "first": _bare(events[0]), "ends": [_bare(event) for event in events[-2:]]},
    }


def _shape(event: Any) -> str:
    if isinstance(event, dict):
        return "{" + ",".join(f"{key}:{_shape(value)}" for key, value in sorted(event.items())) + "}"
    if isinstance(event, list):
        return "[" + (_shape(event[0]) if event else "") + "]"
    return "done" if event == "[DONE]" else _kind(event)


def _text(event: Any) -> str:
    if not isinstance(event, dict):
        return ""
    if "content" in event:
        return str(event["content"])
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in event.get("choices", []))


def _bare(event: Any) -> Any:
    """Without its text."""
    return event
