"""Where is the snapshot that the user means?

A path may be that of a checkpoint (``<state-dir>/<job>/checkpoints/00000042``), of a job's
directory (its newest complete checkpoint), of a state directory with the name of a job, or of a
savepoint: a directory with a ``manifest.json`` whose files lie below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flowsnap.core import manifest as manifests
from flowsnap.core import retention
from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.errors import ConfigError, ManifestCorrupt, RestoreError, StorageError
from flowsnap.snapshot.remote import find_remote
from flowsnap.storage import layout
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.job_directory import JobDirectory, job_names
from flowsnap.storage.object_url import ObjectUrl, as_state_dir
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


def find(path: str | Path, job: str | None = None) -> Place:
    """Return the snapshot at ``path``; ``job`` names one of several in a state directory.

    Raises:
        ConfigError: there is nothing, or there are several jobs.
        RestoreError: the job has no complete checkpoint.
        ManifestCorrupt: what is there is torn, damaged, foreign or of another version.
    """
    named = as_state_dir(path)
    if isinstance(named, ObjectUrl):
        manifest, directory, is_newest = find_remote(named, job)
        return Place(manifest, directory.store, directory.location, None, is_newest)
    place = named.absolute()
    if place.name == retention.MANIFEST:
        place = place.parent
    if not place.is_dir():
        raise ConfigError(f"there is no snapshot at {path}").hint(
            "give the directory of a checkpoint, of a savepoint, of a job, or a state directory"
        )
    if job is not None:
        return _newest(place / job)
    if (number := _checkpoint_number(place)) is not None:
        return _checkpoint(place.parents[1], number)
    if (place / retention.MANIFEST).is_file():
        return _savepoint(place)
    if (place / layout.IDENTITY).is_file():
        return _newest(place)
    return _newest(place / _only_job(place))


def scratch_of(store: CheckpointStore) -> Path | None:
    """Return where hard links to the files of a job's store can be made, if anywhere."""
    work = store.root / layout.WORK if isinstance(store, DirectoryStore) else None
    return work if work is not None and work.is_dir() else None


def _checkpoint_number(place: Path) -> CheckpointId | None:
    is_checkpoint = f"{place.parent.name}/" == retention.CHECKPOINTS and place.name.isdigit()
    return CheckpointId(int(place.name)) if is_checkpoint else None


def _only_job(place: Path) -> str:
    names = job_names(place)
    if len(names) == 1:
        return names[0]
    if names:
        raise ConfigError(f"there are {len(names)} jobs in {place}").hint(
            f"name one of them: {', '.join(names)}"
        )
    raise ManifestCorrupt(f"{place} is no snapshot: it has no {retention.MANIFEST}").hint(
        "it was not written to its end, or by something else than flowsnap"
    )


def _newest(root: Path) -> Place:
    with JobDirectory.read(root.parent, root.name) as directory:
        complete = directory.checkpoints()
        if not complete:
            raise RestoreError(f"job {directory.job} has no complete checkpoint")
        try:
            manifest = directory.read_manifest(complete[-1])
        except (RestoreError, StorageError):
            if directory.checkpoints()[-1:] == complete[-1:]:
                raise
            manifest = directory.read_manifest(directory.checkpoints()[-1])  # It was retired.
    return _of_job(root, manifest, is_newest=True)


def _checkpoint(root: Path, number: CheckpointId) -> Place:
    with JobDirectory.read(root.parent, root.name) as directory:
        return _of_job(root, directory.read_manifest(number), is_newest=False)


def _of_job(root: Path, manifest: CheckpointManifest, *, is_newest: bool) -> Place:
    source = str(root / retention.checkpoint_directory(manifest.checkpoint_id))
    return Place(manifest, DirectoryStore(root), source, root / layout.WORK, is_newest)


def _savepoint(root: Path) -> Place:
    store = DirectoryStore(root)
    source = root / retention.MANIFEST
    manifest = manifests.decode(store.get(retention.MANIFEST), str(source))
    work = root.parents[1] / layout.WORK  # of the job in whose directory it may lie
    is_in_job = root.parent.name == layout.SAVEPOINTS and work.is_dir()
    return Place(manifest, store, str(root), work if is_in_job else None)
