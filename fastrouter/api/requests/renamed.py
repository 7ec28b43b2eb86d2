"""Errors of a translated request name the fields that its client has sent."""

from collections.abc import Mapping

_BEFORE = "field '"


def renamed(message: str, names: Mapping[str, str]) -> str:
    """`names`: our name -> the client's. The part after a name ("[0]", ".type") is kept."""
    rest = message.removeprefix(_BEFORE)
    if rest == message:
        return message
    name = max(
        (name for name in names if rest.startswith(name) and rest[len(name) : len(name) + 1] in ("'", ".", "[")), key=len, default=""
    )
    return _BEFORE + names[name] + rest[len(name) :] if name else message
