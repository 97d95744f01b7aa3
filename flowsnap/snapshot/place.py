"""Where is the snapshot that the user means?

A path may be that of a checkpoint (``<state-dir>/<job>/checkpoints/00000042``), of a job's
directory (its newest complete checkpoint), of a state directory with the name of a job, or of a
savepoint: a directory with a ``manifest.json`` whose files lie below it. A URL of object storage
may be that of any of these; its files are fetched when they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flowsnap.core import manifest as manifests
from flowsnap.core import retention
from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.errors import ConfigError, ManifestCorrupt, RestoreError, StorageError
from flowsnap.storage import layout, opening
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import StateDir, as_state_dir
from flowsnap.storage.store import CheckpointStore


@dataclass(frozen=True, slots=True)
class Place:
    """A snapshot that was found.

    ``scratch``: where hard links to its files can be made. ``is_newest``: it was asked for as the
    newest of its job, so a newer one is as good. ``is_verified``: its files are known to be whole.
    """

    manifest: CheckpointManifest
    store: CheckpointStore
    source: str
    scratch: Path | None = None
    is_newest: bool = False
    is_verified: bool = False


def find(path: str | Path | StateDir, job: str | None = None) -> Place:
    """Return the snapshot at ``path``; ``job`` names one of several in a state directory.

    Raises:
        ConfigError: there is nothing, or there are several jobs.
        RestoreError: the job has no complete checkpoint.
        ManifestCorrupt: what is there is torn, damaged, foreign or of another version.
        StorageError: it cannot be read.
    """
    named = as_state_dir(path)
    place = named.absolute() if isinstance(named, Path) else named
    if place.name == retention.MANIFEST:
        place = place.parent
    if isinstance(place, Path) and not place.is_dir():
        raise _nothing_at(path)
    if job is not None:
        return _newest(place / job)
    if (number := _checkpoint_number(place)) is not None:
        return _checkpoint(place.parent.parent, number)
    if _has(place, retention.MANIFEST):
        return _savepoint(place)
    if _has(place, layout.IDENTITY):
        return _newest(place)
    return _newest(place / _only_job(place))


def scratch_of(store: CheckpointStore) -> Path | None:
    """Return where hard links to the files of a job's store can be made, if anywhere."""
    work = store.root / layout.WORK if isinstance(store, DirectoryStore) else None
    return work if work is not None and work.is_dir() else None


def _nothing_at(path: str | Path | StateDir) -> ConfigError:
    return ConfigError(f"there is no snapshot at {path}").hint(
        "give the place of a checkpoint, of a savepoint, of a job, or a state directory"
    )


def _has(place: StateDir, name: str) -> bool:
    if isinstance(place, Path):
        return (place / name).is_file()
    return opening.open_store(place).exists(name)


def _checkpoint_number(place: StateDir) -> CheckpointId | None:
    is_checkpoint = f"{place.parent.name}/" == retention.CHECKPOINTS and place.name.isdigit()
    return CheckpointId(int(place.name)) if is_checkpoint else None


def _only_job(place: StateDir) -> str:
    names = opening.job_names(place)
    if len(names) == 1:
        return names[0]
    if names:
        raise ConfigError(f"there are {len(names)} jobs in {place}").hint(
            f"name one of them: {', '.join(names)}"
        )
    if not isinstance(place, Path) and not opening.open_store(place).list():
        raise _nothing_at(place)
    raise ManifestCorrupt(f"{place} is no snapshot: it has no {retention.MANIFEST}").hint(
        "it was not written to its end, or by something else than flowsnap"
    )


def _newest(root: StateDir) -> Place:
    with opening.read_job(root.parent, root.name) as directory:
        complete = directory.checkpoints()
        if not complete:
            raise RestoreError(f"job {directory.job} has no complete checkpoint")
        try:
            manifest = directory.read_manifest(complete[-1])
        except (RestoreError, StorageError):
            newest = directory.checkpoints()[-1:]
            if newest == complete[-1:] or not newest:
                raise
            manifest = directory.read_manifest(newest[0])  # It was retired.
        return _of_job(directory, manifest, is_newest=True)


def _checkpoint(root: StateDir, number: CheckpointId) -> Place:
    with opening.read_job(root.parent, root.name) as directory:
        return _of_job(directory, directory.read_manifest(number), is_newest=False)


def _of_job(directory: JobDirectory, manifest: CheckpointManifest, *, is_newest: bool) -> Place:
    source = directory.place / retention.checkpoint_directory(manifest.checkpoint_id)
    is_local = isinstance(directory.place, Path)
    scratch = directory.root / layout.WORK if is_local else None
    return Place(manifest, directory.store, str(source), scratch, is_newest)


def _savepoint(place: StateDir) -> Place:
    store = opening.open_store(place)
    source = place / retention.MANIFEST
    manifest = manifests.decode(store.get(retention.MANIFEST), str(source))
    scratch = None
    if isinstance(place, Path) and place.parent.name == layout.SAVEPOINTS:
        work = place.parents[1] / layout.WORK  # of the job in whose directory it may lie
        scratch = work if work.is_dir() else None
    return Place(manifest, store, str(place), scratch)
