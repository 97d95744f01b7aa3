"""Any keys: equal exactly if their bytes are, sorted as their bytes are, and found again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core.key import (
    decode_key,
    decode_prefix,
    encode_key,
    encode_keys,
    is_sorted_as_bytes,
    key_group,
    key_groups,
)
from flowsnap.errors import StateError

TEXT = st.text(st.characters(codec="utf-8"), max_size=5) | st.text("\0\1\2a", max_size=5)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 2),
    st.floats(allow_nan=False),
    TEXT,
    st.binary(max_size=5),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC), min_value=datetime(2, 1, 1)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
)
KEYS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
ALIKE = st.one_of(
    *(st.lists(kind, max_size=6) for kind in (st.integers(), TEXT, st.tuples(TEXT, SCALARS), KEYS))
)


@given(KEYS, KEYS)
def test_keys_are_equal_exactly_if_their_bytes_are(one: Any, other: Any) -> None:
    assert (encode_key(one) == encode_key(other)) == (one == other)


@given(KEYS)
def test_a_key_is_found_again(key: Any) -> None:
    assert decode_key(encode_key(key)) == key


@given(KEYS, KEYS)
def test_no_keys_bytes_begin_anothers(one: Any, other: Any) -> None:
    if one != other:
        assert not encode_key(one).startswith(encode_key(other))


@given(KEYS)
def test_a_key_cut_at_any_byte_is_refused(key: Any) -> None:
    data = encode_key(key)
    for length in range(len(data)):
        with pytest.raises(StateError):
            decode_key(data[:length])


@given(KEYS, KEYS)
def test_key_and_namespace_can_be_taken_apart(key: Any, namespace: Any) -> None:
    data = encode_key(key) + encode_key(namespace)
    found, end = decode_prefix(data, 0)
    assert (found, decode_key(data[end:])) == (key, namespace)


@given(st.one_of(*(st.tuples(kind, kind) for kind in (st.integers(), TEXT, st.binary()))))
def test_within_a_type_bytes_sort_as_keys_do(pair: tuple[Any, Any]) -> None:
    one, other = pair
    assert (encode_key(one) < encode_key(other)) == (one < other)


@given(KEYS, st.integers(1, 32768))
def test_a_key_group_is_one_of_those_there_are(key: Any, max_parallelism: int) -> None:
    assert 0 <= key_group(encode_key(key), max_parallelism) < max_parallelism


@given(ALIKE, st.binary(max_size=4) | st.just(b"\0\xff\0\1"))
def test_many_keys_have_the_bytes_that_each_has(keys: list[Any], head: bytes) -> None:
    assert encode_keys(keys, head) == [head + encode_key(key) for key in keys]


@given(ALIKE, st.integers(1, 32768))
def test_many_keys_have_the_groups_that_each_has(keys: list[Any], max_parallelism: int) -> None:
    encoded = encode_keys(keys)
    assert list(key_groups(encoded, max_parallelism)) == [
        key_group(data, max_parallelism) for data in encoded
    ]


@given(ALIKE)
def test_keys_that_are_said_to_be_sorted_as_their_bytes_are(keys: list[Any]) -> None:
    if is_sorted_as_bytes(keys):
        assert encode_keys(sorted(keys)) == sorted(encode_keys(keys))


@given(st.binary(max_size=20))
def test_any_bytes_are_a_key_or_refused(data: bytes) -> None:
    try:
        decode_key(data)
    except StateError:
        return
    assert data
