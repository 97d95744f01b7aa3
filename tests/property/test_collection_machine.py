"""Any life of a job's stored files: what anything needs is there, and of the rest nothing is left.

Tasks store files and list older ones again, hear late what became of a checkpoint, and die; the job
manager completes, retires, collects, goes back, and dies between two deletions. What must be in the
store is known from a list of all that was ever stored for what.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import FileHandle
from flowsnap.core.registry import SharedFiles
from flowsnap.errors import StorageError
from flowsnap.storage import layout, savepoint
from flowsnap.storage.export import export
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.job_store import JobStore
from flowsnap.storage.memory import MemoryStore
from flowsnap.storage.writer import CheckpointWriter, measure
from tests.jobs import COUNT, Local, manifest_of
from tests.property.machines import assert_found, examples

TASKS, TASK = ("a", "b"), st.sampled_from("ab")
NAMES = st.sampled_from(["1.sst", "2.sst", "CURRENT"])
STRANGER = "shared/notes.txt"


class DiedError(Exception):
    """The job manager is killed."""


class MortalStore(MemoryStore):
    """A store in memory, whose job manager dies after so many deletions."""

    deletes_left: int | None = None

    def delete(self, name: str, *, is_durable: bool = True) -> None:
        if self.deletes_left is not None:
            if self.deletes_left == 0:
                raise DiedError
            self.deletes_left -= 1
        super().delete(name, is_durable=is_durable)


@dataclass
class Task:
    """One task of one attempt: its local files, what it may list again, the news on its way."""

    shared: SharedFiles
    local: dict[str, int] = field(default_factory=dict)  # by name: which content
    news: list[tuple[CheckpointId, bool]] = field(default_factory=list)
    listed: list[FileHandle] | None = None  # for the pending checkpoint, once it is acknowledged


class StoredFilesMachine(RuleBasedStateMachine):
    """A job in memory; ``complete`` says which files each complete checkpoint lists."""

    job_class: Callable[..., JobStore] = JobStore
    registry: type[SharedFiles] = SharedFiles

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="flowsnap-test-"))
        self.made: dict[str, tuple[int, int]] = {}  # by path: for which checkpoint, which content
        self.complete: dict[int, set[str]] = {}
        self.highest = 0
        self.pending: CheckpointId | None = None
        self.pinned: set[CheckpointId] = set()
        self.tasks: dict[str, Task] = {}
        self.job = self.opened()
        self.job.begin_run()
        self.job.store.put(STRANGER, b"not ours")
        self.begin_attempt()

    def opened(self) -> JobStore:
        store = self.job.store if hasattr(self, "job") else MortalStore()
        return self.job_class(store, "words")

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    # --- what tasks do

    @rule(task=TASK, name=NAMES, content=st.sampled_from([1, 2, 2, None]))
    def local_files_change(self, task: str, name: str, content: int | None) -> None:
        self.tasks[task].local.pop(name, None)
        if content is not None:
            self.tasks[task].local[name] = content

    def file(self, task: str, name: str) -> Local:
        content = self.tasks[task].local[name]
        path = self.root / f"{task}-{name}-{content}"
        if not path.exists():
            path.write_text("x" * content)
        return Local(f"{task}-{name}", path, name.endswith(".sst"))

    def store(self, task: str, name: str, number: CheckpointId) -> FileHandle:
        content = self.tasks[task].local[name]
        handle = self.writer.store(number, COUNT, self.file(task, name))
        self.made[handle.path] = number, content
        return handle

    @precondition(lambda self: self.pending)
    @rule(task=TASK)
    def a_task_takes_part(self, task: str) -> None:
        mine = self.tasks[task]
        if self.pending is None or mine.listed is not None:
            return
        handles = []
        for name in sorted(mine.local):
            file = self.file(task, name)
            handle = mine.shared.lookup(file.name, measure(file.path)[1])
            if handle is None or not file.is_shared:
                handle = self.store(task, name, self.pending)
                mine.shared.stored(self.pending, handle)
            assert self.made[handle.path][1] == mine.local[name], f"{handle} is listed for {file}"
            handles.append(handle)
        mine.shared.used(self.pending, handles)
        mine.shared.check()
        mine.listed = handles

    @precondition(lambda self: self.highest)
    @rule(task=TASK, name=NAMES)
    def a_task_stores_one_file_and_no_more(self, task: str, name: str) -> None:
        if name in self.tasks[task].local and name.endswith(".sst"):
            self.store(task, name, CheckpointId(self.highest))

    @rule(task=TASK)
    def news_comes(self, task: str) -> None:
        mine = self.tasks[task]
        if mine.news:
            number, is_complete = mine.news.pop(0)
            (mine.shared.complete if is_complete else mine.shared.abort)(number)

    # --- what the job manager does

    @precondition(lambda self: self.pending is None)
    @rule()
    def a_checkpoint_begins(self) -> None:
        self.pending = self.job.next_checkpoint_id()
        assert self.pending > self.highest, "an id was given away twice"
        self.highest = self.pending
        self.job.reserve_checkpoint(self.pending)

    @precondition(lambda self: self.pending)
    @rule(is_complete=st.sampled_from([True, True, False]))
    def it_is_decided(self, is_complete: bool) -> None:
        number, tasks = self.pending or CheckpointId(0), self.tasks.values()
        if is_complete:
            for task in TASKS:
                self.a_task_takes_part(task)
            handles = tuple(handle for task in tasks for handle in task.listed or ())
            try:
                self.job.write_manifest(manifest_of(self.job, number, handles))
            except StorageError as error:
                raise AssertionError("a file is gone that a task has listed") from error
            self.complete[number] = {handle.path for handle in handles}
        for mine in tasks:
            mine.listed = None
            mine.news.append((number, is_complete))
        self.pending = None

    @precondition(lambda self: self.complete)
    @rule(is_pinned=st.booleans())
    def the_newest_is_pinned(self, is_pinned: bool) -> None:
        self.pinned = {CheckpointId(max(self.complete))} if is_pinned else set()

    @precondition(lambda self: self.complete)
    @rule(retained=st.integers(1, 3), deletes=st.sampled_from([None, None, 0, 1, 2, 4]))
    def old_ones_are_retired(self, retained: int, deletes: int | None) -> None:
        pending = [] if self.pending is None else [self.pending]
        kept = self.wanted(retained)
        self.job.store.deletes_left = deletes  # type: ignore[attr-defined]
        try:
            self.job.retire(retained, pending=pending, protected=self.pinned)
        except DiedError:
            left = self.job.checkpoints()
            assert kept <= set(left) <= self.complete.keys()
            self.complete = {number: self.complete[number] for number in left}
            self.the_job_manager_dies()
        else:
            self.complete = {number: self.complete[number] for number in sorted(kept)}
            self.check_nothing_is_left_over()
        self.job.store.deletes_left = None  # type: ignore[attr-defined]

    def wanted(self, retained: int) -> set[int]:
        """Return the checkpoints that nothing may retire now."""
        complete = sorted(self.complete)
        kept = set(complete[-retained:]) | (self.pinned & set(complete))
        if self.pending is not None:
            kept |= set([number for number in complete if number < self.pending][-1:])
        return kept

    @precondition(lambda self: len(self.complete) > 1)
    @rule(back=st.integers(1, 3))
    def the_job_goes_back(self, back: int) -> None:
        number = sorted(self.complete)[max(0, len(self.complete) - 1 - back)]
        self.job.go_back(CheckpointId(number))
        self.complete = {id_: paths for id_, paths in self.complete.items() if id_ <= number}
        self.the_job_manager_dies()

    @rule()
    def the_job_manager_dies(self) -> None:
        self.job.store.deletes_left = None  # type: ignore[attr-defined]
        zombie = self.writer
        self.job = self.opened()
        self.begin_attempt()
        with pytest.raises(StorageError, match="has begun"):
            zombie.store(CheckpointId(self.highest + 1), COUNT, self.late_file())
        self.check_nothing_is_left_over()

    def late_file(self) -> Local:
        path = self.root / "late"
        path.write_text("of an attempt that is over")
        return Local("late.sst", path, True)

    def begin_attempt(self) -> None:
        """Restore the newest checkpoint, as a new attempt with new tasks."""
        self.writer = CheckpointWriter(self.root, self.job.begin_attempt(), self.job.store)
        self.job.clean_leftovers()
        latest = self.job.latest()
        assert (latest.checkpoint_id if latest else 0) == max(self.complete, default=0)
        self.pending, self.pinned = None, set()
        self.tasks = {task: Task(self.registry()) for task in TASKS}
        if latest is None:
            self.tasks["a"].local = {"1.sst": 1, "CURRENT": 1}
        for one in latest.tasks if latest else ():
            for handle in one.state.files if one.state else ():
                task, _, name = handle.name.partition("-")
                self.tasks[task].local[name] = self.made[handle.path][1]
                self.tasks[task].shared.restored([handle])

    # --- what must hold

    def names(self) -> set[str]:
        return {file.name for file in self.job.store.list()}

    def check_nothing_is_left_over(self) -> None:
        """Hold the store to the list of all that was ever stored: no file too many."""
        needed = set[str]().union(*self.complete.values())
        if self.pending is not None:
            needed |= {path for path, (number, _) in self.made.items() if number >= self.pending}
        found = {name for name in self.names() if name in self.made}
        assert found == needed, f"too many: {found - needed}, gone: {needed - found}"
        begun = {layout.checkpoint_of(name) for name in self.names() if name.endswith("/begun")}
        assert begun <= {*self.complete, self.pending, self.highest}

    @invariant()
    def what_is_complete_is_whole(self) -> None:
        assert self.job.checkpoints() == sorted(self.complete)
        for paths in self.complete.values():
            for path in paths:
                assert len(self.job.store.get(path)) == self.made[path][1]
        assert STRANGER in self.names()


TestStoredFiles = StoredFilesMachine.TestCase
TestStoredFiles.settings = examples(50, steps=40)


class SavepointsMachine(StoredFilesMachine):
    """The same on a disk, with savepoints, which nothing that becomes of the job may touch."""

    def __init__(self) -> None:
        self.savepoints: dict[Path, dict[str, bytes]] = {}
        super().__init__()

    def opened(self) -> JobStore:
        if hasattr(self, "job"):
            self.directory.close()
        self.directory: JobDirectory = JobDirectory.open(self.root / "state", "words")
        return self.directory

    def teardown(self) -> None:
        self.directory.close()
        super().teardown()

    @precondition(lambda self: self.complete)
    @rule(back=st.integers(0, 2))
    def a_savepoint_is_made(self, back: int) -> None:
        number = sorted(self.complete)[max(0, len(self.complete) - 1 - back)]
        path = export(self.directory, CheckpointId(number))
        store = self.job.store
        self.savepoints[path] = {name: store.get(name) for name in self.complete[number]}

    @invariant()
    def savepoints_are_whole(self) -> None:
        for path, files in self.savepoints.items():
            assert all((path / name).read_bytes() == data for name, data in files.items())
            assert savepoint.find(path).manifest.kind == "savepoint"


TestSavepoints = SavepointsMachine.TestCase
TestSavepoints.settings = examples(8, steps=30)


class Rash(JobStore):
    """Does not care for what is under way or pinned."""

    def retire(self, retained: int, **_: Any) -> list[str]:
        return super().retire(retained)


class Lazy(JobStore):
    """Deletes manifests, and none of their files."""

    def _collect(self, pending: Any) -> Iterator[str]:
        return iter(())


class Careless(SharedFiles):
    """Knows a file by its name alone."""

    def lookup(self, name: str, sha256: str) -> FileHandle | None:
        known = [handle for handle in self._committed.values() if handle.name == name]
        return known[0] if known else None


@pytest.mark.parametrize("broken", [Rash, Lazy])
def test_a_store_that_is_broken_is_found(broken: type[JobStore]) -> None:
    class Broken(StoredFilesMachine):
        job_class = broken

    assert_found(Broken)


def test_a_registry_that_knows_files_by_their_names_is_found() -> None:
    class Broken(StoredFilesMachine):
        registry = Careless

    assert_found(Broken, match="is listed for")
