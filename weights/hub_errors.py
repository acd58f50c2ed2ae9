"""What the hub's client raises, in words that help. The client's own would show addresses with signatures in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from weights.errors import HubUnreachable, PullFailed


@contextmanager
def told_in_words(what: str) -> Iterator[None]:
    """Raises `PullFailed` in place of whatever comes from asking the hub for `what`."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise HubUnreachable(f"{what} is not all here, and HF_HUB_OFFLINE forbids to fetch it") from error
    except LocalEntryNotFoundError as error:  # the client looked into its cache after a call that failed
        raise HubUnreachable(_unreachable(error.__cause__ or error)) from error
    except HfHubHTTPError as error:
        raise PullFailed(_refused(what, error)) from error
    except httpx2.TransportError as error:
        raise HubUnreachable(_unreachable(error)) from error
    except EntryNotFoundError as error:
        raise PullFailed(f"{what}: the hub has no such file") from error
    except httpx2.HTTPError as error:
        raise PullFailed(
            f"{what}: what answers at {hub()} does not speak as the hub does ({type(error).__name__})"
        ) from error


def hub() -> str:
    """The address of the hub, without a password that may be in it."""
    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _unreachable(error: BaseException) -> str:
    kind = "did not answer in time" if isinstance(error, httpx2.TimeoutException) else "cannot be reached"
    return (
        f"the hub at {hub()} {kind} ({type(error).__name__}). Check the network and HTTPS_PROXY; HF_ENDPOINT names a"
        " mirror. Without a way to it, copy the cache (HF_HOME) from a machine that has one, or name a local file"
    )


def _refused(what: str, error: HfHubHTTPError) -> str:
    token = "the token in HF_TOKEN may not read it" if _has_token() else "set HF_TOKEN to a token that may read it"
    if isinstance(error, GatedRepoError):
        return f"{what} is given to those who accepted its licence on its page: do that, then {token}"
    if isinstance(error, RevisionNotFoundError):
        return f"{what}: the repository has no such revision"
    if isinstance(error, RepositoryNotFoundError):
        return f"{what}: the hub has no such repository, or it is private: {token}"
    match error.response.status_code:
        case 401 | 403 as status:
            return f"{what}: the hub refuses it ({status}): {token}"
        case 404:
            return f"{what}: the hub has no such file"
        case 429:
            return f"{what}: the hub asks for fewer requests (429); try again later, or set HF_TOKEN"
        case status:
            return f"{what}: the hub answers {status}; try again later"


def _has_token() -> bool:
    return bool(os.environ.get("HF_TOKEN") or get_token())
