"""Finds a snapshot in object storage; its files are fetched when they are read."""

from __future__ import annotations

from flowsnap.core import retention
from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.errors import ConfigError, RestoreError, StorageError
from flowsnap.storage import opening
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import ObjectUrl


def find_remote(
    url: ObjectUrl, job: str | None = None
) -> tuple[CheckpointManifest, JobDirectory, bool]:
    """Return the manifest at a URL, its job, and whether the newest of the job was asked for.

    The URL is that of a checkpoint, of a job, or of a state directory, as those of directories are.

    Raises:
        ConfigError: there is nothing, or there are several jobs.
        RestoreError: the job has no complete checkpoint, or not that one.
        StorageError: the service failed, or refuses.
    """
    head, _, number = url.prefix.rpartition("/")
    if number.isdigit() and f"/{head}/".endswith(f"/{retention.CHECKPOINTS}"):
        root = head.removesuffix(retention.CHECKPOINTS.rstrip("/")).rstrip("/")
        directory = _job(ObjectUrl(url.scheme, url.bucket, root))
        return directory.read_manifest(CheckpointId(int(number))), directory, False
    directory = _job(url) if job is None and _is_job(url) else _job(url / (job or _only(url)))
    return _newest(directory), directory, True


def _newest(directory: JobDirectory) -> CheckpointManifest:
    complete = directory.checkpoints()
    if not complete:
        raise RestoreError(f"job {directory.job} has no complete checkpoint")
    try:
        return directory.read_manifest(complete[-1])
    except (RestoreError, StorageError):
        newest = directory.checkpoints()[-1:]
        if newest == complete[-1:]:
            raise
        return directory.read_manifest(newest[0])  # It was retired.


def _job(url: ObjectUrl) -> JobDirectory:
    head, _, job = url.prefix.rpartition("/")
    return opening.read_job(ObjectUrl(url.scheme, url.bucket, head), job)


def _is_job(url: ObjectUrl) -> bool:
    head, _, job = url.prefix.rpartition("/")
    return bool(job) and job in opening.job_names(ObjectUrl(url.scheme, url.bucket, head))


def _only(url: ObjectUrl) -> str:
    names = opening.job_names(url)
    if len(names) == 1:
        return names[0]
    if names:
        raise ConfigError(f"there are {len(names)} jobs in {url}").hint(
            f"name one of them: {', '.join(names)}"
        )
    raise ConfigError(f"there is no snapshot at {url}").hint(
        "give the URL of a checkpoint, of a job, or of a state directory"
    )
