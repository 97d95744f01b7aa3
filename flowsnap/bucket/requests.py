"""Requests to a service: repeated while that may help, and what they raise made plain.

Nothing that a service says is shown as it is: it may hold a signed URL. Of what has been scrubbed
the cause is not kept either, as a traceback would show it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, TypeVar

import obstore
from obstore import exceptions

from flowsnap.bucket.retrying import RetryPolicy, Transient
from flowsnap.errors import StorageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

REASON_CHARS_MAX = 300

# What no repetition mends. Anything else that obstore raises may pass.
_LASTING = (
    exceptions.InvalidPathError,
    exceptions.NotSupportedError,
    exceptions.PermissionDeniedError,
    exceptions.UnauthenticatedError,
    exceptions.UnknownConfigurationKeyError,
)
_REFUSED = re.compile(r"status code: (?:40[1345]|501) ")
"""What obstore says where a list is refused, or is of no bucket: it has no kind of its own."""

REFUSED_HINT = "check the credentials, the bucket and its policy"

_SECRETS = re.compile(r"(?<=://)[^/\s@]+@|\?\S+")

PART_BYTES = 8 * 2**20
"""From here on a file is uploaded in several requests, of so much each."""

PARTS_MAX = 9_000  # A service takes 10,000.
PARTS_AT_ONCE = 4

R = TypeVar("R")


def put_file(remote: ObjectStore, key: str, file: IO[bytes], size_bytes: int) -> None:
    """Store a file, once, read from its beginning; it is seen whole, or not at all."""
    file.seek(0)
    obstore.put(
        remote,
        key,
        file,
        chunk_size=max(PART_BYTES, size_bytes // PARTS_MAX + 1),
        use_multipart=size_bytes > PART_BYTES,
        max_concurrency=PARTS_AT_ONCE,
    )


def answered(
    policy: RetryPolicy,
    what: str,
    call: Callable[[], R],
    *,
    is_definite: bool = True,
    from_failure: bool = False,
) -> R:
    """Call until there is an answer; ``is_definite``: the call only reads.

    ``from_failure``: the limit of time counts from the first failure, as in ``RetryPolicy.run``.

    Raises:
        StorageError: there is none, or it is a refusal; it begins with ``what``.
    """

    def once() -> R:
        with plain_errors(what):
            return call()

    try:
        return policy.run(once, from_failure=from_failure)
    except Transient as error:
        raise StorageError(f"{what}: {error}", is_definite=is_definite).hint(
            "check the endpoint, the region and the network; http needs AWS_ALLOW_HTTP=true"
        ) from error.__cause__


@contextmanager
def plain_errors(what: str) -> Iterator[None]:
    """Turn what obstore raises into ``Transient``, or into a StorageError, which stays."""
    try:
        yield
    except FileNotFoundError:  # What it says has the URL of the request.
        raise StorageError(f"{what}: there is no such object") from None
    except _LASTING as error:
        reason, is_clean = _reason(error)
        raise StorageError(f"{what}: {reason}").hint(REFUSED_HINT) from (
            error if is_clean else None
        )
    except exceptions.BaseError as error:
        reason, is_clean = _reason(error)
        cause = error if is_clean else None
        if _REFUSED.search(str(error)):
            raise StorageError(f"{what}: {reason}").hint(REFUSED_HINT) from cause
        raise Transient(reason) from cause


def _reason(error: BaseException) -> tuple[str, bool]:
    """Return an error in one line, and whether nothing had to be taken out of it."""
    full = str(error)
    # A secret of which only a part is left would not be known as one: what is cut has none.
    text = _SECRETS.sub("", full.partition("\n")[0])[:REASON_CHARS_MAX].rstrip(" .:")
    return text, _SECRETS.search(full) is None
