"""A source for tests: values in memory that end, crash or pause at an exact record.

The position of a ``TestSource`` is an index into its values, sentinels included, so that a restore
goes on at the right record whatever stands around it. What must outlive a crash (which ``ABORT``
has struck, which ``PAUSE`` was lifted) is kept in files of a directory that is made when a job
starts afresh and named in the split: so it is the same for all attempts of a run, also where each
has a process of its own.

Source: Bytewax' ``TestingSource`` with ``EOF``, ``ABORT`` and ``PAUSE``. Deviations: END ends the
source for good, and a pause lasts until it is lifted, not for a time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Any, Final

from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.errors import ConfigError


class Sentinel(Enum):
    """What may stand between the values of a ``TestSource``."""

    END = "end"
    ABORT = "abort"
    PAUSE = "pause"

    def __repr__(self) -> str:
        return self.name


END: Final = Sentinel.END
"""The source has ended here: what follows is never read."""
ABORT: Final = Sentinel.ABORT
"""The job crashes here, once in a run: after the restore the source reads on."""
PAUSE: Final = Sentinel.PAUSE
"""The source has nothing to say from here on, until it is resumed."""


class Aborted(Exception):
    """A ``TestSource`` has come to an ``ABORT``."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A value with an event time, in ms since the epoch; made by ``at``."""

    timestamp_ms: int
    value: Any


def at(timestamp_ms: int, value: Any) -> Timed:
    """Return ``value`` with an event time, for a source that knows the times of its records.

    Raises:
        ConfigError: ``timestamp_ms`` is no int.
    """
    if not isinstance(timestamp_ms, int) or isinstance(timestamp_ms, bool):
        raise ConfigError(f"at: {timestamp_ms!r} is no event time").hint(
            "write at(ms_since_the_epoch, value)"
        )
    return Timed(timestamp_ms, value)


def timed_batch(entries: Sequence[Any]) -> Batch:
    """Return the batch of values that all have an event time, or of which none has."""
    if entries and isinstance(entries[0], Timed):
        return Batch([one.value for one in entries], [one.timestamp_ms for one in entries])
    return Batch(list(entries))


class _Life:
    """What has been made of one run, for the source and all its copies; see the module."""

    def __init__(self) -> None:
        self.marks = ""
        self.resumed = 0

    def begin(self, *, has_marks: bool) -> None:
        self.marks, self.resumed = "", 0
        if has_marks:
            self.marks = tempfile.mkdtemp(prefix="flowsnap-source-")
            weakref.finalize(self, shutil.rmtree, self.marks, ignore_errors=True)


class TestSource(Source):
    """The given values, and whatever sentinels stand between them.

    Read by one subtask, at most ``batch_records`` at a time. ``at(ms, value)`` gives a value its
    event time. It works in a ``Harness``, in ``simulate``, and in any other run.

    Raises:
        ConfigError: the values cannot be iterated, or a batch would be empty.
    """

    __test__ = False  # A name that pytest would take for a class of tests.
    discovers = False

    def __init__(self, values: Iterable[Any], *, batch_records: int | None = None) -> None:
        if not isinstance(values, Iterable):
            raise ConfigError(f"TestSource: {values!r} is no iterable of values")
        if batch_records is not None and batch_records < 1:
            raise ConfigError(f"TestSource: batch_records {batch_records} is less than 1")
        self.values = list(values)
        self.batch_records = batch_records
        self._life = _Life()

    def splits(self, parallelism: int) -> list[Split]:
        """Return the one split; a fresh run has not aborted or paused anywhere yet."""
        self._life.begin(has_marks=any(one in (ABORT, PAUSE) for one in self._sentinels()))
        return [Split("all", {"marks": self._life.marks}, len(self.values))]

    def open_split(self, split: Split, position: int | None) -> SplitReader:
        return _Reader(self.values, self.batch_records, split.payload["marks"], position or 0)

    def resume(self) -> None:
        """Lift the next pause, whether the source has come to it or not.

        Raises:
            ConfigError: no pause is left, or the source is not being read.
        """
        life = self._life
        if not life.marks:
            raise ConfigError("resume: this source is not being read, or has no PAUSE")
        if life.resumed >= self._sentinels().count(PAUSE):
            raise ConfigError(f"resume: all {life.resumed} pauses have been lifted")
        life.resumed += 1
        _mark(life.marks, f"resumed-{life.resumed}")

    def _sentinels(self) -> list[Sentinel]:
        return [one for one in self.values if isinstance(one, Sentinel)]


class _Reader(SplitReader):
    def __init__(
        self, values: list[Any], batch_records: int | None, marks: str, position: int
    ) -> None:
        self._values = values
        self._batch_records = batch_records
        self._marks = marks
        self._next = position

    def read(self, limit: int) -> Batch | None:
        while self._next < len(self._values):
            head = self._values[self._next]
            if not isinstance(head, Sentinel):
                return self._batch(min(limit, self._batch_records or limit))
            if head is END:
                return None
            if head is ABORT:
                self._abort()
            elif self._is_paused():
                return Batch([])
            self._next += 1
        return None

    def position(self) -> int:
        return self._next

    def progress(self) -> int:
        return self._next

    def _batch(self, limit: int) -> Batch:
        ahead = self._values[self._next : self._next + limit]
        is_timed = isinstance(ahead[0], Timed)
        same = list(
            takewhile(
                lambda one: not isinstance(one, Sentinel) and isinstance(one, Timed) is is_timed,
                ahead,
            )
        )
        self._next += len(same)
        return timed_batch(same)

    def _abort(self) -> None:
        if _mark(self._marks, f"aborted-{self._next}"):
            raise Aborted(f"ABORT before record {self._next + 1} of a TestSource")

    def _is_paused(self) -> bool:
        number = sum(1 for one in self._values[: self._next + 1] if one is PAUSE)
        # Of a program that has ended: nobody can lift its pauses any more.
        is_known = os.path.isdir(self._marks)
        return is_known and not os.path.exists(os.path.join(self._marks, f"resumed-{number}"))


def _mark(directory: str, name: str) -> bool:
    """Make an empty file; return False where it is there already, or its directory is gone."""
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        os.close(os.open(os.path.join(directory, name), os.O_CREAT | os.O_EXCL, 0o600))
        return True
    return False
