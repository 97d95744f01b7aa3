from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest

from flowsnap.connectors.epoch_log import EpochMarker
from flowsnap.connectors.sqlite import STATEMENT_ROWS, SQLite
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import ConfigError, OperatorError, OutputRefused, StoreUnavailable
from tests.connectors.sinks import committed, opened, submitted


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.db"


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def rows(db: sqlite3.Connection, query: str = "select * from t order by 1") -> list[Any]:
    return db.execute(query).fetchall()


def table(path: Path, **settings: Any) -> SQLite:
    return SQLite(path, "t", **{"columns": {"k": "text", "n": "int"}, **settings})


def test_table_is_made_with_its_key(path: Path, db: sqlite3.Connection, tmp_path: Path) -> None:
    committed(submitted(table(path, key="k"), tmp_path), [("a", 1), ("b", 2)], [("a", 3)])

    assert rows(db) == [("a", 3), ("b", 2)]


class Word(msgspec.Struct):
    k: str
    n: int = 0


class Model(pydantic.BaseModel):
    k: str
    n: int


@pytest.mark.parametrize("type_", [Word, Model])
def test_records_of_a_type_fill_the_columns_of_its_fields(
    path: Path, db: sqlite3.Connection, tmp_path: Path, type_: Any
) -> None:
    db.execute("create table t (n integer, k text, other text)")
    sink = submitted(SQLite(path, "t", type=type_), tmp_path)

    committed(sink, [type_(k="a", n=1), {"k": "b", "n": 2}, ("c", 3)])

    assert rows(db) == [(1, "a", None), (2, "b", None), (3, "c", None)]


def test_record_that_is_not_of_the_type_is_named_without_the_value(
    path: Path, tmp_path: Path
) -> None:
    sink = submitted(table(path, type=Model), tmp_path)

    with pytest.raises(OperatorError, match=r"record 3 of a batch of 3 .*valid integer") as caught:
        committed(sink, [("a", 1), Model(k="a", n=1), {"k": "b", "n": "hunter2"}])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("count", [1, STATEMENT_ROWS, STATEMENT_ROWS + 1, 1_000])
def test_any_number_of_rows_arrives_in_order(
    path: Path, db: sqlite3.Connection, tmp_path: Path, count: int
) -> None:
    values = [(str(n), n) for n in range(count)]

    committed(submitted(table(path), tmp_path), values)

    assert rows(db, "select k, n from t order by rowid") == values


def test_values_that_sqlite_does_not_know_are_kept_as_text(
    path: Path, db: sqlite3.Connection, tmp_path: Path
) -> None:
    at = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    sink = submitted(SQLite(path, "t", columns=dict.fromkeys("abcdef", "")), tmp_path)

    committed(sink, [(at, Decimal("1.50"), {"x": [1]}, b"\0", None, True)])

    assert rows(db) == [("2026-01-02 00:00:00+00:00", "1.50", '{"x":[1]}', b"\0", None, 1)]


def test_marker_tells_what_is_applied_and_nothing_more(path: Path, tmp_path: Path) -> None:
    task = opened(submitted(table(path), tmp_path))
    with closing(task):
        task.apply(EpochMarker("run", "out", 1, 5), iter([("a", 1)]))

        assert task.applied(EpochMarker("run", "out", 1, 5))
        assert task.applied(EpochMarker("run", "out", 1, 4))
        assert not task.applied(EpochMarker("run", "out", 1, 6))
        assert not task.applied(EpochMarker("run", "out", 0, 5))
        assert not task.applied(EpochMarker("other", "out", 1, 5))
        task.disconnect()


def test_rows_and_marker_are_there_together_or_not_at_all(
    path: Path, db: sqlite3.Connection, tmp_path: Path
) -> None:
    task = opened(submitted(table(path, key="k"), tmp_path))
    db.execute(
        "create trigger no before insert on t when new.n = 2 begin select raise(abort, 'no'); end"
    )
    marker = EpochMarker("run", "out", 0, 1)
    with closing(task):
        with pytest.raises(OutputRefused, match="no"):
            task.apply(marker, iter([("a", 1), ("b", 2)]))
        assert not task.applied(marker)
        task.disconnect()

    assert rows(db) == []


def test_database_that_another_program_holds_is_waited_for(
    path: Path, db: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowsnap.connectors.sqlite.BUSY_S", 0.001)
    task = opened(submitted(table(path), tmp_path))
    with closing(task):
        task.write(Batch([("a", 1)]))
        committable = task.prepare(CheckpointId(1))
        db.execute("begin exclusive")
        assert task.commit([committable]) is False
        with pytest.raises(StoreUnavailable, match="database is locked"):
            opened(table_like(task)).raise_fence()

        db.execute("rollback")
        while task.commit([committable]) is False:
            pass

    assert rows(db) == [("a", 1)]


def table_like(task: SQLite) -> SQLite:
    """Return a template that was submitted where another was."""
    made = SQLite(task.path, "t", columns=["k", "n"])
    made._directory = task._directory
    return made


def test_number_that_sqlite_cannot_hold_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputRefused, match="too large"):
        committed(submitted(table(path), tmp_path), [("a", 2**63)])


def test_number_that_has_no_plain_form_fails_the_record(path: Path, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="a batch of 1 cannot be kept"):
        committed(submitted(table(path), tmp_path), [("a", 2**70)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"existing": "x"}, "existing: 'x' is not known"),
        ({"delivery": "x"}, "delivery: 'x' is not known"),
        ({"delivery": "at-least-once"}, "at-least-once needs a key"),
        ({"key": "x"}, "key: 'x' is not one of the columns"),
        ({"columns": [""]}, "columns: '' is not a name"),
        ({"retry_timeout": "x"}, "retry_timeout: 'x' is not a duration"),
        ({"colums": ["k"]}, "'colums' is no setting of a table"),
    ],
)
def test_setting_that_is_wrong_is_refused(
    path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        table(path, **settings)


@pytest.mark.parametrize("name", ["", "a\0b", 5])
def test_name_that_no_table_can_have_is_refused(path: Path, name: Any) -> None:
    with pytest.raises(ConfigError, match="is not a name"):
        SQLite(path, name)


def test_table_that_does_not_exist_is_found_at_submission(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the table t does not exist"):
        submitted(SQLite(path, "t"), tmp_path)


def test_table_that_cannot_keep_refused_rows_is_found_at_submission(
    path: Path, db: sqlite3.Connection, tmp_path: Path
) -> None:
    db.execute("create table other (run text, reason text)")

    with pytest.raises(ConfigError, match=r"other cannot keep refused rows: .*no such column"):
        submitted(table(path, dead_letter_table="other"), tmp_path)
    submitted(table(path, dead_letter_table="bad"), tmp_path)
    submitted(table(path, dead_letter_table="bad"), tmp_path)


def test_refused_rows_go_into_the_columns_of_their_names(
    path: Path, db: sqlite3.Connection, tmp_path: Path
) -> None:
    names = "seen default 0, row, reason, number, checkpoint, subtask, operator, run"
    db.execute(f"create table bad ({names})")
    db.execute("create table t (k text, n int unique)")
    sink = submitted(table(path, dead_letter_table="bad"), tmp_path)

    committed(sink, [("a", 1), ("b", 1)])

    assert rows(db) == [("a", 1)]
    assert rows(db, "select run, operator, checkpoint, number, row, seen from bad") == [
        ("run", "out", 1, 1, '{"k":"b","n":1}', 0)
    ]


def test_trigger_that_rolls_back_is_told_as_what_it_is(
    path: Path, db: sqlite3.Connection, tmp_path: Path
) -> None:
    db.execute("create table t (k text, n int unique on conflict rollback)")
    sink = submitted(table(path, dead_letter_table="bad"), tmp_path)

    with pytest.raises(OutputRefused, match="UNIQUE constraint failed"):
        committed(sink, [("a", 1), ("b", 1)])

    assert rows(db) == []


def test_file_that_cannot_be_made_is_found_at_submission(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be written: .*unable to open database file"):
        submitted(table(tmp_path / "no" / "out.db"), tmp_path)


def test_file_that_is_no_database_is_found_at_submission(path: Path, tmp_path: Path) -> None:
    path.write_text("something else, and long enough to be looked at as a header" * 20)

    with pytest.raises(ConfigError, match="file is not a database"):
        submitted(table(path), tmp_path)


def test_unique_index_is_as_good_a_key_as_the_primary_one(
    path: Path, db: sqlite3.Connection, tmp_path: Path
) -> None:
    db.execute("create table t (k text, day int, n int)")
    db.execute("create unique index by_day on t (day, k)")
    db.execute("create unique index part on t (n) where n > 5")

    committed(submitted(SQLite(path, "t", key=["k", "day"]), tmp_path), [("a", 1, 1), ("a", 1, 2)])

    assert rows(db) == [("a", 1, 2)]
    with pytest.raises(ConfigError, match="no unique index on n"):
        submitted(SQLite(path, "t", key="n"), tmp_path)


@pytest.mark.parametrize(("existing", "left"), [("append", 1), ("replace", 0)])
def test_fresh_start_leaves_or_removes_what_is_there(
    path: Path, db: sqlite3.Connection, tmp_path: Path, existing: Any, left: int
) -> None:
    committed(submitted(table(path), tmp_path), [("a", 1)])

    submitted(table(path, existing=existing), tmp_path)

    assert len(rows(db)) == left


def test_fresh_start_on_a_table_with_rows_may_be_refused(path: Path, tmp_path: Path) -> None:
    sink = table(path, existing="error")
    committed(submitted(sink, tmp_path), [("a", 1)])

    with pytest.raises(ConfigError, match="the table t holds rows already"):
        submitted(sink, tmp_path)
    submitted(sink, tmp_path, restored_from=1)


def test_job_that_goes_back_is_refused_unless_repeats_are_no_harm(
    path: Path, tmp_path: Path
) -> None:
    committed(submitted(table(path), tmp_path), [("a", 1)], [("b", 2)])

    with pytest.raises(ConfigError, match="holds the output of checkpoint 2, and the job goes"):
        submitted(table(path), tmp_path, restored_from=1)
    submitted(table(path), tmp_path, restored_from=2)
    submitted(table(path, repeats=True), tmp_path, restored_from=1)
