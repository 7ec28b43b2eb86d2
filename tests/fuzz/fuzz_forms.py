"""Bodies of multipart/form-data."""

import contextlib

from fastrouter.api.requests.forms import MAX_FIELDS, FormFile, read_form
from fastrouter.errors import InvalidRequest


def check(data: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        fields = read_form("multipart/form-data; boundary=b", data)
        assert len(fields) <= MAX_FIELDS
        assert all(isinstance(value, str | FormFile | list) for value in fields.values())
