from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flowsnap.connectors import Callback, CommittedCallback, EpochMarker
from flowsnap.connectors.in_process import InProcess
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.operator import Sink, SinkContext, Submission
from flowsnap.errors import ConfigError, StoreUnavailable
from flowsnap.serialize import dump, load

ONE, TWO = CheckpointId(1), CheckpointId(2)


def opened(sink: Any, directory: Path = Path("unused")) -> Any:
    """Return the copy of a sink that a task has."""
    operator = OperatorId("out")
    if isinstance(sink, CommittedCallback):
        sink.on_submit(
            Submission(
                job="j", operator=operator, job_directory=str(directory), run_id="r1", is_fresh=True
            )
        )
    copied: Sink = load(dump(sink))
    copied.open(
        SinkContext(
            job="j", run_id="r1", operator=operator, subtask=0, parallelism=1, attempt=AttemptId(1)
        )
    )
    return copied


def commit(sink: Any, checkpoint_id: CheckpointId) -> None:
    prepared = [sink.prepare(checkpoint_id)]
    while sink.commit(prepared) is False:
        threading.Event().wait(0.001)


def test_function_itself_is_called_in_its_process() -> None:
    values: list[Any] = []

    opened(Callback(values.append)).write(Batch([1, 2]))
    opened(Callback(values.append, batches=True)).write(Batch([3, 4]))

    assert values == [1, 2, [3, 4]]


def test_function_with_a_lock_stays_in_its_process_and_others_are_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock, values = threading.Lock(), [1]
    holder = InProcess(values, "list")
    held, plain = dump(InProcess(lock, "lock")), dump(holder)
    assert load(plain).value is values
    monkeypatch.setattr("flowsnap.connectors.in_process._HERE", {})

    assert load(plain).value is not values
    with pytest.raises(ConfigError, match="a lock stays in the process that made it"):
        load(held)


def test_committed_records_come_with_their_epoch_once_the_checkpoint_is_complete(
    tmp_path: Path,
) -> None:
    told: list[Any] = []
    with closing(opened(CommittedCallback(lambda *call: told.append(call)), tmp_path)) as sink:
        sink.write(Batch([{"n": 1}, {1, 2}]))
        sink.write(Batch([None]))
        assert told == []
        commit(sink, ONE)
        sink.write(Batch([4]))
        commit(sink, TWO)

    assert told == [
        ([{"n": 1}, {1, 2}, None], EpochMarker("r1", "out", 0, 1)),
        ([4], EpochMarker("r1", "out", 0, 2)),
    ]


def test_epoch_that_is_known_is_not_told_again(tmp_path: Path) -> None:
    told: dict[EpochMarker, Any] = {}

    def take(records: list[Any], epoch: EpochMarker) -> None:
        assert epoch not in told
        told[epoch] = records
        raise StoreUnavailable("the answer was lost")

    sink = opened(CommittedCallback(take, applied=told.__contains__), tmp_path)
    with closing(sink):
        sink.write(Batch([1]))
        commit(sink, ONE)

    assert list(told.values()) == [[1]]


def test_what_is_no_function_is_refused() -> None:
    for class_ in (Callback, CommittedCallback):
        with pytest.raises(ConfigError, match="fn: 3 is not a function"):
            class_(3)  # type: ignore[arg-type]  # the point
