"""The job manager's side of the rounds that find out when the loops have come to rest."""

from __future__ import annotations

import logging

from flowsnap.core.graph import ExecutionGraph, Index
from flowsnap.core.ids import AttemptId
from flowsnap.core.message import EndOfLoops, FromWorker, LookRound, RoundSeen, TaskEnded, ToWorker
from flowsnap.core.rounds import Action, BeginRound, TerminationDetector

LOG = logging.getLogger("flowsnap")


class LoopRounds:
    """The rounds of one attempt; a job without loops has none. Returns what to tell all workers."""

    def __init__(self, attempt: AttemptId, graph: ExecutionGraph) -> None:
        index = Index.of(graph)
        tasks = [task.id for task in graph.tasks]
        self._attempt = attempt
        self._detector = (
            TerminationDetector(tasks, index.source_tasks) if index.loop_tasks else None
        )

    def start(self) -> list[ToWorker]:
        """Take note that the tasks run."""
        return [] if self._detector is None else self._carry_out(self._detector.start())

    def hear(self, message: FromWorker, now_ms: int) -> list[ToWorker]:
        """Take what a worker says, if it is about a task's end or a round."""
        if self._detector is None:
            return []
        match message:
            case TaskEnded(task=task):
                return self._carry_out(self._detector.task_ended(task, now_ms))
            case RoundSeen(report=report):
                return self._carry_out(self._detector.report(report, now_ms))
            case _:
                return []

    def time_passed(self, now_ms: int) -> list[ToWorker]:
        """Begin the next round, if it is time."""
        if self._detector is None:
            return []
        return self._carry_out(self._detector.time_passed(now_ms))

    def next_deadline_ms(self) -> int | None:
        """Return when ``time_passed`` is wanted."""
        return None if self._detector is None else self._detector.next_deadline_ms()

    def _carry_out(self, actions: list[Action]) -> list[ToWorker]:
        assert self._detector is not None
        messages: list[ToWorker] = []
        for action in actions:
            if isinstance(action, BeginRound):
                LOG.debug("round %d of looking whether the loops are at rest", action.number)
                messages.append(LookRound(attempt=self._attempt, number=action.number))
            else:
                LOG.info("%s: the loops have come to rest", self._detector.describe())
                messages.append(EndOfLoops(attempt=self._attempt))
        return messages
