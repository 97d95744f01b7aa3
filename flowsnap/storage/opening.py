"""Opens what a state directory names: a directory on the disk, or a prefix of a bucket.

The client of object storage is imported only where a URL asks for it.
"""

from __future__ import annotations

from pathlib import Path

from flowsnap.core.ids import AttemptId
from flowsnap.errors import ConfigError
from flowsnap.storage import job_directory
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import ObjectUrl, StateDir, is_url
from flowsnap.storage.writer import CheckpointWriter

CACHE = "cache"


def open_job(state_dir: StateDir, job: str, *, work_dir: Path | None = None) -> JobDirectory:
    """Take possession of a job, as ``JobDirectory.open``.

    ``work_dir``: where what is no checkpoint lies, if the state directory is in object storage.

    Raises:
        ConfigError: as there; or a package is missing.
    """
    if isinstance(state_dir, ObjectUrl):
        from flowsnap.storage.object_directory import ObjectJobDirectory  # noqa: PLC0415

        return ObjectJobDirectory.claim(state_dir, job, work_dir=work_dir)
    if work_dir is not None:
        raise ConfigError(f"a work directory is of no use: {state_dir} is on the disk itself").hint(
            "give it only where the state directory is in object storage"
        )
    return JobDirectory.open(state_dir, job)


def read_job(state_dir: StateDir, job: str) -> JobDirectory:
    """Open a job for reading, as ``JobDirectory.read``.

    Raises:
        ConfigError: there is no such job, or a package is missing.
    """
    if isinstance(state_dir, ObjectUrl):
        from flowsnap.storage.object_directory import ObjectJobDirectory  # noqa: PLC0415

        return ObjectJobDirectory.look(state_dir, job)
    return JobDirectory.read(state_dir, job)


def job_names(state_dir: StateDir) -> list[str]:
    """Return the jobs in a state directory, by name."""
    if isinstance(state_dir, ObjectUrl):
        from flowsnap.storage import object_directory  # noqa: PLC0415

        return object_directory.job_names(state_dir)
    return job_directory.job_names(state_dir) if state_dir.is_dir() else []


def open_writer(location: str, attempt: AttemptId, work_directory: str) -> CheckpointWriter:
    """Return a worker's view of a job's store, which lies at ``location``.

    Files of object storage that were fetched or stored before are kept beside the attempts' local
    state, of which ``work_directory`` is one.

    Raises:
        ConfigError: a package is missing, or the environment does not say how to reach it.
    """
    if not is_url(location):
        return CheckpointWriter(Path(location), attempt)
    from flowsnap.storage.object_remote import connect  # noqa: PLC0415

    root = Path(work_directory).parents[1]
    store = connect(ObjectUrl.parse(location), cache=root / CACHE)
    return CheckpointWriter(root, attempt, store)
