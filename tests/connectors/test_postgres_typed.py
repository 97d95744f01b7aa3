"""Rows and changes of a real PostgreSQL as records of a type, and those that do not parse."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pydantic
import pytest

from flowsnap import Pipeline
from flowsnap.config import Restart
from flowsnap.connectors import DeadLetter, Postgres
from flowsnap.connectors.postgres_cdc import Change, PostgresChanges
from flowsnap.connectors.postgres_table import PostgresTable
from flowsnap.core.operator import Source
from flowsnap.errors import ConfigError, MalformedInput
from flowsnap.runtime.job import JobHandle
from tests.connectors.pumps import opened, read_on, take
from tests.integration.jobs import QUICK, until

pytestmark = pytest.mark.slow

Db = psycopg.Connection[tuple[Any, ...]]
NUMBERS = count()
SECRET = "hunter2"
ONCE = Restart(strategy="fixed", delay_ms=1, attempts_max=1)


class Line(msgspec.Struct):
    sku: str
    pieces: int


class Order(msgspec.Struct):
    price: float
    at: datetime
    lines: list[Line]
    note: str | None = None


@dataclass
class OrderClass:
    price: float
    at: datetime
    lines: list[Line]
    note: str | None = None


class LineModel(pydantic.BaseModel):
    sku: str
    pieces: int


class OrderModel(pydantic.BaseModel):
    price: float
    at: datetime
    lines: list[LineModel]
    note: str | None = None


class Count(msgspec.Struct):
    """A number that is text in the table, where it may be something else."""

    id: int
    v: int


class Noted(Count):
    note: str = "none"


@pytest.fixture
def changes(dsn: str) -> Iterator[PostgresChanges]:
    slot = f"typed_{next(NUMBERS)}"
    yield PostgresChanges(dsn, "t", slot=slot, type=Count, on_error="dead-letter")
    PostgresChanges(dsn, "t", slot=slot).drop()


def table(dsn: str, **settings: Any) -> PostgresTable:
    return PostgresTable(dsn, "t", by="id", poll_interval="1ms", **settings)


def add(db: Db, *values: str) -> None:
    for value in values:
        db.execute("insert into t select count(*) + 1, %s from t", (value,))


def seen(records: list[Any]) -> list[Any]:
    """Return records as they are, and of a dead letter its reason."""
    return [one.reason if isinstance(one, DeadLetter) else one for one in records]


@pytest.mark.parametrize(
    ("type_", "line"), [(Order, Line), (OrderClass, Line), (OrderModel, LineModel)]
)
def test_rows_come_as_records_of_the_fields_that_the_type_has(
    dsn: str, db: Db, type_: Any, line: Any
) -> None:
    db.execute("create table u (id int primary key, price numeric, at timestamptz, lines jsonb)")
    db.execute("""insert into u values (1, 1.5, now(), '[{"sku": "a", "pieces": 2}]')""")

    with closing(opened(PostgresTable(dsn, "u", by="id", type=type_))) as reader:
        (order,) = take(reader, 1)

    at = order.at
    assert order == type_(price=1.5, at=at, lines=[line(sku="a", pieces=2)])
    assert at.utcoffset().total_seconds() == 0


def test_row_that_is_not_of_the_type_fails_and_its_value_is_not_shown(dsn: str, db: Db) -> None:
    add(db, "1", SECRET)

    reader = opened(table(dsn, type=Count))
    with closing(reader), pytest.raises(MalformedInput) as caught:
        take(reader, 2)

    told = "".join(traceback.format_exception(caught.value))
    assert "t: the row at 2 is not what was expected: Expected `int`, got `str`" in told
    assert SECRET not in told
    assert "canary" not in told


@pytest.mark.parametrize("stop", range(5))
def test_restored_between_dead_letters_it_goes_on_with_the_next_row(
    dsn: str, db: Db, stop: int
) -> None:
    add(db, "1", "x", "y", "4")
    source = table(dsn, type=Count, on_error="dead-letter")
    with closing(opened(source)) as reader:
        before = take(reader, stop, limit=1)
        position = reader.position()

    with closing(opened(source, position)) as reader:
        found = before + take(reader, 4 - stop)

    assert [found[0], found[3]] == [Count(1, 1), Count(4, 4)]
    assert [(one.offset, one.raw) for one in found[1:3]] == [
        (2, '{"id":2,"v":"x"}'), (3, '{"id":3,"v":"y"}'),
    ]  # fmt: skip


def test_type_that_has_got_a_field_finds_its_column_when_the_job_goes_on(dsn: str, db: Db) -> None:
    (split,) = table(dsn, type=Count).splits(1)
    db.execute("alter table t add note text")
    db.execute("insert into t values (1, '1', 'new')")
    later = table(dsn, type=Noted)

    (again,) = later.splits_after(1, [(split, None)])

    with closing(later.open_split(again, None)) as reader:
        assert take(reader, 1) == [Noted(1, 1, "new")]


@pytest.mark.parametrize("columns", [(), ("id",)])
def test_type_that_requires_what_is_not_read_is_refused_at_submission(
    dsn: str, db: Db, columns: tuple[str, ...]
) -> None:
    db.execute("create table u (id int primary key)")
    message = "gives no 'v', which Count requires"

    with pytest.raises(ConfigError, match=message):
        PostgresTable(dsn, "u", by="id", type=Count, columns=columns).splits(1)
    with pytest.raises(ConfigError, match=message):
        PostgresChanges(dsn, "u", slot="s", type=Count).splits(1)


def test_changes_have_records_and_those_that_do_not_parse_are_dead_letters_in_their_place(
    changes: PostgresChanges, db: Db
) -> None:
    add(db, "1", "x")
    with closing(opened(changes)) as reader:
        first, letter = take(reader, 2)
        add(db, "3", "y")
        db.execute("update t set id = 9 where id = 3")
        found = take(reader, 3)

    assert (first.op, first.after) == ("read", Count(1, 1))
    assert seen([letter, found[1]]) == ["after: Expected `int`, got `str` - at `$.v`"] * 2
    assert letter.source == first.table
    assert (found[0].op, found[0].after) == ("insert", Count(3, 3))
    assert (found[2].before, found[2].after) == ({"id": 3}, Count(9, 3))


def test_former_row_is_a_record_where_the_log_holds_all_of_it(
    changes: PostgresChanges, db: Db
) -> None:
    db.execute("alter table t replica identity full")
    add(db, "1", "2")
    with closing(opened(changes)) as reader:
        take(reader, 2)
        read_on(reader)
        db.execute("update t set v = '5' where id = 1")
        db.execute("delete from t where id = 2")
        changed, deleted = take(reader, 2)

    assert (changed.before, changed.after) == (Count(1, 1), Count(1, 5))
    assert (deleted.before, deleted.after) == (Count(2, 2), None)


def test_large_value_that_the_log_leaves_out_is_a_dead_letter_and_no_default(
    changes: PostgresChanges, db: Db
) -> None:
    db.execute("alter table t add note text")
    db.execute("alter table t alter note set storage external")
    db.execute("insert into t values (1, '1', repeat('long', 1000))")
    changes.type = Noted
    with closing(opened(changes)) as reader:
        (read,) = take(reader, 1)
        read_on(reader)
        db.execute("update t set v = '2'")
        found = take(reader, 1)

    assert read.after == Noted(1, 1, "long" * 1000)
    assert seen(found) == [
        "after: the log leaves out column 'note', which the update has not touched"
    ]


def test_snapshot_that_is_gone_on_with_reads_the_column_of_a_field_that_the_type_has_got(
    changes: PostgresChanges, db: Db
) -> None:
    add(db, "1", "2")
    known = changes.splits(1)[0]
    with closing(changes.open_split(known, None)) as reader:
        take(reader, 1, limit=1)
        position = reader.position()
    db.execute("alter table t add note text not null default 'new'")
    changes.type = Noted

    (split,) = changes.splits_after(1, [(known, position)])

    with closing(changes.open_split(split, position)) as reader:
        assert [one.after for one in take(reader, 1)] == [Noted(2, 2, "new")]


@pytest.mark.parametrize("stop", range(1, 5))
def test_restored_within_a_transaction_a_dead_letter_comes_once(
    changes: PostgresChanges, db: Db, stop: int
) -> None:
    with closing(opened(changes)) as reader:
        assert read_on(reader) == []
        with db.transaction():
            add(db, "1", "x", "3", "y")
        before = take(reader, stop, limit=1)
        position = reader.position()

    with closing(opened(changes, position)) as reader:
        found = before + take(reader, 4 - stop)
        assert read_on(reader) == []

    assert [isinstance(one, DeadLetter) for one in found] == [False, True, False, True]


def test_each_table_has_its_type_and_those_without_one_give_dicts(dsn: str, db: Db) -> None:
    db.execute("create table u (id int primary key)")
    db.execute("insert into u values (5)")
    add(db, "1")
    slot = f"typed_{next(NUMBERS)}"
    source = PostgresChanges(dsn, ["t", "u"], slot=slot, type={"t": Count})
    (split,) = source.splits(1)

    with closing(opened(source)) as reader:
        assert [one.after for one in take(reader, 2)] == [Count(1, 1), {"id": 5}]
    source.drop()

    with pytest.raises(ConfigError, match="type: 'v' is not one of the tables"):
        PostgresChanges(dsn, "t", slot=slot, type={"v": Count}).splits_after(1, [(split, None)])


def of_table(dsn: str) -> Source:
    return PostgresTable(
        dsn, "t", by="id", type=Count, on_error="dead-letter", poll_interval="10ms"
    )


def of_log(dsn: str) -> Source:
    return PostgresChanges(dsn, "t", slot="letters", type=Count, on_error="dead-letter")


def number_of(record: Any) -> int:
    return int(record.after.id if isinstance(record, Change) else record.id)


def failing_once(marker: Path) -> Callable[[Any], int]:
    def number(record: Any) -> int:
        if number_of(record) == 151 and not marker.exists():
            marker.touch()
            raise ValueError("once")
        return number_of(record)

    return number


@pytest.mark.parametrize("source_of", [of_table, of_log])
def test_records_and_dead_letters_come_once_over_a_failure(
    dsn: str, db: Db, tmp_path: Path, source_of: Callable[[str], Source]
) -> None:
    pipeline, columns = Pipeline("typed"), {"id": "int"}
    stream = pipeline.source(source := source_of(dsn), name="t")
    good = stream.map(failing_once(tmp_path / "failed"), name="number")
    good.sink(Postgres(dsn, "good", columns=columns), name="good")
    bad = stream.side_output("dead-letter").map(number_of_letter, name="which")
    bad.sink(Postgres(dsn, "bad", columns=columns), name="bad")
    with stopped(pipeline.start(state_dir=tmp_path / "state", restart=ONCE, **QUICK), source):
        fill(db, 1, 100)
        fill(db, 101, 200)

    assert (tmp_path / "failed").exists()
    assert ids(db, "good") == [id_ for id_ in range(1, 201) if id_ % 10]
    assert ids(db, "bad") == list(range(10, 201, 10))


@contextmanager
def stopped(handle: JobHandle, source: Source) -> Iterator[None]:
    """Cancel a job in the end, and remove the slot of its source."""
    try:
        yield
    finally:
        handle.cancel()
        handle.wait()
        if isinstance(source, PostgresChanges):
            source.drop()


def number_of_letter(letter: DeadLetter) -> int:
    row = msgspec.json.decode(letter.raw)
    return int(row.get("after", row)["id"])


def fill(db: Db, first: int, last: int) -> None:
    """Add rows, of which every tenth does not parse, and wait until all have come through."""
    db.execute(
        "insert into t select g, case when g %% 10 = 0 then 'x' else '1' end "
        "from generate_series(%s::int, %s) g",
        (first, last),
    )
    until(lambda: len(ids(db, "good") + ids(db, "bad")) >= last, f"{last} rows")


def ids(db: Db, name: str) -> list[int]:
    """Return what a table holds; nothing where the job has not made it yet."""
    found = db.execute("select to_regclass(%s)", (name,)).fetchone()
    if found is None or found[0] is None:
        return []
    return [row[0] for row in db.execute(f"select id from {name} order by id".encode())]
