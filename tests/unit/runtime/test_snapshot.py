from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from flowsnap.core.element import Batch
from flowsnap.core.graph import TaskSpec
from flowsnap.core.ids import (
    AttemptId,
    ChainId,
    ChannelId,
    CheckpointId,
    OperatorId,
    TaskId,
    WorkerId,
)
from flowsnap.core.manifest import FileHandle, TaskSnapshot
from flowsnap.core.operator import KeyedTable
from flowsnap.errors import StorageError
from flowsnap.runtime.channel_state import Recording
from flowsnap.runtime.parts import TakenSnapshot
from flowsnap.runtime.snapshot import Hashes, Snapshotter
from flowsnap.state.backend import Persist, StateBackend
from flowsnap.storage.memory import MemoryStore
from flowsnap.storage.writer import CheckpointWriter

COUNT, TASK = OperatorId("count"), TaskSpec(TaskId("count/0"), ChainId(0), 0, WorkerId(0), (0, 128))
PLAIN = TaskSpec(TaskId("plain/0"), ChainId(1), 0, WorkerId(0), (0, 128))
ONE, TWO, THREE = CheckpointId(1), CheckpointId(2), CheckpointId(3)


class HeldBack(Executor):
    """Runs what was submitted when the test says so, on the test's own thread."""

    def __init__(self) -> None:
        self._jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run(self) -> None:
        jobs, self._jobs = self._jobs, []
        for future, job in jobs:
            future.set_running_or_notify_cancel()
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._jobs.clear()


class FullStore(MemoryStore):
    """A store without room, while ``is_full``."""

    is_full = False

    def put_file(self, name: str, path: Path) -> None:
        if self.is_full:
            raise StorageError(f"cannot store {name}: No space left on device")
        super().put_file(name, path)


class Bench:
    """A snapshotter over real state and a store in memory; ``told`` is what it says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.executor = HeldBack()
        self.store = FullStore()
        self.acknowledged: list[TaskSnapshot] = []
        self.told: list[tuple[CheckpointId, str]] = []
        self.state = StateBackend(
            directory, key_groups=(0, 128), max_parallelism=128, memory_bytes=2**23
        )
        self.table: KeyedTable = self.state.value_table(COUNT, "counts", "value")
        writer = CheckpointWriter(directory, AttemptId(1), self.store)
        self.snapshots = Snapshotter(writer, self, self.executor)
        self.snapshots.register(TASK.id, ())

    def freeze(self, checkpoint_id: CheckpointId, **values: Any) -> None:
        """Change some values, and take the synchronous part of a snapshot."""
        for key, value in values.items():
            self.table.put(key, value)
        self.snapshots.add(taken(checkpoint_id, TASK, self.state.freeze()))

    def work(self) -> None:
        """Do all that the loop's thread can do."""
        while self.snapshots.step():
            pass

    def finish(self) -> None:
        """Do everything, uploads included."""
        self.work()
        self.executor.run()
        self.work()

    def stored(self) -> set[str]:
        return {file.name for file in self.store.list("shared/")}

    def local(self) -> list[str]:
        """Return the local checkpoints that are still there."""
        return sorted(path.name for path in self.directory.glob("checkpoint-*"))

    # --- what the snapshotter tells

    def acknowledge(self, checkpoint_id: CheckpointId, snapshot: TaskSnapshot) -> None:
        self.acknowledged.append(snapshot)
        self.told.append((checkpoint_id, "acknowledged"))

    def declined(self, task: TaskId, checkpoint_id: CheckpointId, reason: str) -> None:
        self.told.append((checkpoint_id, f"{task}: {reason}"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "count.0")
    yield made
    made.snapshots.close()
    made.state.close()


def taken(
    checkpoint_id: CheckpointId,
    task: TaskSpec,
    persist: Persist | None,
    recording: Recording | None = None,
) -> TakenSnapshot:
    return TakenSnapshot(
        checkpoint_id=checkpoint_id,
        task=task,
        operators=(COUNT,),
        operator_states=(),
        watermarks={},
        is_ended=False,
        ended=(),
        splits=(),
        prepared=(),
        persist=persist,
        alignment_ms=7,
        synchronous_ms=0.5,
        recording=recording,
    )


def shared(snapshot: TaskSnapshot) -> list[FileHandle]:
    assert snapshot.state is not None
    return [handle for handle in snapshot.state.files if handle.path.startswith("shared/")]


def test_a_snapshot_is_acknowledged_only_when_its_files_are_stored(bench: Bench) -> None:
    bench.freeze(ONE, a=1)
    bench.work()
    assert bench.told == []
    assert bench.snapshots.is_uploading

    bench.executor.run()
    assert bench.told == [], "the loop's thread tells, not the helper"

    bench.work()
    assert bench.told == [(ONE, "acknowledged")]
    assert not bench.snapshots.is_uploading


def test_what_is_acknowledged_can_be_found_in_the_store(bench: Bench) -> None:
    bench.freeze(ONE, a=1)
    bench.finish()

    state = bench.acknowledged[0].state
    assert state is not None
    assert {handle.path for handle in state.files} == {file.name for file in bench.store.list()}
    assert all(bench.store.sha256(handle.path) == handle.sha256 for handle in state.files)
    assert state.new_bytes == sum(handle.size_bytes for handle in state.files)
    assert bench.local() == [], "the local checkpoint is no longer needed"


def test_the_phases_are_measured(bench: Bench) -> None:
    bench.freeze(ONE, a=1)
    bench.finish()

    times = bench.acknowledged[0].times
    assert (times.alignment_ms, times.synchronous_ms) == (7, 0.5)
    assert times.durable_ms > 0


def test_a_task_without_state_has_nothing_to_store(bench: Bench) -> None:
    bench.snapshots.add(taken(ONE, PLAIN, None))

    bench.work()
    bench.work()

    assert bench.told == [(ONE, "acknowledged")]
    assert bench.acknowledged[0].state is None


def test_snapshots_are_acknowledged_in_the_order_in_which_they_were_taken(bench: Bench) -> None:
    bench.freeze(ONE, a=1)
    bench.snapshots.add(taken(TWO, PLAIN, None))

    bench.work()
    assert bench.told == []

    bench.finish()
    assert bench.told == [(ONE, "acknowledged"), (TWO, "acknowledged")]


def test_a_file_of_a_completed_checkpoint_is_not_stored_again(bench: Bench) -> None:
    bench.freeze(ONE, a=1)
    bench.finish()
    bench.snapshots.complete(ONE)
    before = bench.stored()

    bench.freeze(TWO, b=2)
    bench.finish()

    first, second = map(shared, bench.acknowledged)
    assert set(first) < set(second)
    assert len(bench.stored() - before) == 1


def test_a_file_of_an_unfinished_checkpoint_is_stored_again(bench: Bench) -> None:
    bench.freeze(ONE, a=1)
    bench.finish()

    bench.freeze(TWO, b=2)
    bench.finish()

    first, second = map(shared, bench.acknowledged)
    assert {handle.path for handle in first}.isdisjoint(handle.path for handle in second)
    assert {handle.name for handle in first} < {handle.name for handle in second}


def test_a_file_of_an_aborted_checkpoint_is_stored_again(bench: Bench) -> None:
    bench.freeze(ONE, a=1)
    bench.finish()
    bench.snapshots.abort(ONE)

    bench.freeze(TWO, b=2)
    bench.finish()
    bench.snapshots.complete(TWO)

    first, second = map(shared, bench.acknowledged)
    assert {handle.path for handle in first}.isdisjoint(handle.path for handle in second)


def test_what_the_restored_checkpoint_holds_is_not_stored_again(
    bench: Bench, tmp_path: Path
) -> None:
    bench.freeze(ONE, a=1)
    bench.finish()
    before = bench.stored()
    bench.snapshots.register(TASK.id, shared(bench.acknowledged[0]))

    bench.freeze(TWO, b=2)
    bench.finish()

    assert before < {handle.path for handle in shared(bench.acknowledged[1])}


def test_an_aborted_snapshot_is_not_stored_and_its_rows_go_with_the_next(bench: Bench) -> None:
    bench.freeze(ONE, a=1)
    bench.snapshots.abort(ONE)
    bench.finish()
    assert (bench.told, bench.stored(), bench.local()) == ([], set(), [])

    bench.freeze(TWO, b=2)
    bench.finish()

    assert bench.told == [(TWO, "acknowledged")]
    assert len(shared(bench.acknowledged[0])) == 2, "one file of a, one of b"


def test_a_snapshot_that_is_aborted_while_it_waits_to_be_stored_is_not(bench: Bench) -> None:
    bench.freeze(ONE, a=1)
    bench.work()

    bench.snapshots.abort(ONE)
    bench.executor.run()
    bench.work()

    assert (bench.told, bench.stored(), bench.local()) == ([], set(), [])


@pytest.mark.parametrize("is_declined", [False, True])
def test_channel_state_of_a_checkpoint_that_was_given_up_leaves_the_disk(
    is_declined: bool, bench: Bench, tmp_path: Path
) -> None:
    recording = Recording(tmp_path / "channels-1", {})
    recording.add(ChannelId(1), Batch([1]))
    recording.finish()
    if is_declined:
        bench.table.put("a", threading.Lock())
    bench.snapshots.add(taken(ONE, TASK, bench.state.freeze(), recording))
    if not is_declined:
        bench.snapshots.abort(ONE)

    bench.finish()

    assert [one for one, _ in bench.told] == [ONE] * is_declined
    assert not recording.path.exists()


def test_a_store_that_fails_declines_the_checkpoint_and_the_next_one_succeeds(
    bench: Bench,
) -> None:
    bench.freeze(ONE, a=1)
    bench.store.is_full = True
    bench.finish()
    assert [one[0] for one in bench.told] == [ONE]
    assert "No space left on device" in bench.told[0][1]
    assert bench.local() == [], "nothing fills the disk any further"

    bench.store.is_full = False
    bench.freeze(TWO, b=2)
    bench.finish()
    assert bench.told[-1] == (TWO, "acknowledged")


def test_a_value_that_cannot_be_pickled_declines_the_checkpoint(bench: Bench) -> None:
    bench.freeze(ONE, a=(number for number in range(3)))

    bench.finish()

    [(checkpoint_id, reason)] = bench.told
    assert checkpoint_id == ONE
    assert reason.startswith("count/0: ")
    assert "generator" in reason


def test_what_is_declined_after_its_abort_is_not_told(bench: Bench) -> None:
    bench.freeze(ONE, a=1)
    bench.store.is_full = True
    bench.work()

    bench.snapshots.abort(ONE)
    bench.executor.run()
    bench.work()

    assert bench.told == []


def test_a_file_is_hashed_once_however_many_names_it_has(tmp_path: Path) -> None:
    first, second = tmp_path / "a.sst", tmp_path / "b.sst"
    first.write_bytes(b"rows")
    second.hardlink_to(first)
    hashes = Hashes()

    digests = {hashes.sha256(first), hashes.sha256(second)}

    assert len(digests) == 1
    assert len(hashes._known) == 1


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*gone\.sst: No such file"):
        Hashes().sha256(tmp_path / "gone.sst")
