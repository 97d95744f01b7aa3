"""How long a checkpoint takes in the job manager, phase by phase."""

from __future__ import annotations

from flowsnap.core.ids import CheckpointId
from flowsnap.runtime.clock import Clock
from flowsnap.storage.record import Completion


class Phases:
    """The times of one checkpoint, as they become known."""

    def __init__(self, checkpoint_id: CheckpointId, clock: Clock) -> None:
        self.begun_at_wall_ms = clock.wall_ms()
        self.trigger_ms = 0
        self._checkpoint_id = checkpoint_id
        self._begun_ms = self._triggered_ms = self._written_ms = clock.now_ms()

    def triggered(self, clock: Clock) -> None:
        """The id is durable, and the barriers have been asked for."""
        self._triggered_ms = clock.now_ms()
        self.trigger_ms = self._triggered_ms - self._begun_ms

    def written(self, clock: Clock) -> None:
        """The manifest is durable."""
        self._written_ms = clock.now_ms()

    def completion(self, clock: Clock) -> Completion:
        """Every sink has committed: return what is recorded beside the manifest."""
        return Completion(
            checkpoint_id=self._checkpoint_id,
            manifest_ms=self._written_ms - self._begun_ms,
            commit_ms=clock.now_ms() - self._written_ms,
        )


class CheckpointTimes:
    """The phases of the checkpoints of one attempt that are under way or not committed yet."""

    def __init__(self) -> None:
        self._phases: dict[CheckpointId, Phases] = {}

    def begin(self, checkpoint_id: CheckpointId, clock: Clock) -> Phases:
        """A checkpoint is about to be triggered."""
        phases = self._phases[checkpoint_id] = Phases(checkpoint_id, clock)
        return phases

    def of(self, checkpoint_id: CheckpointId) -> Phases:
        """Return the phases of a checkpoint that has been begun."""
        return self._phases[checkpoint_id]

    def committed(self, checkpoint_id: CheckpointId, clock: Clock) -> Completion | None:
        """Every sink has committed it: return what to record, once."""
        phases = self._phases.get(checkpoint_id)
        if phases is None:
            return None
        self._phases = {id_: one for id_, one in self._phases.items() if id_ > checkpoint_id}
        return phases.completion(clock)
