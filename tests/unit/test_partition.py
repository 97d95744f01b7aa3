from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core import partition
from flowsnap.core.partition import key_group_range, owner
from flowsnap.errors import LocalProtocolError


@st.composite
def parallelisms(draw: st.DrawFn) -> tuple[int, int]:
    max_parallelism = draw(st.integers(1, 300))
    return draw(st.integers(1, max_parallelism)), max_parallelism


@given(parallelisms())
def test_ranges_cover_every_key_group_once_and_in_order(given: tuple[int, int]) -> None:
    parallelism, max_parallelism = given

    ranges = [key_group_range(subtask, *given) for subtask in range(parallelism)]

    assert [group for start, end in ranges for group in range(start, end)] == list(
        range(max_parallelism)
    )


@given(parallelisms())
def test_ranges_differ_by_at_most_one_key_group(given: tuple[int, int]) -> None:
    sizes = {end - start for start, end in (key_group_range(i, *given) for i in range(given[0]))}

    assert max(sizes) - min(sizes) <= 1


@given(parallelisms())
def test_the_owner_of_a_key_group_is_the_subtask_whose_range_holds_it(
    given: tuple[int, int],
) -> None:
    for subtask in range(given[0]):
        start, end = key_group_range(subtask, *given)
        assert {owner(group, *given) for group in range(start, end)} == {subtask}


def test_ranges_are_those_of_flink() -> None:
    # KeyGroupRangeAssignment.computeKeyGroupRangeForOperatorIndex(128, 3, i): [start, end].
    assert [key_group_range(subtask, 3, 128) for subtask in range(3)] == [
        (0, 42 + 1),
        (43, 85 + 1),
        (86, 127 + 1),
    ]


@pytest.mark.parametrize(
    ("subtask", "parallelism", "max_parallelism"),
    [(-1, 2, 8), (2, 2, 8), (0, 0, 8), (0, 9, 8), (0, -1, 8)],
)
def test_a_range_of_a_subtask_that_cannot_be_is_refused(
    subtask: int, parallelism: int, max_parallelism: int
) -> None:
    with pytest.raises(LocalProtocolError):
        key_group_range(subtask, parallelism, max_parallelism)


@pytest.mark.parametrize(
    ("key_group", "parallelism", "max_parallelism"), [(-1, 2, 8), (8, 2, 8), (0, 0, 8), (0, 9, 8)]
)
def test_an_owner_of_a_key_group_that_cannot_be_is_refused(
    key_group: int, parallelism: int, max_parallelism: int
) -> None:
    with pytest.raises(LocalProtocolError):
        owner(key_group, parallelism, max_parallelism)


def test_the_session_in_the_docstring_is_true() -> None:
    assert doctest.testmod(partition).failed == 0
