"""One value for each row of the sampling table, other than its default: as in a request, and as a flag or preset key."""

import json
from typing import Any, NamedTuple

from fastrouter.options.sampling import SAMPLING, SamplingField, Shape


class Example(NamedTuple):
    value: Any
    text: str


_OTHERS = {
    Shape.SWITCH: Example(True, "true"),
    Shape.SEED: Example(7, "7"),
    Shape.SAMPLERS: Example(["top_k", "temperature"], "top_k;temperature"),
    Shape.TEXTS: Example(["x"], "x"),
    Shape.BIAS: Example([[5, -1.0]], "5-1"),
}


def _example_of(field: SamplingField) -> Example:
    if field.shape in _OTHERS:
        return _OTHERS[field.shape]
    values = [0.25, 1.5] if field.shape is Shape.NUMBER else [7, 1]
    value = next(value for value in values if field.low <= value <= field.high and value != field.default)
    return Example(value, str(value))


EXAMPLES = {field.name: _example_of(field) for field in SAMPLING}
VALUES = {name: example.value for name, example in EXAMPLES.items()}


def as_json(value: Any) -> Any:
    """A tuple becomes a list."""
    return json.loads(json.dumps(value))
