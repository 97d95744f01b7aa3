"""The checkpoint store at a URL, with the credentials that the environment gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flowsnap.bucket.remote import client_of
from flowsnap.bucket.retrying import RetryPolicy
from flowsnap.bucket.url import ObjectUrl
from flowsnap.storage.lease import REQUEST_TIMEOUT_MS
from flowsnap.storage.object_cache import FileCache
from flowsnap.storage.object_store import ObjectStore


def connect(
    url: ObjectUrl,
    *,
    cache: Path | None = None,
    guard: Callable[[], None] | None = None,
    timeout_ms: int = REQUEST_TIMEOUT_MS,
    policy: RetryPolicy | None = None,
) -> ObjectStore:
    """Return the store at a URL; nothing is asked of the service yet.

    ``timeout_ms``: of one request; ``policy``: how it is repeated.

    Raises:
        ConfigError: the environment does not say what the service needs to know.
    """
    remote = client_of(url, timeout_ms=timeout_ms)
    files = None if cache is None else FileCache(cache)
    return ObjectStore(remote, str(url), cache=files, policy=policy, guard=guard)
