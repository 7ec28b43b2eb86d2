"""The content of each GGUF header, read once. A file is recognised by path, size, time and inode, in this process and the next.

Never imports: catalog.spec, catalog.variants. Invariant: a file that has not changed is not opened again; the text of a chat template is
examined and not stored, except for the few that were asked for last.
"""

import os
import stat
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import lru_cache
from typing import Any

from fastrouter.catalog.capabilities import TemplateFeatures
from fastrouter.catalog.gguf import GgufError, Header, Unreadable, Unusual, read_header
from fastrouter.catalog.sources import printable
from fastrouter.system.fact_file import FactFile

MAX_REMEMBERED = 1 << 16  # about 300 bytes each
_UNUSUAL = "? "  # the stored message of a file begins with this when llama.cpp may still be able to load it


@dataclass(frozen=True, slots=True)
class Known:
    """A header without the text of its template, and what that text supports."""

    header: Header
    template: TemplateFeatures | None


# A new field, or a new meaning of one (then count up), makes entries of older versions unreadable, but not wrong.
_MEANING = 2
_FIELDS = [f"{kind.__name__}.{field.name}: {field.type}" for kind in (Header, TemplateFeatures) for field in fields(kind)]
_VERSION = zlib.crc32(repr((_MEANING, _FIELDS)).encode())


class Headers:
    """Has one owner, and is used by one thread at a time."""

    def __init__(self) -> None:
        self._facts = FactFile("headers", _VERSION, MAX_REMEMBERED)
        self.num_reads = 0  # files opened

    def __repr__(self) -> str:
        return f"<Headers {self.num_reads} files read, {self._facts}>"

    def read(self, path: str) -> Known:
        """Raises GgufError."""
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            raise Unreadable(f"{getattr(error, 'strerror', None) or error}{_target_of(path)}") from None
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("is not a regular file")  # it must not be opened: a FIFO waits for its writer
        state = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = _from_list(state, self._facts.get(path))
        if known is None:
            self.num_reads += 1
            known = _read_or_say(path)
            self._facts.put(path, [*state, _to_list(known)])
        if isinstance(known, GgufError):
            raise known
        return known

    def read_model(self, paths: Sequence[str]) -> tuple[Known | None, GgufError | None]:
        """(the header of its first file, with the sums of all files; why the model cannot be loaded, with the file and the way out)."""
        read: list[Known] = []
        error = None
        for path in paths:
            try:
                read.append(self.read(path))
            except GgufError as problem:
                error = error or type(problem)(f"{printable(path)}: {problem.message}; {problem.way_out}")
        num_shards = read[0].header.split_count or 1 if read else 1
        if error is None and num_shards > 1 and len(paths) == 1:
            name = f"NAME-00001-of-{num_shards:05}.gguf"
            error = GgufError(f"{printable(paths[0])}: it is one of {num_shards} shards; name them all like {name}, in one folder")
        if len(read) < 2:
            return read[0] if read else None, error
        headers = [known.header for known in read]
        num_params, size_bytes = sum(header.num_params for header in headers), sum(header.size_bytes for header in headers)
        matrices: Counter[str] = Counter()
        for header in headers:
            matrices.update(header.matrices)
        whole = replace(headers[0], num_params=num_params, size_bytes=size_bytes, matrices=dict(matrices))
        return replace(read[0], header=whole), error

    def read_if_good(self, path: str | None) -> Header | None:
        """The header of a file that belongs to a model (a projector, a draft model), if there is one that can be read."""
        try:
            return self.read(path).header if path is not None else None
        except GgufError:
            return None

    def save(self) -> None:
        """Blocks; raises nothing."""
        self._facts.save()


def template_of(path: str) -> str | None:
    """The chat template's text, read from the file again; None: there is none, or it is too long. Blocks. Raises GgufError."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise Unreadable(str(error)) from None
    return _template_of(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=16)  # texts of at most 1 MiB; a page that shows a model asks many times
def _template_of(path: str, *state: int) -> str | None:
    return read_header(path).chat_template


def _target_of(path: str) -> str:
    try:
        return f" (it is a link to {printable(os.readlink(path))})"
    except (OSError, ValueError):
        return ""


def _read_or_say(path: str) -> Known | GgufError:
    try:
        header = read_header(path)
    except Unreadable:
        raise  # it may be readable a moment later, although nothing about the file changes
    except GgufError as error:
        return error
    return Known(replace(header, chat_template=None), _look_at_template(header))


def _look_at_template(header: Header) -> TemplateFeatures | None:
    if not header.has_chat_template:
        return None
    return TemplateFeatures(is_understood=False) if header.chat_template is None else features_of(header.chat_template)


def features_of(template: str) -> TemplateFeatures:
    """Of a Jinja text, or of one of llama.cpp's templates that have a name: these support only roles and texts."""
    if template.isascii() and template.replace("-", "").isalnum() and len(template) < 64:
        return TemplateFeatures()
    from fastrouter.catalog.template_features import template_features  # imports Jinja

    return template_features(template)


def _to_list(known: Known | GgufError) -> list[Any] | str:
    if isinstance(known, GgufError):
        return f"{_UNUSUAL * isinstance(known, Unusual)}{known.message}"
    return [list(astuple(known.header)), None if known.template is None else list(astuple(known.template))]


def _from_list(state: list[int], values: Any) -> Known | GgufError | None:
    """None: nothing is known about a file in this state."""
    try:
        if values is None or values[:3] != state:
            return None
        if isinstance(values[3], str):
            return Unusual(values[3][len(_UNUSUAL) :]) if values[3].startswith(_UNUSUAL) else GgufError(values[3])
        header, template = values[3]
        if template is None:
            return Known(Header(*header), None)
        tools, thinking, system, kwargs, is_understood, problem = template
        return Known(Header(*header), TemplateFeatures(tools, thinking, system, tuple(kwargs), is_understood, problem))
    except (TypeError, ValueError, IndexError, KeyError):  # another program wrote it
        return None
