"""Server-sent events, read line by line as they come."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def read_events(lines: Iterable[bytes], on_comment: Callable[[str], None] = lambda _: None) -> Iterator[dict[str, Any] | None]:
    """The content of each `data:` line; None for [DONE], the end of a stream of text. Raises ValueError for content that is not JSON."""
    for line in lines:
        if line.startswith(b": "):
            on_comment(line[2:].decode("utf-8", "replace").strip())
        elif line.startswith(b"data: "):
            text = line[6:].strip()
            yield None if text == b"[DONE]" else json.loads(text)
