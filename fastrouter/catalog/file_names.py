"""What the names of GGUF files tell: shards, quants, companion files. Opens no file."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(?i:gguf)")  # name of the model, number, count
_QUANT = re.compile(r"[-.]([A-Za-z0-9_]+)$")
DEFAULT_QUANTS = ("Q4_K_M", "Q8_0")  # of a repository named without a quant, in this order; then its first model
MAX_NAMED_SHARDS = 8
COMPANIONS = ("mtp-", "dspark-", "dflash-", "eagle3-")  # draft heads, which are useless alone


@dataclass(frozen=True, slots=True)
class FileGroup:
    """One file, or the shards of one model in order."""

    stem: str
    names: tuple[str, ...]
    missing: tuple[str, ...] = ()  # names of the missing shards, only the first few

    def error_in(self, folder: str) -> str | None:
        """Why it cannot be loaded, when shards are missing."""
        if not self.missing:
            return None
        found = [SHARD.fullmatch(name) for name in self.missing[:MAX_NAMED_SHARDS]]
        numbers = ", ".join(str(int(match[2])) for match in found if match) + ", ..." * (len(self.missing) > MAX_NAMED_SHARDS)
        path, total = os.path.join(folder, self.missing[0]), int(self.missing[0][-10:-5])
        return f"shard {numbers} of {total} is missing: there is no file {path}; put all shards into one folder"


def is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def is_shard(name: str) -> bool:
    return SHARD.fullmatch(name) is not None


def quant_of(stem: str) -> str | None:
    """Q4_K_M of model-Q4_K_M."""
    match = _QUANT.search(stem)
    return match[1].upper() if match else None


def stem_of(name: str) -> str:
    """Without `.gguf` in upper or lower case; a name without it stays as it is."""
    return name[:-5] if is_gguf(name) else name


def _as_listed(name: str) -> tuple[str, bool, str]:
    """How files are ordered: `x.gguf` is `x`; `x.GGUF` in the same folder is another model."""
    return stem_of(name), not name.endswith(".gguf"), name


def group_files(names: Iterable[str]) -> tuple[list[FileGroup], str | None]:
    """(the models among the GGUF files of one folder, the name of their projector)."""
    groups: dict[tuple[str, int], dict[int, str]] = {}
    mmproj = None
    for name in sorted(names, key=_as_listed):
        stem = stem_of(name)
        if "mmproj" in name.lower():
            mmproj = mmproj or name
        elif not name.startswith(COMPANIONS):
            shard = SHARD.fullmatch(name)
            key, index = ((shard[1], int(shard[3])), int(shard[2])) if shard else ((stem, 1), 1)
            if index in groups.get(key, {}):
                key, index = (name, 1), 1
            groups.setdefault(key, {})[index] = name
    return [_to_group(stem, total, files) for (stem, total), files in groups.items()], mmproj


def _to_group(stem: str, total: int, files: dict[int, str]) -> FileGroup:
    numbers = (index for index in range(1, total + 1) if index not in files)
    missing = tuple(f"{stem}-{index:05}-of-{total:05}.gguf" for index in islice(numbers, MAX_NAMED_SHARDS + 1))
    return FileGroup(stem, tuple(files[index] for index in sorted(files)), missing)
