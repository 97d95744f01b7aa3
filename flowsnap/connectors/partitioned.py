"""Into which directory does a record go, and when does a part end?

Records are parted by the value of a field (``country=DE``, as Hive and its readers know it), by
time (``2024-05-31/13``), or by a function. Each subtask has one part open in each directory that it
has written to since the last checkpoint. A part ends with every checkpoint, since only what has
ended can be shown by a rename; before that, when it has reached a size or an age, or when too many
are open. So every part of a checkpoint appears, or none.

Source: Flink, "FileSystem Connector" (bucket assignment; rolling policy of bulk formats).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import IO, Any, Protocol
from urllib.parse import quote

from flowsnap.connectors.output import Output
from flowsnap.connectors.parts import operator_tag, run_tag, translated
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import SinkContext
from flowsnap.errors import ConfigError, OperatorError
from flowsnap.failpoint import failpoint

NOTHING = "__HIVE_DEFAULT_PARTITION__"
"""The name of the directory of records without a value; Hive's."""

OPEN_PARTS_MAX = 100
"""How many parts a subtask has open at once; then the oldest ends."""

_SAFE = "=+@,"


@dataclass(frozen=True)
class ByTime:
    """Directories by time, in UTC, as ``strftime`` writes it; a ``/`` makes directories in others.

    ``field`` holds the time: an int of ms since the epoch, or an aware datetime. Without it, it is
    the record's event time.
    """

    pattern: str = "%Y-%m-%d/%H"
    field: str | None = None


PartitionBy = str | Sequence[str] | ByTime | Callable[[Any], Any]
"""The name of a field or of several, a ByTime, or a function to the name of a directory."""

Directories = Callable[[Batch], list[str]]


class Body(Protocol):
    """The inside of a part file: it is written, and completed once."""

    def write(self, data: Any, /) -> Any:
        """Append what was made of some records."""

    def close(self) -> Any:
        """Complete the file's content; the file itself stays open."""


@dataclass(frozen=True)
class Rolling:
    """When a part ends before its checkpoint comes; None: it does not."""

    size_bytes: int | None = None
    age_ms: int | None = None


@dataclass
class _OpenPart:
    directory: str
    temporary: str
    file: IO[bytes]
    body: Body
    begun_s: float
    facts: dict[str, Any] = field(default_factory=dict)


class PartitionedParts:
    """Writes the parts of one subtask to ``output``, which is made.

    ``body`` makes what writes into a new file. ``clock`` is monotonic, in seconds.

    Raises:
        StorageError: from every method, when the file system fails.
    """

    def __init__(
        self,
        output: Output,
        context: SinkContext,
        suffix: str,
        body: Callable[[IO[bytes]], Body],
        rolling: Rolling,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output = output
        self._place = output.place
        self._attempt = context.attempt
        self._run = run_tag(context.run_id)
        self._operator = operator_tag(context.operator)
        self._prefix = f"part-{self._run}-{self._operator}-{context.subtask:05}"
        self._suffix = suffix
        self._body = body
        self._rolling = rolling
        self._clock = clock
        self._count = 0
        self._open: dict[str, _OpenPart] = {}
        self._ended: list[_OpenPart] = []
        self._committer = output.committer(
            f"{context.operator}-{context.subtask}",
            lambda committable: self._publish([committable]),
        )

    def write(self, data: Any, directory: str = "") -> None:
        """Append ``data`` to the part of a directory, which is made if need be."""
        with translated(f"writing below {self._place}"):
            part = self._open.get(directory)
            if part is not None and self._is_old(part):
                self._end(part)
                part = None
            if part is None:
                part = self._begin(directory)
            part.body.write(data)
            size = self._rolling.size_bytes
            if size is not None and part.file.tell() >= size:
                self._end(part)

    def prepare(self, checkpoint_id: CheckpointId) -> dict[str, Any] | None:
        """Make what was written since the last call durable; None when that is nothing."""
        with translated(f"preparing the output of checkpoint {checkpoint_id} below {self._place}"):
            for part in list(self._open.values()):
                self._end(part)
            if not self._ended:
                return None
            self._output.settle({part.directory for part in self._ended})
            parts, numbers = [], dict.fromkeys((part.directory for part in self._ended), 0)
            for part in self._ended:
                number = numbers[part.directory]
                numbers[part.directory] += 1
                final = f"{self._prefix}-{checkpoint_id:08}"
                final += f"-{number:04}{self._suffix}" if number else self._suffix
                names = {"temporary": part.temporary, "final": final, **part.facts}
                parts.append({"directory": part.directory, **names} if part.directory else names)
            self._ended = []
            failpoint("sink.prepared")
        return {"parts": parts}

    def commit(self, committables: Sequence[dict[str, Any]]) -> bool:
        """Give parts their final names, durably; one that has its final name stays as it is.

        False: it is under way, on a thread; ask again with the same committables.

        Raises:
            StorageError: a part is gone, or a store refuses.
        """
        if not committables:
            return True
        with translated(f"committing below {self._place}"):
            if self._committer is None or not self._committer.is_busy:
                failpoint("sink.commit_called")
            if self._committer is None:
                self._publish(committables)
            elif not self._committer.commit(committables):
                return False
            failpoint("sink.committed")
        return True

    def recover(self, committables: Sequence[dict[str, Any]]) -> None:
        """Commit, then remove what older attempts of this run and operator left uncommitted."""
        if self._committer is None:
            self.commit(committables)
            self._remove_older()
            return
        with translated(f"committing below {self._place}"):
            if committables:
                failpoint("sink.commit_called")
            self._committer.recover(committables, self._remove_older)
            if committables:
                failpoint("sink.committed")

    def close(self) -> None:
        """Drop what was written and not prepared."""
        if self._committer is not None:
            self._committer.close()
            self._committer = None
        dropped = [*self._open.values(), *self._ended]
        for part in self._open.values():
            with suppress(OSError, ValueError):  # It is dropped: its content need not be complete.
                part.body.close()
        self._open, self._ended = {}, []
        with translated(f"dropping uncommitted output below {self._place}"):
            for part in dropped:
                self._output.drop(part.directory, part.temporary, part.file)
            self._output.close()

    def _publish(self, committables: Sequence[dict[str, Any]]) -> None:
        parts = (one.get("parts", [one]) for one in committables)
        self._output.publish(list(chain.from_iterable(parts)))

    def _remove_older(self) -> None:
        with translated(f"removing what older attempts left in {self._place}"):
            self._output.remove_older(self._run, self._operator, self._attempt)

    def _is_old(self, part: _OpenPart) -> bool:
        age_ms = self._rolling.age_ms
        return age_ms is not None and (self._clock() - part.begun_s) * 1000 >= age_ms

    def _begin(self, directory: str) -> _OpenPart:
        if len(self._open) >= OPEN_PARTS_MAX:
            self._end(next(iter(self._open.values())))
        self._count += 1
        name = f".{self._prefix}-{self._attempt}-{self._count:08}{self._suffix}.tmp"
        file = self._output.create(directory, name)
        part = _OpenPart(directory, name, file, self._body(file), self._clock())
        self._open[directory] = part
        return part

    def _end(self, part: _OpenPart) -> None:
        del self._open[part.directory]
        self._ended.append(part)  # First, so that close removes it if what follows fails.
        part.body.close()
        part.facts = self._output.end(part.temporary, part.file)


def directories_of(partition_by: PartitionBy) -> Directories:
    """Return a function from a batch to the directory of each of its records.

    Raises:
        ConfigError: it is nothing that says where a record goes.
    """
    if isinstance(partition_by, ByTime):
        return _by_time(partition_by)
    if callable(partition_by):
        function = partition_by
        return lambda batch: [_path(function(value)) for value in batch.values]
    fields = (partition_by,) if isinstance(partition_by, str) else tuple(partition_by)
    if not fields or not all(isinstance(name, str) and name for name in fields):
        raise ConfigError(f"partition_by: {partition_by!r} is not a field").hint(
            "give a field, a list of fields, ByTime(...) or a function"
        )
    heads = [_component(name) + "=" for name in fields]

    def place(value: Any) -> str:
        names = [_component(_field(value, name)) for name in fields]
        return "/".join(head + name for head, name in zip(heads, names, strict=True))

    return lambda batch: [place(value) for value in batch.values]


def _by_time(by: ByTime) -> Directories:
    @lru_cache(maxsize=4096)
    def place(second: int) -> str:
        return _path(datetime.fromtimestamp(second, UTC).strftime(by.pattern))

    def places(batch: Batch) -> list[str]:
        times = batch.timestamps
        if by.field is not None:
            times = [_epoch_ms(_field(value, by.field)) for value in batch.values]
        if times is None:
            raise ConfigError("the records have no event time to choose a directory by").hint(
                "name the field that holds it: ByTime(field=...), or assign timestamps"
            )
        return [place(at // 1000) for at in times]

    return places


def _epoch_ms(value: Any) -> int:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return int(value.timestamp() * 1000)
    if isinstance(value, int):
        return value
    raise TypeError(f"a {type(value).__name__} is no time: neither int of ms nor aware datetime")


def _field(value: Any, name: str) -> Any:
    try:
        return value[name] if isinstance(value, dict) else getattr(value, name)
    except (KeyError, AttributeError) as error:
        raise TypeError(f"a {type(value).__name__} has no {name!r}") from error


def _path(name: Any) -> str:
    parts = name.split("/") if isinstance(name, str) else [name]
    return "/".join(_component(part) for part in parts)


def _component(value: Any) -> str:
    r"""Return a value as the name of a directory: what is no letter, digit or ``_.-~=+@,`` as %XX.

    Never one that is hidden, or leads elsewhere.
    """
    text = "" if value is None else str(value)
    name = quote(text, safe=_SAFE, errors="backslashreplace")
    return NOTHING if not name else f"%2E{name[1:]}" if name.startswith(".") else name


def grouped(batch: Batch, places: list[str]) -> dict[str, list[Any]]:
    """Return the values of a batch by directory, in order."""
    groups: dict[str, list[Any]] = {}
    for value, place in zip(batch.values, places, strict=True):
        groups.setdefault(place, []).append(value)
    return groups


def misplaced(context: SinkContext, error: Exception) -> OperatorError:
    """Return what to raise where no directory is found for a record."""
    return OperatorError(
        f"sink {context.operator!r}, subtask {context.subtask}: a record has no directory:"
        f" {type(error).__name__}: {error}",
        operator=context.operator,
        subtask=context.subtask,
    ).hint("partition_by names a field that every record has, or is a function of any record")
