"""Rows that a table refuses: kept in another table, in the transaction that has refused them.

Only the store knows about its constraints, triggers and types, and it is asked when a checkpoint is
complete: too late for a dead letter of the stream. But there is a transaction then, with the
marker and all other rows of the epoch; what it refuses can be kept in it beside them. So a refused
row is exactly-once as the others are, whatever is repeated.

Rows go in by chunks, each below a savepoint; one that is refused is parted in halves until the
rows are found that are to blame, and the order of rows stays what it was.

Source: Kafka Connect, JDBC sink, "errors.tolerance". Deviation: the transaction is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from flowsnap.connectors.epoch_log import EpochMarker
from flowsnap.connectors.rows import Row, to_plain

CHUNK_ROWS = 1_000
"""How many rows are tried together below one savepoint."""

COLUMNS = {
    "run": "text not null",
    "operator": "text not null",
    "subtask": "bigint not null",
    "checkpoint": "bigint not null",
    "number": "bigint not null",
    "reason": "text not null",
    "row": "text not null",
}
"""The columns of a table of refused rows; ``row`` is a JSON object by column, ``number`` says which
row of the epoch it is."""

KEY = ("run", "operator", "subtask", "checkpoint", "number")


class RowsRefused(Exception):
    """The store refuses some of the rows that it was given, for what they hold.

    Its text is the store's, which may quote a value: it is kept beside the row, and not logged.
    """


class Refused(NamedTuple):
    """A row that the store refuses: which of an epoch it is, and why."""

    number: int
    row: Row
    reason: str


def insert_each(insert: Callable[[list[Row]], object], rows: Iterator[Row]) -> Iterator[Refused]:
    """Insert rows in order, and yield those that are refused.

    ``insert`` inserts all rows that it is given, or none, and then raises RowsRefused.
    """
    done = 0
    while chunk := list(islice(rows, CHUNK_ROWS)):
        waiting = [(done, chunk)]
        done += len(chunk)
        while waiting:
            first, part = waiting.pop()
            try:
                insert(part)
            except RowsRefused as error:
                if len(part) == 1:
                    yield Refused(first, part[0], str(error))
                    continue
                half = len(part) // 2
                waiting += [(first + half, part[half:]), (first, part[:half])]


def refused_row(marker: EpochMarker, columns: Sequence[str], refused: Refused) -> tuple[Any, ...]:
    """Return the row of a table of refused rows."""
    row = msgspec.json.encode(dict(zip(columns, refused.row, strict=True)), enc_hook=to_plain)
    return (*marker, refused.number, refused.reason, row.decode())
