"""From records to the rows of a table: which value goes into which column, and what is it there?

A record is a tuple or a list (as long as there are columns), a mapping, or an object with the
columns as attributes (a Struct, a dataclass); where the table has one column, a plain value too.
All records of a batch are mostly of one type, so the type is asked for once.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

import msgspec

Row = Sequence[Any]
Convert = Callable[[Any], Any]

PLAIN: frozenset[type] = frozenset({type(None), bool, int, float, str, bytes})
SIMPLE = (bool, int, float, str, bytes, type(None))
AS_TEXT = (
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
)
AS_JSON = (dict, list, tuple, set, frozenset, msgspec.Struct)


class Unfit(Exception):
    """A record has no form as a row: ``index`` in its batch, and why, without its content."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class RowMaker:
    """Makes rows of the columns of ``converts`` from records.

    A value that is not of a type in ``PLAIN`` is given to the function of its column, which returns
    what is kept of it, or raises TypeError.
    """

    def __init__(self, converts: Mapping[str, Convert]) -> None:
        self._columns = tuple(converts)
        self._converts = tuple(converts.values())

    def rows(self, values: Sequence[Any]) -> list[Row]:
        """Return one row for each record.

        Raises:
            Unfit: a record lacks a column, or a value of it has no form in the store.
        """
        kinds = set(map(type, values))
        try:
            if len(kinds) == 1:
                rows = self._of_one_kind(values, kinds.pop())
            else:
                rows = [self._of_one_kind([value], type(value))[0] for value in values]
        except (KeyError, AttributeError, TypeError) as error:
            raise self._missing(values) from error
        width = len(self._columns)
        if set(map(len, rows)) != {width}:
            index = next(i for i, row in enumerate(rows) if len(row) != width)
            raise Unfit(index, f"has {len(rows[index])} values for {width} columns")
        if not PLAIN.issuperset(map(type, chain.from_iterable(rows))):
            rows = [self._converted(index, row) for index, row in enumerate(rows)]
        return rows

    def _of_one_kind(self, values: Sequence[Any], kind: type) -> list[Row]:
        columns = self._columns
        if kind is tuple or kind is list:
            return list(values)
        if len(columns) == 1 and issubclass(kind, SIMPLE):
            return [(value,) for value in values]
        if issubclass(kind, (tuple, list)) and not hasattr(kind, "_fields"):
            return [tuple(value) for value in values]
        if issubclass(kind, Mapping):
            get: Callable[[Any], Any] = itemgetter(*columns)
        else:
            get = attrgetter(*columns)
        found = map(get, values)
        return [(value,) for value in found] if len(columns) == 1 else list(found)

    def _missing(self, values: Sequence[Any]) -> Unfit:
        for index, value in enumerate(values):
            for column in self._columns:
                try:
                    value[column] if isinstance(value, Mapping) else getattr(value, column)
                except (KeyError, AttributeError, TypeError):
                    return Unfit(index, f"({describe(value)}) has no column {column!r}")
        return Unfit(0, "has no form as a row")

    def _converted(self, index: int, row: Row) -> Row:
        made = []
        for column, convert, value in zip(self._columns, self._converts, row, strict=True):
            if type(value) in PLAIN:
                made.append(value)
                continue
            try:
                made.append(convert(value))
            except (TypeError, ValueError) as error:
                reason = f"has {describe(value)} in column {column!r}, which has no form there"
                raise Unfit(index, reason) from error
        return made


def to_plain(value: Any) -> Any:
    """Return dates, decimals, UUIDs and enums as text, and whatever has an inside as JSON.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, SIMPLE):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, AS_TEXT):
        return str(value)
    if isinstance(value, AS_JSON) or dataclasses.is_dataclass(value):
        return msgspec.json.encode(value).decode()
    raise TypeError(f"{describe(value)} has no plain form")


def describe(value: Any) -> str:
    """Return what kind of value it is, without its content, which may be secret."""
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
