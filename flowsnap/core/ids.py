"""Identities, each of its own type, so that none can stand where another should."""

from __future__ import annotations

from typing import NewType

OperatorId = NewType("OperatorId", str)
"""The operator's name: unique in a pipeline, and the identity of its state."""

ChainId = NewType("ChainId", int)
"""The index of a chain in its execution graph."""

TaskId = NewType("TaskId", str)
"""``<name of the chain's first operator>/<subtask>``: made by ``task_id``."""

ChannelId = NewType("ChannelId", int)
"""The index of a channel in its execution graph."""

WorkerId = NewType("WorkerId", int)
"""0 to N - 1; kept by the process that replaces a dead one."""

CheckpointId = NewType("CheckpointId", int)
"""1, 2, ...; strictly increasing over the whole life of a job directory."""

AttemptId = NewType("AttemptId", int)
"""1, 2, ...; the fencing number: strictly increasing over the whole life of a job directory."""


def task_id(operator: OperatorId, subtask: int) -> TaskId:
    """Return the id of one subtask of the chain that begins with ``operator``."""
    return TaskId(f"{operator}/{subtask}")
