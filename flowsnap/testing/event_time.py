"""Does event time go back? Looks at what checkpoints say of it, and what a restart begins with.

The other half of C10, that no channel sees an older watermark, is in ``flow.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowsnap.core.graph import ExecutionGraph
from flowsnap.core.ids import CheckpointId, OperatorId, TaskId
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.testing.world import World


class EventTimeChecker:
    """Follows the event time that each operator had reached, over checkpoints and restarts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._newest = CheckpointId(0)
        self._reached: dict[OperatorId, int] = {}
        self._restored: dict[OperatorId, int] = {}

    def completed(self, manifest: CheckpointManifest) -> None:
        """A checkpoint is complete."""
        if manifest.checkpoint_id < self._newest:
            return
        reached = reached_by(manifest)
        for operator, before_ms in self._reached.items():
            now_ms = reached.get(operator, before_ms)
            if now_ms < before_ms:
                self._world.fail(
                    f"C10: event time of {operator} is {now_ms} in checkpoint "
                    f"{manifest.checkpoint_id}, and was {before_ms} before"
                )
        self._newest, self._reached = manifest.checkpoint_id, reached

    def saved(
        self,
        manifest: CheckpointManifest,
        told_ms: Mapping[TaskId, int],
        code: Mapping[OperatorId, Any],
    ) -> None:
        """A checkpoint has at least the event time that each task had sent when it was cut."""
        for task in manifest.tasks:
            last, sent_ms = task.operators[-1], told_ms.get(task.task)
            makes_own = getattr(code[last], "generates_watermarks", False)
            if sent_ms is None or task.is_ended or makes_own:
                continue
            if task.watermarks.get(last, MIN_WATERMARK) < sent_ms:
                self._world.fail(
                    f"C10: checkpoint {manifest.checkpoint_id} does not say that {task.task} had "
                    f"sent watermark {sent_ms}"
                )

    def restored(self, manifest: CheckpointManifest | None) -> None:
        """An attempt goes on from a checkpoint, or from none."""
        self._restored = {} if manifest is None else reached_by(manifest)
        # What came after it may have been lost with the power, or given up by the user.
        self._newest = CheckpointId(0) if manifest is None else manifest.checkpoint_id
        self._reached = self._restored
        if self._restored:
            self._world.trace.reached("event time goes on from a checkpoint")

    def at_least(self, graph: ExecutionGraph, code: Mapping[OperatorId, Any]) -> dict[TaskId, int]:
        """Return what the watermarks of each task may not go below, where that is known.

        It is not where an operator stands last that makes watermarks itself: what had come in to
        it is more than what it had promised.
        """
        known = {}
        for task in graph.tasks:
            last = graph.chains[task.chain].operators[-1]
            if last in self._restored and not getattr(code[last], "generates_watermarks", False):
                known[task.id] = self._restored[last]
        return known


def reached_by(manifest: CheckpointManifest) -> dict[OperatorId, int]:
    """Return the least event time of each operator over those of its subtasks that go on.

    Those that a subtask says nothing of are left out: it may be at the beginning, or at the end.
    """
    found: dict[OperatorId, int] = {}
    unknown: set[OperatorId] = set()
    for task in manifest.tasks:
        for operator in () if task.is_ended else task.operators:
            own_ms = task.watermarks.get(operator)
            if own_ms is None:
                unknown.add(operator)
            else:
                found[operator] = min(found.get(operator, own_ms), own_ms)
    return {operator: at_ms for operator, at_ms in found.items() if operator not in unknown}
