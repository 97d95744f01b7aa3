"""The life of one task, as a table; and when its input has ended.

A task is made, restored, and runs until its input ends on every channel. Then its final output
leaves (ENDING), and from then on it processes nothing but still takes part in checkpoints (ENDED):
the job is finished only when a checkpoint has been taken after all tasks have ended, which commits
the tail of every sink. A task whose chain had ended before the restored checkpoint goes from
RESTORING to ENDED directly, because its final output is part of that checkpoint and must not leave
twice.

FAILED and CANCELLED are the end: a task is never restarted, a new attempt makes new tasks. An ENDED
task can still fail, for its sink may be unable to commit.

Invariant: the state changes through ``move`` alone, along ``TRANSITIONS``.

Source: Flink, FLIP-147 "Support Checkpoints After Tasks Finished". Deviation: there a finished task
is gone and the coordinator stands in for it; here it stays and acknowledges by itself.

Example:
    >>> move(TaskState.RUNNING, TaskState.ENDING)
    <TaskState.ENDING: 'ending'>
    >>> ends = InputEnds([ChannelId(0), ChannelId(1)])
    >>> ends.receive(ChannelId(1)), ends.receive(ChannelId(0))
    (False, True)
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from flowsnap.core.ids import ChannelId
from flowsnap.errors import LocalProtocolError, PeerProtocolError


class TaskState(StrEnum):
    """Where a task stands in its life."""

    CREATED = "created"
    RESTORING = "restoring"
    RUNNING = "running"
    ENDING = "ending"  # the input has ended, the final output leaves
    ENDED = "ended"  # takes part in checkpoints only
    FAILED = "failed"
    CANCELLED = "cancelled"


S = TaskState

TRANSITIONS: dict[TaskState, set[TaskState]] = {
    S.CREATED: {S.RESTORING, S.FAILED, S.CANCELLED},
    S.RESTORING: {S.RUNNING, S.ENDED, S.FAILED, S.CANCELLED},
    S.RUNNING: {S.ENDING, S.FAILED, S.CANCELLED},
    S.ENDING: {S.ENDED, S.FAILED, S.CANCELLED},
    S.ENDED: {S.FAILED, S.CANCELLED},
    S.FAILED: set(),
    S.CANCELLED: set(),
}


def move(state: TaskState, target: TaskState) -> TaskState:
    """Return ``target``, if the table allows the step.

    Raises:
        LocalProtocolError: it does not.
    """
    if target not in TRANSITIONS[state]:
        raise LocalProtocolError(f"a task cannot go from {state} to {target}")
    return target


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {S.CREATED}"]
    for state in TaskState:
        targets = [str(target) for target in TaskState if target in TRANSITIONS[state]]
        lines += [f"    {state} --> {target}" for target in targets or ["[*]"]]
    return "\n".join(lines) + "\n"


class InputEnds:
    """On which channels of one task has the input ended?"""

    def __init__(self, channels: Collection[ChannelId]) -> None:
        self._channels = frozenset(channels)
        self._open = set(channels)

    def receive(self, channel: ChannelId) -> bool:
        """Take the end of one channel's input; return True when it was the last: once.

        Raises:
            PeerProtocolError: the input of that channel had ended before.
            LocalProtocolError: the channel is unknown.
        """
        if channel not in self._channels:
            raise LocalProtocolError(f"input ended on unknown channel {channel}")
        if channel not in self._open:
            raise PeerProtocolError(f"input ended twice on channel {channel}")
        self._open.remove(channel)
        return not self._open
