"""Pictures, audio and videos in requests: where they come from, and the marks that stand for them in the text of messages and prompts.

A file is a data URL, its base64, below --media-path, or at an address of --media-hosts. Its bytes are never decoded here. Invariant: a
client cannot write a mark itself, because a mark has a hash with a secret; equal requests have equal marks. In the prompts that clients
write themselves, MARKER stands for a file.
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
from fastrouter.errors import FastrouterError

MAX_PICTURES = 64  # of a request
IMAGE, AUDIO, VIDEO = "image", "audio", "video"
NOUNS = {IMAGE: "a picture", AUDIO: "an audio file", VIDEO: "a video"}
MAX_ALL_BYTES = 256 << 20  # of a request
MAX_BYTES = {IMAGE: 20 << 20, AUDIO: 25 << 20, VIDEO: 100 << 20}
# The types of the parts of a message, with the kind of their file, and the names that its content may have there, best first.
PARTS = {
    "image_url": (IMAGE, ("url",)),
    "input_audio": (AUDIO, ("data", "url")),
    "input_video": (VIDEO, ("data", "url")),
    "video_url": (VIDEO, ("data", "url")),
}
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
    kind: str = IMAGE

    @property
    def is_on_web(self) -> bool:
        return self.content is None and is_address(self.url)


@dataclass(slots=True)
class Pictures:
    """Those of one request, in their order."""

    all: list[Picture] = field(default_factory=list)
    hidden: list[Picture] = field(default_factory=list)  # those that the model does not get, because it cannot see
    shows_markers: bool = False  # the text is for the client: it has MARKER where files are

    def add(self, name: str, url: str, *, is_optional: bool = False, kind: str = IMAGE) -> str:
        """Returns the mark. Raises InvalidRequest."""
        is_elsewhere = url.startswith(_FILE) or is_address(url)
        return self._add(name, url, None if is_elsewhere else _content_of(name, url, kind), is_optional=is_optional, kind=kind)

    def add_content(self, name: str, content: bytes, kind: str) -> str:
        """The same for a file that came with the request."""
        return self._add(name, "", _checked(name, content, kind), is_optional=False, kind=kind)

    def _add(self, name: str, url: str, content: bytes | None, *, is_optional: bool, kind: str) -> str:
        if len(self.all) >= MAX_PICTURES:
            raise invalid(name, f"is one file too many: a request may have {MAX_PICTURES} pictures and other files")
        digest = hashlib.blake2b(url.encode("utf-8", "replace") if content is None else content, key=_SECRET, digest_size=16)
        mark = MARKER if self.shows_markers else f"<__media_{digest.hexdigest()}_{len(self.all)}__>"
        self.all.append(Picture(name, mark, content, url if content is None else "", is_optional, kind))
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
        """A part whose type is in PARTS."""
        name, given = field_of(name, part), part.get(part["type"])
        kind, keys = PARTS[part["type"]]
        if kind == IMAGE and isinstance(given, str):
            url = given
        else:
            found = json_object(name, given)
            key = next((key for key in keys if found.get(key) is not None), keys[0])
            url = string(f"{name}.{key}", found.get(key))
        return self.add(name, url, is_optional=part.get("is_optional") is True, kind=kind)

    @property
    def kinds(self) -> set[str]:
        """Of those that a model must understand."""
        return {picture.kind for picture in self.all if not picture.is_optional}

    @property
    def marks(self) -> list[list[str]]:
        """For Generate."""
        return [[picture.mark, picture.name, *([picture.kind] if picture.kind != IMAGE else [])] for picture in self.all]

    def hide(self) -> None:
        """The model cannot see."""
        self.hidden += [picture for picture in self.all if picture.kind == IMAGE]
        self.all = [picture for picture in self.all if picture.kind != IMAGE]

    def unseen(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages with a text in the place of each picture."""
        return [{**message, "content": self._unseen(message["content"])} if message.get("content") else message for message in messages]

    def _unseen(self, content: Any) -> Any:
        pictures = [*self.hidden, *(each for each in self.all if each.kind == IMAGE)]
        for picture in pictures if isinstance(content, str) else ():
            content = content.replace(picture.mark, UNSEEN_IMAGE)
        return content

    def contents(self, folder: Path | None) -> list[bytes]:
        """Reads the files, which are below this folder. Raises InvalidRequest."""
        found, left = [], MAX_ALL_BYTES
        for picture in self.all:
            content = _read(picture, folder) if picture.content is None else picture.content
            found.append(content)
            left -= len(content)
            check_left(picture.name, left)
        return found


def check_left(name: str, left: int) -> None:
    """`left`: bytes that the files of a request may still have."""
    if left < 0:
        raise invalid(
            name, f"is too much: all files of a request together may have {MAX_ALL_BYTES >> 20} MiB, and so may the frames of its videos"
        )


def field_of(name: str, part: dict[str, Any]) -> str:
    """The name of a picture's field. The readers of other APIs put the name that their clients know into the part."""
    given = part.get("field")
    return given if isinstance(given, str) and len(given) <= _MAX_NAME else f"{name}.{part['type']}"


def is_address(url: str) -> bool:
    return url[:8].lower().startswith(_WEB)


def _content_of(name: str, url: str, kind: str) -> bytes:
    encoded = url
    if url[:5] == "data:":
        found = _DATA_URL.match(url)
        if found is None or not found["kind"].startswith(f"{kind}/"):
            raise invalid(name, f'must begin with "data:{kind}/...;base64,", but begins with {url[:_MAX_SHOWN]!r}')
        encoded = url[found.end() :]
    if len(encoded) > MAX_BYTES[kind] * 4 // 3 + 4:
        raise _too_large(name, kind)
    try:
        content = base64.b64decode(encoded.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise invalid(name, _NO_BASE64 if encoded is not url else f"{_NO_BASE64}, or a data URL") from None
    return _checked(name, content, kind)


def _checked(name: str, content: bytes, kind: str) -> bytes:
    if not content:
        raise invalid(name, f"is {NOUNS[kind]} without content")
    if len(content) > MAX_BYTES[kind]:
        raise _too_large(name, kind)
    return content


def _too_large(name: str, kind: str) -> FastrouterError:
    return invalid(name, f"is {NOUNS[kind]} of more than {MAX_BYTES[kind] >> 20} MiB: send a smaller one")


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
            if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_BYTES[picture.kind]:
                raise invalid(picture.name, f"must be a file of at most {MAX_BYTES[picture.kind] >> 20} MiB")
            return file.read(MAX_BYTES[picture.kind])
    except (OSError, ValueError):
        raise invalid(picture.name, "is a file that does not exist below --media-path, or cannot be read") from None
