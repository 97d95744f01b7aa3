"""Parts in object storage: hidden until they are committed, whole or not at all, and once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from flowsnap.connectors import JsonLinesFiles
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.operator import SinkContext, Submission
from flowsnap.errors import ConfigError, StorageError
from tests.places import BucketPlace, in_memory

ONE, TWO = CheckpointId(1), CheckpointId(2)
PART = "part-r1-out-00000-00000001.jsonl"


class Sinks:
    """Opens sinks of one place, and closes them in the end."""

    def __init__(self, place: BucketPlace, stack: ExitStack) -> None:
        self.place = place
        self._stack = stack

    def submit(self, options: dict[str, Any] | None = None, **facts: Any) -> JsonLinesFiles:
        sink = JsonLinesFiles(self.place.path, **(options or {}))
        known = {"run_id": "r1", "is_fresh": True, "operator": OperatorId("out"), **facts}
        sink.on_submit(Submission(job="job", job_directory="unused", **known))
        return sink

    def open(self, attempt: int = 1, run_id: str = "r1", **options: Any) -> JsonLinesFiles:
        sink = JsonLinesFiles(self.place.path, **options)
        sink.open(
            SinkContext(
                job="job",
                run_id=run_id,
                operator=OperatorId("out"),
                subtask=0,
                parallelism=1,
                attempt=AttemptId(attempt),
            )
        )
        self._stack.callback(sink.close)
        return sink


@pytest.fixture
def sinks(tmp_path: Path) -> Iterator[Sinks]:
    with ExitStack() as stack:
        yield Sinks(in_memory(tmp_path), stack)


def prepared(sink: JsonLinesFiles, *values: int, checkpoint: CheckpointId = ONE) -> Any:
    sink.write(Batch(list(values)))
    return sink.prepare(checkpoint)


def commit(sink: JsonLinesFiles, committable: Any) -> None:
    while sink.commit([committable]) is False:
        Event().wait(0.001)  # As the engine asks again.


def test_what_is_prepared_is_stored_out_of_sight_and_moved_by_its_commit(sinks: Sinks) -> None:
    sink = sinks.open()

    committable = prepared(sink, 1, 2)
    pending = sinks.place.names()
    commit(sink, committable)

    assert pending == [".pending/.part-r1-out-00000-1-00000001.jsonl.tmp"]
    assert sinks.place.names() == [PART]
    assert sinks.place.read(PART) == b"1\n2\n"


def test_what_is_not_prepared_is_nowhere(sinks: Sinks) -> None:
    sink = sinks.open()
    sink.write(Batch([1]))

    sink.close()

    assert sinks.place.names() == []


def test_nothing_written_is_nothing_prepared(sinks: Sinks) -> None:
    assert sinks.open().prepare(ONE) is None


def test_commit_that_is_repeated_changes_nothing(sinks: Sinks) -> None:
    sink = sinks.open()
    committable = prepared(sink, 1)
    commit(sink, committable)
    before = sinks.place.remote.head(f"{sinks.place.prefix}/{PART}")

    commit(sink, committable)

    assert sinks.place.remote.head(f"{sinks.place.prefix}/{PART}") == before


def test_commit_that_crashed_before_it_deleted_is_made_good_by_its_repeat(sinks: Sinks) -> None:
    committable = prepared(sinks.open(), 1)
    hidden = sinks.place.names()[0]
    sinks.place.write(PART, sinks.place.read(hidden))

    commit(sinks.open(attempt=2), committable)

    assert sinks.place.names() == [PART]


def test_commit_of_a_part_that_is_gone_says_whose_output_is_missing(sinks: Sinks) -> None:
    sink = sinks.open()
    committable = prepared(sink, 1)
    sinks.place.remove(sinks.place.names()[0])

    with pytest.raises(StorageError, match="the output of checkpoint 1, subtask 0 is missing"):
        commit(sink, committable)


def test_commit_takes_nothing_else_for_its_part(sinks: Sinks) -> None:
    sink = sinks.open()
    committable = prepared(sink, 1)
    sinks.place.write(PART, b"something else")

    with pytest.raises(StorageError, match="has 14 bytes, where 2 were prepared"):
        commit(sink, committable)

    assert len(sinks.place.names()) == 2  # What was prepared is still there.


@pytest.mark.parametrize("change", [{"directory": "../x"}, {"final": "x"}, {"temporary": "/etc"}])
def test_commit_of_what_names_no_part_is_refused(sinks: Sinks, change: dict[str, str]) -> None:
    sink = sinks.open()
    (part,) = prepared(sink, 1)["parts"]

    with pytest.raises(StorageError, match="does not name"):
        commit(sink, {"parts": [{**part, **change}]})


def test_recovery_commits_and_removes_what_older_attempts_left(sinks: Sinks) -> None:
    old = sinks.open()
    committable = prepared(old, 1)
    prepared(old, 2, checkpoint=TWO)
    new = sinks.open(attempt=2)
    own = prepared(new, 3, checkpoint=CheckpointId(3))

    new.recover([committable])

    (part,) = own["parts"]
    assert sinks.place.names() == [f".pending/{part['temporary']}", PART]


def test_recovery_leaves_the_output_of_others_alone(sinks: Sinks) -> None:
    prepared(sinks.open(run_id="r2"), 1)

    sinks.open(attempt=2).recover([])

    assert len(sinks.place.names()) == 1


def test_parts_roll_by_size_and_appear_together(sinks: Sinks) -> None:
    sink = sinks.open(roll_size=1, partition_by=lambda value: str(value % 2))

    committable = prepared(sink, 1, 2)
    sink.write(Batch([3]))
    later = sink.prepare(TWO)
    assert all(name.startswith(".pending/") for name in sinks.place.names())
    commit(sink, committable)
    commit(sink, later)

    ends = [name.replace("part-r1-out-00000-", "") for name in sinks.place.names()]
    assert ends == ["0/00000001.jsonl", "1/00000001.jsonl", "1/00000002.jsonl"]


def test_more_parts_than_may_wait_are_uploaded_all_the_same(sinks: Sinks) -> None:
    sink = sinks.open(roll_size=1)
    for value in range(30):
        sink.write(Batch([value]))

    commit(sink, sink.prepare(ONE))

    held = [sinks.place.read(name) for name in sinks.place.names()]
    assert sorted(int(data) for data in held) == list(range(30))


def test_submission_tries_whether_it_may_write_and_leaves_nothing(sinks: Sinks) -> None:
    sinks.submit()

    assert sinks.place.names() == []


def test_parts_of_another_job_are_refused_kept_or_replaced(sinks: Sinks) -> None:
    commit(sinks.open(run_id="r0"), prepared(sinks.open(run_id="r0"), 1))

    with pytest.raises(ConfigError, match="holds 1 parts of another job") as raised:
        sinks.submit()
    sinks.submit({"existing": "append"})
    assert len(sinks.place.names()) == 1
    sinks.submit({"existing": "replace"})

    assert sinks.place.path in str(raised.value)
    assert sinks.place.names() == []


def test_job_that_starts_over_removes_its_parts_and_what_was_pending(sinks: Sinks) -> None:
    options: dict[str, Any] = {"partition_by": str}
    sink = sinks.open(**options)
    commit(sink, prepared(sink, 1))
    prepared(sink, 2, checkpoint=TWO)
    sinks.place.write("notes.txt", b"kept")

    sinks.submit(options, run_id="r2", former_run_ids=("r1",))

    assert sinks.place.names() == ["notes.txt"]


def test_job_that_goes_back_removes_later_parts(sinks: Sinks) -> None:
    sink = sinks.open()
    for checkpoint in (ONE, TWO):
        commit(sink, prepared(sink, 1, checkpoint=checkpoint))

    sinks.submit(is_fresh=False, restored_from=ONE)

    assert sinks.place.names() == [PART]


def test_end_of_the_job_removes_what_failed_attempts_left(sinks: Sinks) -> None:
    template = sinks.submit()
    prepared(sinks.open(), 1)
    prepared(sinks.open(run_id="other"), 1)

    template.on_finish()

    assert sinks.place.names() == [".pending/.part-other-out-00000-1-00000001.jsonl.tmp"]


def test_part_that_no_service_could_copy_is_refused_where_it_is_written() -> None:
    with pytest.raises(ConfigError, match="too large for an object"):
        JsonLinesFiles("s3://bucket/out", roll_size="6GB")

    assert JsonLinesFiles("s3://bucket/out").rolling.size_bytes == 128 * 2**20
    assert JsonLinesFiles("out").rolling.size_bytes is None
