"""Which files of a repository form the model that a user names. Pure: names and a listing in, files or an error out.

Never imports: hub.http_client. Invariant: no chosen file has a path that leads out of its folder, or an invalid checksum.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastrouter.catalog.file_names import COMPANIONS, DEFAULT_QUANTS, SHARD, is_gguf
from fastrouter.catalog.sources import has_quant
from fastrouter.errors import InvalidRequest
from fastrouter.system.text_file import MAX_TEXT_BYTES

NUM_SHOWN = 12
PRESET_FILE = "preset.ini"  # in the root of a repository
_BITS = re.compile(r"[-.][A-Za-z_]*(\d+)[A-Za-z0-9_]*$")
_CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NO_MODEL = ("mmproj", "imatrix", *COMPANIONS)


class NotThere(InvalidRequest):
    """The repository has no such model; the message lists what it has."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    path: str  # inside the repository
    size_bytes: int
    checksum: str  # SHA-256 of the content, or 40 digits: git's SHA-1; also the name of its blob in the cache

    @property
    def is_safe(self) -> bool:
        parts = self.path.split("/")
        has_bad_character = any(character in "\\\0" or ord(character) < 32 for character in self.path)
        is_sound = self.size_bytes >= 0 and _CHECKSUM.fullmatch(self.checksum) is not None
        return is_sound and not has_bad_character and not any(part in ("", ".", "..") for part in parts)


def choose(files: Iterable[RemoteFile], quant: str | None, file: str | None, *, with_projector: bool) -> list[RemoteFile]:
    """All shards of the model, and the projector that fits best; or the preset file, if it is named. Raises NotThere."""
    if file == PRESET_FILE:
        return _find_preset(files)
    found = sorted((remote for remote in files if is_gguf(remote.path) and remote.is_safe), key=lambda remote: remote.path)
    first = _find_model(found, quant) if file is None else next((remote for remote in found if remote.path == file), None)
    if first is None:
        wanted = file or (f"model of quant {quant}" if quant else "GGUF model")
        shown = [remote.path for remote in found]
        there = ", ".join(shown[:NUM_SHOWN]) + (f" and {len(shown) - NUM_SHOWN} more" if len(shown) > NUM_SHOWN else "")
        raise NotThere(f"the repository has no {wanted}; its GGUF files: {there or 'none'}")
    chosen = _shards_of(first, found)
    projector = _find_projector(found, first) if with_projector else None
    return chosen if projector is None or projector in chosen else [*chosen, projector]


def _find_preset(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    found = [remote for remote in files if remote.path == PRESET_FILE and remote.is_safe]
    if not found:
        raise NotThere(f"the repository has no {PRESET_FILE}")
    if found[0].size_bytes > MAX_TEXT_BYTES:
        raise NotThere(f"its {PRESET_FILE} is larger than {MAX_TEXT_BYTES >> 20} MiB")
    return found


def _find_model(files: Sequence[RemoteFile], quant: str | None) -> RemoteFile | None:
    models = [remote for remote in files if _is_model(remote.path)]
    for tag in (quant,) if quant else DEFAULT_QUANTS:
        for remote in models:
            if has_quant(remote.path, tag):
                return remote
    return models[0] if models and not quant else None


def _is_model(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    shard = SHARD.fullmatch(name)
    return not any(word in name for word in _NO_MODEL) and (shard is None or int(shard[2]) == 1)


def _shards_of(first: RemoteFile, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    shard = SHARD.fullmatch(first.path)
    if shard is None:
        return [first]
    total = int(shard[3])
    matches = [(match, remote) for remote in files if (match := SHARD.fullmatch(remote.path))]
    by_index = {int(match[2]): remote for match, remote in matches if match.group(1, 3) == shard.group(1, 3)}
    missing = [index for index in range(1, total + 1) if index not in by_index]
    if missing:
        raise NotThere(f"the repository lacks shard {missing[0]} of {total} of {first.path}")
    return [by_index[index] for index in range(1, total + 1)]


def _bits(path: str) -> int:
    """4 of x-Q4_K_M.gguf, 16 of x-BF16.gguf; 0 when the name does not say it."""
    shard = SHARD.fullmatch(path)
    match = _BITS.search(shard[1] if shard else path[: -len(".gguf")])
    return int(match[1]) if match else 0


def _find_projector(files: Sequence[RemoteFile], model: RemoteFile) -> RemoteFile | None:
    """In the model's folder or above it: the nearest one, then the one with the nearest number of bits."""
    folders = model.path.split("/")[:-1]

    def is_near(remote: RemoteFile) -> bool:
        above = remote.path.split("/")[:-1]
        return "mmproj" in remote.path.rpartition("/")[2].lower() and folders[: len(above)] == above

    def distance(remote: RemoteFile) -> tuple[int, int]:
        return -remote.path.count("/"), abs(_bits(remote.path) - _bits(model.path))

    return min(filter(is_near, files), key=distance, default=None)
