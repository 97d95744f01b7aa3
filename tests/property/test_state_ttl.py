"""Expiring states under a random clock, against dicts that forget; restores at any point."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from flowsnap.core.expiry import TTL
from flowsnap.state.backend import StateBackend
from flowsnap.state.memory import MemoryBackend
from tests.contract.lives import Lives
from tests.property.machines import examples

KEYS = st.sampled_from(["a", "b", 3])
ENTRIES = st.sampled_from(["x", 0])
TTL_MS = 4_000


class Oracle:
    """What lives under each key, and until when."""

    def __init__(self) -> None:
        self.known: dict[Any, tuple[int, Any]] = {}

    def live(self, key: Any, now_ms: int, *, renews: bool = False) -> Any:
        expires_ms, value = self.known.get(key, (0, None))
        if expires_ms <= now_ms:
            self.known.pop(key, None)
            return None
        if renews:
            self.put(key, value, now_ms)
        return value

    def put(self, key: Any, value: Any, now_ms: int) -> None:
        self.known[key] = now_ms + TTL_MS, value


class ExpiringStatesActAsForgetfulDicts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="flowsnap-test-"))
        self.values, self.lists, self.entries = Oracle(), Oracle(), Oracle()

    @initialize(class_=st.sampled_from([StateBackend, MemoryBackend]), renews=st.booleans())
    def start(self, class_: Any, renews: bool) -> None:
        self.lives = Lives(class_, self.root)
        self.renews = renews
        self.declare()

    def declare(self) -> None:
        ttl = TTL("4s", on="read-write" if self.renews else "write")
        self.value = self.lives.states.value_state("v", ttl=ttl)
        self.list = self.lives.states.list_state("l", ttl=ttl)
        self.map = self.lives.states.map_state("m", ttl=ttl)

    def teardown(self) -> None:
        if hasattr(self, "lives"):
            self.lives.backend.close()
        shutil.rmtree(self.root)

    @rule(key=KEYS, value=st.integers(0, 9))
    def put(self, key: Any, value: int) -> None:
        self.lives.states.key = key
        self.value.update(value)
        self.values.put(key, value, self.lives.now_ms)

    @rule(key=KEYS)
    def read(self, key: Any) -> None:
        self.lives.states.key = key
        expected = self.values.live(key, self.lives.now_ms, renews=self.renews)
        assert self.value.value() == expected

    @rule(key=KEYS)
    def clear(self, key: Any) -> None:
        self.lives.states.key = key
        self.value.clear()
        self.values.known.pop(key, None)

    @rule(key=KEYS, value=st.integers(0, 9))
    def append(self, key: Any, value: int) -> None:
        self.lives.states.key = key
        self.list.add(value)
        known = self.lists.live(key, self.lives.now_ms) or []
        self.lists.put(key, [*known, value], self.lives.now_ms)

    @rule(key=KEYS)
    def list_through(self, key: Any) -> None:
        self.lives.states.key = key
        known = self.lists.live(key, self.lives.now_ms, renews=self.renews)
        assert self.list.get() == (known or [])
        if known is None:  # An empty list has been made and lives too.
            self.lists.put(key, [], self.lives.now_ms)

    @rule(key=KEYS, entry=ENTRIES, value=st.integers(0, 9))
    def put_entry(self, key: Any, entry: Any, value: int) -> None:
        self.lives.states.key = key
        self.map.put(entry, value)
        self.entries.put((key, entry), value, self.lives.now_ms)

    @rule(key=KEYS, entry=ENTRIES)
    def read_entry(self, key: Any, entry: Any) -> None:
        self.lives.states.key = key
        expected = self.entries.live((key, entry), self.lives.now_ms, renews=self.renews)
        assert self.map.get(entry) == expected

    @rule(key=KEYS)
    def list_entries(self, key: Any) -> None:
        self.lives.states.key = key
        now_ms = self.lives.now_ms
        pairs = ((e, self.entries.live((key, e), now_ms, renews=self.renews)) for e in ("x", 0))
        assert dict(self.map.items()) == {e: value for e, value in pairs if value is not None}

    @rule(ms=st.integers(0, 5_000))
    def wait(self, ms: int) -> None:
        self.lives.sweep(self.lives.now_ms + ms)

    @rule(ms=st.integers(0, 5_000))
    def wait_without_a_sweep(self, ms: int) -> None:
        self.lives.now_ms += ms

    @rule()
    def restart(self) -> None:
        self.lives.restart()
        self.declare()

    @precondition(lambda self: hasattr(self, "lives"))
    @rule()
    def in_the_long_run_nothing_is_left(self) -> None:
        self.lives.sweep(self.lives.now_ms + 10_000)
        assert list(self.lives.rows()) == []
        self.values, self.lists, self.entries = Oracle(), Oracle(), Oracle()


TestExpiringStates = ExpiringStatesActAsForgetfulDicts.TestCase
TestExpiringStates.settings = examples(60, steps=30)
