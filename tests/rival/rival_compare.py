"""Compares two answers to one request, and returns where they differ. Pure.

Invariant: everything counts except what a rule below or the case itself names, with the reason.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

TOLERANCE = 2e-3  # of numbers that a CPU computes
LOG_TOLERANCE = 3e-2  # of logarithms of probabilities

# Values that differ in each run; their types count.
VOLATILE = {
    "*timings.*_ms": "time",
    "*timings.*_per_second": "time",
    "*timings.cache_n": "what the slot held before",
    "*timings.prompt_n": "what the slot held before",
    "*cached_tokens": "what the slot held before",
    "*id_slot": "any free slot will do",
    "*id_task": "counts other requests, too",
    "json.id": "made for each answer",
    "*.created": "the clock",
    "event.*.id": "made for each answer",
    "*system_fingerprint": "names the program",
    "*build_info": "names the program",
    "json.media_marker": "it is random in llama-server, unless LLAMA_MEDIA_MARKER is set",
}
# Differences that are everywhere, on purpose.
DIFFERENT = {
    "*timings.queue_ms": "how long it waited for its model, which a router can tell",
    "*timings.load_ms": "how long the load took",
    "*prompt_tokens_details.media_tokens": "what each picture costs",
    "*generation_settings.lora": "all adapters that were in effect, not only those of the request",
    "json.error.model": "a router's errors say which model they are about",
}


def differences(theirs: dict[str, Any], ours: dict[str, Any], allowed: Mapping[str, str]) -> list[str]:
    """`allowed`: paths that need not agree, and why."""
    rules = {**DIFFERENT, **allowed}
    return list(_compare("", _canonical(theirs, rules), _canonical(ours, rules), rules))


def _matches(path: str, patterns: Mapping[str, str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _compare(path: str, theirs: Any, ours: Any, allowed: Mapping[str, str]) -> Iterator[str]:
    if _matches(path, allowed):
        return
    if isinstance(theirs, dict) and isinstance(ours, dict):
        yield from _compare_objects(path, theirs, ours, allowed)
    elif isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            yield f"{path}: {len(theirs)} items there, {len(ours)} here: {theirs!r:.300} / {ours!r:.300}"
        for index, (their, our) in enumerate(zip(theirs, ours, strict=False)):
            yield from _compare(f"{path}.{index}", their, our, allowed)
    elif _kind(theirs) != _kind(ours) or not (_matches(path, VOLATILE) or _is_same(path, theirs, ours)):
        yield f"{path}: {theirs!r:.300} there, {ours!r:.300} here"


def _compare_objects(path: str, theirs: dict[str, Any], ours: dict[str, Any], allowed: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(theirs.keys() | ours.keys()):
        here = f"{path}.{key}" if path else key
        if key in theirs and key in ours:
            yield from _compare(here, theirs[key], ours[key], allowed)
        elif not _matches(here, allowed):
            yield f"{here}: only {'there' if key in theirs else 'here'}: {theirs.get(key, ours.get(key))!r:.200}"


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def _is_same(path: str, theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, float) or isinstance(ours, float):
        tolerance = LOG_TOLERANCE if path.endswith("prob") else TOLERANCE
        return bool(abs(theirs - ours) <= tolerance * max(1.0, abs(theirs)))
    return bool(theirs == ours)


# ---------------------------------------------------------------- streams


def _canonical(answer: dict[str, Any], allowed: Mapping[str, str]) -> dict[str, Any]:
    """Which tokens share an event is not fixed: the texts of a stream are joined, its first and its last event are compared without
    texts, and of the events between them the shapes and their order count."""
    if "events" not in answer:
        return answer
    events = answer["events"]
    shapes = list(dict.fromkeys(_shape("event.each", event, allowed) for event in events))
    rest = {name: value for name, value in answer.items() if name != "events"}
    ends = {"first": _without_text(events[0]), "last": _without_text(events[-1]), "but_one": _without_text(events[-2])}
    return {**rest, "text": "".join(map(_text, events)), "shapes": shapes, "event": ends}


def _shape(path: str, value: Any, allowed: Mapping[str, str]) -> str:
    if isinstance(value, dict):
        keys = [key for key in sorted(value) if not _matches(f"{path}.{key}", allowed)]
        return "{" + ",".join(f"{key}:{_shape(f'{path}.{key}', value[key], allowed)}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + (_shape(f"{path}.0", value[0], allowed) if value else "") + "]"
    return "done" if value == "[DONE]" else _kind(value)


def _text(event: Any) -> str:
    if not isinstance(event, dict):
        return ""
    if "content" in event:
        return str(event["content"])
    if isinstance(event.get("delta"), str):
        return str(event["delta"])
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in event.get("choices", []))


def _without_text(event: Any) -> Any:
    if isinstance(event, dict):
        return {
            key: "" if key in ("content", "text", "delta") and isinstance(value, str) else _without_text(value)
            for key, value in event.items()
        }
    return [_without_text(item) for item in event] if isinstance(event, list) else event
