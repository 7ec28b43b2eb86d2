"""What each GGUF file says, read once: known again by path, size and modification time, in this process and in the next. Knows no ids.

Invariant: a file that has not changed is not opened again; a chat template's text is looked at and not kept.
"""

import os
import stat
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

from fastrouter.capabilities import TemplateFeatures
from fastrouter.gguf import GgufError, Header, Unreadable, read_header
from fastrouter.remembered import Remembered

MAX_REMEMBERED = 1 << 16  # some 300 bytes each


@dataclass(frozen=True, slots=True)
class Known:
    """A header without its template's text, and what that text has a place for."""

    header: Header
    template: TemplateFeatures | None


# Another field, or another meaning of one (then count up), makes what older versions wrote unreadable, not wrong.
_MEANING = 1
_FIELDS = [f"{kind.__name__}.{field.name}: {field.type}" for kind in (Header, TemplateFeatures) for field in fields(kind)]
_VERSION = zlib.crc32(repr((_MEANING, _FIELDS)).encode())


class Headers:
    """One owner, one thread at a time."""

    def __init__(self) -> None:
        self._remembered = Remembered("headers", _VERSION, MAX_REMEMBERED)
        self.num_reads = 0  # files opened

    def __repr__(self) -> str:
        return f"<Headers {self.num_reads} files read, {self._remembered}>"

    def read(self, path: str) -> Known:
        """Raises GgufError."""
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            raise Unreadable(getattr(error, "strerror", None) or str(error)) from None
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("is not a regular file")  # nor may it be opened: a FIFO waits for its writer
        state = [status.st_size, status.st_mtime_ns]
        known = _from_list(state, self._remembered.get(path))
        if known is None:
            self.num_reads += 1
            known = _read_or_say(path)
            self._remembered.put(path, [*state, _to_list(known)])
        if isinstance(known, str):
            raise GgufError(known)
        return known

    def read_model(self, paths: Sequence[str]) -> tuple[Known | None, str | None]:
        """(what the first of its files says, with the sums of all; why the model cannot be loaded)."""
        read: list[Known] = []
        error = None
        for path in paths:
            try:
                read.append(self.read(path))
            except GgufError as problem:
                name = os.fsencode(os.path.basename(path)).decode("utf-8", "replace")
                error = error or f"{name}: {problem.message}"
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
        """Of a file beside a model (a projector, a draft model), where there is one that can be read."""
        try:
            return self.read(path).header if path is not None else None
        except GgufError:
            return None

    def save(self) -> None:
        """Blocks; raises nothing."""
        self._remembered.save()


def _read_or_say(path: str) -> Known | str:
    try:
        header = read_header(path)
    except Unreadable:
        raise  # it may be readable in a moment, with nothing about the file changed
    except GgufError as error:
        return error.message
    return Known(replace(header, chat_template=None), _look_at_template(header))


def _look_at_template(header: Header) -> TemplateFeatures | None:
    if not header.has_chat_template:
        return None
    if header.chat_template is None:
        return TemplateFeatures(is_understood=False)
    from fastrouter.templates import template_features  # imports Jinja

    return template_features(header.chat_template)


def _to_list(known: Known | str) -> list[Any] | str:
    if isinstance(known, str):
        return known
    return [list(astuple(known.header)), None if known.template is None else list(astuple(known.template))]


def _from_list(state: list[int], values: Any) -> Known | str | None:
    """None: nothing is known of a file in this state."""
    try:
        if values is None or values[:2] != state:
            return None
        if isinstance(values[2], str):
            return values[2]
        header, template = values[2]
        if template is None:
            return Known(Header(*header), None)
        tools, thinking, system, kwargs, is_understood = template
        return Known(Header(*header), TemplateFeatures(tools, thinking, system, tuple(kwargs), is_understood))
    except (TypeError, ValueError, IndexError, KeyError):  # somebody else wrote it
        return None
