"""The mailbox of a running job: small sealed files, by which other processes ask something of it.

::

    <job>/requests/<id>.json          a request; the job manager reads it and deletes it in the end
    <job>/requests/<id>.answer.json   its answer; whoever asked reads and deletes it

Ids are 16 hex digits, made by whoever asks. Files are written under a temporary name and renamed,
so that they are whole when they are seen; nothing is synced, because a mailbox does not outlive the
job manager's process: what lies there at its start is left over, and removed. Only the owner can
write there, and only a regular file of the owner's is read.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

from flowsnap.core.requests import Request, RequestKind, Result
from flowsnap.errors import ConfigError, ManifestCorrupt
from flowsnap.storage.filesystem import FileSystem
from flowsnap.storage.record import Record, seal, unseal
from flowsnap.storage.translation import translated

REQUEST_BYTES_MAX = 65_536

_REQUEST = re.compile(r"(?P<id>[0-9a-f]{16})\.json")


class RequestRecord(Record, frozen=True, kw_only=True):
    """A request, as in ``core.requests.Request``; who asks and when is for people."""

    id: str
    kind: RequestKind
    savepoint: str | None
    is_drain: bool
    pid: int
    asked_at_ms: int


class ResultRecord(Record, frozen=True, kw_only=True):
    """An answer, as in ``core.requests.Result``."""

    id: str
    state: str
    savepoint: str
    error: str
    hint: str


class Mailbox:
    """The job manager's side; ``open`` it before anything is asked."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = FileSystem()
        self._taken: set[str] = set()

    def open(self) -> None:
        """Make the directory, and remove what earlier lives have left in it.

        Raises:
            StorageError: it cannot be made or emptied.
        """
        with translated(f"cannot make {self._directory}"):
            with suppress(FileExistsError):
                self._files.make_directory(self._directory)
            for entry in self._files.scan(self._directory):
                self._files.unlink(self._directory / entry.name)

    def take(self) -> list[Request]:
        """Return the requests that are new, oldest first; what is none is answered at once.

        Raises:
            StorageError: the directory cannot be read.
        """
        found: list[tuple[int, Request]] = []
        with translated(f"cannot read {self._directory}"):
            for entry in self._files.scan(self._directory):
                match = _REQUEST.fullmatch(entry.name)
                if match is None or match["id"] in self._taken:
                    continue
                self._taken.add(match["id"])
                record = self._read(match["id"])
                if record is not None:
                    request = Request(record.id, record.kind, record.savepoint, record.is_drain)
                    found.append((record.asked_at_ms, request))
        return [request for _, request in sorted(found, key=lambda one: (one[0], one[1].id))]

    def answer(self, request_id: str, result: Result) -> None:
        """Answer a request.

        Raises:
            StorageError: the answer cannot be written.
        """
        record = ResultRecord(
            id=request_id,
            state=result.state,
            savepoint=result.savepoint,
            error=result.error,
            hint=result.hint,
        )
        with translated(f"cannot answer request {request_id}"):
            _write(self._files, self._directory / f"{request_id}.answer.json", seal(record))
            with suppress(FileNotFoundError):  # Whoever asked has gone away.
                self._files.unlink(self._directory / f"{request_id}.json")

    def _read(self, request_id: str) -> RequestRecord | None:
        path = self._directory / f"{request_id}.json"
        try:
            record = unseal(_read_own(path), RequestRecord, str(path))
            if record.id != request_id:
                raise ManifestCorrupt(f"{path} holds request {record.id!r}")
        except FileNotFoundError:
            return None  # Withdrawn a moment ago.
        except (ManifestCorrupt, ConfigError, OSError) as error:
            self.answer(request_id, Result("running", error=str(error)))
            return None
        return record


class RequestSlip:
    """One request, on the side of whoever asks; ``request_id`` is its name in the mailbox."""

    def __init__(self, directory: Path) -> None:
        self.request_id = secrets.token_hex(8)
        self._directory = directory
        self._path = directory / f"{self.request_id}.json"
        self._files = FileSystem()

    def post(self, kind: RequestKind, *, savepoint: str | None, is_drain: bool) -> None:
        """Put the request into the mailbox.

        Raises:
            StorageError: there is no mailbox, or it cannot be written to.
        """
        record = RequestRecord(
            id=self.request_id,
            kind=kind,
            savepoint=savepoint,
            is_drain=is_drain,
            pid=os.getpid(),
            asked_at_ms=time.time_ns() // 1_000_000,
        )
        with translated(f"cannot ask anything in {self._directory}"):
            _write(self._files, self._path, seal(record))

    def result(self) -> Result | None:
        """Return the answer, once; None while there is none.

        Raises:
            ManifestCorrupt: there is one, and it is damaged.
            StorageError: it cannot be read.
        """
        path = self._directory / f"{self.request_id}.answer.json"
        if not self._files.is_file(path):
            return None
        with translated(f"cannot read {path}"):
            record = unseal(_read_own(path), ResultRecord, str(path))
            self._files.unlink(path)
        return Result(record.state, record.savepoint, record.error, record.hint)

    @property
    def is_posted(self) -> bool:
        """Whether the request still lies there, read or not."""
        return self._files.is_file(self._path)

    def withdraw(self) -> None:
        """Take the request back, if nobody has read it."""
        with suppress(OSError):
            self._files.unlink(self._path)


def _write(files: FileSystem, path: Path, data: bytes) -> None:
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    descriptor = files.create(temporary)
    try:
        files.write(descriptor, data)
    finally:
        files.close(descriptor)
    files.replace(temporary, path)


def _read_own(path: Path) -> bytes:
    files = FileSystem()
    descriptor = files.open(path)
    try:
        status = files.status(descriptor)
        if status.st_uid != os.geteuid():
            raise ConfigError(f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}")
        if status.st_size > REQUEST_BYTES_MAX:
            raise ConfigError(f"{path} has {status.st_size} bytes, more than {REQUEST_BYTES_MAX}")
        return files.read(descriptor, REQUEST_BYTES_MAX)
    finally:
        files.close(descriptor)
