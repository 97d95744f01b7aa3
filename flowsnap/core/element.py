"""What flows in a channel: batches of records, and the control elements between them.

The unit of flow is a batch and never a record. A batch holds records of one channel, in order;
a ``Watermark``, ``Barrier``, ``EndOfInput``, ``Idle``, ``Active`` or ``Marker`` stands between
batches. So
every question of the protocol is asked once per batch. Transport, credit and checkpoints treat a
batch as opaque: they ask only for its length.

A batch and its lists belong to nobody: an operator never changes the lists that it was given,
because a fan-out hands the same batch to several consumers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flowsnap.core.ids import CheckpointId


class Batch:
    """``n`` records of one channel, in order.

    ``values``: list of n records. ``timestamps``: list of n event times in ms since the epoch, or
    None. ``keys``: list of n keys, or None where the stream is not keyed. ``stamp``: the vector
    clock of its sender, in a job that is traced.
    """

    __slots__ = ("keys", "stamp", "timestamps", "values")

    def __init__(
        self,
        values: list[Any],
        timestamps: list[int] | None = None,
        keys: list[Any] | None = None,
    ) -> None:
        self.values = values
        self.timestamps = timestamps
        self.keys = keys
        self.stamp: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def part(self, start: int, stop: int) -> Batch:
        """Return the records from ``start`` up to ``stop``, as a batch of its own."""
        part = Batch(
            self.values[start:stop],
            None if self.timestamps is None else self.timestamps[start:stop],
            None if self.keys is None else self.keys[start:stop],
        )
        part.stamp = self.stamp
        return part

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Batch)
            and self.values == other.values
            and self.timestamps == other.timestamps
            and self.keys == other.keys
        )

    __hash__ = None  # type: ignore[assignment]  # it holds lists

    def __repr__(self) -> str:
        return f"<Batch of {len(self.values)}{' keyed' if self.keys is not None else ''}>"


@dataclass(frozen=True, slots=True)
class Watermark:
    """No later record of this channel has an event time at or before ``timestamp_ms``."""

    timestamp_ms: int


TIMEOUT_MS_MAX = 4_000_000
"""The longest timeout that a barrier can carry."""


@dataclass(frozen=True, slots=True)
class Barrier:
    """What came before belongs to checkpoint ``checkpoint_id``; what comes after does not.

    ``timeout_ms``: None, it waits in every queue (aligned); 0, it overtakes what waits for credit,
    which becomes part of the snapshot (unaligned); else it does so after that time.
    """

    checkpoint_id: CheckpointId
    timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Marker:
    """What came before was sent before its sender looked at itself in round ``number``.

    By such rounds the job manager finds out whether anything still goes round in the loops.
    """

    number: int


@dataclass(frozen=True, slots=True)
class EndOfInput:
    """No further batch comes in this channel; barriers still do, until the job has finished."""


@dataclass(frozen=True, slots=True)
class Idle:
    """This channel holds event time back no longer, until ``Active``."""


@dataclass(frozen=True, slots=True)
class Active:
    """This channel takes part in event time again."""


Control = Watermark | Barrier | EndOfInput | Idle | Active | Marker
Element = Batch | Control
