"""Round trip of any plain value; any damage is found and only ever reported as damage."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest, PreparedOutput, decode, encode
from flowsnap.errors import ManifestCorrupt
from tests.manifests import at, checkpoint, keyed_state, words

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["$bytes", "$map", "$float", "$"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | TEXT
    | st.binary(max_size=8)
)
KEYS = TEXT | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=8) | st.none()
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def holding(position: Any, committable: Any = None) -> CheckpointManifest:
    prepared = (PreparedOutput(CheckpointId(1), committable),)
    return checkpoint(
        words(),
        {
            "lines/0": {"splits": (at("a", position),)},
            "count/0": {"state": keyed_state(0, 128, "a.sst"), "prepared": prepared},
        },
    )


def same(left: Any, right: Any) -> bool:
    """Compare as ``==`` does, but with types, and with one nan like any other."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return repr(left) == repr(right) and math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


@given(VALUES, VALUES)
def test_any_plain_value_comes_back_as_it_was(position: Any, committable: Any) -> None:
    manifest = decode(encode(holding(position, committable)), "m")

    assert same(manifest.tasks[0].splits[0].position, position)
    assert same(manifest.tasks[1].prepared[0].committable, committable)


@given(VALUES)
def test_value_comes_back_as_it_would_from_a_message(value: Any) -> None:
    from_message = msgspec.msgpack.decode(msgspec.msgpack.encode(value))

    assert same(decode(encode(holding(value)), "m").tasks[0].splits[0].position, from_message)


WHOLE = encode(holding({"offset": 42, "sum": b"\x00\x01"}, ["part-0", 1.5]))


@given(st.integers(0, len(WHOLE) * 8 - 1))
def test_any_flipped_bit_is_found(bit: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[bit // 8] ^= 1 << bit % 8

    with pytest.raises(ManifestCorrupt, match=r"^m "):
        decode(bytes(damaged), "m")


@given(st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)), st.binary(max_size=16))
def test_any_replaced_piece_is_found(start: int, end: int, piece: bytes) -> None:
    damaged = WHOLE[:start] + piece + WHOLE[max(start, end) :]
    if damaged == WHOLE:
        return

    with pytest.raises(ManifestCorrupt, match=r"^m "):
        decode(damaged, "m")


def test_a_manifest_cut_at_any_byte_is_found() -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(ManifestCorrupt, match=r"^m "):
            decode(WHOLE[:length], "m")


@given(st.binary(max_size=300))
def test_foreign_bytes_are_reported_as_corrupt_and_nothing_else(data: bytes) -> None:
    with pytest.raises(ManifestCorrupt, match=r"^m "):
        decode(data, "m")
