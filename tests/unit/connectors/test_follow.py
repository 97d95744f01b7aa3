from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowsnap.connectors import CsvFiles, JsonLinesFiles, TextFiles
from flowsnap.connectors.follow import FollowReader, lane_of, lanes
from flowsnap.core.operator import Split
from flowsnap.errors import ConfigError, MalformedInput


class Follower:
    """A reader of the files of a source, which looks at them each time."""

    def __init__(self, source: TextFiles, position: Any = None, *, lane: int = 0, of: int = 1):
        self.source, self.lane, self.of = source, lane, of
        self._open(position)

    def _open(self, position: Any) -> None:
        self.now_s = 0.0
        split = self.source.splits(self.of)[self.lane]
        self.reader = FollowReader(
            split,
            position,
            batch_bytes=self.source.batch_bytes,
            parse=self.source.parser(),
            look_ms=1_000,
            clock=lambda: self.now_s,
        )

    def read(self) -> list[Any]:
        """Look for what is new, and return all that is there."""
        self.now_s += 1.0
        values: list[Any] = []
        while True:
            batch = self.reader.read(100)
            assert batch is not None, "what grows has no end"
            if not batch.values:
                return values
            values += batch.values

    def restart(self) -> None:
        """Go on from the position, as it comes out of a checkpoint."""
        position = msgspec.json.decode(msgspec.json.encode(self.reader.position()))
        self.close()
        self._open(position)

    def close(self) -> None:
        self.reader.close()


def following(path: Path | str, **settings: Any) -> Follower:
    return Follower(TextFiles(path, follow=True, batch_bytes=8, **settings))


def append(path: Path, data: str) -> None:
    with open(path, "a") as file:
        file.write(data)


def test_lines_are_read_as_they_come_once_they_are_complete(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    with closing(following(log)) as follower:
        assert follower.read() == []
        append(log, "a\na line that is longer than a batch\nhal")
        assert follower.read() == ["a", "a line that is longer than a batch"]
        append(log, "f\n")

        assert follower.read() == ["half"]


def test_files_are_looked_at_when_it_is_time(tmp_path: Path) -> None:
    append(tmp_path / "app.log", "a\n")
    with closing(following(tmp_path)) as follower:
        assert follower.read() == ["a"]
        append(tmp_path / "app.log", "b\n")
        follower.now_s += 0.4
        batch = follower.reader.read(100)

        assert batch is not None
        assert batch.values == []
        assert follower.reader.wait_ms() == 600
        assert follower.read() == ["b"]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_new_files_are_found_and_others_go_on_at_their_positions(
    tmp_path: Path, is_restarted: bool
) -> None:
    append(tmp_path / "a.log", "a1\n")
    with closing(following(str(tmp_path / "*.log"))) as follower:
        assert follower.read() == ["a1"]
        if is_restarted:
            follower.restart()
        append(tmp_path / "a.log", "a2\n")
        append(tmp_path / "b.log", "b1\n")
        append(tmp_path / "c.txt", "c1\n")

        assert sorted(follower.read()) == ["a2", "b1"]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_rotated_file_is_read_to_its_end_and_then_the_new_one(
    tmp_path: Path, is_restarted: bool
) -> None:
    log = tmp_path / "app.log"
    append(log, "old 1\n")
    with closing(following(log)) as follower:
        assert follower.read() == ["old 1"]
        append(log, "old 2\nold 3 without an end")
        log.rename(tmp_path / "app.log.1")
        append(log, "new 1\n")
        if is_restarted:
            follower.restart()

        assert follower.read() == ["old 2", "old 3 without an end", "new 1"]
        assert follower.read() == []


def test_old_file_is_followed_until_something_is_in_the_new_one(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    append(log, "old 1\n")
    with closing(following(log)) as follower:
        follower.read()
        log.rename(tmp_path / "app.log.1")
        log.touch()
        append(tmp_path / "app.log.1", "old 2\n")
        assert follower.read() == []
        append(log, "new 1\n")

        assert follower.read() == ["old 2", "new 1"]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_renamed_file_that_the_glob_means_is_not_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_restarted: bool
) -> None:
    caplog.set_level("INFO", "flowsnap.files")
    log = tmp_path / "app.log"
    append(log, "a\n")
    with closing(following(f"{log}*")) as follower:
        assert follower.read() == ["a"]
        append(log, "b\n")
        (tmp_path / "app.log").rename(tmp_path / "app.log.1")
        append(log, "c\n")
        if is_restarted:
            follower.restart()

        assert sorted(follower.read()) == ["b", "c"]
    assert "app.log was renamed to" in caplog.text


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("after", ["n\n", "longer than what was there before\n"])
def test_truncated_file_is_read_from_its_beginning_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, after: str, is_restarted: bool
) -> None:
    log = tmp_path / "app.log"
    append(log, "before the cut\n")
    with closing(following(log)) as follower:
        follower.read()
        log.write_text(after)
        if is_restarted:
            follower.restart()

        assert follower.read() == [after.rstrip()]
    assert f"{log} was truncated or replaced" in caplog.text


def test_file_that_is_removed_while_nobody_looks_is_named_with_what_may_be_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "app.log"
    append(log, "a\n")
    follower = following(tmp_path)
    follower.read()
    log.unlink()
    follower.restart()
    with closing(follower):
        assert follower.read() == []
        assert follower.reader.position() == []
    assert f"{log} was rotated away or removed while nobody looked" in caplog.text


def test_file_that_is_removed_while_it_is_open_is_read_to_its_end(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    append(log, "a\n")
    with closing(following(tmp_path)) as follower:
        follower.read()
        append(log, "b\nc")
        log.unlink()

        assert follower.read() == ["b", "c"]
        assert follower.reader.position() == []


def test_new_file_that_has_the_inode_of_one_that_is_gone_is_not_taken_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(tmp_path / "new.log", "a first line\nb\n")
    inode = (tmp_path / "new.log").stat().st_ino
    gone = [str(tmp_path / "gone.log"), inode, 4, "0123456789abcdef"]

    with closing(Follower(TextFiles(tmp_path, follow=True), [gone])) as follower:
        assert follower.read() == ["a first line", "b"]
    assert "gone.log was rotated away or removed while nobody looked" in caplog.text


def test_every_file_is_in_one_lane_with_those_it_is_rotated_to(tmp_path: Path) -> None:
    paths = [f"/var/log/app-{n}.log" for n in range(40)]

    assert {lane_of(path, 3) for path in paths} == {0, 1, 2}
    for path in paths:
        rotated = [f"{path}.1", f"{path}-20240531", f"{path}.2024-05-31", f"{path}-20240531-1200"]
        assert {lane_of(one, 7) for one in rotated} == {lane_of(path, 7)}


def test_lanes_together_read_every_file_once(tmp_path: Path) -> None:
    for n in range(12):
        append(tmp_path / f"app-{n}.log", f"{n}\n")
    read: list[str] = []
    for lane in range(3):
        source = TextFiles(tmp_path, follow=True)
        with closing(Follower(source, lane=lane, of=3)) as follower:
            read += follower.read()

    assert sorted(read, key=int) == [str(n) for n in range(12)]


def test_restored_job_keeps_its_lanes_and_looks_where_it_is_told_now(tmp_path: Path) -> None:
    known = [(split, None) for split in TextFiles(tmp_path, follow=True).splits(2)]

    splits = TextFiles(tmp_path / "logs", follow=True).splits_after(5, known)

    assert [split.id for split in splits] == ["follow-0", "follow-1"]
    assert [split.payload["paths"] for split in splits] == [[str(tmp_path / "logs")]] * 2


def test_hidden_uncommitted_and_compressed_files_are_left_out(tmp_path: Path) -> None:
    for name in (".hidden", "part.tmp", "app.log.1.gz", "app.log.2.zst", "app.log"):
        append(tmp_path / name, f"{name}\n")

    with closing(following(tmp_path)) as follower:
        assert follower.read() == ["app.log"]


def test_malformed_line_is_named_and_the_position_stays_before_it(tmp_path: Path) -> None:
    log = tmp_path / "app.jsonl"
    append(log, "1\n2\n{\n")
    source = JsonLinesFiles(log, follow=True, look_every="1ms", batch_bytes=2)
    (split,) = source.splits(1)
    with closing(source.open_split(split, None)) as reader:
        assert [(reader.read(9) or []).values for _ in range(2)] == [[1], [2]]  # type: ignore[union-attr]
        with pytest.raises(MalformedInput, match="line 3"):
            reader.read(9)

        assert reader.position()[0][2] == 4


def test_source_that_follows_never_ends(tmp_path: Path) -> None:
    source = TextFiles(tmp_path, follow=True)

    assert (source.bounded, source.discovers) == (False, False)
    assert source.splits(2) == source.splits(2)


def test_header_of_a_csv_file_that_grows_is_passed_over(tmp_path: Path) -> None:
    append(tmp_path / "a.csv", "a,b\n1,2\n")
    source = CsvFiles(tmp_path, follow=True, columns=["a", "b"])

    with closing(source.open_split(source.splits(1)[0], None)) as reader:
        batch = reader.read(10)

    assert batch is not None
    assert batch.values == [{"a": "1", "b": "2"}]


def test_many_idle_files_are_not_all_held_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowsnap.connectors.follow.OPEN_FILES_MAX", 3)
    for n in range(9):
        append(tmp_path / f"{n}.log", f"{n}\n")
    with closing(following(tmp_path)) as follower:
        assert len(follower.read()) == 9
        follower.read()
        assert sum(file.is_open for file in follower.reader._files) == 3
        append(tmp_path / "8.log", "8b\n")

        assert follower.read() == ["8b"]


@pytest.mark.parametrize("name", ["file/below", "app.log.gz"])
def test_path_that_can_never_be_followed_is_refused(tmp_path: Path, name: str) -> None:
    append(tmp_path / "file", "x\n")

    with pytest.raises(ConfigError, match="cannot be followed"):
        lanes([str(tmp_path / name)], 1)
    assert isinstance(lanes([str(tmp_path / "later.log")], 1)[0], Split)
