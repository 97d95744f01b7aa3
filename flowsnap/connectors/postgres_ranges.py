"""Which rows has which snapshot of a table read, and which changes does it therefore hold already?

A snapshot that is read in one go ends where the log begins: what the slot sends is not in it. One
that is broken off can't be gone on with: the server forgets it. Then the rest is read from another
snapshot, further on in the log, and what the log says of *that rest* up to there must be left out,
while it counts for the rows read before. So rows are read in the order of their keys, and of each
snapshot it is remembered up to which key it was read, and where in the log it stands.

A transaction is in a snapshot that stands at ``lsn`` exactly if its commit record begins before:
both come from a slot that was made for it, which sends the others. Keys are compared as text, byte
by byte, part by part, which the server does as well (``collate "C"``).

Source: Andreakis, Papapanagiotou: DBLog, 2020 (chunks with a high watermark). Deviation: a mark is
the slot's own consistent point, so nothing needs to be written to the source.

>>> read = Ranges([])
>>> read.extend(("b",), 100); read.extend(None, 200)
>>> read.holds(("a",), 150), read.holds(("c",), 150)
(False, True)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Key = tuple[str, ...]
"""The key of a row: the text of each of its columns."""


class Ranges:
    """The rows of one table that have been read: up to which key, by the snapshot at which LSN.

    In order; the last goes up to the last row read, or to None, when all have been read.
    """

    def __init__(self, ranges: Sequence[tuple[Key | None, int]]) -> None:
        self._ranges = list(ranges)

    @property
    def is_whole(self) -> bool:
        """Whether every row has been read."""
        return bool(self._ranges) and self._ranges[-1][0] is None

    @property
    def upper(self) -> Key | None:
        """The last key read; None before the first, and when all have been read."""
        return self._ranges[-1][0] if self._ranges else None

    @property
    def lsn_max(self) -> int:
        """From where in the log on no change is in any of the snapshots."""
        return max((lsn for _, lsn in self._ranges), default=0)

    @property
    def lsn_min(self) -> int:
        """Up to where in the log every change is in all of them."""
        return min((lsn for _, lsn in self._ranges), default=0)

    def extend(self, upper: Key | None, lsn: int) -> None:
        """Take note that the snapshot at ``lsn`` has been read up to ``upper``, or to its end."""
        if self._ranges and self._ranges[-1][1] == lsn:
            self._ranges[-1] = (upper, lsn)
        else:
            self._ranges.append((upper, lsn))

    def holds(self, key: Key, commit_lsn: int) -> bool:
        """Return whether what a transaction did to the row of ``key`` was in what has been read."""
        for upper, lsn in self._ranges:
            if upper is None or key <= upper:
                return commit_lsn < lsn
        return False

    def to_plain(self) -> list[list[Any]]:
        """Return plain msgpack values, for a position."""
        return [[None if upper is None else list(upper), lsn] for upper, lsn in self._ranges]

    @classmethod
    def from_plain(cls, plain: Sequence[Sequence[Any]]) -> Ranges:
        """Return what ``to_plain`` was called on."""
        return cls([(None if upper is None else tuple(upper), lsn) for upper, lsn in plain])
