"""Checks of single JSON values: type, range, clamping. The caller gives the field's name, which is used in the error.

Invariant: an accepted number is finite and inside the range of its later C type. A bool is never a number.
"""

import math
import re
from collections.abc import Callable
from typing import Any, cast

from fastrouter.api.requests.bodies import Ids
from fastrouter.errors import InvalidRequest
from fastrouter.options.guess_types import guessers_of
from fastrouter.options.limits import FLOAT_MAX, INT32_MAX, MAX_SCALE, UINT32_MAX
from fastrouter.options.samplers import names_of, names_of_letters
from fastrouter.options.sampling import Outside, SamplingField, Shape

MAX_SAMPLERS = 64
MAX_NAMES = 256  # in a list of names
MAX_NAME_CHARACTERS = 1024
MAX_BIAS_CHARACTERS = 1 << 14  # in all texts of a logit_bias: a worker tokenizes them between two steps
MAX_STOP_CHARACTERS = 1 << 16  # up to this much text may be held back, and it must then fit into one record of the ring

Check = Callable[[str, Any], Any]


def invalid(name: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"field '{name}' {problem}")


def not_supported(name: str) -> InvalidRequest:
    return invalid(name, "is not supported yet")


def not_supported_kind(name: str, kind: Any) -> InvalidRequest:
    return invalid(f"{name}.type", f'is "{str(kind)[:100]}", which is not supported yet: send text')


def boolean(name: str, value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise invalid(name, "must be true or false")


def string(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise invalid(name, "must be a string")


def whole_number(name: str, value: Any) -> int:
    """An int, or a float without a fraction, as JavaScript clients send it."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    raise invalid(name, "must be a whole number")


def integer(low: int, high: int = INT32_MAX, *, is_clamped: bool = False) -> Check:
    def check(name: str, value: Any) -> int:
        given = whole_number(name, value)
        if low <= given <= high:
            return given
        if is_clamped:
            return low if given < low else high
        raise invalid(name, f"must be between {low} and {high}, but is {value}")

    return check


def number(low: float = -FLOAT_MAX, high: float = FLOAT_MAX, *, is_clamped: bool = False) -> Check:
    def check(name: str, value: Any) -> float:
        if type(value) is not float and type(value) is not int:
            raise invalid(name, "must be a number")
        if low <= value <= high:
            return float(value)
        if is_clamped:
            return low if value < low else high
        raise invalid(name, f"must be between {low:g} and {high:g}, but is {value}")

    return check


def one_of(*words: str) -> Check:
    def check(name: str, value: Any) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise invalid(name, f"must be one of {', '.join(filter(None, words))}")

    return check


def absent_below(low: float, check: Check) -> Check:
    """A value below it is None, as if the field were absent."""

    def check_rest(name: str, value: Any) -> Any:
        return None if type(value) in (int, float) and value < low else check(name, value)

    return check_rest


def seed(name: str, value: Any) -> int:
    """-1 is random. Any other number is taken modulo 2^32, llama.cpp's seed type."""
    given = whole_number(name, value)
    if not -(1 << 63) <= given < 1 << 64:
        raise invalid(name, "is out of range")
    return given if given == -1 else given & UINT32_MAX


MAX_DURATION_CHARACTERS = 64
_SECONDS = {"ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9, "h": 3600.0, "m": 60.0, "s": 1.0}
_PART = re.compile(rf"(\d+\.?\d*|\.\d+)({'|'.join(_SECONDS)})", re.ASCII)
_DURATION = re.compile(rf"[+-]?(?:{_PART.pattern})+", re.ASCII)


def duration(name: str, value: Any) -> float:
    """Seconds, as Ollama and LM Studio take them: a number, or text like "5m", "1h30m", "-1"; less than 0 means forever."""
    if isinstance(value, str) and len(value) > MAX_DURATION_CHARACTERS:
        raise invalid(name, f"is longer than {MAX_DURATION_CHARACTERS} characters")
    if type(value) in (int, float):
        seconds = float(value)
    elif isinstance(value, str) and _DURATION.fullmatch(value):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(value)) * (-1 if value.startswith("-") else 1)
    else:
        try:
            seconds = float(value) if isinstance(value, str) and value.isascii() else math.nan
        except ValueError:
            seconds = math.nan
    if math.isnan(seconds):
        raise invalid(name, 'must be a number of seconds or a duration like "5m"')
    return math.inf if seconds < 0 else min(seconds, FLOAT_MAX)


def neutral(*values: Any, is_off: Callable[[float], bool] | None = None) -> Check:
    """A field of llama-server that is not supported yet: only values that mean "off" are accepted."""

    def check(name: str, value: Any) -> None:
        is_number = type(value) in (int, float)
        if is_off is not None and is_number and is_off(value):
            return
        if not any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in values):
            raise not_supported(name)

    return check


def stop_strings(name: str, value: Any) -> list[str]:
    """A string or a list of strings. Empty strings are ignored."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise invalid(name, "must be a string or a list of strings")
    if len(words) > 256:
        raise invalid(name, "has more than 256 strings")
    if sum(map(len, words)) > MAX_STOP_CHARACTERS:
        raise invalid(name, f"has more than {MAX_STOP_CHARACTERS} characters in all")
    return [word for word in words if word]


def samplers(name: str, value: Any) -> list[str]:
    """A list of names, or a string of llama-server's letters, in the order of their use."""
    if isinstance(value, str | list) and len(value) > MAX_SAMPLERS:
        raise invalid(name, f"has more than {MAX_SAMPLERS} entries")
    try:
        if isinstance(value, str):
            return names_of_letters(value)
        return names_of(short_strings(name, value))
    except ValueError as error:
        raise invalid(name, f"must hold names of samplers, each {error}") from None


def guessers(name: str, value: Any) -> list[str]:
    """One type of speculative decoding, or several, comma-separated or in a list."""
    names = short_strings(name, value.split(",", MAX_NAMES) if isinstance(value, str) else value)
    try:
        return list(guessers_of(names))
    except ValueError as error:
        raise invalid(name, f"must be {error}") from None


def breakers(name: str, value: Any) -> list[str]:
    texts = short_strings(name, value)
    if not texts or len(texts) > 32:
        raise invalid(name, "must hold 1 to 32 strings")
    return texts


def logit_bias(name: str, value: Any) -> list[list[Any]]:
    """Pairs or an object -> [[token id | text, bias | None], ...]; false bans a token, and so does None."""
    if isinstance(value, dict):
        pairs: list[Any] = [[_token_of(name, key), bias] for key, bias in value.items()]
    elif isinstance(value, list):
        pairs = value
    else:
        raise invalid(name, "must be a list of [token, bias] pairs or an object")
    if len(pairs) > 10_000:
        raise invalid(name, "has more than 10000 entries")
    found = [_bias_pair(name, pair) for pair in pairs]
    if sum(len(token) for token, _ in found if isinstance(token, str)) > MAX_BIAS_CHARACTERS:
        raise invalid(name, f"has texts of more than {MAX_BIAS_CHARACTERS} characters")
    return found


_adapter_id = integer(0)
_adapter_scale = number(-MAX_SCALE, MAX_SCALE)


def adapter_scales(name: str, value: Any) -> list[list[Any]]:
    """[{"id", "scale"}, ...] -> [[id, scale], ...]; without a scale it is 0, as in llama-server."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise invalid(name, 'must be a list of {"id", "scale"} objects')
    if len(value) > 256:
        raise invalid(name, "has more than 256 entries")
    pairs = [(entry.get("id"), entry.get("scale")) for entry in value]
    return [[_adapter_id(f"{name}.id", key), 0.0 if scale is None else _adapter_scale(f"{name}.scale", scale)] for key, scale in pairs]


_token_id = integer(0)
_bias = number(-1e9, 1e9)


def _token_of(name: str, key: str) -> int | str:
    """A name in an object: digits are an id, everything else is text."""
    if not (key.isascii() and key.isdigit()):
        return key
    if len(key) > len(str(INT32_MAX)):  # before it is converted, which takes time
        raise invalid(name, f"has a token id of {len(key)} digits, but an id is at most {INT32_MAX}")
    return int(key)


def _bias_pair(name: str, pair: Any) -> list[Any]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise invalid(name, "must hold [token, bias] pairs")
    token, bias = pair
    return [token if isinstance(token, str) else _token_id(name, token), None if bias is False or bias is None else _bias(name, bias)]


def token_ids(name: str, value: Any) -> list[int]:
    if isinstance(value, Ids):
        return cast(list[int], value)
    if not isinstance(value, list):
        raise invalid(name, "must be a list of token ids")
    return [_token_id(name, item) for item in value]


def json_object(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise invalid(name, "must be an object")


def short_strings(name: str, value: Any) -> list[str]:
    """A list of names, not of texts."""
    words = string_list(name, value)
    if len(words) > MAX_NAMES:
        raise invalid(name, f"has more than {MAX_NAMES} strings")
    if any(len(word) > MAX_NAME_CHARACTERS for word in words):
        raise invalid(name, f"has a string of more than {MAX_NAME_CHARACTERS} characters")
    return words


def string_list(name: str, value: Any) -> list[str]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise invalid(name, "must be a list of strings")


_CHECKS: dict[Shape, Check] = {
    Shape.SWITCH: boolean,
    Shape.SEED: seed,
    Shape.SAMPLERS: samplers,
    Shape.TEXTS: breakers,
    Shape.BIAS: logit_bias,
}


def check_of(field: SamplingField) -> Check:
    """The check of a request's value. If its result is None, the field counts as absent."""
    if field.shape in _CHECKS:
        return _CHECKS[field.shape]
    is_clamped = field.outside is Outside.CLAMPED
    if field.shape is Shape.WHOLE:
        check = integer(int(field.low), int(field.high), is_clamped=is_clamped)
    else:
        check = number(field.low, field.high, is_clamped=is_clamped)
    return absent_below(field.low, check) if field.outside is Outside.ABSENT_BELOW else check
