"""The addresses of --mmproj-url: files on the hub, as its pages and llama-server's command lines name them. Pure.

Never imports: catalog.sources.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

from fastrouter.errors import ConfigError

_ADDRESS = re.compile(
    r"(?P<hub>https?://[^/?#]+(?:/[^?#]*?)?)/(?P<repo>[\w.-]+/[\w.-]+)/(?:resolve|blob)/(?P<revision>[^/?#]+)/(?P<file>[^?#]+)(?:\?[^#]*)?"
)
_REVISION = "main"  # the one that downloads have


class HubFile(NamedTuple):
    repo: str
    path: str  # inside it


def is_on_hub(url: str, *hubs: str) -> bool:
    """Any page of one of these hubs."""
    return any(url.startswith(f"{hub}/") for hub in hubs)


def read_address(url: str, place: str, *hubs: str) -> HubFile:
    """`place`: of the setting, for errors. `hubs`: their addresses, without a slash at the end. Raises ConfigError."""
    found = _ADDRESS.fullmatch(url)
    if found is None or found["hub"].rstrip("/") not in hubs:
        raise ConfigError(f"{place} {url}: must be a file of the hub, like {hubs[0]}/USER/REPO/resolve/main/mmproj.gguf")
    path = unquote(found["file"])
    if found["revision"] != _REVISION:
        raise ConfigError(f"{place} {url}: only files of the revision {_REVISION} can be downloaded")
    if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path or "\\" in path:
        raise ConfigError(f"{place} {url}: {path!r} is not a file name")
    return HubFile(found["repo"], path)
