"""Which client speaks to which service, and with what credentials.

Those come from the environment as each service's own tools take them: ``AWS_ACCESS_KEY_ID`` and
others, the role of the machine, ``GOOGLE_APPLICATION_CREDENTIALS``, ``AZURE_STORAGE_ACCOUNT_NAME``.
A profile of ``~/.aws/config`` needs boto3, which knows all the ways that one can be written. No
credential is passed on, stored, or shown: each process asks its own environment.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError
from obstore.store import MemoryStore, from_url

from flowsnap.bucket.url import MEMORY, ObjectUrl
from flowsnap.errors import ConfigError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CONNECT_TIMEOUT_MS = 5_000

_in_memory: dict[str, MemoryStore] = {}


def client_of(url: ObjectUrl, *, timeout_ms: int) -> ObjectStore:
    """Return a client of what is below a URL; nothing is asked of the service yet.

    ``timeout_ms``: of one request, which is not repeated.

    Raises:
        ConfigError: the environment does not say what the service needs to know.
    """
    if url.scheme == MEMORY:
        assert not url.prefix, "a client of memory is one of a whole bucket"
        return _in_memory.setdefault(url.bucket, MemoryStore())
    settings: dict[str, Any] = {
        "client_options": {
            "timeout": f"{timeout_ms}ms",
            "connect_timeout": f"{CONNECT_TIMEOUT_MS}ms",
            **_plain_http(),
        },
        "retry_config": {"max_retries": 0},  # Ours knows what may have taken effect.
        **_profile(url),
    }
    try:
        return from_url(str(url), **settings)
    except (BaseError, ValueError) as error:
        # Its text may hold the environment; its kind is enough.
        raise ConfigError(f"{url} cannot be reached: {type(error).__name__}").hint(
            "check the region, the endpoint and the credentials in the environment"
        ) from None


def _plain_http() -> dict[str, Any]:
    is_allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"1", "true"}
    return {"allow_http": True} if is_allowed else {}


def _profile(url: ObjectUrl) -> dict[str, Any]:
    """Return who gives credentials, where that is a profile of the AWS configuration."""
    if url.scheme != "s3" or not os.environ.get("AWS_PROFILE"):
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415 - needs boto3
    except ImportError as error:
        raise ConfigError("AWS_PROFILE is set, and boto3, which reads profiles, is missing").hint(
            "pip install boto3, or give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    return {"credential_provider": Boto3CredentialProvider()}
