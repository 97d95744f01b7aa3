"""The properties that must hold in every world, checked as things happen.

The names are those of ``docs/simulation.md``: C1 and C9 (consistent cut, alignment) and C11
(bounded buffers) are in ``flow.py``, C12 (liveness) and C13 (determinism) in ``cluster.py`` and
``simulate.py``. Here are C3 and C4 (replay and output), C6 (monotone ids), C7 (fencing) and C8
(files). A violation is noted in the world and ends the run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Any

from flowsnap.core import manifest as manifests
from flowsnap.core import transit
from flowsnap.core.graph import OperatorKind
from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.core.manifest import CheckpointManifest, OperatorStateValues
from flowsnap.core.message import (
    Acknowledged,
    Declined,
    FromWorker,
    TaskFailed,
)
from flowsnap.errors import RestoreError
from flowsnap.runtime.attempt import Attempt, Deployment
from flowsnap.storage import layout
from flowsnap.storage.store import is_temporary
from flowsnap.testing import reference
from flowsnap.testing.conservation import Stored, in_transit
from flowsnap.testing.disk import Inode
from flowsnap.testing.event_time import EventTimeChecker
from flowsnap.testing.plan import Node
from flowsnap.testing.reference import Record, Streams
from flowsnap.testing.sink import Transaction, TransactionalSystem
from flowsnap.testing.workload import Workload
from flowsnap.testing.world import Actor, World

_MANIFEST = re.compile(r"checkpoints/(\d+)/manifest\.json")
_STORED = re.compile(r"shared/(\d+)-(\d+)-[0-9a-f]+\.sst")


class Checker:
    """Looks at the disk, the sinks and the job manager of one world."""

    def __init__(
        self,
        world: World,
        workload: Workload,
        completed: Callable[[CheckpointManifest], None] = lambda manifest: None,
    ) -> None:
        self._completed = completed
        self.world = world
        self.workload = workload
        self.system = TransactionalSystem(world, self)
        self.event_time = EventTimeChecker(world)
        self.complete: dict[CheckpointId, CheckpointManifest] = {}
        self.durable: dict[CheckpointId, CheckpointManifest] = {}
        self.covered: set[str] = set()
        self.newest_attempt = AttemptId(0)  # whose record is durable
        self.is_drained = False
        self.has_gone_back = False
        self._contents: dict[str, Inode] = {}
        self._durable: dict[str, Inode] = {}
        self._seen: set[str] = set()
        self._known: dict[CheckpointId, CheckpointManifest] = {}
        self._reserved = CheckpointId(0)
        self._workers: dict[AttemptId, int] = {}
        self._begun_at_us = 0

    # --- the disk -----------------------------------------------------------------------------

    def name_changed(self, path: str, inode: Inode | None, actor: Actor) -> None:
        if inode is None:
            self._contents.pop(path, None)
            self._check_deleted(path, self.complete, "visible")
        else:
            self._contents[path] = inode
            is_whole = inode.durable == inode.content
            if not is_whole and not is_temporary(path.rpartition("/")[2]):
                self.world.fail(f"C8: {path} is visible before its content is durable")
            if path not in self._seen:
                self._seen.add(path)
                self._check_stored(path)
        match = _MANIFEST.fullmatch(path)
        if match is None:
            return
        checkpoint_id = CheckpointId(int(match[1]))
        if inode is None:
            self.complete.pop(checkpoint_id, None)
        elif checkpoint_id in self._known:  # Its deletion was lost in a crash, or it is put again.
            self.complete[checkpoint_id] = self._known[checkpoint_id]
            self._check_files(self._known[checkpoint_id])
        else:
            self._complete(checkpoint_id, path, inode)

    def name_durable(self, path: str, inode: Inode | None) -> None:
        if inode is None:
            self._durable.pop(path, None)
            self._check_deleted(path, self.durable, "durable")
        else:
            self._durable[path] = inode
        attempt = layout.attempt_of(path)
        if attempt is not None and inode is not None:
            self.newest_attempt = max(self.newest_attempt, attempt)
        match = _MANIFEST.fullmatch(path)
        if match is None:
            return
        checkpoint_id = CheckpointId(int(match[1]))
        if inode is None:
            self.durable.pop(checkpoint_id, None)
        elif (manifest := self.complete.get(checkpoint_id)) is not None:
            self.durable[checkpoint_id] = manifest
            self.covered.update(prepared(manifest))
            self._check_files(manifest)

    def stored(self, attempt: AttemptId, path: str) -> None:
        """C7: a worker has stored a file, for itself alone or to be shared."""
        if attempt < self.newest_attempt:
            self.world.fail(
                f"C7: {path} was stored by attempt {attempt} after attempt "
                f"{self.newest_attempt} had begun"
            )

    def _check_stored(self, path: str) -> None:
        match = _STORED.fullmatch(path)
        if match is not None and int(match[1]) < self.newest_attempt:
            self.world.fail(
                f"C7: {path} was stored by attempt {int(match[1])} after attempt "
                f"{self.newest_attempt} had begun"
            )

    def _check_deleted(
        self, path: str, kept: dict[CheckpointId, CheckpointManifest], view: str
    ) -> None:
        for manifest in kept.values():
            if any(handle.path == path for handle in manifests.files(manifest)):
                self.world.fail(
                    f"C8: {path} of the {view} checkpoint {manifest.checkpoint_id} is gone"
                )

    def _complete(self, checkpoint_id: CheckpointId, path: str, inode: Inode) -> None:
        try:
            manifest = manifests.decode(inode.content, path)
        except RestoreError as error:
            self.world.fail(f"C8: {path} is visible and cannot be read: {error}")
            return
        self.complete[checkpoint_id] = self._known[checkpoint_id] = manifest
        if manifest.attempt < self.newest_attempt:
            self.world.fail(
                f"C7: checkpoint {checkpoint_id} of attempt {manifest.attempt} was completed after "
                f"attempt {self.newest_attempt} had begun"
            )
        self._check_files(manifest)
        if not self.world.violation:  # What is missing has no content to be looked at.
            self._check_output(manifest)
        self._completed(manifest)
        self.event_time.completed(manifest)
        self._look_at(manifest)

    def _check_files(self, manifest: CheckpointManifest) -> None:
        for handle in manifests.files(manifest):
            for view, files in (("visible", self._contents), ("durable", self._durable)):
                inode = files.get(handle.path)
                content = None if inode is None or inode.durable is None else inode.written
                if content is None or sha256(content).hexdigest() != handle.sha256:
                    self.world.fail(
                        f"C8: checkpoint {manifest.checkpoint_id} lists {handle.path}, whose "
                        f"{view} content is {'missing' if content is None else 'another'}"
                    )

    def _check_output(self, manifest: CheckpointManifest) -> None:
        """C3: what a checkpoint covers is the function of the input that it has read."""
        positions = self._positions(manifest)
        # What is in transit has been read and has not come out.
        is_moving = any(task.channels for task in manifest.tasks)
        covered, where = prepared(manifest), f"checkpoint {manifest.checkpoint_id} at {positions}"
        expected = {
            is_prompt: self.workload.expected_of(positions, is_ended=not is_prompt)
            for is_prompt in {node.is_prompt for node in self.workload.nodes}
        }
        for sink in self.workload.sinks:
            found: Counter[Record] = Counter()
            for transaction in self.system.transactions.values():
                is_covered = transaction.state == "committed" or transaction.id in covered
                if transaction.operator == sink.name and is_covered:
                    found.update(transaction.records)
            is_exact = sink.is_prompt and not is_moving
            wanted = reference.bag(expected[sink.is_prompt][sink.index])
            if found != wanted if is_exact else not found <= wanted:
                self.world.fail(f"C3: {where}, {sink.name}: " + difference(found, wanted))
        self._check_state(manifest, expected, where)

    def _positions(self, manifest: CheckpointManifest) -> dict[str, dict[str, int]]:
        positions: dict[str, dict[str, int]] = {
            source: dict.fromkeys(splits, 0) for source, splits in self.workload.inputs.items()
        }
        for task in manifest.tasks:
            for split in task.splits:
                positions[task.operators[0]][split.split] = split.position or 0
        return positions

    def _check_state(
        self, manifest: CheckpointManifest, expected: dict[bool, list[Streams]], where: str
    ) -> None:
        """C5: each record that a counting step was given is in its state, and each key once."""
        stored = self._stored(manifest)
        if stored.misplaced:
            self.world.fail(f"C5: {where}: {stored.misplaced}")
        moving = self._moving(manifest)
        for node in self.workload.nodes:
            if node.kind not in {"count", "mover", "nested"}:
                continue
            found = stored.counts.get(node.name, Counter())
            elsewhere = moving
            if node.kind == "count":
                wanted = reference.counted(node, expected[node.is_prompt])
            else:
                wanted = reference.passed(node, expected[node.is_prompt])
                found = found + hops_before(node, moving)
                elsewhere = [one for one in moving if not is_inside(node, one[0])]
            is_exact = node.is_prompt and not elsewhere
            if found != wanted if is_exact else not found <= wanted:
                self.world.fail(f"C5: {where}: {node.name} has counted {found}, and not {wanted}")

    def _moving(self, manifest: CheckpointManifest) -> list[tuple[str, Any]]:
        return [one for task in manifest.tasks for one in in_transit(task, self._content)]

    def _content(self, path: str) -> bytes | None:
        inode = self._contents.get(path)
        return None if inode is None else inode.written

    def _stored(self, manifest: CheckpointManifest) -> Stored:
        return Stored(manifest, self._content)

    def _look_at(self, manifest: CheckpointManifest) -> None:
        ended = {task.is_ended for task in manifest.tasks}
        if len(ended) == 2:
            self.world.trace.reached("checkpoint while a task has ended")
        for handle in manifests.files(manifest):
            stored_for = layout.stored_for(handle.path)
            if stored_for is not None and stored_for < manifest.checkpoint_id:
                self.world.trace.reached("checkpoint with reused files")
                return

    # --- the sinks ----------------------------------------------------------------------------

    def committed(self, transaction: Transaction) -> None:
        if transaction.id not in self.covered:
            self.world.fail(f"C4: {transaction.id} is committed, and in no durable checkpoint")

    def aborted(self, transaction: Transaction) -> None:
        if transaction.id in self.covered:
            self.world.fail(f"C4: {transaction.id} of a durable checkpoint is aborted")

    def goes_back(self, operator: str, after: int) -> bool:
        """C6: only where its user has wanted an older checkpoint is anything left behind."""
        left = {
            transaction.id
            for transaction in self.system.transactions.values()
            if transaction.operator == operator and transaction.checkpoint_id > after
        } & self.covered
        if left and not self.has_gone_back:
            self.world.fail(f"C6: {min(left)} came after checkpoint {after}, which is restored")
        self.covered -= left
        return bool(left)

    # --- the job manager ----------------------------------------------------------------------

    def went_back(self, wanted: CheckpointId, restored: CheckpointId | None) -> None:
        """The job manager was to begin with an older checkpoint."""
        newer = {one for one in (*self.complete, *self.durable) if one > wanted}
        if restored != wanted or newer:
            self.world.fail(
                f"C6: checkpoint {wanted} was wanted, {restored} is restored, and of newer ones "
                f"there are {sorted(newer)}"
            )
        self.world.trace.reached("an older checkpoint is restored")
        self.has_gone_back = False  # Whoever goes back once more must be wanted to.

    def attempt_begun(self, deployment: Deployment, workers: int) -> None:
        """An attempt begins, from a checkpoint or from none."""
        self._workers[deployment.attempt] = workers
        self._begun_at_us = self.world.now_us
        newest = max(self.complete, default=None)
        if deployment.restored_from != newest:
            self.world.fail(
                f"C6: attempt {deployment.attempt} restores checkpoint "
                f"{deployment.restored_from}, the newest is {newest}"
            )
        if deployment.attempt != self.newest_attempt:
            self.world.fail(f"C7: attempt {deployment.attempt} begins, and is not durable")
        manifest = None if newest is None else self.complete[newest]
        self.event_time.restored(manifest)
        if manifest is not None:
            self._look_at_restore(manifest, deployment)
        elif deployment.attempt > 1:
            self.world.trace.reached("restore without a checkpoint")

    def _look_at_restore(self, manifest: CheckpointManifest, deployment: Deployment) -> None:
        reached = self.world.trace.reached
        if any(assignment.is_ended for assignment in deployment.assignments):
            reached("restore of an ended task")
        if manifest.graph.operators != deployment.job_graph.operators:
            reached("rescale on restore")
        if self._workers[manifest.attempt] != self._workers[deployment.attempt]:
            reached("another number of workers on restore")
        self._look_at_restored_state(manifest, deployment)
        for id in prepared(manifest):
            if self.system.transactions[id].state == "prepared":
                reached("restore of a pending commit")
            else:
                reached("restore of a commit that was done")

    def _look_at_restored_state(self, manifest: CheckpointManifest, deployment: Deployment) -> None:
        reached = self.world.trace.reached
        if self._stored(manifest).has_timers:
            reached("restore with a pending timer")
        if any(state.name == "held" and state.values for state in operator_states(manifest)):
            reached("restore with requests under way")
        if any(task.channels for task in manifest.tasks):
            reached("restore of channel state")
            self._look_at_transit(manifest, deployment)

    def _look_at_transit(self, manifest: CheckpointManifest, deployment: Deployment) -> None:
        reached = self.world.trace.reached
        was = {one.name: one.parallelism for one in manifest.graph.operators}
        now = {one.name: one for one in deployment.job_graph.operators}
        if manifest.graph.operators != deployment.job_graph.operators:
            reached("rescale of channel state")
        for target in transit.targets(manifest.tasks):
            if now[target].parallelism != was[target]:
                reached("record in transit restored at another parallelism")
            if now[target].kind is OperatorKind.LOOP:
                reached("restore of a loop")

    def reserved(self, checkpoint_id: CheckpointId) -> None:
        """An id is taken; from now on it may be in files and barriers."""
        if checkpoint_id <= self._reserved:
            self.world.fail(f"C6: checkpoint id {checkpoint_id} comes after {self._reserved}")
        self._reserved = checkpoint_id

    def heard(self, message: FromWorker, attempt: Attempt | None) -> None:
        """The job manager hears a worker."""
        reached = self.world.trace.reached
        if isinstance(message, Acknowledged):
            pending = () if attempt is None else attempt.coordinator.all_pending
            if all(one.checkpoint_id != message.checkpoint_id for one in pending):
                reached("late acknowledgement")
        elif isinstance(message, Declined):
            reached("checkpoint declined")
        elif isinstance(message, TaskFailed):
            self._look_at_failure(message)

    def _look_at_failure(self, failed: TaskFailed) -> None:
        reached = self.world.trace.reached
        if failed.error_type in {"LocalProtocolError", "AssertionError", "AttributeError"}:
            self.world.fail(
                f"C0: a bug in worker {failed.worker}: {failed.message}\n{failed.traceback}"
            )
        if "a gap in" in failed.message:
            reached("gap detected")
        elif "has sent up to" in failed.message:
            reached("lost tail detected")

    # --- the end ------------------------------------------------------------------------------

    def check_end(self) -> None:
        """C4: everything is visible, once; and nothing of ours is left prepared."""
        for sink, expected in self._expected().items():
            found = Counter(self.system.visible(sink))
            if found != expected:
                self.world.fail(f"C4: at the end, {sink}: {difference(found, expected)}")
        last = max((t.attempt for t in self.system.transactions.values()), default=0)
        for transaction in self.system.transactions.values():
            is_old = transaction.prepared_at_us < self._begun_at_us  # A zombie's may be younger.
            if transaction.state == "prepared" and (is_old or transaction.attempt == last):
                self.world.fail(f"C4: {transaction.id} is left prepared")

    def _expected(self) -> dict[str, Counter[Record]]:
        """Return the output for all input; of a drained job, for what it has read."""
        if not self.is_drained or not self.workload.sinks:
            return self.workload.expected()
        positions = self._positions(self.durable[max(self.durable)])
        streams = self.workload.expected_of(positions, is_ended=True)
        return {sink.name: reference.bag(streams[sink.index]) for sink in self.workload.sinks}


def operator_states(manifest: CheckpointManifest) -> Iterator[OperatorStateValues]:
    """Yield what the operators of a checkpoint keep beside keyed state."""
    for task in manifest.tasks:
        yield from task.operator_states


def prepared(manifest: CheckpointManifest) -> set[str]:
    """Return the transactions that a checkpoint promises to commit."""
    return {output.committable["id"] for task in manifest.tasks for output in task.prepared}


def is_inside(node: Node, operator: str) -> bool:
    """Return whether an operator is one of a loop's."""
    return operator == node.name or operator.startswith(f"{node.name}.")


def hops_before(node: Node, moving: Iterable[tuple[str, Any]]) -> Counter[int]:
    """Return the hops that records in the channels of a loop have still before them.

    Where the ways part, every record goes into each of them, and a filter lets it into one.
    """
    found: Counter[int] = Counter()
    for target, (_, number, _, left, laps_left) in (
        one for one in moving if is_inside(node, one[0])
    ):
        filters = {"again": left > 0, "done": left == 0, "back": laps_left > 0, "through": False}
        if filters.get(target.partition(".")[2], True):
            found.update(one % node.number for one in reference.trail(number, left, laps_left)[0])
    return found


def difference(found: Counter[Record], expected: Counter[Record]) -> str:
    """Return in one line what is too few and too many."""
    lost, surplus = expected - found, found - expected
    return (
        f"{lost.total()} records are lost, {surplus.total()} are too many: "
        f"lost {sorted(lost)[:4]}, too many {sorted(surplus)[:4]}"
    )
