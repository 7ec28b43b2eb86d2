"""Files that flags name by their address: --model-url, --mmproj-url, --docker-repo. One transfer each, in this process.

Never imports: hub.fetch, hub.cache. Invariant: a file has its name only when it is complete; an unfinished one is continued.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import httpx2

from fastrouter import __version__
from fastrouter.hub.job import DownloadFailed, HubUnavailable, Refused
from fastrouter.system.words import size_text

REGISTRY, REGISTRY_LOGIN = "https://registry-1.docker.io", "https://auth.docker.io"
MAX_ATTEMPTS = 6  # in a row without progress
PAUSE_S = 0.5  # after the first failed attempt; then it doubles
_SILENCE_S = 30.0
_REPORT_S = 5.0
_DOCKER = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)+")
_DOCKER_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-fA-F]{64}")
_MANIFESTS = "application/vnd.docker.distribution.manifest.v2+json,application/vnd.oci.image.manifest.v1+json"

Say = Callable[[str], None]


class Address(NamedTuple):
    url: str
    name: str  # of its file in the cache
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    sha256: str = ""  # empty: unknown


def of_url(url: str) -> Address:
    """Raises Refused."""
    parts = urlsplit(url)
    name = unquote(parts.path).rpartition("/")[2]
    if parts.scheme not in ("http", "https") or not parts.hostname or not name or name in (".", "..") or "\0" in name:
        raise Refused(f"{url} is not the http or https address of a file")
    return Address(url, name)


def of_docker(repo: str) -> Address:
    """[user/]model[:tag] on Docker Hub. Raises DownloadFailed."""
    name, _, tag = repo.partition(":")
    name, tag = name if "/" in name else f"ai/{name}", tag or "latest"
    if not _DOCKER.fullmatch(name) or not _DOCKER_TAG.fullmatch(tag):
        raise Refused(f"{repo} is not the name of a model on Docker Hub: it must look like [user/]model[:tag]")
    with _client() as client:
        login = f"{REGISTRY_LOGIN}/token?service=registry.docker.io&scope=repository:{name}:pull"
        token = _json(client, login, {}, repo).get("token")
        headers = {"Authorization": f"Bearer {token}"}
        manifest = _json(client, f"{REGISTRY}/v2/{name}/manifests/{tag}", {**headers, "Accept": _MANIFESTS}, repo)
    layers = manifest.get("layers")
    found = [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
    digests = [str(layer.get("digest")) for layer in found if "gguf" in str(layer.get("mediaType"))]
    if not digests or not _DIGEST.fullmatch(digests[0]):
        raise Refused(f"{repo} holds no GGUF file on Docker Hub")
    digest = digests[0].lower()
    file = f"{name.replace('/', '_')}_{tag}.gguf"
    return Address(f"{REGISTRY}/v2/{name}/blobs/{digest}", file, headers, digest.removeprefix("sha256:"))


def fetch(address: Address, path: str, say: Say) -> None:
    """Raises DownloadFailed, OSError."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    part, num_failed = f"{path}.incomplete", 0
    with _client() as client:
        while True:
            before = os.path.getsize(part) if os.path.exists(part) else 0
            try:
                _transfer(client, address, part, say)
                break
            except (httpx2.TransportError, HubUnavailable) as error:
                after = os.path.getsize(part) if os.path.exists(part) else 0
                num_failed = 1 if after > before else num_failed + 1
                if num_failed >= MAX_ATTEMPTS:
                    raise HubUnavailable(f"{address.url}: {error}") from None
                pause_s = PAUSE_S * 2 ** (num_failed - 1)
                say(f"{address.name}: {error}; trying again in {pause_s:g} s")
                time.sleep(pause_s)
    if address.sha256 and _sha256_of(part) != address.sha256:
        os.unlink(part)
        raise DownloadFailed(f"{address.url}: the downloaded data does not match its checksum ({address.sha256})")
    os.replace(part, path)


def _client() -> httpx2.Client:
    headers = {"User-Agent": f"fastrouter/{__version__}", "Accept-Encoding": "identity"}
    return httpx2.Client(follow_redirects=True, max_redirects=5, timeout=_SILENCE_S, headers=headers)


def _json(client: httpx2.Client, url: str, headers: dict[str, str], name: str) -> dict[str, Any]:
    try:
        response = client.get(url, headers=headers)
        response.raise_for_status()
        found = response.json()
    except (httpx2.HTTPError, ValueError) as error:
        raise DownloadFailed(f"{name}: {error}") from None
    return found if isinstance(found, dict) else {}


def _transfer(client: httpx2.Client, address: Address, part: str, say: Say) -> None:
    """The rest of the file. Raises DownloadFailed, httpx2.TransportError."""
    start = os.path.getsize(part) if os.path.exists(part) else 0
    headers = {**address.headers, **({"Range": f"bytes={start}-"} if start else {})}
    with client.stream("GET", address.url, headers=headers) as response:
        if response.status_code == 416:  # there is no more, or it is another file
            if response.headers.get("Content-Range") == f"bytes */{start}":
                return
            os.unlink(part)
            raise HubUnavailable("the server does not have the rest of it")
        _check(response, address)
        is_rest = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        with open(part, "ab" if is_rest else "wb") as file:
            size = int(response.headers.get("Content-Length", 0)) + file.tell()
            _save(response, file, address.name, size, say)


def _check(response: httpx2.Response, address: Address) -> None:
    if response.url.scheme != "https" and urlsplit(address.url).scheme == "https":
        raise Refused(f"{address.url}: it redirects to {response.url.host}, which is not encrypted")
    if response.status_code in (408, 425, 429) or response.status_code >= 500:
        raise HubUnavailable(f"the server answers {response.status_code}")
    if response.status_code >= 400:
        raise Refused(f"{address.url}: the server answers {response.status_code}")


def _save(response: httpx2.Response, file: Any, name: str, size: int, say: Say) -> None:
    said_at = time.monotonic()
    for block in response.iter_bytes():  # as it comes: what came before a cut is kept
        file.write(block)
        if time.monotonic() - said_at >= _REPORT_S:
            said_at = time.monotonic()
            say(f"{name}: {size_text(file.tell())}{f' of {size_text(size)}' if size else ''}")
    if file.tell() < size:
        raise HubUnavailable(f"the transfer ended at byte {file.tell()} of {size}")


def _sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
