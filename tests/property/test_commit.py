"""Any order of notifications, losses and crashes: complete output is visible once."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowsnap.core.commit import CommitRound, SinkCommits
from flowsnap.core.ids import CheckpointId, TaskId
from flowsnap.core.manifest import PreparedOutput
from flowsnap.errors import LocalProtocolError
from tests.property.machines import assert_found, examples


class Ledger(RuleBasedStateMachine):
    """One sink task, the checkpoints that are complete, and what has been made visible."""

    subject = SinkCommits

    def __init__(self) -> None:
        super().__init__()
        self.commits = self.subject()
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
        self.commits = self.subject()

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
TestCommits.settings = examples(60, steps=30)


SINKS = (TaskId("out/0"), TaskId("out/1"), TaskId("log/0"))


class Reports(RuleBasedStateMachine):
    """The job manager's side: ``reports`` is the list of all that sink tasks have said."""

    subject = CommitRound

    def __init__(self) -> None:
        super().__init__()
        self.round = self.subject(SINKS)
        self.reports: list[tuple[TaskId, int]] = []
        self.expected = 0

    @rule(later_by=st.integers(0, 2))
    def a_checkpoint_is_waited_for(self, later_by: int) -> None:
        self.expected = max(1, self.expected + later_by)
        self.round.expect(CheckpointId(self.expected))

    @rule(task=st.sampled_from(SINKS), late_by=st.integers(-1, 2))
    def a_task_reports(self, task: TaskId, late_by: int) -> None:
        number = max(0, self.expected - late_by)
        self.reports.append((task, number))
        assert self.round.committed(task, CheckpointId(number)) == (
            bool(self.expected) and not self.missing()
        )

    @rule()
    def a_task_that_is_no_sink_is_refused(self) -> None:
        with pytest.raises(LocalProtocolError, match="no sink"):
            self.round.committed(TaskId("map/0"), CheckpointId(self.expected))

    @precondition(lambda self: self.expected > 1)
    @rule()
    def an_earlier_checkpoint_is_not_waited_for_any_more(self) -> None:
        with pytest.raises(LocalProtocolError, match="are expected after"):
            self.round.expect(CheckpointId(self.expected - 1))

    @invariant()
    def whoever_has_not_reported_what_is_waited_for_is_missing(self) -> None:
        assert set(self.round.missing) == self.missing()
        assert self.round.is_done == (bool(self.expected) and not self.missing())

    def missing(self) -> set[TaskId]:
        if not self.expected:
            return set()
        done = {task for task, number in self.reports if number >= self.expected}
        return set(SINKS) - done


TestReports = Reports.TestCase
TestReports.settings = examples(60, steps=30)


class Forgetful(SinkCommits):
    """Forgets what was prepared before the newest, as if that had been committed."""

    def add(self, checkpoint_id: CheckpointId, committable: object) -> None:
        self._pending.clear()
        super().add(checkpoint_id, committable)


class LastWord(CommitRound):
    """Believes the last report of a task, and not the highest."""

    def committed(self, task: TaskId, checkpoint_id: CheckpointId) -> bool:
        super().committed(task, checkpoint_id)
        self._committed[task] = checkpoint_id
        return self.is_done


def test_a_sink_that_forgets_what_it_prepared_is_found() -> None:
    class Broken(Ledger):
        subject = Forgetful

    assert_found(Broken)


def test_a_round_that_believes_late_reports_is_found() -> None:
    class Broken(Reports):
        subject = LastWord

    assert_found(Broken)
