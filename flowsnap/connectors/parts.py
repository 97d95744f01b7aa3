"""Output as part files: hidden while written, made durable by prepare, made visible by commit.

A part holds what one subtask wrote between two checkpoints. Until its checkpoint is complete it is
called ``.part-<run>-<operator>-<subtask>-<attempt>-<number><suffix>.tmp``; commit renames it to
``part-<run>-<operator>-<subtask>-<checkpoint><suffix>``. The rename is atomic and its result can be
looked at, so that a commit whose outcome is unknown is simply repeated. Both names tell the life
of the job, the operator and the subtask: several jobs and several sinks may share a directory.
Checkpoint ids never come twice in the life of a job directory, so no two parts get one name.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import SinkContext, Submission
from flowsnap.errors import StorageError
from flowsnap.failpoint import failpoint

_PLAIN_RUN = re.compile(r"[a-z0-9_]{1,40}")
_PLAIN_OPERATOR = re.compile(r"[a-z0-9_-]{1,64}")
_FINAL = re.compile(
    r"part-(?P<run>[a-z0-9_.]+)-(?P<operator>[a-z0-9_.-]+)-(?P<subtask>\d{5,9})"
    r"-(?P<checkpoint>\d{8,18})(?:-(?P<number>\d{4,7}))?(?:-(?P<sha256>[0-9a-f]{64}))?"
    r"(?P<suffix>(?:\.[a-z]+){1,2})"
)
_TEMPORARY = re.compile(
    r"\.part-(?P<run>[a-z0-9_.]+)-(?P<operator>[a-z0-9_.-]+)-(?P<subtask>\d{5,9})"
    r"-(?P<attempt>\d{1,18})-(?P<number>\d{8,18})(?P<suffix>(?:\.[a-z]+){1,2})\.tmp"
)


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """A committed part; parts are ordered by checkpoint, then by subtask."""

    checkpoint_id: int
    subtask: int
    name: str
    sha256: str | None


class PartWriter:
    """Writes the parts of one subtask into ``directory``, which exists.

    A file is created at the first write after a prepare, so that an idle sink makes none. With
    ``is_hashed`` the sha256 of a part stands in its committable and in its name; commit checks it.

    Raises:
        StorageError: from every method, when the file system fails.
    """

    def __init__(
        self, directory: str, context: SinkContext, suffix: str, *, is_hashed: bool = False
    ) -> None:
        self._directory = directory
        self._attempt = context.attempt
        self._run = run_tag(context.run_id)
        self._operator = operator_tag(context.operator)
        self._prefix = f"part-{self._run}-{self._operator}-{context.subtask:05}"
        self._suffix = suffix
        self._is_hashed = is_hashed
        self._sha256 = hashlib.sha256()
        self._count = 0
        self._temporary = ""
        self._file: IO[bytes] | None = None

    def write(self, data: bytes) -> None:
        """Append ``data`` to the part being written."""
        with translated(f"writing below {self._directory}"):
            if self._file is None:
                self._file = self._create()
            self._file.write(data)
        if self._is_hashed:
            self._sha256.update(data)

    def prepare(self, checkpoint_id: CheckpointId) -> dict[str, str] | None:
        """Make what was written since the last call durable; None when that is nothing."""
        if self._file is None:
            return None
        with translated(f"preparing {self._temporary} of checkpoint {checkpoint_id}"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            sync_directory(self._directory)
        self._file = None
        final = f"{self._prefix}-{checkpoint_id:08}"
        committable = {"temporary": self._temporary}
        if self._is_hashed:
            committable["sha256"] = self._sha256.hexdigest()
            final += f"-{committable['sha256']}"
        committable["final"] = final + self._suffix
        with translated(f"preparing {self._temporary} of checkpoint {checkpoint_id}"):
            failpoint("sink.prepared")
        return committable

    def commit(self, committables: Sequence[dict[str, str]]) -> None:
        """Rename parts to their final names, durably; one that has its final name stays as it is.

        Raises:
            StorageError: a part is gone, or does not have the sha256 that it was prepared with.
        """
        if not committables:
            return
        with translated(f"committing below {self._directory}"):
            failpoint("sink.commit_called")
            for committable in committables:
                publish(self._directory, committable)
            # Also when all had their names: the crash may have come before the last sync.
            sync_directory(self._directory)
            failpoint("sink.committed")

    def recover(self, committables: Sequence[dict[str, str]]) -> None:
        """Commit, then remove what older attempts of this run and operator left uncommitted."""
        self.commit(committables)
        with translated(f"removing what older attempts left in {self._directory}"):
            remove_older(self._directory, self._run, self._operator, self._attempt)

    def close(self) -> None:
        """Drop what was written and not prepared."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with translated(f"dropping {self._temporary}"):
            try:
                file.close()
            finally:
                remove_part(self._directory, self._temporary)

    def _create(self) -> IO[bytes]:
        self._count += 1
        name = f".{self._prefix}-{self._attempt}-{self._count:08}{self._suffix}.tmp"
        file = open(os.path.join(self._directory, name), "xb")  # noqa: SIM115 - prepare closes it
        self._temporary = name
        self._sha256 = hashlib.sha256()
        return file


def run_tag(run_id: str) -> str:
    """Return a run's id as a piece of a file name: without a hyphen, which parts the pieces."""
    return _tag(run_id, _PLAIN_RUN)


def operator_tag(operator: str) -> str:
    """Return an operator's name as a piece of a file name."""
    return _tag(operator, _PLAIN_OPERATOR)


def run_tag_of(name: str) -> str | None:
    """Return the tag of the run that committed a part, or None where the name is foreign."""
    match = _FINAL.fullmatch(name)
    return None if match is None else match["run"]


def _tag(name: str, plain: re.Pattern[str]) -> str:
    """Return a stable piece of a file name, different for different names.

    A name that is not short, lower-case and plain gets a hash, because it might not be a file name,
    or be the same as another one where the file system does not know case.
    """
    if plain.fullmatch(name):
        return name
    readable = re.sub(r"[^a-z0-9_]+", "_", name.lower())[:24]
    return f"{readable}.{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def committed_parts(
    directory: str, run_ids: Sequence[str], operator: str, suffix: str
) -> list[Part]:
    """Return the committed parts of one operator in these lives of its job, in order."""
    runs, operator = {run_tag(run_id) for run_id in run_ids}, operator_tag(operator)
    return sorted(
        Part(int(match["checkpoint"]), int(match["subtask"]), match[0], match["sha256"])
        for match in _matching(_FINAL, directory)
        if match["run"] in runs and (match["operator"], match["suffix"]) == (operator, suffix)
    )


def remove_later(directory: str, submission: Submission) -> None:
    """Remove what an operator committed after the checkpoint that its job goes back to.

    It is going to be written again. Checkpoint ids never come twice in the life of a job, so that
    those of all its runs compare.
    """
    if submission.restored_from is not None:
        names = [match[0] for match in _matching(_FINAL, directory)]
        remove_files(directory, [name for name in names if is_later(name, submission)])


def is_later(name: str, submission: Submission) -> bool:
    """Return whether a part was committed after the checkpoint that its job goes back to."""
    match, last = _FINAL.fullmatch(name), submission.restored_from
    if match is None or last is None or int(match["checkpoint"]) <= last:
        return False
    runs = (submission.run_id, *submission.former_run_ids)
    is_ours = match["operator"] == operator_tag(submission.operator)
    return is_ours and match["run"] in map(run_tag, runs)


def is_uncommitted(name: str, run_ids: Sequence[str], operator: str | None = None) -> bool:
    """Return whether a hidden part is of these lives of a job, of one operator or of all."""
    match = _TEMPORARY.fullmatch(name)
    if match is None or match["run"] not in map(run_tag, run_ids):
        return False
    return operator is None or match["operator"] == operator_tag(operator)


def is_older(name: str, run: str, operator: str, attempt: int) -> bool:
    """Return whether a hidden part is of an attempt before, of a run and an operator by tag."""
    match = _TEMPORARY.fullmatch(name)
    if match is None or (match["run"], match["operator"]) != (run, operator):
        return False
    return int(match["attempt"]) < attempt


def publish(directory: str, committable: dict[str, str]) -> None:
    """Rename one part to its final name, unless it has it.

    Raises:
        StorageError: it is gone, or does not have the sha256 that it was prepared with.
    """
    temporary, final = names_of(committable)
    source = os.path.join(directory, temporary[0])
    target = os.path.join(directory, final[0])
    is_prepared, is_committed = os.path.exists(source), os.path.exists(target)
    if is_prepared and is_committed:
        raise StorageError(f"{target} is already there, but not from {source}").hint(
            "do two jobs that began from one savepoint write into the same directory?"
        )
    if is_prepared:
        _verify(source, committable.get("sha256"))
        os.rename(source, target)
    elif not is_committed:
        raise missing(final, source)


def names_of(committable: dict[str, Any]) -> tuple[re.Match[str], re.Match[str]]:
    """Return the hidden and the final name of a part.

    Raises:
        StorageError: they are none.
    """
    # A restored committable may be of another subtask, or of the job that took a savepoint.
    final = _FINAL.fullmatch(committable["final"])
    temporary = _TEMPORARY.fullmatch(committable["temporary"])
    if final is None or temporary is None:
        raise StorageError(f"{committable!r} does not name a part file")
    return temporary, final


def missing(final: re.Match[str], source: str) -> StorageError:
    """Return the error for a part that is neither at its hidden place nor at its final one."""
    return StorageError(
        f"the output of checkpoint {int(final['checkpoint'])}, subtask"
        f" {int(final['subtask'])} is missing: neither {source} nor {final[0]} exists"
    ).hint("something else removes files there, or the sink was given another directory")


def remove_older(directory: str, run: str, operator: str, attempt: int) -> None:
    """Remove what attempts before ``attempt`` left uncommitted, of a run and operator by tag."""
    for match in _matching(_TEMPORARY, directory):
        if is_older(match[0], run, operator, attempt):
            remove_part(directory, match[0])


def remove_files(directory: str, names: Sequence[str]) -> None:
    """Remove files, some of which may be gone already, durably."""
    for name in names:
        remove_part(directory, name)
    if names:
        sync_directory(directory)


def remove_uncommitted(directory: str, run_ids: Sequence[str], operator: str | None = None) -> None:
    """Remove what these lives of a job left uncommitted, of one operator or of all."""
    for match in _matching(_TEMPORARY, directory):
        if is_uncommitted(match[0], run_ids, operator):
            remove_part(directory, match[0])


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn what the operating system raises while ``action`` into a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{action} failed: {error}").hint(
            "is the disk full, or the directory gone or read-only?"
        ) from error


def _matching(pattern: re.Pattern[str], directory: str) -> Iterator[re.Match[str]]:
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    yield from filter(None, map(pattern.fullmatch, names))


def _verify(path: str, sha256: Any) -> None:
    if sha256 is None:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise StorageError(f"{path} does not have the sha256 that it was prepared with").hint(
            "the file was damaged or changed after it was written; is the disk sound?"
        )


def remove_part(directory: str, name: str) -> None:
    """Remove a file that may be gone already."""
    # Another sink of the job, or an earlier try, may have removed it.
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, name))


def sync_directory(directory: str) -> None:
    """Make what was created, renamed and removed in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
