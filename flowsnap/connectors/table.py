"""A table as a sink: what SQLite and PostgreSQL have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, get_args

import msgspec

from flowsnap.config import Duration, Size
from flowsnap.connectors.eager import EagerRows
from flowsnap.connectors.epoch_log import INLINE_BYTES, EpochLogSink, EpochMarker
from flowsnap.connectors.fitting import tried
from flowsnap.connectors.refusal import COLUMNS, KEY, insert_each, refused_row
from flowsnap.connectors.rows import Convert, Row, RowMaker, Unfit, to_plain
from flowsnap.connectors.typed import (
    MISFITS,
    cause_of,
    check_type,
    checker,
    columns_of,
    reason_of,
)
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Misfits, SinkContext, Submission
from flowsnap.errors import ConfigError

LOG = logging.getLogger("flowsnap.table")

Existing = Literal["append", "replace", "error"]
Delivery = Literal["exactly-once", "at-least-once"]

MARKERS = "flowsnap_epochs"
"""The table of the markers: the highest checkpoint applied, by run, operator and subtask."""

FENCES = "flowsnap_fences"
"""The table of the fences: the newest attempt, by run and operator."""


UNKEPT: tuple[type[Exception], ...] = (
    Unfit, TypeError, ValueError, OverflowError, RecursionError,
)  # fmt: skip
"""What is raised for a record that has no form as a row, or whose row has none in an epoch."""


class TableSettings(TypedDict, total=False):
    """What a table can be told; see ``TableSink`` and ``EpochLogSink``."""

    columns: Sequence[str] | Mapping[str, str] | None
    type: Any
    key: str | Sequence[str] | None
    existing: Existing
    repeats: bool
    delivery: Delivery
    dead_letter_table: str | None
    retry_timeout: Duration
    inline_bytes: Size


class Found(NamedTuple):
    """A table as it is: its columns, the columns of each unique index, whether it holds rows."""

    columns: list[str]
    unique: list[frozenset[str]]
    is_empty: bool


class TableSink(EpochLogSink):
    """Rows of a table, exactly-once, by the epoch log.

    ``columns`` are the columns that records have values for; by default all of the table. A mapping
    of columns to SQL types has the table made where it is missing. With ``key``, columns that a
    unique index is on, a row replaces the one of the same key; else rows are added.

    ``type`` is what records are checked against, other than rows: a ``msgspec.Struct``, a
    dataclass, a pydantic model. Its fields are the columns where no others are named.

    ``existing`` says what to do with a table that holds rows when the job starts without a
    checkpoint: ``"append"`` leaves them, ``"replace"`` removes them, ``"error"`` refuses.

    A job that goes back to an older checkpoint writes again what came after it. Files can be taken
    away then, rows can't: where there is no key to replace them by, going back is refused, unless
    ``repeats`` allows it.

    ``delivery="at-least-once"``, which needs a key, applies rows as they come instead of once their
    checkpoint is complete: seen earlier, and in part again after a failure. In the end each key has
    its last row, but a reader may see an older one meanwhile.

    ``dead_letter_table`` is made where it is missing, and takes rows that the table refuses (a
    constraint, a trigger, a type), in the same transaction, with the reason; see ``refusal.py``.
    Without it they fail the job.
    """

    def __init__(self, table: str, **settings: Unpack[TableSettings]) -> None:
        strange = sorted(set(settings) - TableSettings.__annotations__.keys())
        if strange:
            raise ConfigError(f"{strange[0]!r} is no setting of a table").hint(
                f"there are {', '.join(TableSettings.__annotations__)}"
            )
        super().__init__(
            retry_timeout=settings.get("retry_timeout", "60s"),
            inline_bytes=settings.get("inline_bytes", INLINE_BYTES),
        )
        columns, existing = settings.get("columns"), settings.get("existing", "append")
        if existing not in get_args(Existing):
            raise ConfigError(f"existing: {existing!r} is not known").hint(
                'write "append", "replace" or "error"'
            )
        self.table = _named(table, "table")
        self.type = settings.get("type", Any)
        check_type(self.type)
        columns = tuple(columns_of(self.type)) if columns is None else columns
        self.types = dict(columns) if isinstance(columns, Mapping) else {}
        self.columns = tuple(_named(column, "columns") for column in _as_names(columns))
        self.key = tuple(_named(column, "key") for column in _as_names(settings.get("key")))
        self.existing = existing
        self.repeats = settings.get("repeats", False)
        self.delivery = settings.get("delivery", "exactly-once")
        if self.delivery not in get_args(Delivery):
            raise ConfigError(f"delivery: {self.delivery!r} is not known").hint(
                'write "exactly-once" or "at-least-once"'
            )
        if self.delivery == "at-least-once" and not self.key:
            raise ConfigError("delivery: at-least-once needs a key, so that a repeat is no harm")
        letters = settings.get("dead_letter_table")
        self.dead_letter_table = None if letters is None else _named(letters, "dead_letter_table")
        if letters == self.table:
            raise ConfigError("dead_letter_table: it is the table itself")
        if letters is not None and self.delivery == "at-least-once":
            raise ConfigError("dead_letter_table: it needs exactly-once delivery").hint(
                "rows that are applied several times would be refused several times"
            )
        self._check_key()

    # --- what a subclass says -----------------------------------------------------------------

    row_type = tuple

    def apply(self, marker: EpochMarker | None, rows: Iterator[Any]) -> None:
        """Apply the rows in one transaction: with the marker, and once, where there is one."""
        raise NotImplementedError(f"{type(self).__name__}.apply")

    def convert_column(self, column: str) -> Convert:
        """Return what makes a plain value of one that is none, or raises TypeError."""
        return to_plain

    def check_rows(self, rows: Sequence[Sequence[Any]]) -> None:
        """Look for a value that no table of this kind takes; where dead letters are asked for.

        Raises:
            Unfit: there is one; without its content.
        """

    def try_rows(self, db: Any, rows: list[Row]) -> None:
        """Insert all of the rows or none, in a transaction on a connection.

        Raises:
            RowsRefused: the store refuses some of them, for what they hold.
        """
        raise NotImplementedError(f"{type(self).__name__}.try_rows")

    def keep_refused(self, db: Any, rows: Sequence[Row]) -> None:
        """Insert rows into the table of those that were refused."""
        raise NotImplementedError(f"{type(self).__name__}.keep_refused")

    def check_dead_letter_table(self) -> None:
        """Check that the table of refused rows has the columns for them.

        Raises:
            ConfigError: it has not: it is another table.
        """
        raise NotImplementedError(f"{type(self).__name__}.check_dead_letter_table")

    def create(self) -> None:
        """Make the table of ``self.types``, where it is missing, and the two of the markers."""
        raise NotImplementedError(f"{type(self).__name__}.create")

    def find(self) -> Found | None:
        """Return what the table is, or None where there is none."""
        raise NotImplementedError(f"{type(self).__name__}.find")

    def empty(self) -> None:
        """Remove all rows of the table."""
        raise NotImplementedError(f"{type(self).__name__}.empty")

    def newest_applied(self, run_ids: Sequence[str], operator: str) -> int:
        """Return the highest checkpoint applied of these runs; 0 where there is none."""
        raise NotImplementedError(f"{type(self).__name__}.newest_applied")

    # --- what the engine calls ----------------------------------------------------------------

    def on_submit(self, submission: Submission) -> None:
        """Check the table, make what is missing, and deal with what it holds."""
        super().on_submit(submission)
        try:
            self.create()
            self._settle(submission)
        finally:
            self.disconnect()

    def open(self, context: SinkContext) -> None:
        super().open(context)
        self._to_rows = self._row_maker()
        self._eager = EagerRows(self._committer) if self.delivery == "at-least-once" else None

    def misfits(self, context: SinkContext) -> Misfits | None:
        """Return what tells the records that have no form as rows; not what a table refuses."""
        rows_of, encode = self._row_maker(), msgspec.msgpack.Encoder().encode

        def attempt(batch: Batch) -> None:
            rows = rows_of(batch.values)
            self.check_rows(rows)
            encode(rows)

        # Without columns it was never submitted, and stands in a pipeline that is only tried.
        return tried(attempt, UNKEPT) if self.columns else lambda batch: {}

    def to_rows(self, values: list[Any]) -> list[Any]:
        try:
            return self._to_rows(values)
        except Unfit as error:
            record = f"record {error.index + 1} of a batch of {len(values)}"
            raise self.refused(record, str(error)).hint(
                f"map records to the columns {', '.join(self.columns)} before the sink, or have "
                "such records leave it: .sink(..., dead_letters=...)"
            ) from error

    def kept(self, rows: list[Any]) -> None:
        if self._eager is not None:
            self._eager.add(rows)

    def prepare(self, checkpoint_id: CheckpointId) -> dict[str, Any] | None:
        committable = super().prepare(checkpoint_id)
        if self._eager is not None:
            self._eager.mark(checkpoint_id)
        return committable

    def commit_all(self, committables: Sequence[Any]) -> bool:
        if self._eager is None:
            return super().commit_all(committables)
        newest = max(committable["marker"][-1] for committable in committables)
        if not self._eager.has_applied(newest):
            return False
        for committable in committables:
            self.discard(committable)
        return True

    def commit_one(self, committable: Any) -> None:
        if self._eager is None:
            super().commit_one(committable)
        elif isinstance(committable, list):
            self.apply(None, iter(committable))
        else:  # What a restored checkpoint holds.
            self.apply(None, self.rows_of(committable))
            self.discard(committable)

    def missing_tables(self) -> Iterator[str]:
        """Yield the statements that make what records go into, where it is missing."""
        if self.types:
            yield create_table(self.table, self.types, self.key)
        if self.dead_letter_table is not None:
            yield create_table(self.dead_letter_table, COLUMNS, KEY)

    def insert_fitting(self, db: Any, marker: EpochMarker, rows: Iterator[Row]) -> None:
        """Insert the rows of an epoch, but for those that are refused, which are kept beside."""
        refused = [
            refused_row(marker, self.columns, one)
            for one in insert_each(partial(self.try_rows, db), rows)
        ]
        if refused:
            self.keep_refused(db, refused)
            LOG.warning(
                "table %s has refused %d rows of checkpoint %d, subtask %d: they are in %s",
                self.table, len(refused), marker.checkpoint_id, marker.subtask,
                self.dead_letter_table,
            )  # fmt: skip

    def _row_maker(self) -> Callable[[list[Any]], list[Row]]:
        rows_of = RowMaker({name: self.convert_column(name) for name in self.columns}).rows
        if self.type is Any:
            return rows_of
        check = checker(self.type)

        def checked(values: list[Any]) -> list[Row]:
            try:
                check([one for one in values if not isinstance(one, (list, tuple))])
            except MISFITS as error:
                raise _misfit(check, values, error) from cause_of(error)
            return rows_of(values)

        return checked

    def _settle(self, submission: Submission) -> None:
        found = self.find()
        if found is None:
            raise ConfigError(f"the table {self.table} does not exist").hint(
                'create it, or have it created: columns={"word": "text", "count": "bigint"}'
            )
        self._check_columns(found)
        if self.dead_letter_table is not None:
            self.check_dead_letter_table()
        if submission.is_fresh:
            self._start_over(found)
        elif submission.restored_from is not None and not (self.key or self.repeats):
            self._check_no_repeats(submission, submission.restored_from)

    def _check_columns(self, found: Found) -> None:
        self.columns = self.columns or tuple(found.columns)
        strange = [name for name in (*self.columns, *self.key) if name not in found.columns]
        if strange:
            raise ConfigError(f"the table {self.table} has no column {strange[0]!r}").hint(
                f"it has {', '.join(found.columns)}"
            )
        self._check_key()
        if self.key and frozenset(self.key) not in found.unique:
            raise ConfigError(
                f"the table {self.table} has no unique index on {', '.join(self.key)}"
            ).hint("a row replaces another by its key: make it the primary key, or unique")

    def _check_key(self) -> None:
        missing = [name for name in self.key if self.columns and name not in self.columns]
        if missing:
            raise ConfigError(f"key: {missing[0]!r} is not one of the columns")

    def _start_over(self, found: Found) -> None:
        if self.existing == "replace":
            self.empty()
        elif self.existing == "error" and not found.is_empty:
            raise ConfigError(f"the table {self.table} holds rows already").hint(
                'write into another one, or choose: existing="append" leaves them there, '
                'existing="replace" removes them'
            )

    def _check_no_repeats(self, submission: Submission, restored: int) -> None:
        runs = (submission.run_id, *submission.former_run_ids)
        newest = self.newest_applied(runs, submission.operator)
        if newest > restored:
            raise ConfigError(
                f"the table {self.table} holds the output of checkpoint {newest}, and the job goes "
                f"back to {restored}: what came between would be there twice"
            ).hint("remove those rows and pass repeats=True, or give the table a key")


def _misfit(check: Callable[[list[Any]], object], values: list[Any], error: Exception) -> Unfit:
    """Return which of some records is not of the type; ``error`` says why."""
    for index, value in enumerate(values):
        if not isinstance(value, (list, tuple)):
            try:
                check([value])
            except MISFITS as own:
                return Unfit(index, reason_of(own))
    return Unfit(0, reason_of(error))


def _named(name: object, what: str) -> str:
    if not isinstance(name, str) or not name or "\0" in name:
        raise ConfigError(f"{what}: {name!r} is not a name")
    return name


def _as_names(names: Iterable[str] | str | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


def quoted(name: str) -> str:
    """Return a name as SQL writes it, with the schema before a dot apart."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


def placeholders(count: int, mark: str) -> str:
    """Return ``count`` marks for values, in parentheses."""
    return f"({', '.join([mark] * count)})"


def create_table(table: str, types: Mapping[str, str], key: Sequence[str]) -> str:
    """Return the statement that makes a table where it is missing; types are taken as given."""
    columns = [f"{quoted(name)} {kind}" for name, kind in types.items()]
    primary = [f"primary key ({', '.join(map(quoted, key))})"] if key else []
    return f"create table if not exists {quoted(table)} ({', '.join([*columns, *primary])})"


def on_conflict(columns: Sequence[str], key: Sequence[str]) -> str:
    """Return the end of an insert that replaces the row of the same key; nothing without one."""
    if not key:
        return ""
    names = ", ".join(map(quoted, key))
    others = [quoted(name) for name in columns if name not in key]
    if not others:
        return f" on conflict ({names}) do nothing"
    changes = ", ".join(f"{name} = excluded.{name}" for name in others)
    return f" on conflict ({names}) do update set {changes}"
