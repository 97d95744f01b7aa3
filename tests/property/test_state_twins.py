"""The same operations on both backends: whatever can be seen of RocksDB is what dicts show."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from operator import add
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowsnap.core.expiry import TTL
from flowsnap.core.key import encode_key
from flowsnap.state.backend import Persist, StateBackend
from flowsnap.state.keyed import KeyedStates
from flowsnap.state.memory import MemoryBackend, MemoryMapTable
from flowsnap.state.timers import TimerQueue
from tests.property.machines import assert_found, examples
from tests.property.subtasks import OPERATOR, Subtasks

KEYS = st.sampled_from(["a", "a\0", 1, ("b", 2), None])
ENTRIES = st.sampled_from(["", "x", 1])
SCALARS = st.one_of(st.integers(-3, 3), st.sampled_from(["", "é", b"\0", None, 1.5]))
VALUES = st.one_of(
    SCALARS,
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from("pq"), st.integers(0, 3), max_size=2),
    st.tuples(SCALARS, st.just(7)),
)
NUMBERS = st.integers(0, 9)


class Mean:
    """The sum and the count of what was added, in a list that is changed in place."""

    def create(self) -> list[int]:
        return [0, 0]

    def add(self, accumulator: list[int], value: int) -> list[int]:
        accumulator[0] += value
        accumulator[1] += 1
        return accumulator

    def result(self, accumulator: list[int]) -> tuple[int, int]:
        return accumulator[0], accumulator[1]


class Operator:
    """The states of one subtask, as an operator declares them when it is opened."""

    def __init__(self, backend: Any, clock: Callable[[], int]) -> None:
        self.states = KeyedStates(backend, OPERATOR)
        self.states.processing_time_ms = clock
        written, read = TTL("4s"), TTL("4s", on="read-write")
        self.value = self.states.value_state("value", default=list)
        self.list = self.states.list_state("list")
        self.map = self.states.map_state("map")
        self.sum = self.states.reducing_state("sum", add)
        self.mean = self.states.aggregating_state("mean", Mean())
        self.brief = self.states.value_state("brief", ttl=written)
        self.brief_list = self.states.list_state("brief-list", ttl=read)
        self.brief_map = self.states.map_state("brief-map", ttl=read)
        self.timers = TimerQueue(backend.map_table(OPERATOR, "event-timers.t"))

    def at(self, key: Any) -> Operator:
        self.states.key = key
        return self


class TwinsMachine(RuleBasedStateMachine):
    """Both are told the same, and asked the same, at every step."""

    backends: tuple[Callable[..., Any], ...] = (MemoryBackend, StateBackend)

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="flowsnap-test-"))
        self.now_ms = 0
        self.twins = [Subtasks(class_, self.root / class_.__name__) for class_ in self.backends]
        self.frozen: list[Any] = []
        self.declare()

    def declare(self) -> None:
        self.operators = [
            [Operator(backend, lambda: self.now_ms) for backend in twin.backends]
            for twin in self.twins
        ]

    def teardown(self) -> None:
        for twin in self.twins:
            twin.close()
        shutil.rmtree(self.root)

    def both(self, key: Any, do: Callable[[Operator], Any]) -> Any:
        """Do something with the states of one key, and return what both have answered."""
        subtask = self.twins[0].owner(key)
        # What one of them returned, and keeps, is compared before anything else can change it.
        dicts, rocks = (do(operators[subtask].at(key)) for operators in self.operators)
        assert dicts == rocks, f"{dicts!r} of dicts, {rocks!r} of RocksDB"
        return dicts

    # --- states

    @rule(key=KEYS, value=VALUES)
    def put_value(self, key: Any, value: Any) -> None:
        self.both(key, lambda op: op.value.update(copy.deepcopy(value)))

    @rule(key=KEYS, number=NUMBERS)
    def change_value_in_place(self, key: Any, number: int) -> None:
        self.both(key, lambda op: changed(op.value.value(), number))

    @rule(key=KEYS)
    def forget(self, key: Any) -> None:
        self.both(key, lambda op: [s.clear() for s in (op.value, op.list, op.map, op.sum, op.mean)])

    @rule(key=KEYS, number=NUMBERS, is_whole=st.booleans())
    def put_list(self, key: Any, number: int, is_whole: bool) -> None:
        self.both(key, lambda op: op.list.update([number]) if is_whole else op.list.add(number))

    @rule(key=KEYS, number=NUMBERS)
    def change_list_in_place(self, key: Any, number: int) -> None:
        self.both(key, lambda op: changed(op.list.get(), number))

    @rule(key=KEYS, entry=ENTRIES, value=VALUES)
    def put_entry(self, key: Any, entry: Any, value: Any) -> None:
        self.both(key, lambda op: op.map.put(entry, copy.deepcopy(value)))

    @rule(key=KEYS, entry=ENTRIES, number=NUMBERS)
    def change_entry_in_place(self, key: Any, entry: Any, number: int) -> None:
        self.both(key, lambda op: changed(op.map.get(entry), number))

    @rule(key=KEYS, number=NUMBERS)
    def change_all_entries_in_place(self, key: Any, number: int) -> None:
        self.both(key, lambda op: in_order((e, changed(v, number)) for e, v in op.map.items()))

    @rule(key=KEYS, entry=ENTRIES)
    def remove_entry(self, key: Any, entry: Any) -> None:
        self.both(key, lambda op: op.map.remove(entry))

    @rule(key=KEYS, number=NUMBERS)
    def fold(self, key: Any, number: int) -> None:
        self.both(key, lambda op: op.sum.add(number))
        self.both(key, lambda op: op.mean.add(number))

    # --- timers, and what expires

    @rule(key=KEYS, at_ms=NUMBERS, is_deleted=st.booleans())
    def set_timer(self, key: Any, at_ms: int, is_deleted: bool) -> None:
        self.both(
            key, lambda op: (op.timers.delete if is_deleted else op.timers.register)(at_ms, key)
        )

    @rule(key=KEYS, until_ms=NUMBERS)
    def call_timers(self, key: Any, until_ms: int) -> None:
        self.both(key, lambda op: (list(op.timers.due(until_ms)), op.timers.next_ms()))

    @rule(key=KEYS, entry=ENTRIES, number=NUMBERS)
    def put_what_expires(self, key: Any, entry: Any, number: int) -> None:
        self.both(key, lambda op: op.brief.update(number))
        self.both(key, lambda op: op.brief_map.put(entry, [number]))

    @rule(key=KEYS, number=NUMBERS)
    def add_what_expires(self, key: Any, number: int) -> None:
        self.both(key, lambda op: op.brief_list.add(number))

    @rule(key=KEYS, entry=ENTRIES)
    def read_what_expires(self, key: Any, entry: Any) -> None:
        self.both(key, lambda op: (op.brief.value(), op.brief_map.get(entry)))

    @rule(key=KEYS)
    def list_what_expires(self, key: Any) -> None:
        self.both(key, lambda op: (list(op.brief_list.get()), in_order(op.brief_map.items())))

    @rule(ms=st.integers(0, 3_000), key=KEYS)
    def time_passes(self, ms: int, key: Any) -> None:
        self.now_ms += ms
        self.both(key, lambda op: op.states.sweep(self.now_ms))
        self.both(key, lambda op: op.states.next_sweep_ms())

    # --- what happens to a backend

    @rule()
    def freeze(self) -> None:
        self.frozen += [backend.freeze() for twin in self.twins for backend in twin.backends]

    @precondition(lambda self: self.frozen)
    @rule(number=st.integers(0, 5), is_aborted=st.booleans())
    def a_checkpoint_goes_on(self, number: int, is_aborted: bool) -> None:
        persist: Persist = self.frozen[number % len(self.frozen)]
        persist.step()
        if is_aborted:
            persist.release()
            self.frozen.remove(persist)

    @rule(what=st.sampled_from(["_young_bytes_max", "_recent_bytes_max"]))
    def memory_is_full(self, what: str) -> None:
        for backend in self.twins[1].backends:
            setattr(backend, what, 0)
            backend.relieve()
            setattr(backend, what, 1 << 20)

    @rule(width=st.sampled_from([1, 1, 2, 3]))
    def restart(self, width: int) -> None:
        for twin in self.twins:
            twin.restart(width)
        self.frozen.clear()
        self.declare()

    # --- what must hold

    @invariant()
    def every_key_shows_the_same(self) -> None:
        for key in ("a", 1):
            self.both(key, seen)


def changed(value: Any, number: int) -> Any:
    """Change what can be changed of a value, where it is, and return how it looked before."""
    before = copy.deepcopy(value)
    if isinstance(value, list):
        value.append(number)
    elif isinstance(value, dict):
        value["z"] = number
    return before


def seen(op: Operator) -> Any:
    """Return what an operator sees of its key, and no later change can reach."""
    return copy.deepcopy(
        (
            op.list.get(),
            in_order(op.map.items()),
            op.map.is_empty(),
            in_order((entry, None) for entry in op.map.keys()),  # noqa: SIM118
            op.sum.get(),
            op.mean.get(),
            op.timers.next_ms(),
        )
    )


def in_order(items: Any) -> list[tuple[Any, Any]]:
    return sorted(items, key=lambda item: encode_key(item[0]))


TestTwins = TwinsMachine.TestCase
TestTwins.settings = examples(15, steps=50)


class Copies(MemoryBackend):
    """Gives away copies, so that what is changed in place is lost."""

    def map_table(self, *args: Any, **kwargs: Any) -> MemoryMapTable:
        table = super().map_table(*args, **kwargs)
        table.__class__ = CopiedMaps
        return table


class CopiedMaps(MemoryMapTable):
    """See ``Copies``."""

    def get(self, key: Any, entry: Any) -> Any:
        return copy.deepcopy(super().get(key, entry))


class Forgets(MemoryBackend):
    """Leaves out of a checkpoint what maps hold."""

    def _rows(self) -> Any:
        return (row for row in super()._rows() if row[2] is None)


@pytest.mark.parametrize("broken", [Copies, Forgets])
def test_a_backend_that_is_broken_is_found(broken: type[MemoryBackend]) -> None:
    class Broken(TwinsMachine):
        backends = (MemoryBackend, broken)

    assert_found(Broken, match="of RocksDB")
