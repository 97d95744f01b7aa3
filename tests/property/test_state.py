"""Any sequence of operations, freezes, aborts, spills and restores: RocksDB as a dict would."""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from flowsnap.core.ids import OperatorId
from flowsnap.core.operator import MISSING
from flowsnap.state.backend import Persist, RestoredState, StateBackend
from tests.property.machines import examples

OPERATOR = OperatorId("op")
KEYS = st.sampled_from(["a", "a\0", 1])  # few, so that the rules meet
ENTRIES = st.sampled_from(["", 1])
VALUES = st.one_of(st.lists(st.integers(0, 3), max_size=2), st.integers(-3, 3))


class GenerationalTablesActAsDicts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="flowsnap-test-"))
        self.values: dict[Any, Any] = {}
        self.maps: dict[Any, dict[Any, Any]] = {}
        self.pending: list[tuple[Persist, tuple[Any, Any]]] = []
        self.opened = 0

    @initialize()
    def start(self) -> None:
        self.open([])

    def open(self, restored: list[RestoredState]) -> None:
        self.opened += 1
        self.backend = StateBackend(
            self.root / f"task-{self.opened}",
            key_groups=(0, 16),
            max_parallelism=16,
            memory_bytes=16 << 20,
            restored=restored,
        )
        self.table = self.backend.context(OPERATOR).table("t")
        self.map = self.backend.map_table(OPERATOR, "m")

    def teardown(self) -> None:
        self.backend.close()
        shutil.rmtree(self.root)

    @rule(key=KEYS, value=VALUES)
    def put(self, key: Any, value: Any) -> None:
        self.table.put(key, value)
        self.values[key] = copy.deepcopy(value)

    @rule(key=KEYS)
    def delete(self, key: Any) -> None:
        self.table.delete(key)
        self.values.pop(key, None)

    @rule(key=KEYS)
    def append(self, key: Any) -> None:
        value = self.table.get(key)
        assert value == self.values.get(key, MISSING)
        if isinstance(value, list):
            value.append(9)
            self.values[key].append(9)

    @rule(key=KEYS, value=st.integers())
    def hot_path(self, key: Any, value: int) -> None:
        young, load = self.table.young, self.table.load
        old = young.get(key, MISSING)
        if old is MISSING:
            old = load(key)
        assert old == self.values.get(key, MISSING)
        young[key] = self.values[key] = value

    @rule(key=KEYS, entry=ENTRIES, value=VALUES)
    def map_put(self, key: Any, entry: Any, value: Any) -> None:
        self.map.put(key, entry, value)
        self.maps.setdefault(key, {})[entry] = copy.deepcopy(value)

    @rule(key=KEYS, entry=ENTRIES)
    def map_remove(self, key: Any, entry: Any) -> None:
        self.map.remove(key, entry)
        self.maps.get(key, {}).pop(entry, None)

    @rule(key=KEYS, entry=ENTRIES)
    def map_append(self, key: Any, entry: Any) -> None:
        value = self.map.get(key, entry)
        assert value == self.maps.get(key, {}).get(entry, MISSING)
        if isinstance(value, list):
            value.append(9)
            self.maps[key][entry].append(9)

    @rule(key=KEYS)
    def map_items(self, key: Any) -> None:
        assert dict(self.map.items(key)) == self.maps.get(key, {})

    @rule(key=KEYS)
    def map_clear(self, key: Any) -> None:
        self.map.clear(key)
        self.maps.pop(key, None)
        assert self.map.is_empty(key)

    @rule()
    def freeze(self) -> None:
        self.pending.append((self.backend.freeze(), copy.deepcopy((self.values, self.maps))))

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.pending))[0].step()

    @precondition(lambda self: self.pending)
    @rule()
    def abort(self) -> None:
        self.pending.pop(0)[0].release()

    @rule()
    def spill(self) -> None:
        self.backend._young_bytes_max = 0
        self.backend.relieve()
        self.backend._young_bytes_max = 1 << 20

    @rule()
    def drop_clean(self) -> None:
        self.backend._recent_bytes_max = 0
        self.backend.relieve()
        self.backend._recent_bytes_max = 1 << 20

    @precondition(lambda self: self.pending)
    @rule(is_direct=st.booleans())
    def crash_and_restore(self, is_direct: bool) -> None:
        persist, (values, maps) = self.pending[-1]
        while not persist.step():
            pass
        self.backend.close()
        directory = persist.files[0].path.parent
        groups = [(0, 16)] if is_direct else [(0, 5), (5, 16)]
        restored = []
        for number, part in enumerate(groups):
            target = self.root / f"restored-{self.opened}-{number}"
            shutil.copytree(directory, target)
            restored.append(RestoredState(target, persist.tables, part))
        self.open(restored)
        self.values, self.maps = copy.deepcopy((values, maps))
        self.pending.clear()

    @invariant()
    def what_can_be_listed_is_what_there_is(self) -> None:
        if not hasattr(self, "backend"):
            return
        listed = list(self.table.items())
        assert len(listed) == len(self.values)
        assert dict(listed) == self.values
        entries = {(key, entry): value for key, entry, value in self.map.all_items()}
        assert entries == {(k, e): v for k, inner in self.maps.items() for e, v in inner.items()}


TestGenerationalTables = GenerationalTablesActAsDicts.TestCase
TestGenerationalTables.settings = examples(60, steps=40)
