"""Rows of PostgreSQL as records of a type: what does it take of a table, and what does not fit it?

A row is a dict by column of what psycopg makes of the server's values. It becomes a
``msgspec.Struct``, a dataclass, a TypedDict or a pydantic model, as a line of a file does
(``typed.py``). A row that does not is an error without its values, or becomes a dead letter, which
has them.

A field that has a default is filled in where its column is missing. That is right where the table
has no such column, and wrong where the log of changes leaves out the value that the row has: there
the change does not parse. ``msgspec.UNSET`` as the default is a field's way to say that it may be
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any

import msgspec

from flowsnap.connectors.dead_letters import DeadLetter
from flowsnap.connectors.fitting import raw_of
from flowsnap.connectors.postgres_shape import shape_of
from flowsnap.connectors.postgres_tables import Change, Table
from flowsnap.connectors.postgres_wire import lsn_text
from flowsnap.connectors.typed import (
    MISFITS,
    UNENCODABLE,
    cause_of,
    converter,
    is_model,
    reason_of,
)
from flowsnap.errors import ConfigError, MalformedInput

DictRow = dict[str, Any]

HINT = 'to have such records leave beside the others: on_error="dead-letter"'


class RowType:
    """Makes records of a type from rows."""

    def __init__(self, type_: Any) -> None:
        self._many = converter(type_)
        self._one = _one_converter(type_)
        self.filled = shape_of(type_).filled

    def all_of(self, rows: list[DictRow]) -> list[Any] | None:
        """Return the records of rows; None if one of them does not fit."""
        try:
            return self._many(rows)
        except MISFITS:
            return None

    def one_of(self, row: DictRow) -> Any:
        """Return the record of a row; raises one of MISFITS."""
        return self._one(row)


class TableRows:
    """Makes records of the rows of one table; ``is_kept``: or dead letters of what is none."""

    def __init__(self, table: str, type_: Any, *, is_kept: bool) -> None:
        self._table = table
        self._type = RowType(type_)
        self._is_kept = is_kept

    def records(self, rows: list[DictRow], place: Callable[[int], Sequence[str]]) -> list[Any]:
        """Return a record, or a dead letter, for each row; ``place`` tells where the n-th is.

        Raises:
            MalformedInput: one is not of the type, and dead letters are not wanted.
        """
        found = self._type.all_of(rows)
        if found is not None:
            return found
        return [self._record(row, partial(place, index)) for index, row in enumerate(rows)]

    def _record(self, row: DictRow, place: Callable[[], Sequence[str]]) -> Any:
        try:
            return self._type.one_of(row)
        except MISFITS as error:
            reason = reason_of(error)
            where, offset = _coordinates(self._table, place())
            if self._is_kept:
                return DeadLetter(_as_json(row), reason, where, offset)
            raise MalformedInput(
                f"{self._table}: the row at {', '.join(place())} is not what was expected: "
                f"{reason}",
                file=where,
                offset=offset,
            ).hint(HINT) from cause_of(error)


class ChangeRows:
    """Makes records of the rows within changes; ``types`` are those of the tables, by full name.

    ``after`` becomes the type of its table. So does ``before`` where the log holds all of the row;
    where it is the key alone, it stays a dict.
    """

    def __init__(self, types: Mapping[str, Any], *, is_kept: bool) -> None:
        self._types = {table: RowType(type_) for table, type_ in types.items() if type_ is not Any}
        self._is_kept = is_kept

    def snapshot(self, changes: list[Change]) -> list[Change | DeadLetter]:
        """Return the changes "read" of one table, typed.

        Raises:
            MalformedInput: a row is not of the type, and dead letters are not wanted.
        """
        row_type = self._types.get(changes[0].table) if changes else None
        if row_type is None:
            return list(changes)
        rows = [change.after for change in changes]
        found = row_type.all_of(rows)
        if found is None:
            return [self.change(change, frozenset()) for change in changes]
        return [
            msgspec.structs.replace(change, after=record)
            for change, record in zip(changes, found, strict=True)
        ]

    def change(self, change: Change, columns: AbstractSet[str]) -> Change | DeadLetter:
        """Return a change of the log, typed; ``columns`` are those of its table.

        Raises:
            MalformedInput: a row is not of the type, and dead letters are not wanted.
        """
        row_type = self._types.get(change.table)
        if row_type is None:
            return change
        after, before = change.after, change.before
        if after is not None and not after.keys() >= columns:
            left_out = (row_type.filled & columns) - after.keys()
            if left_out:
                return self._left_out(change, min(left_out))
        what = "after"
        try:
            if after is not None:
                after = row_type.one_of(after)
            what = "before"
            if before is not None and before.keys() >= columns:
                before = row_type.one_of(before)
        except MISFITS as error:
            return self._refused(change, f"{what}: {reason_of(error)}", HINT, cause_of(error))
        return msgspec.structs.replace(change, before=before, after=after)

    def _left_out(self, change: Change, column: str) -> DeadLetter:
        reason = f"after: the log leaves out column {column!r}, which the update has not touched"
        hint = (
            f"alter table {change.table} replica identity full, or give the field the default "
            "msgspec.UNSET"
        )
        return self._refused(change, reason, hint, None)

    def _refused(
        self, change: Change, reason: str, hint: str, cause: Exception | None
    ) -> DeadLetter:
        if self._is_kept:
            return DeadLetter(_as_json(change), reason, change.table, change.lsn)
        raise MalformedInput(
            f"{change.table}: the change {change.op!r} at {lsn_text(change.lsn)} is not what was "
            f"expected: {reason}",
            file=change.table,
            offset=change.lsn,
        ).hint(hint) from cause


def check_columns(table: str, type_: Any, columns: Sequence[str]) -> None:
    """Check that what a type requires is read.

    Raises:
        ConfigError: a column is missing.
    """
    missing = sorted(shape_of(type_).required.difference(columns))
    if missing:
        name = getattr(type_, "__name__", repr(type_))
        raise ConfigError(f"the table {table} gives no {missing[0]!r}, which {name} requires").hint(
            f"it gives {', '.join(columns)}"
        )


def types_by_table(type_: Any, tables: Sequence[Table]) -> dict[str, Any]:
    """Return the types of tables, by full name, from one type or a mapping by given name.

    Raises:
        ConfigError: the mapping names a table that is not among them.
    """
    if not isinstance(type_, Mapping):
        return {table.name: type_ for table in tables}
    known = {name for table in tables for name in (table.given, table.name)}
    strange = [name for name in type_ if name not in known]
    if strange:
        raise ConfigError(f"type: {strange[0]!r} is not one of the tables").hint(
            f"they are {', '.join(table.given or table.name for table in tables)}"
        )
    return {table.name: type_.get(table.given, type_.get(table.name, Any)) for table in tables}


def _coordinates(table: str, place: Sequence[str]) -> tuple[str, int]:
    """Return where a row is: the last of what orders it as its offset, if that is a number."""
    *others, last = place
    offset = int(last) if last.removeprefix("-").isdecimal() else None
    named = others if offset is not None else place
    return f"{table}[{', '.join(named)}]" if named else table, offset or 0


def _as_json(value: Any) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except UNENCODABLE:
        return raw_of(value)


def _one_converter(type_: Any) -> Callable[[DictRow], Any]:
    if is_model(type_):
        validate: Callable[[DictRow], Any] = type_.model_validate
        return validate
    return partial(msgspec.convert, type=type_, strict=False)
