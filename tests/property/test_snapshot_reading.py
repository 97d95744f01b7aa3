"""What is written into a snapshot is what is read out of it, whatever it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.core.key import encode_key, key_group
from flowsnap.core.partition import owner
from flowsnap.errors import StateError
from flowsnap.serialize import Opaque, dump, load_plain
from flowsnap.snapshot import KeyedState, SavepointBuilder, Snapshot
from flowsnap.snapshot.difference import compare
from flowsnap.snapshot.plain import to_json
from flowsnap.state.memory import MemoryBackend
from tests.manifests import words
from tests.unit.snapshot.made import GROUPS, Fill, Maker, balances, carts

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.one_of(st.text(max_size=4), st.integers(-3, 3), st.binary(max_size=3)) | st.tuples(
    st.text(max_size=2), st.integers(0, 3)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
STATES = st.dictionaries(KEYS, VALUES, max_size=12)
MAPS = st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, min_size=1, max_size=3), max_size=5)
COUNTS = st.dictionaries(st.integers(0, 15), st.integers(0, 2), max_size=12)
MANY = settings(max_examples=100)
SOME = settings(max_examples=15)


@contextmanager
def opened(
    content: dict[Any, Any], *, counters: int = 1, fill_with: Callable[..., Fill] = balances
) -> Iterator[KeyedState]:
    """Yield a state of "count", which has ``content`` in it, parted over its subtasks."""
    with tempfile.TemporaryDirectory() as directory:
        maker = Maker(Path(directory), counters=counters, backend=MemoryBackend)
        for subtask in range(counters):
            own = {key: value for key, value in content.items() if owned(key, counters) == subtask}
            maker.keyed(fill_with(own, "s"), subtask=subtask)
        with maker.opened() as snapshot:
            yield snapshot.state("count", "s")


def owned(key: Any, counters: int) -> int:
    return owner(key_group(encode_key(key), GROUPS), counters, GROUPS)


@SOME
@given(STATES, st.integers(1, 3))
def test_every_value_is_read_as_it_was_written(content: dict[Any, Any], counters: int) -> None:
    with opened(content, counters=counters) as state:
        assert dict(state.items()) == content
        assert {key: state[key] for key in content} == content
        assert len(state) == len(content)

        parted = [list(state.keys(key_group=group)) for group in range(GROUPS)]
        assert list(chain.from_iterable(parted)) == list(state.keys())


@SOME
@given(MAPS)
def test_every_entry_of_a_map_is_read_as_it_was_written(content: dict[Any, Any]) -> None:
    with opened(content, fill_with=carts) as state:
        assert dict(state.items()) == content
        assert {key: state[key] for key in content} == content
        assert len(state) == len(content)


@SOME
@given(
    st.dictionaries(st.text("ab\0\1é", max_size=5), st.integers(), max_size=20),
    st.text("ab\0\1é", max_size=3),
)
def test_prefix_finds_what_begins_with_it(content: dict[str, int], prefix: str) -> None:
    with opened(content) as state:
        assert set(state.keys(prefix)) == {key for key in content if key.startswith(prefix)}


@SOME
@given(COUNTS, COUNTS, st.integers(1, 2))
def test_difference_is_that_of_the_dicts(
    old: dict[int, int], new: dict[int, int], counters: int
) -> None:
    with opened(old) as before, opened(new, counters=counters) as after:
        found = compare(before, after)

    common = old.keys() & new.keys()
    assert found.added == len(new.keys() - old.keys())
    assert found.removed == len(old.keys() - new.keys())
    assert found.changed == sum(old[key] != new[key] for key in common)
    assert found.same == len(common) - found.changed


@settings(max_examples=3)
@given(STATES, st.integers(1, 2))
def test_what_is_built_is_read(content: dict[Any, Any], counters: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        builder = SavepointBuilder.new(words(counters=counters, max_parallelism=GROUPS))
        builder.add_state("count", "s", content).write(Path(directory) / "made")
        with Snapshot.open(Path(directory) / "made") as snapshot:
            assert dict(snapshot.state("count", "s").items()) == content


@MANY
@given(VALUES)
def test_plain_values_survive_the_restricted_pickle(value: Any) -> None:
    assert load_plain(dump(value)) == value


@MANY
@given(st.binary(max_size=40))
def test_bytes_from_anywhere_are_read_or_refused(data: bytes) -> None:
    for pickled in (data, b"\x80\x05" + data, b"\x80\x05c" + data + b"."):
        try:
            found = load_plain(pickled)
        except StateError:
            continue
        assert isinstance(to_json(found), str)


_OPCODES = [
    *(b"cos\nsystem\n", b"cbuiltins\ngetattr\n", b"cuuid\nUUID\n", b"cfractions\nFraction\n"),
    *(b"cx\nY\n", b"(", b")", b"}", b"]", b"N", b"K\x01", b"\x8c\x08__dict__", b"\x8c\x01a"),
    *(b"t", b"R", b"\x81", b"\x92", b"b", b"s", b"u", b"a", b"e", b"\x85", b"\x86", b"\x94", b"2"),
]


@MANY
@given(st.lists(st.sampled_from(_OPCODES), max_size=14))
def test_no_program_of_a_pickle_gets_at_a_function(program: list[bytes]) -> None:
    try:
        found = load_plain(b"\x80\x05" + b"".join(program) + b".")
    except StateError:
        return
    assert not isinstance(found, (FunctionType, BuiltinFunctionType, MethodType))
    assert not isinstance(found, type) or found is UUID or issubclass(found, Opaque)


@MANY
@given(VALUES)
def test_every_value_has_a_form_in_json(value: Any) -> None:
    assert isinstance(to_json(value), str)
