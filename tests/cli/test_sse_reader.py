"""The command line's reader of server-sent events."""

import pytest

from fastrouter.cli.sse import read_events


def test_events_comments_and_the_end() -> None:
    comments: list[str] = []
    lines = [b": queued 2\n", b'data: {"a": 1}\n', b"\n", b"event: x\n", b'data: {"b": "data: "}\r\n', b":\n"]
    lines += [b"data: [DONE]\n", b"data: 3\n"]
    assert list(read_events(lines, comments.append)) == [{"a": 1}, {"b": "data: "}, None, 3]
    assert comments == ["queued 2"]


def test_what_is_not_json() -> None:
    events = read_events([b'data: {"a": 1}\n', b"data: {\n"])
    assert next(events) == {"a": 1}
    with pytest.raises(ValueError, match="property name"):
        next(events)
