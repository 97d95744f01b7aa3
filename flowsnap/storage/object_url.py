"""URLs of object storage: where a bucket is, and nothing that anybody has to keep to himself.

``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``. Credentials, endpoint and
region come from the environment, so that a URL can stand in a log, an error or a list of processes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flowsnap.errors import ConfigError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SCHEMES = ("s3", "gs", "az")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{0,221}")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,127}")


@dataclass(frozen=True, slots=True)
class ObjectUrl:
    """A place in a bucket; ``prefix`` has no slash at either end, and may be empty."""

    scheme: str
    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the place that a URL names.

        Raises:
            ConfigError: it is of another kind, or carries what may be a secret, which is not shown.
        """
        scheme, _, rest = text.partition("://")
        if scheme not in _SCHEMES:
            raise ConfigError(f"state cannot be kept at a URL that begins with {scheme}://").hint(
                f"known are {', '.join(f'{known}://' for known in _SCHEMES)} and directories"
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

    def __truediv__(self, name: str) -> ObjectUrl:
        """Return the place of a name below this one."""
        return ObjectUrl(self.scheme, self.bucket, f"{self.prefix}/{name}".lstrip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")


WORK_VARIABLE = "FLOWSNAP_WORK_DIR"
"""The environment variable that names the local directory of jobs in object storage."""

StateDir = Path | ObjectUrl
"""Where the state of jobs is kept."""


def is_url(text: str) -> bool:
    """Return whether a text is a URL, of whatever kind, and no path."""
    return _URL.match(text) is not None


def as_state_dir(place: str | Path | ObjectUrl) -> StateDir:
    """Return the state directory that a user has named.

    Raises:
        ConfigError: it is a URL that cannot be one.
    """
    if isinstance(place, str):
        return ObjectUrl.parse(place) if is_url(place) else Path(place)
    if isinstance(place, Path) and re.match(r"(s3|gs|az):/[^/]", str(place)):
        # What pathlib has made of a URL: two slashes have become one.
        return ObjectUrl.parse(str(place).replace(":/", "://", 1))
    return place
