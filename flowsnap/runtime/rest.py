"""When a task is worth stepping again: so that one that waits costs its worker nothing."""

from __future__ import annotations


class Rest:
    """How long a task need not be stepped.

    One that waits for nothing but what may reach it rests ``until_ms``. One that has a time of its
    own, ``due_ms``, is stepped in every round until then: its worker comes round once for all.
    """

    __slots__ = ("due_ms", "until_ms")

    def __init__(self) -> None:
        self.until_ms = 0
        self.due_ms = 0

    def begin(self, due_ms: int | None, idle_ms: int) -> None:
        """Rest; until ``idle_ms`` if there is no time at which something is due."""
        self.until_ms = idle_ms if due_ms is None else 0
        self.due_ms = idle_ms if due_ms is None else due_ms

    def end(self) -> None:
        """Take note that something has reached the task."""
        self.until_ms = self.due_ms = 0
