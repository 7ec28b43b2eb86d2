"""Removes a model from a cache: its links in all snapshots, blobs that nothing else needs, then empty folders. Never imports:
hub.http_client, hub.retry.

Invariant: all that is removed was found by a scan of the cache and lies inside its folder; links are removed, and never followed out of it.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable
from glob import escape, glob

from fastrouter.catalog.sources import Found, printable, scan_cache
from fastrouter.catalog.spec import ModelSpec

_ORIGINS = {
    "file": "it is the file that --model names",
    "models_dir": "it is a file of --models-dir",
    "preset": "a preset section names it",
    "created": "a client has made it",
}


def why_it_stays(spec: ModelSpec) -> str:
    """A model that is not in a cache, and what its user can do."""
    if spec.base is not None:
        return f"it is a preset section over the model {spec.base.id}; remove the section"
    rest = "and only models in a download cache can be removed"
    return f"{_ORIGINS[spec.source]}, {rest}; delete {printable(spec.path)} yourself, then reload"


def find_cached(cache_dirs: Iterable[str], path: str) -> tuple[str, Found, list[Found]] | None:
    """(cache, the model whose first file this is, the other models of its folder)."""
    for cache in cache_dirs:
        models = scan_cache(cache)
        for found in models:
            if found.files[0] == path:
                return cache, found, [other for other in models if other is not found]
    return None


def remove(cache_dirs: Iterable[str], path: str) -> bool:
    """Remove the model whose first file is `path`. False: no cache has it. Raises OSError."""
    place = find_cached(cache_dirs, path)
    if place is None:
        return False
    cache, found, others = place
    kept = {file for other in others for file in (*other.files, other.mmproj)}
    doomed = [file for file in (*found.files, found.mmproj) if file is not None and file not in kept]
    below = os.path.relpath(path, cache).split(os.sep)
    if len(below) > 3 and below[0].startswith("models--") and below[1] == "snapshots":
        _remove_from_repository(os.path.join(cache, below[0]), doomed)
    else:
        _remove_flat(doomed)
    return True


def _remove_from_repository(folder: str, doomed: list[str]) -> None:
    snapshots = os.path.join(folder, "snapshots")
    inside = [os.path.relpath(file, snapshots).partition(os.sep)[2] for file in doomed]
    blobs = set()
    for commit in os.listdir(snapshots):
        for name in inside:
            link = os.path.join(snapshots, commit, name)
            if os.path.islink(link) or os.path.isfile(link):
                blobs.add(_blob_of(link))
                os.unlink(link)
    needed = {_blob_of(os.path.join(at, name)) for at, _, names in os.walk(snapshots) for name in names}
    for blob in blobs - needed:
        if blob is not None and os.path.dirname(blob) == os.path.join(folder, "blobs"):
            os.unlink(blob)
    _remove_empty(snapshots)
    if not os.path.isdir(snapshots):
        for name in ("refs", ".no_exist"):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
        _remove_empty(folder)  # some files stay while another model of the repository is being downloaded


def _remove_empty(folder: str) -> None:
    """Remove folders that contain only empty folders."""
    for at, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(at)


def _blob_of(link: str) -> str | None:
    """The direct target of the link; that target may be a link too."""
    return os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link))) if os.path.islink(link) else None


def _remove_flat(doomed: list[str]) -> None:
    """llama.cpp's older cache: flat files, each with a description."""
    for file in doomed:
        for companion in (file, *glob(f"{escape(file)}.json"), *glob(f"{escape(file)}.etag")):
            os.unlink(companion)


def forget_parts(parts: Iterable[str]) -> None:
    """Remove unfinished files of a download that was given up. Raises OSError."""
    for part in parts:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
