"""Objects that appear are read once each, over restarts too, and what is lost is told."""

from __future__ import annotations

import gzip
import io
import logging
import threading
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.exceptions import GenericError

from flowsnap.connectors import CsvFiles, JsonLinesFiles, TextFiles
from flowsnap.connectors.follow_objects import LOOKING_MS, ObjectLane
from flowsnap.connectors.lines import LineFiles
from flowsnap.connectors.parquet_files import ParquetFiles
from flowsnap.core.operator import Split, SplitReader
from flowsnap.errors import ConfigError, StorageError
from tests.places import BucketPlace, LocalPlace, in_memory


class Follower:
    """A lane of a source that follows objects, over restarts, at a time of ours."""

    def __init__(self, source: LineFiles | ParquetFiles, lane: int = 0, of: int = 1) -> None:
        self.source = source
        self.split: Split = source.splits(of)[lane]
        self.now_s = 0.0
        self.position: Any = None
        self.opened = 0
        self.reader = self._open()

    def _open(self) -> ObjectLane:
        return ObjectLane(
            self.split,
            self.position,
            open_split=self._open_object,
            look_ms=10_000,
            clock=lambda: self.now_s,
        )

    def _open_object(self, split: Split, position: Any) -> SplitReader:
        self.opened += 1
        return self.source.open_range(split, position)

    def restart(self) -> None:
        """Begin again from where it is, as from a checkpoint."""
        self.position = msgspec.json.decode(msgspec.json.encode(self.reader.position()))
        self.crash()

    def crash(self) -> None:
        """Begin again from the last checkpoint, or afresh."""
        self.reader.close()
        self.reader = self._open()

    def look(self, after_s: int = 10) -> list[Any]:
        """Return what is found by another look, to the last record."""
        self.now_s += after_s
        values: list[Any] = []
        while True:
            batch = self.reader.read(100)
            assert batch is not None
            values += batch.values
            if self.reader.wait_ms() > LOOKING_MS:
                return values
            Event().wait(min(self.reader.wait_ms(), 1) / 1000)


@pytest.fixture
def place(tmp_path: Path) -> BucketPlace:
    return in_memory(tmp_path)


def text(place: BucketPlace, **options: Any) -> Follower:
    return Follower(TextFiles(place.path, follow=True, **options))


def test_each_object_is_read_once_when_it_has_appeared(place: BucketPlace) -> None:
    follower = text(place)
    place.write("a", b"1\n2")

    assert follower.look() == ["1", "2"]
    place.write("b", b"3\n")
    assert follower.look() == ["3"]
    assert follower.look() == []


def test_objects_are_read_in_the_order_in_which_they_were_written(place: BucketPlace) -> None:
    for name in ("c", "a", "b"):
        place.write(name, name.encode())
        Event().wait(0.002)  # The service's clock counts ms.

    assert text(place).look() == ["c", "a", "b"]


def test_what_was_read_is_known_over_a_restart(place: BucketPlace) -> None:
    follower = text(place)
    place.write("a", b"1\n")
    follower.look()

    follower.restart()
    place.write("b", b"2\n")

    assert follower.look() == ["2"]


def test_restarted_within_an_object_it_goes_on_with_the_next_line(place: BucketPlace) -> None:
    follower = text(place, batch_bytes=1)
    place.write("a.gz", gzip.compress(b"1\n2\n3\n"))
    read: list[str] = []
    while len(read) < 2:
        batch = follower.reader.read(1)
        read += batch.values if batch is not None else []

    follower.restart()

    assert read + follower.look() == ["1", "2", "3"]


def test_object_that_is_replaced_after_it_was_read_is_a_new_one(place: BucketPlace) -> None:
    follower = text(place)
    place.write("a", b"1\n")
    follower.look()

    place.write("a", b"2\n")

    assert follower.look() == ["2"]


def test_what_is_gone_is_forgotten(place: BucketPlace) -> None:
    follower = text(place)
    place.write("a", b"1\n")
    place.write("b", b"2\n")
    follower.look()
    before = len(follower.reader.position()["done"])

    place.remove("a")
    follower.look()

    assert 0 < len(follower.reader.position()["done"]) < before


def test_object_that_is_moved_away_before_a_checkpoint_is_not_there_to_be_read_again(
    place: BucketPlace,
) -> None:
    follower = text(place)
    place.write("a", b"1\n")
    assert follower.look() == ["1"]

    place.remove("a")
    follower.crash()

    assert follower.look() == []


@pytest.mark.parametrize(("size_bytes", "ahead"), [(80, 1), (120, 0)])
def test_large_objects_are_not_opened_ahead(
    place: BucketPlace, monkeypatch: pytest.MonkeyPatch, size_bytes: int, ahead: int
) -> None:
    monkeypatch.setattr(f"{ObjectLane.__module__}.OPENING_BYTES_MAX", 100, raising=False)
    for n in range(6):
        place.write(f"{n}", (b"x" * (size_bytes // 4 - 1) + b"\n") * 4)
    follower, read = text(place, batch_bytes=1), 0

    while read < 6 * 4:
        batch = follower.reader.read(1)
        read += 0 if batch is None else len(batch)
        if follower.reader.position()["open"] is not None:
            begun = (read + 3) // 4
            assert follower.opened <= begun + ahead

    assert follower.look() == []


def test_look_without_an_answer_is_given_up_when_its_lane_is_closed(
    place: BucketPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Event()

    def refuse(*_: Any, **__: Any) -> None:
        asked.set()
        raise GenericError("the connection was reset")

    monkeypatch.setattr(obstore, "head", refuse)
    monkeypatch.setattr("flowsnap.connectors.object_bucket.PAUSE_MS_FIRST", 5_000)
    before = set(threading.enumerate())
    reader = text(place).reader
    reader.read(1)
    (looking,) = set(threading.enumerate()) - before
    assert asked.wait(5)

    reader.close()

    looking.join(2)  # It would wait for 2.5 s at least before it asked again.
    assert not looking.is_alive()


@pytest.mark.parametrize(("ahead", "after_s"), [(1, 0), (0, 10)])
def test_object_that_is_gone_before_its_turn_is_left_out_and_the_log_says_so(
    place: BucketPlace,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    ahead: int,
    after_s: int,
) -> None:
    monkeypatch.setattr("flowsnap.connectors.follow_objects.OPENING_MAX", 1)
    follower = text(place, batch_bytes=1)
    place.write("a", b"1\n")
    Event().wait(0.002)  # The service's clock counts ms.
    place.write("b", b"2\n")
    while not (batch := follower.reader.read(1)) or not batch.values:
        pass

    place.remove("b")
    monkeypatch.setattr("flowsnap.connectors.follow_objects.OPENING_MAX", ahead)

    with caplog.at_level(logging.WARNING, "flowsnap.files"):
        assert follower.look(after_s) == []
    assert f"{place.path}/b was removed or replaced before it was read" in caplog.text


@pytest.mark.parametrize("change", ["remove", "write"])
def test_object_that_goes_while_it_is_read_is_an_error(place: BucketPlace, change: str) -> None:
    follower = text(place, batch_bytes=1)
    place.write("a", b"1\n2\n")
    while not (batch := follower.reader.read(1)) or not batch.values:
        pass

    getattr(place, change)(*("a",) if change == "remove" else ("a", b"1\n2\n"))
    follower.restart()

    with pytest.raises(StorageError, match=r"/a (has vanished|is not what it was)"):
        follower.look()


def test_restarted_after_every_read_it_gives_each_record_once(place: BucketPlace) -> None:
    expected = []
    for n in range(20):
        place.write(f"{n:02}", b"%d.1\n%d.2\n" % (n, n))
        expected += [f"{n}.1", f"{n}.2"]
    follower, read = text(place, batch_bytes=1), list[str]()

    while len(read) < len(expected):
        batch = follower.reader.read(1)
        if batch is not None and batch.values:
            read += batch.values
            follower.restart()

    assert (sorted(read), follower.look()) == (sorted(expected), [])


def test_every_object_is_of_one_lane(place: BucketPlace) -> None:
    for n in range(20):
        place.write(f"{n}.jsonl", b"%d" % n)
    source = JsonLinesFiles(f"{place.path}/*.jsonl", follow=True)

    read = [Follower(source, lane, 3).look() for lane in range(3)]

    assert sorted(value for values in read for value in values) == list(range(20))
    assert min(map(len, read)) > 0


def test_numbered_objects_are_shared_by_all_lanes(place: BucketPlace) -> None:
    for n in range(60):
        place.write(f"events.{n:05}", b"%d\n" % n)
    source = TextFiles(place.path, follow=True)

    read = [Follower(source, lane, 3).look() for lane in range(3)]

    assert sorted(int(value) for values in read for value in values) == list(range(60))
    assert min(map(len, read)) > 0


def test_objects_have_headers_of_their_own(place: BucketPlace) -> None:
    follower = Follower(CsvFiles(place.path, follow=True))
    place.write("a", b"x,y\n1,2\n")
    assert follower.look() == [{"x": "1", "y": "2"}]
    place.write("b", b"y\n3\n")

    assert follower.look() == [{"y": "3"}]


def test_parquet_objects_are_read_whole_and_gone_on_with_at_a_row(place: BucketPlace) -> None:
    follower = Follower(ParquetFiles(place.path, follow=True, type=dict[str, int]))
    data = io.BytesIO()
    pq.write_table(pa.table({"n": list(range(250))}), data, row_group_size=60)
    place.write("a.parquet", data.getvalue())
    read: list[Any] = []
    while not read:
        batch = follower.reader.read(100)
        read += batch.values if batch is not None else []

    follower.restart()

    assert read + follower.look() == [{"n": n} for n in range(250)]


def test_position_stays_small(place: BucketPlace) -> None:
    for n in range(300):
        place.write(f"a-rather-long-name-of-an-object-{n:09}", b"1")
    follower = text(place)

    assert len(follower.look()) == 300
    assert len(msgspec.json.encode(follower.reader.position())) < 12 * 300


def test_lanes_are_kept_and_look_where_they_are_told_now(place: BucketPlace) -> None:
    known = [(split, None) for split in TextFiles("s3://old/logs", follow=True).splits(2)]

    (first, second) = TextFiles(place.path, follow=True).splits_after(5, known)

    assert (first.id, second.id) == ("follow-0", "follow-1")
    assert first.payload["paths"] == second.payload["paths"] == [place.path]


@pytest.mark.parametrize(
    ("path", "position"),
    [("s3://b/logs", [["/a", 1, 2, "x"]]), ("/logs", {"done": "", "open": None})],
)
def test_job_that_followed_files_does_not_go_on_with_objects(path: str, position: Any) -> None:
    source = TextFiles(path, follow=True)
    (lane,) = source.splits(1)

    with pytest.raises(ConfigError, match="cannot be followed where files of another kind were"):
        source.splits_after(1, [(lane, position)])


def test_job_that_did_not_follow_does_not_go_on_following(place: BucketPlace) -> None:
    place.write("a", b"1\n")
    known = [(split, 2) for split in TextFiles(place.path).splits(1)]

    with pytest.raises(ConfigError, match="data/a@0 was read by a source that did not follow"):
        TextFiles(place.path, follow=True).splits_after(1, known)


@pytest.mark.parametrize("kind", ["files", "objects"])
def test_job_that_does_not_follow_any_more_is_told_so(
    place: BucketPlace, tmp_path: Path, kind: str
) -> None:
    where = place if kind == "objects" else LocalPlace(tmp_path / "data")
    where.write("a", b"1\n")
    (lane,) = TextFiles(where.path, follow=True).splits(1)

    with pytest.raises(ConfigError, match="follow-0 was read by a source that followed") as raised:
        TextFiles(where.path).splits_after(1, [(lane, None)])
    assert "follow=True" in raised.value.__notes__[0]


def test_files_and_objects_are_not_followed_together() -> None:
    with pytest.raises(ConfigError, match="cannot be followed by one source"):
        TextFiles(["s3://bucket/logs", "/var/log"], follow=True)


def test_objects_are_looked_for_less_often_than_files() -> None:
    assert TextFiles("s3://bucket/logs", follow=True).look_ms == 10_000
    assert TextFiles("s3://bucket/logs", follow=True, look_every="3s").look_ms == 3_000
    assert TextFiles("/var/log", follow=True).look_ms == 1_000
