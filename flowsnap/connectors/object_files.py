"""Which objects does a URL given to a source mean? By the rules of ``files.py``, in a bucket.

A URL is an object, or a directory (what has it as a prefix, and a slash behind that), or a glob.
For a glob everything below its fixed part is listed: a service cannot look for anything but a
prefix.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from threading import Event

from flowsnap.bucket.url import ObjectUrl
from flowsnap.connectors.object_bucket import Bucket, Found, bucket_of
from flowsnap.errors import ConfigError, StorageError


def find_objects(text: str) -> tuple[str, dict[str, Found]]:
    """Return the fixed part of a URL, and the objects that it means now by their URLs, in order.

    Raises:
        ConfigError: there is none, or the service does not let us look.
    """
    url = ObjectUrl.parse_files(text)
    bucket = bucket_of(url)
    try:
        found = list(_meant(bucket, url.prefix))
    except StorageError as error:
        raise ConfigError(str(error)).hint(
            "whoever submits the job must be able to list the bucket and to read from it"
        ) from error
    if not found:
        raise ConfigError(f"{url} does not exist").hint(
            "hidden objects, those ending in .tmp and those without content do not count;"
            " ** matches any number of directories"
        )
    base = str(ObjectUrl(url.scheme, url.bucket, _fixed(url.prefix)))
    return base, {bucket.url_of(one.key): one for one in found}


def find_new(texts: Sequence[str], closing: Event) -> dict[str, Found]:
    """Return the objects that URLs mean now, by their URLs; given up when ``closing`` is set.

    Raises:
        StorageError: a bucket cannot be listed.
    """
    found = {}
    for url in map(ObjectUrl.parse_files, texts):
        bucket = bucket_of(url).until(closing)
        found.update({bucket.url_of(one.key): one for one in _meant(bucket, url.prefix)})
    return found


def _meant(bucket: Bucket, key: str) -> Iterator[Found]:
    fixed = _fixed(key)
    if fixed != key:
        pattern = key.split("/")
        for found in bucket.list_below(fixed):
            if _matches(found.key.split("/"), pattern) and _is_wanted(found.key, pattern[-1]):
                yield found
    elif key and (own := bucket.find(key)) is not None:
        yield own
    else:
        for found in bucket.list_below(key):
            below = found.key[len(key) :].lstrip("/")
            if not any(part.startswith(".") for part in below.split("/")) and _is_wanted(below):
                yield found


def _fixed(key: str) -> str:
    """Return what a key begins with before its first part that is a pattern."""
    parts = key.split("/")
    magic = (index for index, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[: next(magic, len(parts))])


def _is_wanted(key: str, pattern: str = "") -> bool:
    return pattern.endswith(".tmp") or not key.endswith(".tmp")


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether a key matches a glob, as ``glob`` does: no wildcard matches what is hidden."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        if len(pattern) == 1:
            return not any(part.startswith(".") for part in parts)
        is_here = _matches(parts, pattern[1:])
        return is_here or (_is_visible(parts) and _matches(parts[1:], pattern))
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _is_visible(parts: Sequence[str]) -> bool:
    return bool(parts) and not parts[0].startswith(".")
