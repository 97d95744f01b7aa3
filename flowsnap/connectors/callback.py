"""Callback and CommittedCallback: records handed to a function.

``Callback`` calls it as records come: at least once. ``CommittedCallback`` calls it with what a
complete checkpoint has committed, and with the *epoch* that it is, which has the same identity at
every repeat: a function that writes both down in one transaction, or asks ``applied`` first, is
exactly-once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flowsnap.config import Duration
from flowsnap.connectors.epoch_log import EpochLogSink, EpochMarker
from flowsnap.connectors.in_process import InProcess
from flowsnap.core.element import Batch
from flowsnap.core.operator import Sink, SinkContext
from flowsnap.errors import ConfigError
from flowsnap.serialize import dump, load


class Callback(Sink):
    """Calls ``fn(record)`` for every record, in the task: at least once.

    With ``batches=True`` it is ``fn(records)``, a list. What it raises fails the attempt. Where the
    job runs in the submitting process (``workers=0``), it is the function itself that is called,
    and not a copy: it may append to a list, or put into a queue. The calls must not wait.

    Raises:
        ConfigError: it is no function.
    """

    def __init__(self, fn: Callable[[Any], object], *, batches: bool = False) -> None:
        self._held = InProcess(_checked(fn, "fn"), "function")
        self.batches = batches

    def open(self, context: SinkContext) -> None:
        self._fn = self._held.value

    def write(self, batch: Batch) -> None:
        """Call the function."""
        if self.batches:
            if batch.values:
                self._fn(list(batch.values))
            return
        for value in batch.values:
            self._fn(value)


class CommittedCallback(EpochLogSink):
    """Calls ``fn(records, epoch)`` for what each complete checkpoint has of one subtask.

    An epoch is ``(run_id, operator, subtask, checkpoint_id)``. It is called again with the same
    records and epoch where it is not known whether the last call has come to its end: after a
    crash, or after it raised StoreUnavailable; not if ``applied(epoch)``, where given, is true. It
    is called on a thread that is not the task's, and may wait.

    Raises:
        ConfigError: it is no function.
    """

    def __init__(
        self,
        fn: Callable[[list[Any], EpochMarker], object],
        *,
        applied: Callable[[EpochMarker], object] | None = None,
        retry_timeout: Duration = "60s",
    ) -> None:
        super().__init__(retry_timeout=retry_timeout)
        self._held = InProcess(_checked(fn, "fn"), "function")
        self._asked: InProcess | None = None
        if applied is not None:
            self._asked = InProcess(_checked(applied, "applied"), "function")

    def to_rows(self, values: list[Any]) -> list[Any]:
        """Return the records as they are now: a later change of one is not seen."""
        return [dump(values)]

    def apply(self, marker: EpochMarker, rows: Iterator[Any]) -> None:
        """Call the function."""
        # Their bytes are of the manifest, or have the sha256 that it says.
        self._held.value([value for row in rows for value in load(row)], marker)

    def applied(self, marker: EpochMarker) -> bool:
        """Return whether the user's function knows the epoch."""
        return self._asked is not None and bool(self._asked.value(marker))


def _checked(fn: Any, what: str) -> Any:
    if not callable(fn):
        raise ConfigError(f"{what}: {fn!r} is not a function")
    return fn
