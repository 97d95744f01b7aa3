"""What the operating system raises, as an error of the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flowsnap.errors import StorageError


@contextmanager
def translated(what: str, *, is_definite: bool = True) -> Iterator[None]:
    """Turn an ``OSError`` into a StorageError that begins with ``what``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"{what}: {reason}", is_definite=is_definite) from error
