"""How far has event time come for a window operator, also over a restart?

Which windows have fired, and what is late, follows from the watermark alone. After a restart with
another parallelism, or of a job that is chained differently, the engine may begin with an older
one; windows would fire twice, and late records would be taken. So the operator keeps its own.

At an aligned barrier it is the same in all subtasks, as every watermark goes to all of them. Where
barriers are not aligned the least counts: better that a window fires again than that it never does.
"""

from __future__ import annotations

from flowsnap.core.operator import OperatorContext


class EventClock:
    """The watermark of one subtask, ``ms``, which never goes back; part of every snapshot."""

    def __init__(self, context: OperatorContext) -> None:
        self._state = context.operator_state("watermark", "union")
        self.ms = max(context.watermark_ms, min(self._state.get(), default=context.watermark_ms))
        self.save()

    def advance(self, watermark_ms: int) -> bool:
        """Take a watermark; return whether it is newer."""
        is_newer = watermark_ms > self.ms
        self.ms = max(self.ms, watermark_ms)
        return is_newer

    def save(self) -> None:
        """Have the snapshot hold what is now."""
        self._state.update([self.ms])
