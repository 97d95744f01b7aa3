"""An epoch's output on its way: encoded rows, kept in the checkpoint itself or in a file beside it.

What a sink was given between two barriers is an *epoch*. Up to ``inline_bytes`` it travels in the
committable, and so lies in the manifest, which is sent, indented and hashed as a whole: small
epochs cost one write less that way, large ones would make manifests slow. Beyond that it goes into
a file of the job directory as it comes, synced at the barrier; the manifest has its name and
sha256. ``benchmarks/connectors.py`` has the figures behind the limit.

An encoded epoch is a sequence of frames, one for each batch: ``length u32 BE | msgpack array``. A
file is called ``epoch-<run>-<operator>-<subtask>-<attempt>-<number>.log``. It is removed once its
rows have been applied; one of an older attempt that no restored checkpoint names is removed by the
recovery.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

import msgspec

from flowsnap.connectors.frames import frame, frames
from flowsnap.connectors.parts import operator_tag, run_tag, sync_directory, translated
from flowsnap.core.operator import SinkContext
from flowsnap.errors import StorageError

VERSION = 1

_LENGTH = struct.Struct(">I")
_FILE = re.compile(
    r"epoch-(?P<run>[a-z0-9_.]+)-(?P<operator>[a-z0-9_.-]+)-(?P<subtask>\d{5,9})"
    r"-(?P<attempt>\d{1,18})-(?P<number>\d{8,18})\.log"
)


class EpochStage:
    """The epochs of one subtask: the one being written, and those that wait for their commit."""

    def __init__(self, directory: str, context: SinkContext, inline_bytes: int) -> None:
        self._directory = directory
        self._run = run_tag(context.run_id)
        self._operator = operator_tag(context.operator)
        self._attempt = int(context.attempt)
        self._prefix = f"epoch-{self._run}-{self._operator}-{context.subtask:05}-{self._attempt}"
        self._inline_bytes = inline_bytes
        self._count = 0
        self._name = ""
        self._file: IO[bytes] | None = None
        self._begin()

    @property
    def size_bytes(self) -> int:
        """The size of the epoch being written."""
        return self._size_bytes

    def append(self, data: bytes, rows: int) -> None:
        """Add a batch of ``rows`` rows, encoded.

        Raises:
            StorageError: the job directory cannot be written.
        """
        framed = frame(data, _LENGTH)
        self._rows += rows
        self._size_bytes += len(framed)
        if self._file is None and self._size_bytes <= self._inline_bytes:
            self._frames.append(framed)
            return
        with translated(f"writing below {self._directory}"):
            if self._file is None:
                self._file = self._create()
            self._file.write(framed)
        self._sha256.update(framed)

    def seal(self) -> dict[str, Any] | None:
        """Make the epoch durable and begin the next; return where its rows are, or None.

        Raises:
            StorageError: the job directory cannot be written.
        """
        rows, frames, file = self._rows, self._frames, self._file
        if not rows:
            return None
        where: dict[str, Any] = {"data": b"".join(frames)}
        if file is not None:
            with translated(f"writing {self._name}"):
                file.flush()
                os.fsync(file.fileno())
                file.close()
                sync_directory(self._directory)
            where = {
                "directory": self._directory,
                "file": self._name,
                "sha256": self._sha256.hexdigest(),
            }
        self._file = None
        self._begin()
        return {"rows": rows, **where}

    def read(self, sealed: dict[str, Any], row_type: Any = Any) -> Iterator[Any]:
        """Yield the rows of an epoch, of this subtask or of any other, each as a ``row_type``.

        Raises:
            StorageError: its file is gone, or its bytes are not those that were sealed.
        """
        decode = msgspec.msgpack.Decoder(list[row_type]).decode
        if "data" in sealed:
            for one in frames(memoryview(sealed["data"]), _LENGTH):
                yield from decode(one)
            return
        path = self._find(sealed)
        with translated(f"reading {path}"), open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sealed["sha256"]:
                raise StorageError(f"{path} does not have the sha256 that it was sealed with").hint(
                    "the file was damaged or changed after it was written; is the disk sound?"
                )
            file.seek(0)
            while head := file.read(_LENGTH.size):
                yield from decode(file.read(_LENGTH.unpack(head)[0]))

    def discard(self, sealed: dict[str, Any]) -> None:
        """Remove the file of an epoch whose rows have been applied."""
        if "file" in sealed and _FILE.fullmatch(sealed["file"]):
            # Only here: what another job still has in its directory is not ours to remove.
            self._remove(sealed["file"])

    def remove_older(self) -> None:
        """Remove what older attempts of this run and operator have left.

        Raises:
            StorageError: the job directory cannot be read or written.
        """
        with translated(f"removing what older attempts left in {self._directory}"):
            for match in filter(None, map(_FILE.fullmatch, sorted(os.listdir(self._directory)))):
                is_ours = (match["run"], match["operator"]) == (self._run, self._operator)
                if is_ours and int(match["attempt"]) < self._attempt:
                    self._remove(match[0])

    def close(self) -> None:
        """Drop the epoch being written."""
        if self._file is not None:
            file, self._file = self._file, None
            with translated(f"dropping {self._name}"):
                file.close()
                self._remove(self._name)

    def _begin(self) -> None:
        self._frames: list[bytes] = []
        self._sha256 = hashlib.sha256()
        self._rows = 0
        self._size_bytes = 0

    def _create(self) -> IO[bytes]:
        self._count += 1
        self._name = f"{self._prefix}-{self._count:08}.log"
        file = open(os.path.join(self._directory, self._name), "xb")  # noqa: SIM115 - seal closes it
        for framed in self._frames:
            file.write(framed)
            self._sha256.update(framed)
        self._frames = []
        return file

    def _find(self, sealed: dict[str, Any]) -> str:
        name: str = sealed["file"]
        if _FILE.fullmatch(name) is None:
            raise StorageError(f"{name!r} does not name the file of an epoch")
        places: list[str] = [self._directory, sealed["directory"]]
        paths = [os.path.join(place, name) for place in places]
        found = next(filter(os.path.isfile, paths), None)
        if found is None:
            raise StorageError(f"the output of {name} is missing from {' and '.join(places)}").hint(
                "something else removes files there; a savepoint that was taken without its output "
                "being committed needs the directory of the job that took it"
            )
        return found

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self._directory, name))


def remove_epochs(directory: str, run_ids: tuple[str, ...]) -> None:
    """Remove what these lives of a job have left, all of which is applied or given up."""
    runs = {run_tag(run_id) for run_id in run_ids}
    with translated(f"removing what is over from {directory}"):
        for match in filter(None, map(_FILE.fullmatch, os.listdir(directory))):
            if match["run"] in runs:
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, match[0]))
