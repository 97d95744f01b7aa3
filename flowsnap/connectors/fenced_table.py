"""A table in a database that speaks SQL: its markers and fences lie in two tables beside it.

What a database adds is how it is reached, how rows get in, and how it says what it refuses. The
statements are in words that SQLite and PostgreSQL share, but for the mark of a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from flowsnap.connectors.epoch_log import EpochMarker
from flowsnap.connectors.refusal import COLUMNS
from flowsnap.connectors.rows import Row
from flowsnap.connectors.table import (
    FENCES,
    MARKERS,
    TableSink,
    create_table,
    on_conflict,
    placeholders,
    quoted,
)
from flowsnap.errors import ConfigError, OutputRefused, StorageError

_OPERATOR = {"run": "text not null", "operator": "text not null"}
_TABLES = {
    MARKERS: (_OPERATOR | {"subtask": "integer not null"}, {"checkpoint": "bigint not null"}),
    FENCES: (_OPERATOR, {"attempt": "bigint not null"}),
}
"""Of each table the columns that tell its rows apart, and the one that only grows."""


class FencedTable(TableSink):
    """Rows of a table, each epoch in one transaction with its marker, behind a fence."""

    mark: ClassVar[str]
    """What stands for a value in a statement."""

    shared_lock: ClassVar[str] = ""
    """What has a query keep others from changing what it has found, up to the end of its
    transaction."""

    # --- what a subclass says -----------------------------------------------------------------

    def connect(self) -> Any:
        """Return the connection, which is opened where there is none."""
        raise NotImplementedError(f"{type(self).__name__}.connect")

    def transaction(self) -> AbstractContextManager[Any]:
        """Yield the connection in a transaction, which ends with it; with errors translated."""
        raise NotImplementedError(f"{type(self).__name__}.transaction")

    def translated(self) -> AbstractContextManager[Any]:
        """Turn what the client raises into StoreUnavailable or OutputRefused."""
        raise NotImplementedError(f"{type(self).__name__}.translated")

    def insert_rows(self, db: Any, rows: Iterator[Row]) -> None:
        """Insert rows, or have them replace those of their keys, in a transaction."""
        raise NotImplementedError(f"{type(self).__name__}.insert_rows")

    # --- the epoch log ------------------------------------------------------------------------

    def apply(self, marker: EpochMarker | None, rows: Iterator[Any]) -> None:
        with self.transaction() as db:
            self._check_fence(db)
            if marker is not None and not self._raise(db, MARKERS, marker):
                return
            if marker is None or self.dead_letter_table is None:
                self.insert_rows(db, rows)
            else:
                self.insert_fitting(db, marker, rows)

    def applied(self, marker: EpochMarker) -> bool:
        query = f"select checkpoint from {MARKERS} where (run, operator, subtask) = "
        with self.translated():
            found = self.connect().execute(query + self._marks(3), marker[:3]).fetchone()
        return found is not None and int(found[0]) >= marker.checkpoint_id

    def raise_fence(self) -> None:
        with self.transaction() as db:
            self._check_fence(db)
            self._raise(db, FENCES, self.fence)

    def keep_refused(self, db: Any, rows: Sequence[Row]) -> None:
        table, names = quoted(self.dead_letter_table or ""), ", ".join(map(quoted, COLUMNS))
        statement = f"insert into {table} ({names}) values {self._marks(len(COLUMNS))}"
        db.cursor().executemany(statement, rows)

    # --- the table ----------------------------------------------------------------------------

    def check_dead_letter_table(self) -> None:
        table = quoted(self.dead_letter_table or "")
        # With the table before it: alone, SQLite takes a quoted name without a column for a text.
        names = ", ".join(f"{table}.{quoted(name)}" for name in COLUMNS)
        try:
            with self.translated():
                self.connect().execute(f"select {names} from {table} limit 0").fetchall()
        except OutputRefused as error:
            raise ConfigError(f"{self.dead_letter_table} cannot keep refused rows: {error}").hint(
                f"it needs the columns {', '.join(COLUMNS)}: give a name that no table has yet"
            ) from error

    def missing_tables(self) -> Iterator[str]:
        for table, (key, grows) in _TABLES.items():
            yield create_table(table, key | grows, list(key))
        yield from super().missing_tables()

    def empty(self) -> None:
        with self.transaction() as db:
            db.execute(f"delete from {quoted(self.table)}")

    def newest_applied(self, run_ids: Sequence[str], operator: str) -> int:
        query = f"select max(checkpoint) from {MARKERS} where operator = {self.mark} and run in "
        with self.translated():
            asked = self.connect().execute(query + self._marks(len(run_ids)), (operator, *run_ids))
            found = asked.fetchone()
        return 0 if found is None or found[0] is None else int(found[0])

    def _check_fence(self, db: Any) -> None:
        # Shared: a recovery that raises the fence waits for the transactions that have passed it.
        query = f"select attempt from {FENCES} where (run, operator) = {self._marks(2)}"
        found = db.execute(query + self.shared_lock, self.fence[:2]).fetchone()
        if found is not None and found[0] > self.fence.attempt:
            raise StorageError(
                f"attempt {self.fence.attempt} of operator {self.fence.operator!r} is over: "
                f"{found[0]} writes into {self.table} now"
            )

    def _raise(self, db: Any, table: str, row: Sequence[Any]) -> bool:
        """Set what a row tells of its key, unless it is there or a higher number is."""
        key, grows = _TABLES[table]
        (number,) = grows
        statement = (
            f"insert into {table} values {self._marks(len(row))}{on_conflict([number], list(key))} "
            f"where excluded.{number} > {table}.{number}"
        )
        return bool(db.execute(statement, row).rowcount == 1)

    def _marks(self, count: int) -> str:
        return placeholders(count, self.mark)
