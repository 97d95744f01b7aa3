"""Mutants: what is in transit, what goes round in loops, and when that comes to an end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowsnap.core import transit
from flowsnap.core.aligner import Aligner
from flowsnap.core.element import Batch
from flowsnap.core.rounds import TerminationDetector
from flowsnap.runtime import loops
from flowsnap.runtime.channel_state import Restored
from flowsnap.runtime.checkpoints import TaskCheckpoints
from flowsnap.runtime.input import FeedbackChannel, InputChannel
from flowsnap.runtime.task import TaskRunner
from flowsnap.testing.mutants import Patch, mutant
from flowsnap.testing.plan import LOOPS


@mutant("C2")
def channel_state_with_what_was_processed(patch: Patch) -> None:
    """What a task has processed last is in its state, and recorded in its channel as well."""
    take, send = TaskRunner._take, TaskCheckpoints._send

    def remember(self: Any, channel: InputChannel, element: Any, now_ms: int) -> None:
        if isinstance(element, Batch):
            self._taken_last = channel.id, element
        take(self, channel, element, now_ms)

    def record(self: Any, barrier: Any, recording: Any) -> Any:
        if taken := getattr(self._host, "_taken_last", None):
            recording.add(*taken)
        return send(self, barrier, recording)

    patch.set(TaskRunner, "_take", remember)
    patch.set(TaskCheckpoints, "_send", record)


@mutant("C3", "C4", "C5")
def channel_state_that_is_restored_twice(patch: Patch) -> None:
    """What was in transit is processed twice after the restart."""
    original = Restored.__iter__

    def both(self: Restored) -> Iterator[Any]:
        yield from original(self)
        yield from original(self)

    patch.set(Restored, "__iter__", both)


@mutant("C3", "C4", "C5")
def channel_state_that_goes_by_subtask(patch: Patch) -> None:
    """What was in transit goes to the subtask of the same number, whoever has its keys now."""

    def is_for(channel: Any, width: int, chain: Any, task: Any, max_parallelism: int) -> bool:
        return bool(channel.target_subtask % chain.parallelism == task.subtask)

    patch.set(transit, "_is_for", is_for)


@mutant("C1", "C2", "C3", "C4", needs=("broadcast",))
def broadcast_that_is_recorded(patch: Patch) -> None:
    """What is broadcast is recorded like the rest, once for each subtask that there was."""
    original = Aligner.__init__

    def init(self: Aligner, channels: Any, **settings: Any) -> None:
        original(self, channels, **settings | {"broadcast": ()})

    patch.set(Aligner, "__init__", init)


@mutant("C2", "C3", "C5", needs=LOOPS)
def feedback_that_is_not_recorded(patch: Patch) -> None:
    """What goes round at the cut is in nobody's snapshot."""
    patch.set(FeedbackChannel, "record", lambda self, checkpoint_id, recording: None)


@mutant("C12", needs=LOOPS)
def feedback_that_waits_for_room(patch: Patch) -> None:
    """What is fed back takes credit until it is processed, like everything else."""
    patch.set(FeedbackChannel, "receive", InputChannel.receive)
    patch.set(FeedbackChannel, "release", InputChannel.release)


@mutant("C2", "C4", "C9", needs=LOOPS)
def loops_that_end_with_their_sources(patch: Patch) -> None:
    """The loops end when all sources have, whatever goes round."""
    original = TerminationDetector.report

    def report(self: TerminationDetector, seen: Any, now_ms: int) -> Any:
        return original(self, type(seen)(seen.task, seen.number, True, 0), now_ms)

    patch.set(TerminationDetector, "report", report)


@mutant("C2", "C4", "C9", needs=LOOPS)
def rounds_that_count_no_messages(patch: Patch) -> None:
    """The loops end when all tasks are passive, although something is under way."""
    patch.set(TerminationDetector, "in_transit", 0)


@mutant("C2", "C4", "C9", needs=LOOPS)
def loops_that_all_end_at_once(patch: Patch) -> None:
    """A loop ends with the one before it, and what comes in between them finds it closed."""
    original = loops.stages

    def stages(graph: Any) -> Iterator[Any]:
        found = list(original(graph))
        if found:
            yield frozenset().union(*(one for one, _ in found)), found[0][1]

    patch.set(loops, "stages", stages)


@mutant("C11")
def task_that_goes_on_without_credit(patch: Patch) -> None:
    """A task takes the next batch although its output waits for credit."""
    patch.set(TaskRunner, "waits_for", lambda self: None)
