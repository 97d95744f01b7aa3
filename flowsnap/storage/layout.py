"""Where everything lies in a job directory, and which names are ours."""

from __future__ import annotations

import re
from hashlib import sha256

from flowsnap.core.ids import AttemptId, CheckpointId, TaskId
from flowsnap.core.retention import SHARED, checkpoint_directory

IDENTITY = "job.json"
OUTCOME = "outcome.json"
LOCK = "lock"
ATTEMPTS = "attempts/"
WORK = "work"
LOGS = "logs"
SAVEPOINTS = "savepoints"
REQUESTS = "requests"

LOCAL = frozenset({LOCK, WORK, LOGS, SAVEPOINTS, REQUESTS})
"""What lies beside the store's files at the top of the job directory, and is not looked into."""

_ATTEMPT = re.compile(r"attempts/(\d{8,})\.json")
_CHECKPOINT = re.compile(
    r"checkpoints/(\d{8,})/((manifest|completion)\.json|begun|[^/]+\.\d+/[^/]+)"
)
_SHARED = re.compile(r"shared/(\d{8,})-(\d{8,})-[0-9a-f]{16}\.sst")
_WORK = re.compile(r"\d{8,}")
_PLAIN_OPERATOR = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


def attempt_path(attempt: AttemptId) -> str:
    """Return where the record of an attempt lies."""
    return f"{ATTEMPTS}{attempt:08d}.json"


def begun_path(checkpoint_id: CheckpointId) -> str:
    """Return where the reservation of a checkpoint's id lies."""
    return f"{checkpoint_directory(checkpoint_id)}begun"


def completion_path(checkpoint_id: CheckpointId) -> str:
    """Return where lies what became known of a checkpoint after it was complete."""
    return f"{checkpoint_directory(checkpoint_id)}completion.json"


def private_path(checkpoint_id: CheckpointId, task: TaskId, name: str) -> str:
    """Return where a file that belongs to one checkpoint alone lies."""
    return f"{checkpoint_directory(checkpoint_id)}{task_part(task)}/{name}"


def shared_path(attempt: AttemptId, checkpoint_id: CheckpointId, random: str) -> str:
    """Return where a file that later checkpoints may share lies; ``random``: 16 hex digits.

    The name says which checkpoint it was stored for, so that a collection can spare what is being
    stored for a pending one without being told of it.
    """
    return f"{SHARED}{attempt:08d}-{checkpoint_id:08d}-{random}.sst"


def task_part(task: TaskId) -> str:
    """Return a task's id as one part of a name: ``<operator>.<subtask>``.

    An operator's name that is more than ``a-z 0-9 _ -`` is cleaned and told apart by a hash, also
    where only the case differs: some file systems ignore it.
    """
    operator, _, subtask = task.rpartition("/")
    if _PLAIN_OPERATOR.fullmatch(operator):
        return f"{operator}.{subtask}"
    cleaned = re.sub(r"[^a-z0-9_-]", "-", operator.lower())[:80].lstrip("_-")
    return f"{cleaned or 'x'}.{sha256(operator.encode()).hexdigest()[:12]}.{subtask}"


def attempt_of(name: str) -> AttemptId | None:
    """Return the attempt whose record ``name`` is, if it is one."""
    match = _ATTEMPT.fullmatch(name)
    return AttemptId(int(match[1])) if match else None


def checkpoint_of(name: str) -> CheckpointId | None:
    """Return the checkpoint in whose directory ``name`` is a file of ours, if it is."""
    match = _CHECKPOINT.fullmatch(name)
    return CheckpointId(int(match[1])) if match else None


def stored_for(name: str) -> CheckpointId | None:
    """Return the checkpoint that a shared file was stored for; None if it is no shared file."""
    match = _SHARED.fullmatch(name)
    return CheckpointId(int(match[2])) if match else None


def is_work(name: str) -> bool:
    """Return whether ``name``, in the directory of local state, is an attempt's."""
    return bool(_WORK.fullmatch(name))


def is_ours(name: str) -> bool:
    """Return whether a stored file of that name can have been written by flowsnap."""
    return name in {IDENTITY, OUTCOME} or any(
        pattern.fullmatch(name) for pattern in (_ATTEMPT, _CHECKPOINT, _SHARED)
    )


def is_local(name: str) -> bool:
    """Return whether ``name`` lies beside the store's files."""
    return name.partition("/")[0] in LOCAL
