"""Does anything still go round in the loops?

Where a dataflow has cycles, the end of input does not find its own way: what is fed back may be fed
back again. The job has come to its end when every process is passive and every channel empty, which
is a stable property: once true it stays true, for a passive process sends nothing until it receives
something. So it may be asked of a consistent cut, and that is what a round is, without anything
being stored: every task looks whether it is passive, sends a marker into each of its channels, and
counts what comes in before the marker of each of its inputs. By the rule of Chandy and Lamport
these are exactly the messages that were in transit at the cut. If there are none, and all are
passive, nothing can ever happen again, and the loops may end. Otherwise another round is made, a
little later each time: how long one waits between them decides how soon the end is noticed, never
whether it is.

Rounds begin when every source has ended. A task hears of a round from the job manager, if it is a
source or a loop, or by the first marker.

Invariants: rounds are numbered from 1 and one at a time; ``EndLoops`` comes at most once, and only
for a round in which all tasks were passive and no batch was in transit.

Source: Chandy and Lamport 1985, section 4, stability detection by snapshots; their termination
example in section 1. Deviation from Carbone et al. 2015: that paper does not say how a job with a
cycle ends; Flink's old iterations end after a timeout.

Example:
    >>> a, b = TaskId("a/0"), TaskId("b/0")
    >>> detector = TerminationDetector([a, b], sources=[a])
    >>> detector.task_ended(a, now_ms=0)
    [BeginRound(number=1)]
    >>> detector.report(RoundReport(a, 1, is_passive=True, in_transit=0), now_ms=1)
    []
    >>> detector.report(RoundReport(b, 1, is_passive=True, in_transit=0), now_ms=2)
    [EndLoops(number=1)]
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from flowsnap.core.ids import ChannelId, TaskId
from flowsnap.errors import LocalProtocolError

PAUSE_MS_MIN, PAUSE_MS_MAX = 2, 200
"""How long after a round the next one begins: doubled each time."""


class RoundReport(msgspec.Struct, frozen=True):
    """What one task saw in a round; ``in_transit`` counts batches on their way to it."""

    task: TaskId
    number: int
    is_passive: bool
    in_transit: int


@dataclass(frozen=True, slots=True)
class BeginRound:
    """Tell the sources and loops to look, and to send their markers."""

    number: int


@dataclass(frozen=True, slots=True)
class EndLoops:
    """Nothing can come any more: tell the loops that their input has ended."""

    number: int


Action = BeginRound | EndLoops


class TaskRounds:
    """One task's part in the rounds; the driver says how much each channel has brought so far."""

    def __init__(self, task: TaskId, channels: Collection[ChannelId]) -> None:
        self.number = 0
        self._task = task
        self._channels = frozenset(channels)
        self._before: dict[ChannelId, int] = {}
        self._open: set[ChannelId] = set()
        self._is_passive = False
        self._in_transit = 0

    def look(
        self, number: int, is_passive: bool, consumed: Mapping[ChannelId, int]
    ) -> RoundReport | None:
        """Begin a round: ``consumed`` batches have come from each channel so far.

        Returns the report at once for a task without inputs.

        Raises:
            LocalProtocolError: the round has begun here before.
        """
        if number <= self.number:
            raise LocalProtocolError(f"task {self._task} was to begin round {number} again")
        self.number = number
        self._before = dict(consumed)
        self._open = set(self._channels)
        self._is_passive, self._in_transit = is_passive, 0
        return self._report()

    def receive(self, channel: ChannelId, number: int, consumed: int) -> RoundReport | None:
        """Take a marker of the current round; return the report with the last one.

        Raises:
            LocalProtocolError: it is of another round, or has come before.
        """
        if number < self.number:
            return None  # Of a round that was overtaken: its last reports will never come.
        if number > self.number or channel not in self._open:
            raise LocalProtocolError(
                f"task {self._task} got a marker of round {number} in channel {channel} "
                f"in round {self.number}"
            )
        self._open.remove(channel)
        self._in_transit += consumed - self._before[channel]
        return self._report()

    def _report(self) -> RoundReport | None:
        if self._open:
            return None
        return RoundReport(self._task, self.number, self._is_passive, self._in_transit)


class TerminationDetector:
    """When may the loops of one attempt end? ``number`` is that of the last round before."""

    def __init__(
        self, tasks: Collection[TaskId], sources: Collection[TaskId], *, number: int = 0
    ) -> None:
        self.number = number
        self._tasks = frozenset(tasks)
        self._running = set(sources)
        self._reports: dict[TaskId, RoundReport] = {}
        self._pause_ms = PAUSE_MS_MIN
        self._next_ms: int | None = None
        self._is_over = False

    def start(self) -> list[Action]:
        """Begin at once where there are no sources, so that nobody ends first."""
        return [] if self._running else self._begin()

    def task_ended(self, task: TaskId, now_ms: int) -> list[Action]:
        """Take note that a task has processed the end of its input."""
        was_running = bool(self._running)
        self._running.discard(task)
        if not was_running or self._running or self._is_over:
            return []
        return self._begin()

    def report(self, report: RoundReport, now_ms: int) -> list[Action]:
        """Take what a task saw; the last report of a round says what comes next."""
        if report.number != self.number or self._is_over:
            return []
        self._reports[report.task] = report
        if self._reports.keys() != self._tasks:
            return []
        if self.passive == len(self._tasks) and self.in_transit == 0:
            self._is_over = True
            return [EndLoops(self.number)]
        self._next_ms = now_ms + self._pause_ms
        self._pause_ms = min(2 * self._pause_ms, PAUSE_MS_MAX)
        return []

    def time_passed(self, now_ms: int) -> list[Action]:
        """Begin the next round, if it is time."""
        if self._next_ms is None or now_ms < self._next_ms:
            return []
        return self._begin()

    def next_deadline_ms(self) -> int | None:
        """Return when ``time_passed`` is wanted; None: only another event changes anything."""
        return self._next_ms

    @property
    def passive(self) -> int:
        """How many tasks were passive in the current round, of those heard of."""
        return sum(report.is_passive for report in self._reports.values())

    @property
    def in_transit(self) -> int:
        """How many batches were in transit in the current round, as far as is known."""
        return sum(report.in_transit for report in self._reports.values())

    def describe(self) -> str:
        """Return one line about the last round."""
        return (
            f"round {self.number}: {self.passive} of {len(self._tasks)} tasks passive, "
            f"{self.in_transit} batches in transit"
        )

    def check(self) -> None:
        """Assert the invariants."""
        assert not (self._is_over and self._running)
        assert self._reports.keys() <= self._tasks
        assert all(report.number == self.number for report in self._reports.values())

    def _begin(self) -> list[Action]:
        self._next_ms = None
        self.number += 1
        self._reports = {}
        return [BeginRound(self.number)]
