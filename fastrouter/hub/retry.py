"""Repeated attempts: which failures of a hub may be temporary, and how long to wait.

Invariant: it gives up after some attempts without progress; as long as bytes come, it continues.
"""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from fastrouter.hub.job import DownloadFailed, HubUnavailable, Refused

T = TypeVar("T")

MAX_ATTEMPTS = 6  # attempts in a row without progress
MAX_UNRESOLVED = 2  # for a host name without an address: without a network this stays so
LONGEST_PAUSE_S = 8.0
LONGEST_WISH_S = 60.0  # of a Retry-After header


class CutShort(Exception):
    """The transfer ended too early."""


def _is_passing(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 425, 429) or error.response.status_code >= 500
    return isinstance(error, CutShort | httpx2.TransportError) and not isinstance(error, httpx2.UnsupportedProtocol | httpx2.ProxyError)


def _wish_of(error: Exception) -> float:
    """Seconds that the hub asks us to wait."""
    text = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return min(float(text), LONGEST_WISH_S) if text.isdigit() else 0.0


def _is_unresolved(error: BaseException | None) -> bool:
    """The machine knows no address for the hub's name; the HTTP library has wrapped this error twice."""
    while error is not None and not isinstance(error, socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None


def keep_trying(
    action: Callable[[], T], has_progressed: Callable[[], bool], name: str, pause_s: float, on_wait: Callable[[str, float], None]
) -> T:
    """Returns the result of `action`. Pauses begin with `pause_s` and double; `on_wait` gets the reason and the seconds of each. Raises
    Refused, HubUnavailable, or any error that is not a failure of the hub."""
    num_attempts = 0
    while True:
        try:
            return action()
        except (HfHubHTTPError, httpx2.HTTPError, httpx2.InvalidURL, CutShort, HFValidationError) as error:
            num_attempts = 1 if has_progressed() else num_attempts + 1
            if not _is_passing(error):
                raise _explain(error, name) from None
            if num_attempts >= (MAX_UNRESOLVED if _is_unresolved(error) else MAX_ATTEMPTS):
                raise HubUnavailable(f"{name}: {_words(error)}; given up after {num_attempts} attempts") from None
            pause = max(min(pause_s * 2 ** (num_attempts - 1), LONGEST_PAUSE_S), _wish_of(error))
            on_wait(_words(error), pause)
            time.sleep(pause)


def _words(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"the hub answers {error.response.status_code} {error.response.reason_phrase}".rstrip()
    if isinstance(error, httpx2.TimeoutException):
        return "the hub does not answer any more"
    if _is_unresolved(error):
        host = error.request.url.host if isinstance(error, httpx2.RequestError) else "its name"
        return f"the hub cannot be reached: {host} has no address (is this machine online? HF_ENDPOINT names another hub)"
    if isinstance(error, httpx2.ConnectError):
        return f"the hub cannot be reached ({error})"
    return str(error) or type(error).__name__


def _explain(error: Exception, name: str) -> DownloadFailed:
    """In a user's words, without the library's advice and addresses."""
    if isinstance(error, GatedRepoError):
        return Refused(f"{name}: access to this repository is restricted: ask for it on the hub's page, then give a token (HF_TOKEN)")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        return Refused(f"{name}: there is no such repository, or it needs a token (HF_TOKEN) that may see it")
    if status == 404:
        return Refused(f"{name}: the hub does not have it")
    return Refused(f"{name}: {_words(error)}")
