"""URLs of object storage: where a bucket is, and nothing that anybody has to keep to himself.

``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``. Credentials, endpoint and
region come from the environment, so that a URL can stand in a log, an error or a list of processes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from flowsnap.errors import ConfigError

SERVICES = ("s3", "gs", "az")
MEMORY = "memory"
"""The scheme of buckets of this process, for tests of pipelines."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FOLDED = re.compile(rf"({'|'.join((*SERVICES, MEMORY))}):/(?!/)")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{0,221}")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,127}")
_QUERY = re.compile(r"\?[^/]*=")


@dataclass(frozen=True, slots=True)
class ObjectUrl:
    """A place in a bucket; ``prefix`` has no slash at either end, and may be empty."""

    scheme: str
    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the place of a state directory that a URL names.

        Raises:
            ConfigError: it is of another kind, or carries what may be a secret, which is not shown.
        """
        scheme, _, rest = text.partition("://")
        if scheme not in SERVICES:
            raise ConfigError(f"state cannot be kept at a URL that begins with {scheme}://").hint(
                f"known are {', '.join(f'{known}://' for known in SERVICES)} and directories"
            )
        if any(mark in rest for mark in "@?#"):
            raise ConfigError(
                f"the {scheme}:// URL of a state directory holds more than a bucket and a prefix"
            ).hint("give credentials in the environment, as AWS_ACCESS_KEY_ID or AWS_PROFILE")
        bucket, _, prefix = rest.partition("/")
        prefix = prefix.rstrip("/")
        if not _BUCKET.fullmatch(bucket):
            raise ConfigError(f"{text!r} names no bucket").hint(f"write {scheme}://bucket/prefix")
        if prefix and not all(_PART.fullmatch(part) for part in prefix.split("/")):
            raise ConfigError(f"{text!r} has a prefix that cannot be used").hint(
                "use letters, digits, '.', '_', '=' and '-' between single slashes"
            )
        return cls(scheme, bucket, prefix)

    @classmethod
    def parse_files(cls, text: str) -> Self:
        """Return the place that a URL of files names, whose prefix may be a glob, and of any names.

        Raises:
            ConfigError: it is of another kind, or carries what may be a secret, which is not shown.
        """
        scheme, _, rest = text.partition("://")
        if scheme not in (*SERVICES, MEMORY):
            raise ConfigError(f"files cannot be at a URL that begins with {scheme}://").hint(
                f"known are {', '.join(f'{known}://' for known in SERVICES)} and local paths"
            )
        bucket, _, prefix = rest.partition("/")
        if "@" in bucket or _QUERY.search(rest):
            raise ConfigError(
                f"the {scheme}:// URL of files holds more than a bucket and a path"
            ).hint("give credentials in the environment, as AWS_ACCESS_KEY_ID or AWS_PROFILE")
        if not _BUCKET.fullmatch(bucket):
            raise ConfigError(f"a {scheme}:// URL names no bucket").hint(
                f"write {scheme}://bucket/path"
            )
        prefix = prefix.rstrip("/")
        if not prefix.isprintable() or ({"", ".", ".."} & set(prefix.split("/")) and prefix):
            raise ConfigError(f"{text!r} has a path that cannot be used").hint(
                "write single slashes, and neither '.' nor '..' between them"
            )
        return cls(scheme, bucket, prefix)

    @classmethod
    def of_object(cls, text: str) -> Self:
        """Return the place of an object that was found; its key may be any that a service takes."""
        scheme, _, rest = text.partition("://")
        bucket, _, key = rest.partition("/")
        return cls(scheme, bucket, key)

    def __truediv__(self, name: str) -> ObjectUrl:
        """Return the place of a name below this one."""
        return ObjectUrl(self.scheme, self.bucket, f"{self.prefix}/{name}".strip("/"))

    @property
    def name(self) -> str:
        """The last part of the prefix; empty where that is."""
        return self.prefix.rpartition("/")[2]

    @property
    def parent(self) -> ObjectUrl:
        """The place above this one; of a bucket the bucket itself."""
        return ObjectUrl(self.scheme, self.bucket, self.prefix.rpartition("/")[0])

    @property
    def root(self) -> ObjectUrl:
        """The bucket."""
        return ObjectUrl(self.scheme, self.bucket, "")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")


def is_url(text: str) -> bool:
    """Return whether a text is a URL, of whatever kind, and no path."""
    return _URL.match(text) is not None


def unfolded(path: str) -> str:
    """Return the URL that pathlib has made a path of, its two slashes one; else the path."""
    return path.replace(":/", "://", 1) if _FOLDED.match(path) else path
