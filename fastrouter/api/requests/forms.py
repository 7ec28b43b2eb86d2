"""Bodies of multipart/form-data -> the fields of a JSON object. The content of files stays as it is. Pure.

Invariant: the number of fields and the length of a text are bounded; the whole body was bounded before it was kept.
"""

from dataclasses import dataclass
from typing import Any

from fastrouter.errors import InvalidRequest

MAX_FIELDS = 64
MAX_TEXT_BYTES = 64 << 10
_MAX_NAME = 100  # characters
_KIND = "multipart/form-data"


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file in a form."""

    name: str  # as its client calls it; only for people
    content: bytes


def is_form(content_type: str) -> bool:
    return content_type[: len(_KIND)].lower() == _KIND


def read_form(content_type: str, body: bytes) -> dict[str, Any]:
    """Its fields: texts, files, and lists of texts where a name ends with []. Raises InvalidRequest."""
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest("the Content-Type of a form must name its boundary")
    form = _Form()
    try:
        MultipartParser(boundary, form.callbacks()).write(body)
    except FormParserError as error:
        raise InvalidRequest(f"the body is not a form of {_KIND}: {error}") from None
    if not form.is_over:
        raise InvalidRequest("the body of the form is cut short: its last boundary is missing")
    return form.fields


class _Form:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.is_over = False
        self._num_fields = 0
        self._headers: dict[bytes, bytes] = {}
        self._header, self._value = b"", b""
        self._pieces: list[bytes] = []

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._take_header,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_part_data": self._take_data,
            "on_part_end": self._end,
            "on_end": self._end_all,
        }

    def _begin(self) -> None:
        self._num_fields += 1
        if self._num_fields > MAX_FIELDS:
            raise InvalidRequest(f"the form has more than {MAX_FIELDS} fields")
        self._headers, self._pieces = {}, []

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def _end(self) -> None:
        from python_multipart.multipart import parse_options_header

        options = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if not name or len(name) > _MAX_NAME:
            raise InvalidRequest(f"each field of the form needs a name of at most {_MAX_NAME} characters")
        content, self._pieces = b"".join(self._pieces), []
        value = FormFile(options[b"filename"].decode("utf-8", "replace"), content) if b"filename" in options else _text(name, content)
        if name.endswith("[]") and isinstance(value, str):
            self.fields.setdefault(name[:-2], []).append(value)
        elif name in self.fields:
            raise InvalidRequest(f"field '{name}' is in the form twice")
        else:
            self.fields[name] = value

    def _end_all(self) -> None:
        self.is_over = True


def _text(name: str, content: bytes) -> str:
    if len(content) > MAX_TEXT_BYTES:
        raise InvalidRequest(f"field '{name}' must have at most {MAX_TEXT_BYTES >> 10} KiB")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"field '{name}' must be UTF-8") from None
