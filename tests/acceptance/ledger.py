"""An outside system with transactions, kept in SQLite, that fails as it is told; and its sink.

It outlives every process. A call may be refused, may take effect and then give no answer, or may
give no answer and have no effect: the caller of the last two cannot tell them apart. What was
prepared may be dropped by the system when it has waited for too long.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from flowsnap.core.operator import SinkContext
from flowsnap.errors import StorageError
from flowsnap.testing.sink import PreparingSink

Outcome = Literal["refused", "applied", "not applied"]
WAIT_S = 20.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS txn (
    id TEXT PRIMARY KEY, attempt INTEGER, state TEXT, records TEXT, commits INTEGER DEFAULT 0
);
CREATE TABLE IF NOT EXISTS fault (call TEXT, outcome TEXT, times INTEGER);
"""


class Ledger:
    """The system, seen from any process; ``path`` is its database."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        with self._open() as database:
            database.executescript(_SCHEMA)

    def _open(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self._path, WAIT_S, isolation_level=None))

    def arm(self, call: str, outcome: Outcome, times: int = 1) -> None:
        """Let so many calls of "prepare" or "commit" fail."""
        with self._open() as database:
            database.execute("INSERT INTO fault VALUES (?, ?, ?)", (call, outcome, times))

    def disarm(self) -> None:
        """Let every call succeed from now on."""
        with self._open() as database:
            database.execute("DELETE FROM fault")

    def prepare(self, id: str, attempt: int, records: list[Any]) -> None:
        """Keep records durably, unseen.

        Raises:
            StorageError: they are kept, or not.
        """
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            outcome = _take(database, "prepare")
            if outcome in (None, "applied"):
                database.execute(
                    "INSERT INTO txn (id, attempt, state, records) VALUES (?, ?, 'prepared', ?)",
                    (id, attempt, json.dumps(records)),
                )
            database.execute("COMMIT")
        _answer("prepare", id, outcome)

    def commit(self, id: str) -> None:
        """Make records seen; a repeat changes nothing.

        Raises:
            StorageError: they are seen, or not; or the system has dropped them.
        """
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            outcome = _take(database, "commit")
            row = database.execute("SELECT state FROM txn WHERE id = ?", (id,)).fetchone()
            if outcome in (None, "applied") and row == ("prepared",):
                database.execute(
                    "UPDATE txn SET state = 'committed', commits = commits + 1 WHERE id = ?", (id,)
                )
            database.execute("COMMIT")
        if outcome is None and row not in (("prepared",), ("committed",)):
            raise StorageError(f"DATA LOSS: transaction {id} is gone before it was committed").hint(
                "its output is lost: the job was down for longer than the system keeps transactions"
            )
        _answer("commit", id, outcome)

    def abort_older(self, attempt: int) -> None:
        """Give up what older attempts have prepared and not committed."""
        with self._open() as database:
            database.execute(
                "UPDATE txn SET state = 'aborted' WHERE attempt < ? AND state = 'prepared'",
                (attempt,),
            )

    def expire(self) -> int:
        """Drop everything that is prepared, as a timeout does; return how much that was."""
        with self._open() as database:
            return database.execute("DELETE FROM txn WHERE state = 'prepared'").rowcount

    def count(self, state: str) -> int:
        """Return how many transactions are in a state."""
        with self._open() as database:
            query = "SELECT COUNT(*) FROM txn WHERE state = ?"
            return int(database.execute(query, (state,)).fetchone()[0])

    def seen(self) -> list[Any]:
        """Return the records that a reader sees."""
        with self._open() as database:
            rows = database.execute(
                "SELECT records FROM txn WHERE state = 'committed' ORDER BY rowid"
            ).fetchall()
        return [tuple(record) for (records,) in rows for record in json.loads(records)]


class LedgerSink(PreparingSink):
    """Writes to a ledger: prepares at barriers, commits when the checkpoint is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, context: SinkContext) -> None:
        super().open(context)
        self._ledger = Ledger(self._path)

    def _store(self, id: str, records: Sequence[Any]) -> None:
        self._ledger.prepare(id, self._context.attempt, list(records))

    def commit(self, committables: Sequence[dict[str, str]]) -> None:
        for committable in committables:
            self._ledger.commit(committable["id"])

    def recover(self, committables: Sequence[dict[str, str]]) -> None:
        self.commit(committables)
        self._ledger.abort_older(self._context.attempt)


def _take(database: sqlite3.Connection, call: str) -> Outcome | None:
    row = database.execute(
        "SELECT rowid, outcome FROM fault WHERE call = ? AND times > 0 ORDER BY rowid", (call,)
    ).fetchone()
    if row is None:
        return None
    database.execute("UPDATE fault SET times = times - 1 WHERE rowid = ?", row[:1])
    outcome: Outcome = row[1]
    return outcome


def _answer(call: str, id: str, outcome: Outcome | None) -> None:
    if outcome == "refused":
        raise StorageError(f"the ledger refuses to {call} {id}")
    if outcome is not None:
        raise StorageError(f"no answer of the ledger to {call} {id}", is_definite=False)
