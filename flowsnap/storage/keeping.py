"""Savepoints wherever they lie: made, found, copied and deleted in directories and in buckets.

The client of object storage is imported only where a URL asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flowsnap.core.ids import CheckpointId
from flowsnap.core.retention import MANIFEST
from flowsnap.errors import ConfigError
from flowsnap.storage import export as local
from flowsnap.storage import layout
from flowsnap.storage import savepoint as savepoints
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.opening import needed
from flowsnap.storage.savepoint import Savepoint, SavepointFiles


def find(place: StateDir) -> SavepointFiles:
    """Read the manifest of a savepoint, or of a checkpoint of another job.

    Raises:
        RestoreError: there is nothing at ``place``.
        ManifestCorrupt: it is no savepoint, torn, damaged, or of another version of the format.
        ConfigError: others can write to it, or a package is missing.
        StorageError: it cannot be read.
    """
    if isinstance(place, Path):
        return savepoints.find(place)
    with needed():
        from flowsnap.storage import object_savepoint  # noqa: PLC0415
    return object_savepoint.find(place)


def check_new(directory: JobDirectory, name: str) -> None:
    """Check that a savepoint of this name can be made; an empty name is chosen later.

    Raises:
        ConfigError: it is no name, or there is one already.
        StorageError: the service failed, or refuses.
    """
    if isinstance(directory.place, Path):
        local.check_new(directory, name)
        return
    local.check_name(name)
    if name and directory.store.exists(f"{layout.SAVEPOINTS}/{name}/{MANIFEST}"):
        url = directory.place / layout.SAVEPOINTS / name
        raise ConfigError(f"job {directory.job} has a savepoint {name!r} already, {url}").hint(
            "choose another name, or delete what is there"
        )


def export(directory: JobDirectory, checkpoint_id: CheckpointId, name: str = "") -> StateDir:
    """Make a savepoint of a complete checkpoint, durably, and return where it is.

    Without ``name`` it is called after the checkpoint; one that is there already is that very one.
    In object storage the files are copied within the service, and hashed when it is restored.

    Raises:
        ConfigError: there is one of that name already, or it is none.
        RestoreError: there is no such checkpoint, or its manifest is damaged.
        StorageError: it was not made; unless ``is_definite``, it may be there.
    """
    if isinstance(directory.place, Path):
        return local.export(directory, checkpoint_id, name)
    with needed():
        from flowsnap.storage.object_directory import ObjectJobDirectory  # noqa: PLC0415
    assert isinstance(directory, ObjectJobDirectory)
    check_new(directory, name)
    return directory.make_savepoint(checkpoint_id, name)


def copy(savepoint: SavepointFiles, target: StateDir) -> None:
    """Copy a savepoint, each file compared with the manifest, to a place that is made.

    Raises:
        ConfigError: as ``check_target``.
        ManifestCorrupt: a file is missing or damaged.
        StorageError: it was not made; unless ``is_definite``, it may be there.
    """
    if isinstance(savepoint, Savepoint) and isinstance(target, Path):
        local.copy(savepoint, target)
        return
    with needed():
        from flowsnap.storage import object_export  # noqa: PLC0415
    if isinstance(target, Path):
        object_export.download(savepoint, target)
    else:
        object_export.write(target, savepoint)


def check_target(target: StateDir) -> None:
    """Check that a savepoint can be copied to ``target``.

    Raises:
        ConfigError: there is something already, or its parent is no directory; or, of a bucket, a
            package or what the service needs to know is missing.
        StorageError: the service failed, or refuses.
    """
    if isinstance(target, Path):
        local.check_target(target)
        return
    with needed():
        from flowsnap.storage import object_export  # noqa: PLC0415
    object_export.check_target(target)


def remove(place: StateDir) -> None:
    """Delete a savepoint: its manifest first, so that no half of one is taken for whole.

    Raises:
        StorageError: it is not gone, or not all of it.
    """
    if isinstance(place, Path):
        local.remove(place)
        return
    with needed():
        from flowsnap.storage import object_export  # noqa: PLC0415
    object_export.remove(place)


def of_job(directory: JobDirectory) -> Mapping[str, StateDir]:
    """Return the savepoints that lie at a job, by name.

    Raises:
        StorageError: the service failed, or refuses.
    """
    if isinstance(directory.place, Path):
        return savepoints.savepoint_paths(directory)
    with needed():
        from flowsnap.storage import object_savepoint  # noqa: PLC0415
    return object_savepoint.finished(directory.store, directory.place)


def unfinished(directory: JobDirectory) -> Mapping[str, str]:
    """Return who has begun each savepoint at a job in object storage that is not finished.

    On a disk an unfinished one has no name yet.

    Raises:
        StorageError: the service failed, or refuses.
    """
    if isinstance(directory.place, Path):
        return {}
    with needed():
        from flowsnap.storage import object_savepoint  # noqa: PLC0415
    return object_savepoint.unfinished(directory.store)
