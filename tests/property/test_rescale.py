"""From n subtasks to m and back: every key is somewhere, once, with its state."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.core.ids import OperatorId
from flowsnap.core.key import encode_key, key_group
from flowsnap.core.partition import key_group_range, owner
from flowsnap.state.restore import RestoredState
from flowsnap.testing.state import SharedFilesBackend

GROUPS = 16
OPERATOR = OperatorId("count")
KEYS = st.one_of(st.integers(), st.text(max_size=4), st.tuples(st.integers(), st.booleans()))
STATES = st.dictionaries(KEYS, st.tuples(st.integers(), st.dictionaries(KEYS, st.text())))
WIDTHS = st.integers(1, GROUPS)
State = Mapping[Any, tuple[int, Mapping[Any, str]]]


def opened(root: Path, width: int, subtask: int, restored: list[RestoredState]) -> Any:
    groups = key_group_range(subtask, width, GROUPS)
    return SharedFilesBackend(
        root,
        key_groups=groups,
        max_parallelism=GROUPS,
        memory_bytes=1 << 20,
        restored=[one for one in restored if overlaps(one.key_groups, groups)],
    )


def overlaps(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def frozen(backend: Any, root: Path, groups: tuple[int, int]) -> RestoredState:
    persist = backend.freeze()
    assert persist.step()
    directory = root / "restored"
    directory.mkdir(parents=True)
    for file in persist.files:
        (directory / file.name).write_bytes(file.path.read_bytes())
    return RestoredState(directory, persist.tables, groups)


def tables(backend: Any) -> tuple[Any, Any]:
    return (
        backend.value_table(OPERATOR, "value", "value"),
        backend.map_table(OPERATOR, "map"),
    )


def written(root: Path, width: int, state: State) -> list[RestoredState]:
    found = []
    for subtask in range(width):
        backend = opened(root / f"{subtask}", width, subtask, [])
        values, maps = tables(backend)
        for key, (value, entries) in state.items():
            if owner(key_group(encode_key(key), GROUPS), width, GROUPS) == subtask:
                values.put(key, value)
                for entry, text in entries.items():
                    maps.put(key, entry, text)
        found.append(frozen(backend, root / f"{subtask}", key_group_range(subtask, width, GROUPS)))
    return found


def rescaled(root: Path, width: int, restored: list[RestoredState]) -> list[RestoredState]:
    found = []
    for subtask in range(width):
        backend = opened(root / f"{subtask}", width, subtask, restored)
        tables(backend)
        found.append(frozen(backend, root / f"{subtask}", key_group_range(subtask, width, GROUPS)))
    return found


def read(root: Path, width: int, restored: list[RestoredState]) -> dict[Any, list[Any]]:
    """Return what each key has, once for each subtask that has it."""
    found: dict[Any, list[Any]] = {}
    for subtask in range(width):
        values, maps = tables(opened(root / f"{subtask}", width, subtask, restored))
        for key, value in values.items():
            found.setdefault(encode_key(key), []).append((value, dict(maps.items(key))))
    return found


@settings(max_examples=25)
@given(STATES, WIDTHS, st.lists(WIDTHS, min_size=1, max_size=2))
def test_state_that_is_rescaled_and_back_is_what_it_was(
    state: State, width: int, others: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        parts = written(root / "0", width, state)

        for number, other in enumerate([*others, width], start=1):
            parts = rescaled(root / f"{number}", other, parts)

        found = read(root / "end", width, parts)
    assert found == {encode_key(key): [(value, dict(es))] for key, (value, es) in state.items()}


@given(WIDTHS, WIDTHS)
def test_every_key_group_has_one_owner_before_and_after(before: int, after: int) -> None:
    for width in (before, after):
        owned = [
            group
            for subtask in range(width)
            for group in range(*key_group_range(subtask, width, GROUPS))
        ]
        assert owned == list(range(GROUPS))
        assert all(
            group in range(*key_group_range(owner(group, width, GROUPS), width, GROUPS))
            for group in range(GROUPS)
        )
