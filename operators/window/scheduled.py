"""What all operators that run windows have in common."""

from __future__ import annotations

from flowsnap.core.operator import Operator


class ScheduledWindows(Operator):
    """Windows that know when something is due next, so that any clock may drive them."""

    needs_event_time = True

    def next_ms(self) -> int | None:
        """Return the event time at which something is due next, at the earliest; None: never."""
        raise NotImplementedError(f"{type(self).__name__}.next_ms")
