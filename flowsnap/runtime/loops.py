"""The job manager's side of the rounds that find out when the loops have come to rest.

Loops behind one another end one after the other: what an operator between two of them puts out at
its end is input of the second, and goes round there. Loops that feed each other end together.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from flowsnap.core.graph import ExecutionGraph, Index
from flowsnap.core.ids import AttemptId, ChainId, TaskId
from flowsnap.core.message import EndOfLoops, FromWorker, LookRound, RoundSeen, TaskEnded, ToWorker
from flowsnap.core.rounds import Action, BeginRound, TerminationDetector

LOG = logging.getLogger("flowsnap")


class LoopRounds:
    """The rounds of one attempt; a job without loops has none. Returns what to tell all workers."""

    def __init__(self, attempt: AttemptId, graph: ExecutionGraph) -> None:
        self._attempt = attempt
        self._tasks = [task.id for task in graph.tasks]
        self._ended: set[TaskId] = set()
        self._stages = stages(graph)
        self._loops: frozenset[TaskId] = frozenset()
        self._detector = self._next_stage()

    def start(self) -> list[ToWorker]:
        """Take note that the tasks run."""
        return [] if self._detector is None else self._carry_out(self._detector.start())

    def hear(self, message: FromWorker, now_ms: int) -> list[ToWorker]:
        """Take what a worker says, if it is about a task's end or a round."""
        if self._detector is None:
            return []
        match message:
            case TaskEnded(task=task):
                self._ended.add(task)
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

    def _next_stage(self, number: int = 0) -> TerminationDetector | None:
        stage = next(self._stages, None)
        if stage is None:
            return None
        self._loops, feeders = stage
        return TerminationDetector(self._tasks, feeders - self._ended, number=number)

    def _carry_out(self, actions: list[Action]) -> list[ToWorker]:
        messages: list[ToWorker] = []
        for action in actions:
            if isinstance(action, BeginRound):
                LOG.debug("round %d of looking whether the loops are at rest", action.number)
                messages.append(LookRound(attempt=self._attempt, number=action.number))
            else:
                messages += self._end()
        return messages

    def _end(self) -> list[ToWorker]:
        """End the loops of this stage, and go on with those behind them."""
        assert self._detector is not None
        LOG.info("%s: the loops have come to rest", self._detector.describe())
        end = EndOfLoops(attempt=self._attempt, loops=self._loops)
        self._detector = self._next_stage(self._detector.number)  # A round is looked at once.
        return [end, *self.start()]


def stages(graph: ExecutionGraph) -> Iterator[tuple[frozenset[TaskId], frozenset[TaskId]]]:
    """Yield the loops that end together, in order, with the tasks that have to end before them."""
    index = Index.of(graph)
    above: dict[ChainId, set[ChainId]] = {chain.id: set() for chain in graph.chains}
    for edge in graph.edges:
        above[edge.target].add(edge.source)
    ancestors = {task: _reached(index.task(task).chain, above) for task in index.loop_tasks}
    for group in sorted(set(ancestors.values()), key=lambda one: (len(one), sorted(one))):
        loops = frozenset(task for task in index.loop_tasks if ancestors[task] == group)
        chains = {index.task(task).chain for task in loops}
        before = {chain for chain in group if chains.isdisjoint(_reached(chain, above))}
        feeders = {task.id for task in graph.tasks if task.chain in before}
        yield loops, frozenset(feeders.union(index.source_tasks))


def _reached(chain: ChainId, above: dict[ChainId, set[ChainId]]) -> frozenset[ChainId]:
    """Return a chain and all that it gets records from."""
    found, waiting = {chain}, [chain]
    while waiting:
        new = above[waiting.pop()] - found
        found |= new
        waiting += new
    return frozenset(found)
