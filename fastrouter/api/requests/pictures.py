"""Pictures in requests: where they come from, and the marks that stand for them in the text of messages.

A picture is a data URL, its base64, or a file below --media-path. Its bytes are never decoded here. Invariant: a client cannot write a
mark itself, because a mark has a hash with a secret; equal requests have equal marks.
"""

import base64
import binascii
import hashlib
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastrouter.api.requests.checks import invalid, json_object, string
from fastrouter.api.requests.tools import UNSEEN_IMAGE

MAX_PICTURES = 64  # of a request
MAX_PICTURE_BYTES = 20 << 20
_MAX_SHOWN = 40  # characters of a URL, in an error
_DATA_URL = re.compile(r"data:(?P<kind>[^,;]{0,100})(?:;[^,;]{0,100})*;base64,")
_MAX_NAME = 200  # characters
_FILE = "file://"
_SECRET = secrets.token_bytes(32)
_NO_BASE64 = "must be base64 without other characters"


@dataclass(slots=True)
class Picture:
    """`content` None: it is in the file `path`. `is_optional`: a model that cannot see gets a text instead."""

    name: str  # of its field
    mark: str
    content: bytes | None
    path: str = ""
    is_optional: bool = False


@dataclass(slots=True)
class Pictures:
    """Those of one request, in their order."""

    all: list[Picture] = field(default_factory=list)

    def add(self, name: str, url: str, *, is_optional: bool = False) -> str:
        """Returns the mark. Raises InvalidRequest."""
        if len(self.all) >= MAX_PICTURES:
            raise invalid(name, f"is one picture too many: a request may have {MAX_PICTURES}")
        path = url[len(_FILE) :] if url.startswith(_FILE) else ""
        content = None if path else _content_of(name, url)
        digest = hashlib.blake2b(url.encode("utf-8", "replace") if content is None else content, key=_SECRET, digest_size=16)
        mark = f"<__media_{digest.hexdigest()}_{len(self.all)}__>"
        self.all.append(Picture(name, mark, content, path, is_optional))
        return mark

    def add_part(self, name: str, part: dict[str, Any]) -> str:
        """A part of type image_url."""
        name = field_of(name, part)
        given = part.get("image_url")
        url = given if isinstance(given, str) else string(f"{name}.url", json_object(name, given).get("url"))
        return self.add(name, url, is_optional=part.get("is_optional") is True)

    @property
    def marks(self) -> list[list[str]]:
        """For Generate."""
        return [[picture.mark, picture.name] for picture in self.all]

    def unseen(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages for a model that cannot see."""
        return [{**message, "content": self._unseen(message["content"])} if message.get("content") else message for message in messages]

    def _unseen(self, content: Any) -> Any:
        for picture in self.all if isinstance(content, str) else ():
            content = content.replace(picture.mark, UNSEEN_IMAGE)
        return content

    def contents(self, folder: Path | None) -> list[bytes]:
        """Reads the files, which are below this folder. Raises InvalidRequest."""
        return [_read(picture, folder) if picture.content is None else picture.content for picture in self.all]


def field_of(name: str, part: dict[str, Any]) -> str:
    """The name of a picture's field. The readers of other APIs put the name that their clients know into the part."""
    given = part.get("field")
    return given if isinstance(given, str) and len(given) <= _MAX_NAME else f"{name}.image_url"


def _content_of(name: str, url: str) -> bytes:
    if url[:8].lower().startswith(("http://", "https://")):
        raise invalid(name, 'is an address, and this server does not fetch pictures: send "data:image/png;base64,..."')
    encoded = url
    if url[:5] == "data:":
        found = _DATA_URL.match(url)
        if found is None or not found["kind"].startswith("image/"):
            raise invalid(name, f'must begin with "data:image/...;base64,", but begins with {url[:_MAX_SHOWN]!r}')
        encoded = url[found.end() :]
    if len(encoded) > MAX_PICTURE_BYTES * 4 // 3 + 4:
        raise invalid(name, f"is a picture of more than {MAX_PICTURE_BYTES >> 20} MiB: send a smaller one")
    try:
        content = base64.b64decode(encoded.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise invalid(name, _NO_BASE64 if encoded is not url else f"{_NO_BASE64}, or a data URL") from None
    if not content:
        raise invalid(name, "is a picture without content")
    return content


def _read(picture: Picture, folder: Path | None) -> bytes:
    """A file below the folder. Links inside it may not lead out of it."""
    if folder is None:
        raise invalid(picture.name, "is a file:// URL, which is allowed only with --media-path: send the picture as a data URL")
    try:
        root = os.path.realpath(folder)
        path = os.path.realpath(os.path.join(root, picture.path.lstrip("/")))
        if os.path.commonpath([root, path]) != root:
            raise invalid(picture.name, "is not below the folder of --media-path")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_PICTURE_BYTES:
                raise invalid(picture.name, f"must be a file of at most {MAX_PICTURE_BYTES >> 20} MiB")
            return file.read(MAX_PICTURE_BYTES)
    except (OSError, ValueError):
        raise invalid(picture.name, "is a file that does not exist below --media-path, or cannot be read") from None
