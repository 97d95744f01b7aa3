"""Writes whose outcome is known in the end.

A rename that reports an error may have been carried out, and a directory whose sync has failed may
show a file that a loss of power takes away. So an unknown outcome is read back. What is not there
was not written. What is there is written once more, through a new file, and counts when that is
durable. Only where this fails too does the caller learn that nobody knows.
"""

from __future__ import annotations

from flowsnap.errors import StorageError
from flowsnap.failpoint import failpoint
from flowsnap.storage.store import CheckpointStore, StepCallback


def put_surely(store: CheckpointStore, name: str, data: bytes) -> None:
    """Put ``data``, and once more if the first outcome is unknown.

    Raises:
        StorageError: it failed; of unknown outcome only where both tries were.
    """
    try:
        store.put(name, data)
    except StorageError as error:
        if error.is_definite:
            raise
        _put_again(store, name, data)


def create_surely(
    store: CheckpointStore, name: str, data: bytes, *, on_step: StepCallback | None = None
) -> bool:
    """Create ``name``, and return whether its content is ``data``, whoever wrote that.

    ``data`` must be such that nobody else writes the same for another reason.

    Raises:
        StorageError: with ``is_definite`` it is not there; without, it may be.
    """
    unknown: StorageError | None = None
    try:
        if store.create(name, data, on_step=on_step):
            return True
    except StorageError as error:
        if error.is_definite:
            raise
        unknown = error
    found = _read_back(store, name)
    if found is None:
        raise StorageError(f"{name} was not written: {unknown}") from unknown
    if found != data:
        return False
    _put_again(store, name, data)
    return True


def pass_failpoint(name: str) -> None:
    """Pass a failpoint after a step that has taken effect; what it raises is the store's failure.

    Raises:
        StorageError: a test wants it; the step was done, so it is not definite.
    """
    try:
        failpoint(name)
    except OSError as error:
        raise StorageError(f"failed at {name}: {error}", is_definite=False) from error


def _read_back(store: CheckpointStore, name: str) -> bytes | None:
    try:
        return store.get(name) if store.exists(name) else None
    except StorageError as error:
        text = f"cannot tell whether {name} was written: {error}"
        raise StorageError(text, is_definite=False) from error


def _put_again(store: CheckpointStore, name: str, data: bytes) -> None:
    try:
        store.put(name, data)
    except StorageError as error:
        text = f"cannot tell whether {name} is durable: {error}"
        raise StorageError(text, is_definite=False) from error
