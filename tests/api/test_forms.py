"""Forms become the fields of a body."""

import pytest
from rival_audio import BOUNDARY, form

from fastrouter.api.requests.forms import MAX_FIELDS, MAX_TEXT_BYTES, FormFile, is_form, read_form
from fastrouter.errors import InvalidRequest

KIND = f"multipart/form-data; boundary={BOUNDARY}"
CONTENT = bytes(range(256)) * 300 + b"\r\n--of-a-for" + b"\r\n--"


def test_texts_and_files() -> None:
    found = read_form(KIND, form({"model": "größer", "a[]": "x", "empty": ""}, CONTENT))
    assert found == {"model": "größer", "a": ["x"], "empty": "", "file": FormFile("a.wav", CONTENT)}
    assert read_form(KIND.replace(BOUNDARY, f'"{BOUNDARY}"'), form({"a": "b"}, None)) == {"a": "b"}
    several = form({"a[]": "x"}, None)[: -len(f"--{BOUNDARY}--\r\n")] + form({"a[]": "y"}, None)
    assert read_form(KIND, several) == {"a": ["x", "y"]}
    assert is_form("Multipart/Form-Data; boundary=a")
    assert not is_form("application/json")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "cut short"),
        (form({"a": "b"}, CONTENT)[:-6], "cut short"),
        (form({"a": "b"}, CONTENT)[: len(CONTENT) // 2], "cut short"),
        (b"nonsense", "not a form"),
        (form({"a" * 101: "b"}, None), "needs a name"),
        (form({"": "b"}, None), "needs a name"),
        (form({"a": "b"}, None).replace(b"form-data; name", b"form-data; nome"), "needs a name"),
        (form({"a": "b" * (MAX_TEXT_BYTES + 1)}, None), "'a' must have at most 64 KiB"),
        (form({f"a{number}": "" for number in range(MAX_FIELDS + 1)}, None), "more than 64 fields"),
        (form({"a": "b", "c": "d"}, None).replace(b'"c"', b'"a"'), "'a' is in the form twice"),
        (form({"a": "b"}, None).replace(b"\r\nb\r\n", b"\r\n\xff\r\n"), "'a' must be UTF-8"),
        (form({"a": "b"}, None).replace(b"\r\n\r\n", b"\r\n" + b"x: y\r\n" * 1000 + b"\r\n"), "not a form"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong(body: bytes, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        read_form(KIND, body)


def test_a_boundary_must_be_there() -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'a' * 10_000}"):
        with pytest.raises(InvalidRequest):
            read_form(kind, form({"a": "b"}, None))
