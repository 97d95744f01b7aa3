"""Asking a running job for something, and waiting for its answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from flowsnap.config import duration_ms
from flowsnap.core.requests import RequestKind, Result
from flowsnap.errors import CheckpointError, ConfigError, ConnectionLost
from flowsnap.storage import layout
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.ownership import is_held
from flowsnap.storage.requests import RequestSlip

POLL_S = 0.05
LOOK_EVERY_S = 1.0


def is_running(directory: JobDirectory) -> bool:
    """Return whether a job manager is at work on a job."""
    return is_held(directory.root / layout.LOCK)


def check_running(directory: JobDirectory, what: str) -> None:
    """Check that there is a job to ask.

    Raises:
        ConfigError: it does not run; the hint tells how it ended.
    """
    if not is_running(directory):
        outcome = directory.outcome()
        ended = "it has never ended in order" if outcome is None else f"it is {outcome.state}"
        where = "" if directory.location == str(directory.root) else " on this host"
        raise ConfigError(
            f"job {directory.job} does not run{where}: there is nothing to {what}"
        ).hint(f"{ended}; its directory is {directory.root}")


def ask(
    directory: JobDirectory,
    kind: RequestKind,
    *,
    savepoint: str | None = None,
    is_drain: bool = False,
    timeout: str,
) -> Result:
    """Ask the job manager of a running job, show that we wait, and return its answer.

    A stop or a cancel has been carried out when the job's directory is free for the next run.

    Raises:
        CheckpointError: the job refuses, or what was asked for has failed.
        ConnectionLost: there is no answer within ``timeout``, or the job has ended without one.
        StorageError: the request cannot be made.
    """
    slip = RequestSlip(directory.root / layout.REQUESTS)
    deadline_s = time.monotonic() + duration_ms(timeout, "--timeout") / 1000
    with waiting(f"waiting for job {directory.job}"):
        try:
            slip.post(kind, savepoint=savepoint, is_drain=is_drain)
            result = _await(directory, slip, deadline_s)
        except BaseException:
            slip.withdraw()
            raise
        if kind != "savepoint":
            _await_release(directory, deadline_s)
    if result.error:
        error = CheckpointError(f"job {directory.job}: {result.error}")
        raise error.hint(result.hint) if result.hint else error
    return result


def _await(directory: JobDirectory, slip: RequestSlip, deadline_s: float) -> Result:
    look_s = time.monotonic() + LOOK_EVERY_S
    while (result := slip.result()) is None:
        now_s = time.monotonic()
        if now_s >= deadline_s:
            raise ConnectionLost(f"job {directory.job} has not answered in time").hint(
                "what was asked for may still be done; give it longer with --timeout"
            )
        if now_s >= look_s:
            look_s = now_s + LOOK_EVERY_S
            if (result := _last_word(directory, slip)) is not None:
                return result
        time.sleep(POLL_S)
    return result


def _last_word(directory: JobDirectory, slip: RequestSlip) -> Result | None:
    """Return the answer of a job that has ended meanwhile; None: it is still at work."""
    is_waiting = slip.is_posted and is_running(directory)
    if is_waiting:
        return None
    result = slip.result()
    if result is None:
        place = directory.location.rpartition("/")[0]
        raise ConnectionLost(f"job {directory.job} has ended without an answer").hint(
            f"see how it ended: flowsnap checkpoints --state-dir {place}"
        )
    return result


def _await_release(directory: JobDirectory, deadline_s: float) -> None:
    while is_running(directory):
        if time.monotonic() >= deadline_s:
            raise ConnectionLost(f"job {directory.job} has ended, but its process has not").hint(
                "wait for it before the job is run again"
            )
        time.sleep(POLL_S)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show on a terminal what we wait for."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        yield


def shown(path: StateDir) -> str:
    """Return a place as it is printed: a path relative, where that is shorter."""
    if isinstance(path, Path) and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return str(path)
