"""Mutants: state, timers and event time that do not come back as they were."""

from __future__ import annotations

from typing import Any

import msgspec

from flowsnap.core import operator_state, restore
from flowsnap.operators.holding import Holding
from flowsnap.runtime.task import TaskRunner
from flowsnap.state.memory import MemoryBackend
from flowsnap.state.timers import TimerQueue
from flowsnap.testing.mutants import Patch, mutant

TIMED = ("tumbling", "session", "late", "timer", "interval")
ASYNC = ("async", "async_any")


@mutant("C10", needs=TIMED)
def watermark_that_is_not_restored(patch: Patch) -> None:
    """After a restart event time begins anew."""
    original = restore._position

    def position(split: Any, known: Any) -> Any:
        return msgspec.structs.replace(original(split, known), watermark_ms=None)

    patch.set(restore, "_position", position)
    patch.set(operator_state, "watermarks", lambda old, graph, task: {})


@mutant("C3", "C4", needs=TIMED)
def timers_that_are_not_saved(patch: Patch) -> None:
    """A snapshot holds the state of a key, but not its timers."""
    original = MemoryBackend._rows

    def rows(self: Any) -> Any:
        timers = {t.state_id for t in self._registry.tables if t.name.startswith("event-timers")}
        return (row for row in original(self) if row[0] not in timers)

    patch.set(MemoryBackend, "_rows", rows)


@mutant("C3", "C4", "C5", needs=TIMED)
def timers_that_fire_again(patch: Patch) -> None:
    """A timer that has fired stays in the table, and is there after a restart."""

    def due(self: Any, until_ms: int) -> Any:
        heap = self._loaded()
        while heap and heap[0][0] <= until_ms:
            timestamp_ms, _, _, key, name = heap.pop(0)
            yield timestamp_ms, key, name

    patch.set(TimerQueue, "due", due)


@mutant("C3", "C4", "C5")
def state_of_other_subtasks_that_is_lost(patch: Patch) -> None:
    """After a rescale a subtask gets the state of its predecessor alone."""
    original = restore._states

    def states(old: Any, chain: Any, task: Any) -> Any:
        own = [one for one in old if one.subtask == task.subtask or one.state is None]
        return original(own, chain, task)

    patch.set(restore, "_states", states)


@mutant("C3", "C4", "C5")
def key_groups_that_overlap(patch: Patch) -> None:
    """After a restore a subtask keeps the keys of others, and puts them into its snapshots."""
    from flowsnap.state import memory  # noqa: PLC0415

    patch.set(memory, "key_group", lambda key, max_parallelism: _Anywhere())


class _Anywhere(int):
    """A key group that is in every range."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@mutant("C3", "C4", needs=("broadcast",))
def broadcast_state_that_is_not_restored(patch: Patch) -> None:
    """Rules that came before the restart are forgotten."""
    _drop_operator_state(patch, "broadcast")


@mutant("C3", "C4", needs=ASYNC)
def requests_that_are_not_asked_again(patch: Patch) -> None:
    """What was under way in an asynchronous step at the barrier is forgotten."""
    patch.set(Holding, "before_barrier", Holding.poll)


@mutant("C3", "C4", needs=ASYNC)
def requests_that_are_asked_by_all(patch: Patch) -> None:
    """What was under way in one subtask goes on in all of them."""
    original = operator_state.deal

    def deal(old: Any, chain: Any, subtask: int) -> Any:
        return original(old, chain, 0)

    patch.set(operator_state, "deal", deal)


def _drop_operator_state(patch: Patch, kind: str) -> None:
    original = operator_state.deal

    def deal(old: Any, chain: Any, subtask: int) -> Any:
        return tuple(one for one in original(old, chain, subtask) if one.kind != kind)

    patch.set(operator_state, "deal", deal)


@mutant("C10", needs=TIMED)
def watermark_that_is_not_saved(patch: Patch) -> None:
    """A snapshot does not say which event time its task had reached."""
    patch.set(TaskRunner, "_reached", lambda self: {})
