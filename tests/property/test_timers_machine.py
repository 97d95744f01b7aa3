"""Timers of two clocks over restarts and rescales, against a set that is searched for the next."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowsnap.core.key import encode_key
from flowsnap.core.operator import MISSING
from flowsnap.state.backend import StateBackend
from flowsnap.state.memory import MemoryBackend
from flowsnap.state.timers import TimerQueue
from tests.property.machines import assert_found, examples
from tests.property.subtasks import OPERATOR, Subtasks

KEYS = st.sampled_from(["a", "b", 1, ("c", 2), "d"])
NAMES = st.sampled_from([None, "x", (10, 20)])
CLOCKS = ("event-timers.t", "processing-timers.t")
CLOCK = st.sampled_from(CLOCKS)
TIMES = st.integers(0, 8)
Timer = tuple[int, Any, Any]


class TimersMachine(RuleBasedStateMachine):
    """One operator in some subtasks; ``expected`` holds the timers of each clock."""

    subject: type[TimerQueue] = TimerQueue
    backends: tuple[Callable[..., Any], ...] = (MemoryBackend, MemoryBackend, StateBackend)

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="flowsnap-test-"))
        self.expected: dict[str, set[Timer]] = {clock: set() for clock in CLOCKS}
        self.numbers = count(1)
        self.subtasks: Subtasks | None = None

    @initialize(which=st.integers(0, 2))
    def start(self, which: int) -> None:
        self.subtasks = Subtasks(self.backends[which], self.root)
        self.open()

    def open(self) -> None:
        assert self.subtasks is not None
        self.queues = [
            {clock: self.subject(backend.map_table(OPERATOR, clock)) for clock in CLOCKS}
            for backend in self.subtasks.backends
        ]

    def teardown(self) -> None:
        if self.subtasks is not None:
            self.subtasks.close()
        shutil.rmtree(self.root)

    def owner(self, key: Any) -> int:
        assert self.subtasks is not None
        return self.subtasks.owner(key)

    @rule(clock=CLOCK, at_ms=TIMES, key=KEYS, name=NAMES)
    def register(self, clock: str, at_ms: int, key: Any, name: Any) -> None:
        self.queues[self.owner(key)][clock].register(at_ms, key, name)
        self.expected[clock].add((at_ms, key, name))

    @rule(clock=CLOCK, at_ms=TIMES, key=KEYS, name=NAMES)
    def delete_any(self, clock: str, at_ms: int, key: Any, name: Any) -> None:
        self.queues[self.owner(key)][clock].delete(at_ms, key, name)
        self.expected[clock].discard((at_ms, key, name))

    @rule(clock=CLOCK, number=st.integers(0, 50))
    def delete_one_there_is(self, clock: str, number: int) -> None:
        known = sorted(self.expected[clock], key=in_order)
        if known:
            self.delete_any(clock, *known[number % len(known)])

    @rule(clock=CLOCK, until_ms=TIMES)
    def time_comes(self, clock: str, until_ms: int) -> None:
        for subtask, queues in enumerate(self.queues):
            for found in queues[clock].due(until_ms):
                assert found == self.next_of(clock, subtask, until_ms)
                self.expected[clock].remove(found)
            assert self.next_of(clock, subtask, until_ms) is None

    @rule(clock=CLOCK, until_ms=TIMES, key=KEYS, name=NAMES, later_ms=st.integers(0, 3))
    def a_timer_registers_and_deletes_others(
        self, clock: str, until_ms: int, key: Any, name: Any, later_ms: int
    ) -> None:
        subtask, stop = self.owner(key), 4
        due: Iterator[Timer] = self.queues[subtask][clock].due(until_ms)
        for found in due:
            assert found == self.next_of(clock, subtask, until_ms)
            self.expected[clock].remove(found)
            self.delete_any(clock, found[0] + later_ms, key, None)
            self.register(clock, found[0] + later_ms, key, name)
            stop -= 1
            if stop == 0:  # The operator fails here, or asks anew.
                return
        assert self.next_of(clock, subtask, until_ms) is None

    @precondition(lambda self: any(self.expected.values()))
    @rule(width=st.sampled_from([1, 1, 2, 3]))
    def restart(self, width: int) -> None:
        assert self.subtasks is not None
        self.subtasks.restart(width)
        self.open()

    @invariant()
    def what_is_next_is_the_earliest_there_is(self) -> None:
        for subtask, queues in enumerate(self.queues if self.subtasks else []):
            for clock, queue in queues.items():
                first = self.next_of(clock, subtask, 1_000)
                assert queue.next_ms() == (None if first is None else first[0])

    def next_of(self, clock: str, subtask: int, until_ms: int) -> Timer | None:
        mine = [
            timer
            for timer in self.expected[clock]
            if timer[0] <= until_ms and self.owner(timer[1]) == subtask
        ]
        return min(mine, key=in_order, default=None)


def in_order(timer: Timer) -> tuple[int, bytes]:
    """Return what timers are sorted by: their time, and what cannot depend on a restart."""
    return timer[0], encode_key(timer[1:])


TestTimers = TimersMachine.TestCase
TestTimers.settings = examples(30, steps=30)


class Deaf(TimerQueue):
    """Does not delete."""

    def delete(self, timestamp_ms: int, key: Any, name: Any = None) -> None:
        self.next_ms()


class Hasty(TimerQueue):
    """Calls a timer that has been deleted meanwhile."""

    def due(self, until_ms: int) -> Iterator[Timer]:
        heap = self._loaded()
        found = [entry for entry in sorted(heap)[:] if entry[0] <= until_ms]
        for timestamp_ms, _, _, key, name in found:
            if self._table.get(key, (timestamp_ms, name)) is not MISSING:
                self._table.remove(key, (timestamp_ms, name))
            yield timestamp_ms, key, name


@pytest.mark.parametrize("broken", [Deaf, Hasty])
def test_timers_that_are_broken_are_found(broken: type[TimerQueue]) -> None:
    class Broken(TimersMachine):
        subject = broken
        backends = (MemoryBackend,) * 3

    assert_found(Broken)
