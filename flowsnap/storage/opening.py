"""Opens what a state directory names: a directory on the disk, or a prefix of a bucket.

The client of object storage is imported only where a URL asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowsnap.bucket.url import ObjectUrl, is_url
from flowsnap.core.message import Deploy
from flowsnap.errors import ConfigError
from flowsnap.storage import job_directory
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.parallel import FILES_AT_ONCE
from flowsnap.storage.store import CheckpointStore
from flowsnap.storage.writer import CheckpointWriter

CACHE = "cache"


def open_job(state_dir: StateDir, job: str) -> JobDirectory:
    """Take possession of a job, as ``JobDirectory.open``.

    Raises:
        ConfigError: as there; or a package is missing.
    """
    if isinstance(state_dir, ObjectUrl):
        with needed():
            from flowsnap.storage.object_directory import ObjectJobDirectory  # noqa: PLC0415
        return ObjectJobDirectory.claim(state_dir, job)
    return JobDirectory.open(state_dir, job)


def read_job(state_dir: StateDir, job: str) -> JobDirectory:
    """Open a job for reading, as ``JobDirectory.read``.

    Raises:
        ConfigError: there is no such job, or a package is missing.
    """
    if isinstance(state_dir, ObjectUrl):
        with needed():
            from flowsnap.storage.object_directory import ObjectJobDirectory  # noqa: PLC0415
        return ObjectJobDirectory.look(state_dir, job)
    return JobDirectory.read(state_dir, job)


def job_names(state_dir: StateDir) -> list[str]:
    """Return the jobs in a state directory, by name.

    Raises:
        ConfigError: a package is missing.
    """
    if isinstance(state_dir, ObjectUrl):
        with needed():
            from flowsnap.storage import object_directory  # noqa: PLC0415
        return object_directory.job_names(state_dir)
    return job_directory.job_names(state_dir) if state_dir.is_dir() else []


def open_store(place: StateDir) -> CheckpointStore:
    """Return the store of what lies at a place, such as a savepoint, to read from.

    Raises:
        ConfigError: others can write to it, a package is missing, or the environment does not say
            how to reach it.
    """
    if isinstance(place, ObjectUrl):
        with needed():
            from flowsnap.storage.object_remote import connect  # noqa: PLC0415
        return connect(place)
    return DirectoryStore(place)


def open_writer(deploy: Deploy) -> CheckpointWriter:
    """Return a worker's view of the store of the job that it is to work on.

    Files of object storage that were fetched or stored before are kept beside the local state of
    the attempts.

    Raises:
        ConfigError: a package is missing, or the environment does not say how to reach it.
    """
    if not is_url(deploy.job_directory):
        return CheckpointWriter(Path(deploy.job_directory), deploy.attempt)
    with needed():
        from flowsnap.storage.object_remote import connect  # noqa: PLC0415
    root = Path(deploy.work_directory).parents[1]
    store = connect(ObjectUrl.parse(deploy.job_directory), cache=root / CACHE)
    return CheckpointWriter(root, deploy.attempt, store, files_at_once=FILES_AT_ONCE)


@contextmanager
def needed() -> Iterator[None]:
    """Say what to install where the client of object storage is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError("state in object storage needs the package obstore").hint(
            "pip install 'flowsnap[s3]'"
        ) from error
