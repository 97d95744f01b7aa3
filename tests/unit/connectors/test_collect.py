from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from flowsnap.connectors import Collect
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.operator import SinkContext, Submission
from flowsnap.errors import ConfigError, LocalProtocolError, StorageError
from flowsnap.serialize import dump, load


def submitted(
    sink: Collect, directory: Path, *, is_fresh: bool = True, run_id: str = "r1"
) -> Collect:
    sink.on_submit(
        Submission(
            job="job",
            operator=OperatorId("Result 1"),
            job_directory=str(directory),
            run_id=run_id,
            is_fresh=is_fresh,
        )
    )
    return sink


def task(template: Collect, subtask: int = 0, run_id: str = "r1") -> Collect:
    """Return a copy as a task on a worker has it."""
    copy: Collect = load(dump(template))
    copy.open(
        SinkContext(
            job="job",
            run_id=run_id,
            operator=OperatorId("Result 1"),
            subtask=subtask,
            parallelism=2,
            attempt=AttemptId(1),
        )
    )
    return copy


def commit(sink: Collect, checkpoint_id: int, *batches: list[Any]) -> None:
    for values in batches:
        sink.write(Batch(values))
    sink.commit([sink.prepare(CheckpointId(checkpoint_id)) or {}])


def parts(directory: Path) -> list[Path]:
    return sorted((directory / "collect").rglob("part-*"))


def test_values_are_ordered_by_checkpoint_then_subtask_then_as_written(tmp_path: Path) -> None:
    template = submitted(Collect(), tmp_path)
    first, second = task(template, 0), task(template, 1)

    commit(second, 1, ["b"], ["c", "d"])
    commit(first, 2, ["e"])
    commit(first, 1, ["a"])

    assert template.values == ["a", "b", "c", "d", "e"]


def test_values_before_a_run_are_empty() -> None:
    assert Collect().values == []


def test_uncommitted_records_are_not_seen(tmp_path: Path) -> None:
    template = submitted(Collect(), tmp_path)
    sink = task(template)
    commit(sink, 1, [1])

    sink.write(Batch([2]))
    sink.prepare(CheckpointId(2))

    assert template.values == [1]


def test_values_outlive_the_job_directory_once_the_job_has_finished(tmp_path: Path) -> None:
    template = submitted(Collect(), tmp_path / "job")
    commit(task(template), 1, [{"any": (object, 1)}])

    template.on_finish()
    shutil.rmtree(tmp_path / "job")

    assert template.values == [{"any": (object, 1)}]


def test_record_is_taken_as_it_is_when_it_is_written(tmp_path: Path) -> None:
    template = submitted(Collect(), tmp_path)
    sink, record = task(template), [1]
    sink.write(Batch([record]))

    record.append(2)
    commit(sink, 1)

    assert template.values == [[1]]


def test_values_can_be_changed_without_harm(tmp_path: Path) -> None:
    template = submitted(Collect(), tmp_path)
    commit(task(template), 1, [1])

    template.values.append(2)

    assert template.values == [1]


def test_fresh_start_forgets_everything(tmp_path: Path) -> None:
    template = submitted(Collect(), tmp_path)
    commit(task(template), 1, [1])
    template.on_finish()

    submitted(template, tmp_path, run_id="r2")

    assert template.values == []
    assert parts(tmp_path) == []


def test_records_of_an_earlier_run_do_not_travel_to_the_workers(tmp_path: Path) -> None:
    template = submitted(Collect(), tmp_path)
    commit(task(template), 1, ["precious"])
    template.on_finish()

    submitted(template, tmp_path, is_fresh=False)

    assert b"precious" not in dump(template)
    assert template.values == ["precious"]


def test_job_that_goes_on_keeps_what_it_had(tmp_path: Path) -> None:
    commit(task(submitted(Collect(), tmp_path)), 1, [1])

    template = submitted(Collect(), tmp_path, is_fresh=False)
    commit(task(template), 2, [2])

    assert template.values == [1, 2]


def test_damaged_part_is_never_unpickled(tmp_path: Path) -> None:
    template = submitted(Collect(), tmp_path)
    commit(task(template), 1, [1])
    (part,) = parts(tmp_path)
    bomb = dump([1])[:-1] + b"\x94."

    part.write_bytes(len(bomb).to_bytes(8, "big") + bomb)

    with pytest.raises(StorageError, match="does not hold what was committed"):
        _ = template.values


def test_file_without_a_hash_in_its_name_is_never_unpickled(tmp_path: Path) -> None:
    template = submitted(Collect(), tmp_path)
    commit(task(template), 1, [1])
    (part,) = parts(tmp_path)
    part.rename(part.with_name(part.name[:-73] + ".batches"))

    with pytest.raises(StorageError, match="does not hold what was committed"):
        _ = template.values


def test_part_that_was_changed_after_prepare_is_not_committed(tmp_path: Path) -> None:
    sink = task(submitted(Collect(), tmp_path))
    sink.write(Batch([1]))
    committable = sink.prepare(CheckpointId(1)) or {}
    (hidden,) = (tmp_path / "collect").rglob(".part-*")
    hidden.write_bytes(b"other")

    with pytest.raises(StorageError, match="does not have the sha256"):
        sink.commit([committable])
    assert parts(tmp_path) == []


def test_job_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ConfigError, match="cannot be written"):
        submitted(Collect(), tmp_path / "file")


def test_task_whose_template_was_never_submitted_has_nowhere_to_write() -> None:
    with pytest.raises(LocalProtocolError, match="before it was submitted"):
        task(Collect())


def test_closed_sink_leaves_nothing_that_was_not_prepared(tmp_path: Path) -> None:
    sink = task(submitted(Collect(), tmp_path))
    sink.write(Batch([1]))

    sink.close()

    (directory,) = (tmp_path / "collect").iterdir()
    assert os.listdir(directory) == []
