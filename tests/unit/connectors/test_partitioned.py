from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flowsnap.connectors import ByTime, JsonLinesFiles
from flowsnap.connectors.file_sink import file_body
from flowsnap.connectors.output import LocalOutput
from flowsnap.connectors.partitioned import (
    OPEN_PARTS_MAX,
    PartitionedParts,
    Rolling,
    directories_of,
)
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.operator import SinkContext, Submission
from flowsnap.errors import ConfigError, OperatorError, StorageError

ONE, TWO = CheckpointId(1), CheckpointId(2)
HOUR_MS = 3_600_000


def context(**changes: Any) -> SinkContext:
    facts = {"run_id": "r1", "subtask": 0, "attempt": AttemptId(1), "parallelism": 1}
    return SinkContext(job="job", operator=OperatorId("out"), **{**facts, **changes})


class Parts(PartitionedParts):
    """Parts of plain bytes, at a time of ours."""

    def __init__(self, root: Path, rolling: Rolling | None = None, **changes: Any) -> None:
        self.now_s = 0.0
        super().__init__(
            LocalOutput(str(root), is_parted=True),
            context(**changes),
            ".txt",
            lambda file: file_body(file, None),
            rolling or Rolling(),
            lambda: self.now_s,
        )


def submitted(sink: JsonLinesFiles, **changes: Any) -> JsonLinesFiles:
    facts = {"run_id": "r1", "is_fresh": True, "operator": OperatorId("out")}
    sink.on_submit(Submission(job="job", job_directory="unused", **{**facts, **changes}))
    return sink


def opened(sink: JsonLinesFiles, **changes: Any) -> JsonLinesFiles:
    sink.open(context(**changes))
    return sink


def commit(sink: JsonLinesFiles, batch: Batch, checkpoint_id: CheckpointId = ONE) -> None:
    sink.write(batch)
    sink.commit([sink.prepare(checkpoint_id) or {}])


def shown(root: Path) -> dict[str, str]:
    """Return what the parts below a directory hold, by the directory's and the part's ending."""
    return {
        str(path.relative_to(root)).replace("part-r1-out-00000-", ""): path.read_text()
        for path in sorted(root.rglob("part-*"))
    }


# --- directories ------------------------------------------------------------------------------


def test_fields_make_directories_as_hive_knows_them() -> None:
    batch = Batch([{"country": "DE", "n": 1}, {"country": None, "n": 2}])

    assert directories_of(("country", "n"))(batch) == [
        "country=DE/n=1",
        "country=__HIVE_DEFAULT_PARTITION__/n=2",
    ]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("../../etc", "f=..%2F..%2Fetc"),
        ("a/b", "f=a%2Fb"),
        ("ä b", "f=%C3%A4%20b"),
        ("\x00\n", "f=%00%0A"),
        (".x", "f=%2Ex"),
        ("", "f=__HIVE_DEFAULT_PARTITION__"),
    ],
)
def test_value_never_leads_out_of_its_directory(value: str, name: str) -> None:
    expected = name.replace("f=..%2F", "f=%2E.%2F")

    assert directories_of("f")(Batch([{"f": value}])) == [expected]


def test_function_may_name_directories_in_directories_but_none_above() -> None:
    assert directories_of(lambda value: value)(Batch(["a/b", "../x", "/etc", ".."])) == [
        "a/b",
        "%2E./x",
        "__HIVE_DEFAULT_PARTITION__/etc",
        "%2E.",
    ]


def test_time_is_that_of_the_record_or_of_a_field_in_utc() -> None:
    at = datetime(1970, 1, 2, 3, tzinfo=UTC)

    assert directories_of(ByTime())(Batch(["a", "b"], [0, 25 * HOUR_MS])) == [
        "1970-01-01/00",
        "1970-01-02/01",
    ]
    assert directories_of(ByTime("%Y/%j", field="at"))(Batch([{"at": at}])) == ["1970/002"]


def test_records_without_the_time_or_field_are_refused(tmp_path: Path) -> None:
    sink = opened(submitted(JsonLinesFiles(tmp_path, partition_by="user")))

    with pytest.raises(OperatorError, match=r"subtask 0: a record has no directory.*'user'"):
        sink.write(Batch([{"name": "ann"}]))
    with pytest.raises(ConfigError, match="no event time to choose a directory by"):
        directories_of(ByTime())(Batch(["a"]))
    with pytest.raises(ConfigError, match="partition_by"):
        JsonLinesFiles(tmp_path, partition_by=[])


# --- parts ------------------------------------------------------------------------------------


def test_every_directory_has_a_part_and_all_appear_together(tmp_path: Path) -> None:
    sink = opened(submitted(JsonLinesFiles(tmp_path, partition_by=lambda n: f"m{n % 2}")))
    sink.write(Batch([1, 2, 3]))
    prepared = sink.prepare(ONE)
    assert shown(tmp_path) == {}

    sink.commit([prepared or {}])

    assert shown(tmp_path) == {"m0/00000001.jsonl": "2\n", "m1/00000001.jsonl": "1\n3\n"}


def test_part_ends_at_its_size(tmp_path: Path) -> None:
    parts = Parts(tmp_path, Rolling(size_bytes=4))
    for data in (b"ab", b"cd", b"efghij", b"k"):
        parts.write(data)

    parts.commit([parts.prepare(ONE) or {}])

    assert shown(tmp_path) == {
        "00000001.txt": "abcd", "00000001-0001.txt": "efghij", "00000001-0002.txt": "k",
    }  # fmt: skip


def test_part_ends_at_its_age(tmp_path: Path) -> None:
    parts = Parts(tmp_path, Rolling(age_ms=2_000))
    for parts.now_s in (10.0, 11.9, 12.0):
        parts.write(f"{parts.now_s} ".encode())

    parts.commit([parts.prepare(ONE) or {}])

    assert shown(tmp_path) == {"00000001.txt": "10.0 11.9 ", "00000001-0001.txt": "12.0 "}


def test_oldest_part_ends_where_too_many_are_open(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    names = [str(number) for number in range(OPEN_PARTS_MAX + 1)]
    for name in [*names, "0"]:
        parts.write(b"x", name)

    parts.commit([parts.prepare(ONE) or {}])

    assert [name for name in shown(tmp_path) if name.startswith("0/")] == [
        "0/00000001-0001.txt",
        "0/00000001.txt",
    ]


def test_committed_again_nothing_changes(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.write(b"x", "a")
    prepared = parts.prepare(ONE) or {}

    parts.commit([prepared])
    parts.commit([prepared, prepared])

    assert shown(tmp_path) == {"a/00000001.txt": "x"}


def test_part_that_is_gone_is_an_error(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.write(b"x", "a")
    prepared = parts.prepare(ONE) or {}
    (path,) = (tmp_path / "a").iterdir()
    path.unlink()

    with pytest.raises(StorageError, match="output of checkpoint 1, subtask 0 is missing"):
        parts.commit([prepared])


@pytest.mark.parametrize("directory", ["..", "a/../b", "/etc", "a//b", ".x", 7])
def test_committable_that_leads_out_of_the_directory_is_refused(
    tmp_path: Path, directory: object
) -> None:
    part = {"directory": directory, "temporary": "x", "final": "y"}

    with pytest.raises(StorageError, match="does not name a directory of parts"):
        Parts(tmp_path).commit([{"parts": [part]}])


def test_recovery_removes_what_older_attempts_left_in_any_directory(tmp_path: Path) -> None:
    for run, attempt in (("r1", 1), ("r1", 2), ("r2", 1)):
        old = Parts(tmp_path, run_id=run, attempt=AttemptId(attempt))
        old.write(b"x", "a")
        old.prepare(ONE)

    Parts(tmp_path, attempt=AttemptId(2)).recover([])

    assert sorted(name[:22] for name in os.listdir(tmp_path / "a")) == [
        ".part-r1-out-00000-2-0",
        ".part-r2-out-00000-1-0",
    ]


def test_what_is_not_prepared_is_dropped(tmp_path: Path) -> None:
    parts = Parts(tmp_path, Rolling(size_bytes=2))
    parts.write(b"rolled", "a")
    parts.write(b"x", "b")

    parts.close()

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_job_that_starts_over_removes_its_parts_from_all_directories(tmp_path: Path) -> None:
    settings: Any = {"partition_by": lambda n: f"m{n}", "compression": "gzip"}
    with closing(opened(submitted(JsonLinesFiles(tmp_path, **settings)))) as sink:
        commit(sink, Batch([1, 2]))

    again = JsonLinesFiles(tmp_path, partition_by=lambda n: f"m{n}")
    submitted(again, run_id="r2", former_run_ids=("r1",))

    assert shown(tmp_path) == {}


def test_job_that_goes_back_removes_later_parts_from_all_directories(tmp_path: Path) -> None:
    sink = opened(submitted(JsonLinesFiles(tmp_path, partition_by=lambda n: f"m{n}")))
    commit(sink, Batch([1]), ONE)
    commit(sink, Batch([1, 2]), TWO)

    submitted(sink, is_fresh=False, restored_from=ONE)

    assert list(shown(tmp_path)) == ["m1/00000001.jsonl"]
