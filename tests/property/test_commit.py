"""Any order of notifications, losses and crashes: complete output is visible once."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flowsnap.core.commit import SinkCommits
from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import PreparedOutput


class Ledger(RuleBasedStateMachine):
    """One sink task, the checkpoints that are complete, and what has been made visible."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = SinkCommits()
        self.number = 0
        self.snapshots: dict[int, tuple[PreparedOutput, ...]] = {}
        self.made: dict[int, str] = {}  # by checkpoint
        self.complete = 0
        self.visible: list[str] = []

    @rule(has_output=st.booleans())
    def prepare(self, has_output: bool) -> None:
        self.number += 1
        committable = f"output {self.number}" if has_output else None
        self.commits.add(CheckpointId(self.number), committable)
        if committable is not None:
            self.made[self.number] = committable
        self.snapshots[self.number] = self.commits.pending()

    @rule(data=st.data())
    def complete_one(self, data: st.DataObject) -> None:
        waiting = [number for number in self.snapshots if number > self.complete]
        if waiting:
            self.complete = data.draw(st.sampled_from(waiting))

    @rule(late_by=st.integers(0, 2))
    def notify(self, late_by: int) -> None:
        self._commit(max(self.complete - late_by, 0))

    @rule()
    def crash_and_restore(self) -> None:
        restored = self.snapshots.get(self.complete, ())
        self._make_visible(restored)
        self.made = {number: one for number, one in self.made.items() if number <= self.complete}
        self.snapshots = {self.complete: restored} if self.complete else {}
        self.commits = SinkCommits()

    @invariant()
    def nothing_is_visible_before_its_checkpoint_is_complete(self) -> None:
        covered = {one for number, one in self.made.items() if number <= self.complete}
        assert set(self.visible) <= covered

    @invariant()
    def what_is_covered_and_not_visible_is_still_pending_or_in_the_snapshot(self) -> None:
        kept = {one.committable for one in self.commits.pending()}
        kept |= {one.committable for one in self.snapshots.get(self.complete, ())}
        covered = {one for number, one in self.made.items() if number <= self.complete}
        assert covered - set(self.visible) <= kept

    def teardown(self) -> None:
        self._commit(self.complete)
        self.crash_and_restore()
        covered = [one for number, one in self.made.items() if number <= self.complete]
        assert sorted(set(self.visible)) == sorted(covered)

    def _commit(self, number: int) -> None:
        due = self.commits.due(CheckpointId(number))
        self._make_visible(due)
        self.commits.committed(CheckpointId(number))

    def _make_visible(self, outputs: tuple[PreparedOutput, ...]) -> None:
        # The sink's part: to commit again changes nothing.
        self.visible += [one.committable for one in outputs if one.committable not in self.visible]


TestCommits = Ledger.TestCase
TestCommits.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
