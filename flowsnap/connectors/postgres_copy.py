r"""Rows into COPY: how do many rows become text at little cost a row?

psycopg makes the text of each value by itself, which is most of what a copy costs. Where all values
of a batch are plain, the batch is written as JSON lines at once: without their brackets they are
what PostgreSQL reads as CSV, with ``null`` as its null and a backslash as its escape. What JSON
writes in another way than psycopg (a line break in a text, a number in a column of text) goes value
by value, so that a column holds the same whichever way its rows went.

Source: PostgreSQL manual, "COPY", File Formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from math import isfinite
from typing import Any

import msgspec

from flowsnap.connectors.postgres_session import Connection

BATCH_ROWS = 256

_CSV = r" (format csv, escape E'\\', null 'null', encoding 'UTF8')"
_PLAIN = frozenset({int, str, type(None)})
_NUMBERS = frozenset({int, float, type(None)})
_BOOLEANS = frozenset({bool, type(None)})

_encode_lines = msgspec.json.Encoder().encode_lines


def copy_rows(
    db: Connection, target: str, categories: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Copy rows in their order.

    ``categories`` are those of the columns' types (``pg_type.typcategory``: "N" for numbers, "B"
    for booleans); in such a column a number, a boolean has one meaning, however it is written.
    ``target`` is a table and its columns as SQL writes them, all names quoted.
    """
    for is_csv, batches in groupby(_batches(categories, iter(rows)), key=_is_csv):
        statement = f"copy {target} from stdin{_CSV if is_csv else ''}"
        with db.cursor() as cursor, cursor.copy(statement) as copy:
            for batch in batches:
                if isinstance(batch, bytes):
                    copy.write(batch)
                    continue
                for row in batch:
                    copy.write_row(row)


def as_csv(rows: Sequence[Sequence[Any]], categories: Sequence[str]) -> bytes | None:
    """Return rows, of which there is one, as lines of CSV; None where they have no such form."""
    values, width = list(chain.from_iterable(rows)), len(categories)
    for index, category in enumerate(categories):
        if not _is_plain(values[index::width], category):
            return None
    lines = _encode_lines(rows)
    if b"\\" in lines and b"\\" in lines.replace(b"\\\\", b"").replace(b'\\"', b""):
        return None
    # A line break within a text is escaped: this is where a row ends.
    return lines[1:-2].replace(b"]\n[", b"\n") + b"\n"


def _is_plain(column: Sequence[Any], category: str) -> bool:
    """Return whether what JSON writes of values means the same as what psycopg writes."""
    kinds = set(map(type, column))
    if kinds <= _PLAIN:
        return True
    if category == "N" and kinds <= _NUMBERS:
        # JSON has no NaN and no infinity, and would write null; what is left out is finite.
        return all(map(isfinite, filter(None, column)))
    return category == "B" and kinds <= _BOOLEANS


def _batches(
    categories: Sequence[str], rows: Iterator[Sequence[Any]]
) -> Iterator[bytes | list[Sequence[Any]]]:
    while batch := list(islice(rows, BATCH_ROWS)):
        yield as_csv(batch, categories) or batch


def _is_csv(batch: bytes | list[Sequence[Any]]) -> bool:
    return isinstance(batch, bytes)
