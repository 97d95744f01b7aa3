"""What a user names as a state directory: a directory on the disk, or a place in a bucket."""

from __future__ import annotations

from pathlib import Path

from flowsnap.bucket.url import ObjectUrl, is_url, unfolded

WORK_VARIABLE = "FLOWSNAP_WORK_DIR"
"""The environment variable that names the local directory of jobs in object storage."""

StateDir = Path | ObjectUrl
"""Where the state of jobs is kept."""


def as_state_dir(place: str | Path | ObjectUrl) -> StateDir:
    """Return the state directory that a user has named.

    Raises:
        ConfigError: it is a URL that cannot be one.
    """
    if isinstance(place, ObjectUrl):
        return place
    text = unfolded(str(place)) if isinstance(place, Path) else place
    return ObjectUrl.parse(text) if is_url(text) else Path(place)
