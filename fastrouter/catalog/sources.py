"""Where model files are: a folder of GGUF files, the Hugging Face cache, the flat cache of llama.cpp -> Found.

Never imports: config, options. Invariant: each folder is visited once, even when links form a circle; what cannot be read is left out, or
listed with its error.
"""

import itertools
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fastrouter.catalog.file_names import DEFAULT_QUANTS, FileGroup, group_files, is_gguf, is_shard, quant_of, stem_of
from fastrouter.errors import InvalidRequest

log = logging.getLogger("fastrouter")

MAX_DEPTH = 32
MAX_ENTRIES = 1 << 20
_REPO = re.compile(r"[A-Za-z0-9_]+(?:[.-]+[A-Za-z0-9_]+)*/[A-Za-z0-9_]+(?:[.-]+[A-Za-z0-9_]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
MAX_REPO_CHARACTERS = 96  # the hub's limit
_UNFINISHED = (".incomplete", ".downloadInProgress", ".part")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to ask the hub for."""

    repo: str
    quant: str | None
    file: str | None
    with_projector: bool = True

    @property
    def repo_and_file(self) -> tuple[str, str | None]:
        return self.repo, self.file


@dataclass(slots=True)
class Found:
    """A model's files, before presets are applied."""

    id: str
    files: list[str]  # shards in order
    source: str
    mmproj: str | None = None
    error: str | None = None
    spellings: list[str] = field(default_factory=list)  # its other names, valid whatever other models there are
    short_spellings: list[str] = field(default_factory=list)  # names that are valid only while no other model has the same one
    missing: list[str] = field(default_factory=list)  # missing shards
    wanted: Wanted | None = None  # it is not here yet; `files` names a file that will never exist


# ---------------------------------------------------------------- names


def give_ids(models: Iterable[tuple[Found, Sequence[str]]], kept_ids: Mapping[str, str]) -> None:
    """An id for each: its former id, otherwise its first name that is free. So no model gets another id because a model comes or goes."""
    models = list(models)
    taken: set[str] = set()
    for found, _ in models:
        kept = kept_ids.get(found.files[0], "")
        found.id = kept if kept not in taken else ""
        taken.add(kept)
    for found, own in models:
        if not found.id:
            more = (f"{own[1]}~{number}" for number in itertools.count(2))
            found.id = next(name for name in itertools.chain(own, more) if name not in taken)
            taken.add(found.id)


def by_spelling(models: Iterable[Found]) -> dict[str, str]:
    """Id by every name of each model. Ids come before other spellings, and these before short ones; a short spelling of two models means
    neither."""
    models = list(models)
    short: dict[str, str | None] = {}
    for found in models:
        for name in set(found.short_spellings):
            short[name] = None if name in short else found.id
    names = {name: model_id for name, model_id in short.items() if model_id is not None}
    for found in reversed(models):
        names |= dict.fromkeys(found.spellings, found.id)
    return names | {found.id: found.id for found in models}


# ---------------------------------------------------------------- folders


def _walk(root: str) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its GGUF files) below `root`; each folder once, even when links form a circle. Unreadable folders are left out."""
    seen: set[tuple[int, int]] = set()
    num_entries = 0
    pending = [(root, 0)]
    for folder, depth in pending:  # grows meanwhile
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError:
            continue
        folders = {entry.path for entry in ordered if _is_folder(entry)}
        if depth < MAX_DEPTH:
            pending += [(entry.path, depth + 1) for entry in ordered if entry.path in folders]
        # A folder with the name of a model file is listed as a model that cannot be loaded, unless it is a folder of models.
        files = [entry.name for entry in ordered if is_gguf(entry.name) and not (entry.path in folders and _has_gguf(entry.path))]
        if files:
            yield folder, files
        num_entries += len(ordered)
        if num_entries > MAX_ENTRIES:
            log.warning("%s: there are more than %d files and folders in it; the rest is left out", root, MAX_ENTRIES)
            return


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _has_gguf(folder: str) -> bool:
    try:
        return any(is_gguf(name) for name in os.listdir(folder))
    except OSError:
        return False


def printable(name: str) -> str:
    """A file name that JSON can hold; bytes that are not UTF-8 become U+FFFD."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "replace")


def canonical_id(name: str) -> str:
    """`user/repo:q4_k_m` -> `user/repo:Q4_K_M`, as in llama-server."""
    repo, colon, quant = name.rpartition(":")
    return f"{repo}:{quant_of(quant) or quant.upper()}" if colon else name


GONE = (0, 0, 0)  # the state of a file that does not exist


def stat_of(path: str) -> tuple[int, int, int]:
    """The state of a file: (bytes, modification time in ns, inode)."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return GONE
    return status.st_size if stat.S_ISREG(status.st_mode) else 0, status.st_mtime_ns, status.st_ino


def scan_folder(root: str, kept_ids: Mapping[str, str] | None = None) -> list[Found]:
    """The models below --models-dir, those near the root first. `kept_ids`: ids of an earlier scan, by first file."""
    models: list[tuple[int, str, str, Found]] = []
    for folder, names in _walk(root):
        groups, mmproj = group_files(names)
        below = os.path.relpath(folder, root)
        is_root = below == "."
        for group in groups:
            found = _to_found(group, folder, "models_dir")
            found.mmproj = os.path.join(folder, mmproj) if mmproj and not is_root else None
            long = group.stem if is_root else f"{below}/{group.stem}"
            first = group.names[0] if is_root else f"{below}/{group.names[0]}"
            is_whole_folder = len(groups) == 1 and not is_root
            of_folder = (below, os.path.basename(below)) if is_whole_folder else ()
            found.spellings = [printable(name) for name in (first, long)]
            found.short_spellings = [printable(name) for name in (*of_folder, group.names[0], group.stem)]
            models.append((long.count("/"), long, below if is_whole_folder and "/" not in below else long, found))
    models.sort(key=lambda model: model[:2])
    give_ids([(found, [printable(short), *reversed(found.spellings)]) for _, _, short, found in models], kept_ids or {})
    return [found for *_, found in models]


def _to_found(group: FileGroup, folder: str, source: str) -> Found:
    """Without an id."""
    files, missing = ([os.path.join(folder, name) for name in names] for names in (group.names, group.missing))
    error = group.error_in(folder)
    return Found("", files, source, error=printable(error) if error is not None else None, missing=missing)


def find_file(path: str) -> Found:
    """The model of this file, which may be the first of several shards; the file need not exist."""
    folder, name = os.path.split(path)
    try:
        names = [entry for entry in os.listdir(folder) if is_gguf(entry)] if is_shard(name) else [name]
    except OSError:
        names = [name]
    group = next((group for group in group_files(names)[0] if name in group.names), FileGroup(stem_of(name), (name,)))
    return replace(_to_found(group, folder, "file"), id=printable(group.stem))


# ---------------------------------------------------------------- caches


def parse_name(name: str) -> tuple[str, str | None]:
    """(repository, quant) of user/repo[:quant]. Raises InvalidRequest."""
    repo, colon, quant = name.partition(":")
    if not _REPO.fullmatch(repo) or len(repo) > MAX_REPO_CHARACTERS or "--" in repo or ".." in repo:
        raise InvalidRequest(f"'{name[:200]}' is not the name of a model on the hub: it must look like user/repo or user/repo:quant")
    if colon and not _TAG.fullmatch(quant):
        raise InvalidRequest(f"'{name[:200]}': what follows the colon must be a quant like {DEFAULT_QUANTS[0]}")
    return repo, quant or None


def has_quant(path: str, quant: str) -> bool:
    """Whether `user/repo:quant` means a file of this path. Q4_K_M is in x-UD-Q4_K_M.gguf and in Q4_K_M/x-00001-of-00002.gguf."""
    return re.search(rf"(?:^|[-._/]){re.escape(quant)}[-./]", path, re.IGNORECASE) is not None


def scan_cache(cache: str) -> list[Found]:
    """A Hugging Face hub folder, or the older flat folder of llama.cpp, or both in one."""
    try:
        names = sorted(os.listdir(cache))
    except OSError:
        return []
    models: list[Found] = []
    for name in names:
        repo = name.removeprefix("models--").replace("--", "/", 1)
        if name.startswith("models--") and _REPO.fullmatch(repo):
            models += _scan_repo(os.path.join(cache, name), repo)
    groups, _ = group_files([name for name in names if is_gguf(name) and os.path.isfile(os.path.join(cache, name))])
    manifests = [name[9:-5].split("=") for name in names if name.startswith("manifest=") and name.endswith(".json")]
    prefixes = {f"{parts[0]}_{parts[1]}_": f"{parts[0]}/{parts[1]}" for parts in manifests if len(parts) == 3}
    for group in groups:
        prefix = next((prefix for prefix in prefixes if group.stem.startswith(prefix)), "")
        quant = quant_of(group.stem)
        model_id = f"{prefixes[prefix]}:{quant or group.stem[len(prefix) :]}" if prefix else group.stem
        found = _to_found(group, cache, "cache")
        models.append(replace(found, id=printable(model_id), spellings=[printable(group.names[0])]))
    return models


def has_snapshot(cache: str, repo: str) -> bool:
    """Whether files of a repository are there."""
    return _snapshot_of(_repo_folder(cache, repo)) is not None


def cached_file(cache: str, repo: str, name: str) -> str | None:
    """A file of a repository, if it is in this cache. `name` is the checked path of a file inside it."""
    snapshot = _snapshot_of(_repo_folder(cache, repo))
    path = os.path.join(snapshot, name) if snapshot is not None else ""
    return path if os.path.isfile(path) else None


def _repo_folder(cache: str, repo: str) -> str:
    return os.path.join(os.path.abspath(cache), f"models--{repo.replace('/', '--')}")


def _scan_repo(folder: str, repo: str) -> list[Found]:
    snapshot = _snapshot_of(folder)
    if snapshot is None:
        return []
    models: list[Found] = []
    taken: set[str] = set()
    projectors: dict[str, str] = {}
    for below, names in sorted(_walk(snapshot)):
        real = {name: os.path.realpath(os.path.join(below, name)) for name in names}
        groups, mmproj = group_files([name for name in names if os.path.isfile(real[name]) and not real[name].endswith(_UNFINISHED)])
        if mmproj:
            projectors[below] = os.path.join(below, mmproj)
        projector = next((path for near, path in sorted(projectors.items(), reverse=True) if (below + "/").startswith(near + "/")), None)
        for group in groups:
            quant = quant_of(group.stem)
            tag = quant if quant and quant not in taken else group.stem
            taken.add(tag)
            spelling = os.path.relpath(os.path.join(below, group.names[0]), snapshot)
            found = replace(_to_found(group, below, "cache"), id=printable(f"{repo}:{tag}"), mmproj=projector)
            found.spellings = [printable(f"{repo}/{spelling}")]
            models.append(found)
    preferred = next((found for found in models if found.id.endswith(f":{DEFAULT_QUANTS[0]}")), models[0] if models else None)
    if preferred is not None:
        preferred.spellings.append(repo)
    return models


def _snapshot_of(folder: str) -> str | None:
    """The snapshot that refs/main names; without it, the only one."""
    snapshots, ref = os.path.join(folder, "snapshots"), os.path.join(folder, "refs", "main")
    try:
        if os.path.isfile(ref):
            with open(ref, "rb") as file:
                commit = file.read(64).decode("ascii", "replace").strip()
        else:
            [commit] = os.listdir(snapshots)
    except (OSError, ValueError):
        return None
    is_name = commit not in ("", ".", "..") and "/" not in commit and "\0" not in commit
    path = os.path.join(snapshots, commit)
    return path if is_name and os.path.isdir(path) else None
