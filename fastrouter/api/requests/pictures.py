"""Pictures in requests: where they come from, and the marks that stand for them in the text of messages and prompts.

A picture is a data URL, its base64, a file below --media-path, or an address of --media-hosts. Its bytes are never decoded here.
Invariant: a client cannot write a mark itself, because a mark has a hash with a secret; equal requests have equal marks. In the prompts
that clients write themselves, MARKER stands for a picture.
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
_WEB = ("http://", "https://")
MARKER = os.environ.get("LLAMA_MEDIA_MARKER") or "<__media__>"  # as in llama-server, which has the same variable
_SECRET = secrets.token_bytes(32)
_NO_BASE64 = "must be base64 without other characters"


@dataclass(slots=True)
class Picture:
    """`content` None: it is at `url`, which names a file or is an address. `is_optional`: a model that cannot see gets a text instead."""

    name: str  # of its field
    mark: str
    content: bytes | None
    url: str = ""
    is_optional: bool = False

    @property
    def is_on_web(self) -> bool:
        return self.content is None and is_address(self.url)


@dataclass(slots=True)
class Pictures:
    """Those of one request, in their order."""

    all: list[Picture] = field(default_factory=list)
    shows_markers: bool = False  # the text is for the client: it has MARKER where pictures are

    def add(self, name: str, url: str, *, is_optional: bool = False) -> str:
        """Returns the mark. Raises InvalidRequest."""
        if len(self.all) >= MAX_PICTURES:
            raise invalid(name, f"is one picture too many: a request may have {MAX_PICTURES}")
        is_elsewhere = url.startswith(_FILE) or is_address(url)
        content = None if is_elsewhere else _content_of(name, url)
        digest = hashlib.blake2b(url.encode("utf-8", "replace") if content is None else content, key=_SECRET, digest_size=16)
        mark = MARKER if self.shows_markers else f"<__media_{digest.hexdigest()}_{len(self.all)}__>"
        self.all.append(Picture(name, mark, content, url if is_elsewhere else "", is_optional))
        return mark

    def add_prompt(self, name: str, prompt: dict[str, Any]) -> str:
        """llama-server's {"prompt_string", "multimodal_data"}. Returns the text with a mark at the place of each marker."""
        text, data = string(f"{name}.prompt_string", prompt.get("prompt_string")), prompt.get("multimodal_data")
        if data is None:
            return text
        if not isinstance(data, list):
            raise invalid(f"{name}.multimodal_data", "must be a list of pictures in base64")
        first, *others = text.split(MARKER)
        if len(others) != len(data):
            problem = f'must have as many pictures as {name}.prompt_string has "{MARKER}": they are {len(data)} and {len(others)}'
            raise invalid(f"{name}.multimodal_data", problem)
        for index, (picture, more) in enumerate(zip(data, others, strict=True)):
            place = f"{name}.multimodal_data[{index}]"
            first += self.add(place, string(place, picture)) + more
        return first

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


def is_address(url: str) -> bool:
    return url[:8].lower().startswith(_WEB)


def _content_of(name: str, url: str) -> bytes:
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
        path = os.path.realpath(os.path.join(root, picture.url[len(_FILE) :].lstrip("/")))
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
