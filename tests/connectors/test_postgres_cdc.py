"""Changes of a real PostgreSQL table: the snapshot, then the log, each change once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any

import psycopg
import pytest

from flowsnap.connectors.postgres_cdc import Change, PostgresChanges
from flowsnap.core.operator import SplitReader
from flowsnap.errors import ConfigError, RestoreError, StoreUnavailable
from tests.connectors.pumps import opened, read_on, take
from tests.integration.jobs import until

pytestmark = pytest.mark.slow

Db = psycopg.Connection[tuple[Any, ...]]
NUMBERS = count()


class Replica:
    """A table made of changes; it takes each once and no other way."""

    def __init__(self) -> None:
        self.rows: dict[int, Any] = {}

    def apply(self, changes: list[Change]) -> None:
        """Apply changes in order."""
        for change in changes:
            match change.op:
                case "read" | "insert":
                    assert change.after is not None
                    assert change.after["id"] not in self.rows, f"{change} comes twice"
                    self.rows[change.after["id"]] = change.after["v"]
                case "update":
                    assert change.after is not None
                    del self.rows[(change.before or change.after)["id"]]
                    self.rows[change.after["id"]] = change.after["v"]
                case "delete":
                    assert change.before is not None
                    del self.rows[change.before["id"]]
                case _:
                    self.rows.clear()


@pytest.fixture
def source(dsn: str) -> Iterator[PostgresChanges]:
    made = PostgresChanges(dsn, "t", slot=f"slot_{next(NUMBERS)}")
    yield made
    made.drop()


def add(db: Db, *ids: int, value: str = "v") -> None:
    for id_ in ids:
        db.execute("insert into t values (%s, %s)", (id_, value))


def told(changes: list[Change]) -> list[tuple[str, Any, Any]]:
    return [
        (one.op, one.before and one.before["id"], one.after and one.after["id"]) for one in changes
    ]


def confirmed(db: Db, source: PostgresChanges) -> int:
    found = db.execute(
        "select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name = %s",
        (source.slot,),
    ).fetchone()
    assert found is not None
    return int(found[0])


def released(db: Db, source: PostgresChanges) -> None:
    """Wait until the server has noticed that nobody reads from the slot any more."""
    query = "select 1 from pg_replication_slots where slot_name = %s and active"
    until(lambda: db.execute(query, (source.slot,)).fetchone() is None, "the slot to be free")


def test_rows_come_first_and_then_every_change_of_them(source: PostgresChanges, db: Db) -> None:
    add(db, 1, 2, 3)
    with closing(opened(source)) as reader:
        assert told(take(reader, 3)) == [("read", None, 1), ("read", None, 2), ("read", None, 3)]
        assert read_on(reader) == []

        add(db, 4)
        db.execute("update t set v = 'new' where id = 1")
        db.execute("update t set id = 9 where id = 2")
        db.execute("delete from t where id = 3")
        db.execute("truncate t")

        assert told(take(reader, 5)) == [
            ("insert", None, 4), ("update", None, 1), ("update", 2, 9), ("delete", 3, None),
            ("truncate", None, None),
        ]  # fmt: skip


def test_what_changes_while_the_snapshot_is_read_comes_once(
    source: PostgresChanges, db: Db
) -> None:
    add(db, *range(1, 8))
    replica = Replica()
    with closing(opened(source)) as reader:
        replica.apply(take(reader, 3))
        db.execute("delete from t where id in (1, 7)")
        db.execute("update t set v = 'new' where id in (2, 6)")
        add(db, 8)
        replica.apply(take(reader, 4 + 5))
        assert read_on(reader) == []

    assert replica.rows == {2: "new", 3: "v", 4: "v", 5: "v", 6: "new", 8: "v"}


def test_snapshot_that_was_broken_off_is_gone_on_with_and_each_row_comes_once(
    source: PostgresChanges, db: Db
) -> None:
    add(db, *range(1, 8))
    replica = Replica()
    position = None
    for step in range(4):
        with closing(opened(source, position)) as reader:
            replica.apply(take(reader, 2, limit=2))
            position = reader.position()
        add(db, 10 + step)
        db.execute("update t set v = v || 'x' where id in (1, 4, 7)")
        db.execute("update t set id = id + 20 where id = %s", (step + 2,))
    with closing(opened(source, position)) as reader:
        replica.apply(read_on(reader, 200))

    assert replica.rows == dict(db.execute("select id, v from t").fetchall())


@pytest.mark.parametrize("seed", range(6))
def test_replica_is_the_table_whatever_happens_to_it_and_wherever_it_stops(
    source: PostgresChanges, db: Db, seed: int
) -> None:
    chance = random.Random(seed)
    add(db, *range(12))
    replica, position = Replica(), None
    for _ in range(8):
        with closing(opened(source, position)) as reader:
            for _ in range(chance.randrange(4)):
                change_something(db, chance)
                replica.apply(read_on(reader, chance.randrange(12)))
            position = reader.position()
            if chance.random() < 0.5:
                reader.committed(position)
    with closing(opened(source, position)) as reader:
        replica.apply(read_on(reader, 150))

    assert replica.rows == dict(db.execute("select id, v from t").fetchall())


def change_something(db: Db, chance: random.Random) -> None:
    """Commit a transaction of several random changes, of which some end in another row."""
    with db.transaction():
        for _ in range(chance.randrange(1, 6)):
            one, other = chance.sample(range(20), 2)
            statement = chance.choice(
                [
                    f"insert into t values ({one}, 'new') on conflict do nothing",
                    f"update t set v = v || '{other}' where id = {one}",
                    f"delete from t where id = {one}",
                    f"update t set id = {other} where id = {one} "
                    f"and not exists (select from t where id = {other})",
                ]
            )
            db.execute(statement.encode())


@pytest.mark.parametrize("stop", range(1, 6))
def test_restored_within_a_transaction_it_goes_on_with_the_next_change(
    source: PostgresChanges, db: Db, stop: int
) -> None:
    with closing(opened(source)) as reader:
        assert read_on(reader) == []
        with db.transaction():
            add(db, 1, 2, 3, 4, 5)
        with db.transaction():
            add(db, 6, 7)
        before = take(reader, stop, limit=1)
        position = reader.position()

    with closing(opened(source, position)) as reader:
        found = before + take(reader, 7 - stop)

    assert [one.after["id"] for one in found if one.after] == [1, 2, 3, 4, 5, 6, 7]
    assert len({one.lsn for one in found}) == 2


def test_slot_moves_on_when_a_checkpoint_is_complete_and_not_before(
    source: PostgresChanges, db: Db
) -> None:
    with closing(opened(source)) as reader:
        read_on(reader)
        before = confirmed(db, source)
        add(db, 1, 2)
        take(reader, 2)
        read_on(reader)
        assert confirmed(db, source) == before

        reader.committed(reader.position())
        read_on(reader)

        assert confirmed(db, source) > before


def test_slot_does_not_hold_back_the_log_of_tables_that_are_not_read(
    source: PostgresChanges, db: Db
) -> None:
    db.execute("create table other (n int)")
    with closing(opened(source)) as reader:
        read_on(reader)
        before = reader.position()["lsn"]
        db.execute("insert into other select generate_series(1, 1000)")
        db.execute("select pg_switch_wal()")

        for _ in range(2_000):
            read_on(reader, 1)
            if reader.position()["lsn"] > before:
                break

        assert reader.position()["lsn"] > before


def test_connection_that_breaks_is_made_anew_and_nothing_is_lost(
    source: PostgresChanges, db: Db
) -> None:
    with closing(opened(source)) as reader:
        read_on(reader)
        add(db, 1, 2, 3)
        before = take(reader, 2, limit=1)
        db.execute("select pg_terminate_backend(active_pid) from pg_replication_slots")
        add(db, 4)

        found = before + take(reader, 2)

    assert [one.after["id"] for one in found if one.after] == [1, 2, 3, 4]


def test_new_attempt_takes_the_slot_from_one_that_still_reads(
    source: PostgresChanges, db: Db
) -> None:
    with closing(opened(source)) as zombie:
        read_on(zombie)
        with closing(opened(source, zombie.position())) as reader:
            add(db, 1)
            assert told(take(reader, 1)) == [("insert", None, 1)]


def test_slot_of_an_earlier_life_is_made_anew_at_a_fresh_start(
    source: PostgresChanges, db: Db
) -> None:
    with closing(opened(source)) as reader:
        read_on(reader)
    add(db, 1)

    with closing(opened(source)) as reader:
        assert told(take(reader, 1)) == [("read", None, 1)]
        assert read_on(reader) == []


def test_without_a_snapshot_only_changes_come(dsn: str, db: Db) -> None:
    add(db, 1)
    source = PostgresChanges(dsn, "t", slot=f"slot_{next(NUMBERS)}", snapshot=False)
    with closing(opened(source)) as reader:
        read_on(reader)
        add(db, 2)
        assert told(take(reader, 1)) == [("insert", None, 2)]
    source.drop()


def test_full_identity_tells_the_former_row_and_large_values_that_have_not_changed(
    source: PostgresChanges, db: Db
) -> None:
    large = "".join(map(str, range(20_000)))
    db.execute("alter table t alter v set storage external")
    db.execute("alter table t add n int")
    add(db, 1, value=large)
    db.execute("alter table t replica identity full")
    with closing(opened(source)) as reader:
        take(reader, 1)
        read_on(reader)
        db.execute("update t set n = 5")
        db.execute("alter table t replica identity default")
        db.execute("update t set n = 6")
        full, part = take(reader, 2)

    assert (full.before, full.after) == (
        {"id": 1, "v": large, "n": None},
        {"id": 1, "v": large, "n": 5},
    )
    assert (part.before, part.after) == (None, {"id": 1, "n": 6})


def test_values_are_the_same_in_the_snapshot_and_in_the_log(dsn: str, db: Db) -> None:
    db.execute(
        "create table u (b bool, at timestamptz, n numeric, f float8, d date, y bytea, a text[], "
        "j jsonb, i interval, primary key (b, at))"
    )
    row = "'2026-01-02 03:04:05.6+01', 1.50, 0.1, 'infinity', '\\x00ff', '{x,NULL}', '[1]', '1 day'"
    source = PostgresChanges(dsn, "u", slot=f"slot_{next(NUMBERS)}")
    db.execute(f"insert into u values (true, {row})".encode())
    with closing(opened(source)) as reader:
        (read,) = take(reader, 1)
        db.execute(f"insert into u values (false, {row})".encode())
        (inserted,) = take(reader, 1)
    source.drop()

    assert {**read.after, "b": False} == inserted.after
    assert read.after["d"] == "infinity"
    assert read.after["a"] == ["x", None]


def test_several_tables_are_read_one_after_the_other(dsn: str, db: Db) -> None:
    db.execute("create table u (id int primary key)")
    db.execute("insert into u values (5)")
    add(db, 1)
    source = PostgresChanges(dsn, ["t", "u"], slot=f"slot_{next(NUMBERS)}")
    with closing(opened(source)) as reader:
        take(reader, 1)
        position = reader.position()
    with closing(opened(source, position)) as reader:
        db.execute("insert into u values (6)")
        found = take(reader, 2)
    source.drop()

    assert [(one.op, one.table.split(".")[1]) for one in found] == [("read", "u"), ("read", "u")]


def test_tables_truncated_together_are_each_told_of(dsn: str, db: Db) -> None:
    db.execute("create table u (id int primary key)")
    db.execute("create table other (id int primary key)")
    db.execute("create publication wide for table t, u, other")
    source = PostgresChanges(
        dsn, ["t", "u"], slot=f"slot_{next(NUMBERS)}", publication="wide", snapshot=False
    )
    with closing(opened(source)) as reader:
        read_on(reader)
        db.execute("truncate t, other, u")
        found = take(reader, 2)
    source.drop()

    assert sorted((one.op, one.table.split(".")[1]) for one in found) == [
        ("truncate", "t"), ("truncate", "u"),
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["drop", "advance"])
def test_changes_that_the_slot_no_longer_keeps_are_an_error_and_no_gap(
    source: PostgresChanges, db: Db, how: str
) -> None:
    with closing(opened(source)) as reader:
        read_on(reader)
        position = reader.position()
    add(db, 1)
    if how == "drop":
        source.drop()
    else:
        released(db, source)
        db.execute("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", (source.slot,))

    again = opened(source, position)
    with closing(again), pytest.raises(RestoreError, match="slot"):
        take(again, 1)


def test_table_truncated_while_a_broken_off_snapshot_is_read_again_is_an_error(
    source: PostgresChanges, db: Db
) -> None:
    add(db, 1, 2, 3)
    with closing(opened(source)) as reader:
        take(reader, 1, limit=1)
        position = reader.position()
    db.execute("truncate t")

    again = opened(source, position)
    with closing(again), pytest.raises(RestoreError, match="was truncated while"):
        take(again, 9)


def test_server_that_stays_away_fails_the_attempt(dsn: str, source: PostgresChanges) -> None:
    (split,) = source.splits(1)
    away = PostgresChanges(f"{dsn} port=1", "t", slot=source.slot, retry_timeout="0s")

    reader: SplitReader = away.open_split(split, None)
    with closing(reader), pytest.raises(StoreUnavailable) as caught:
        reader.read(3)

    assert "canary" not in repr((split, caught.value, caught.value.__cause__, away.dsn))


def test_table_without_a_key_is_refused(dsn: str, db: Db) -> None:
    db.execute("create table u (n int)")

    with pytest.raises(ConfigError, match="changes of u cannot be told apart"):
        PostgresChanges(dsn, "u", slot="s").splits(1)


def test_publication_that_leaves_a_table_out_is_refused(dsn: str, db: Db) -> None:
    db.execute("create publication narrow")

    with pytest.raises(ConfigError, match="the publication narrow leaves out test_"):
        PostgresChanges(dsn, "t", slot="s", publication="narrow").splits(1)


@pytest.mark.parametrize("slot", ["", "A", "a-b", "x" * 64])
def test_name_that_no_slot_can_have_is_refused(dsn: str, slot: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a slot"):
        PostgresChanges(dsn, "t", slot=slot)
