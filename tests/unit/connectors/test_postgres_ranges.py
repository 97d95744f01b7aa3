from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowsnap.connectors.postgres_ranges import Key, Ranges


def key(*parts: str) -> Key:
    return parts


def test_nothing_is_held_before_anything_is_read() -> None:
    read = Ranges([])

    assert (read.holds(key("a"), 5), read.is_whole, read.upper) == (False, False, None)


def test_row_up_to_the_last_key_holds_what_was_committed_before_its_snapshot() -> None:
    read = Ranges([])
    read.extend(key("m"), 100)

    assert [read.holds(key("m"), lsn) for lsn in (99, 100)] == [True, False]
    assert not read.holds(key("n"), 99)


def test_rest_holds_more_than_what_was_read_before_it() -> None:
    read = Ranges([])
    read.extend(key("m"), 100)
    read.extend(None, 200)

    assert [read.holds(key("m"), 150), read.holds(key("n"), 150)] == [False, True]
    assert (read.is_whole, read.lsn_min, read.lsn_max) == (True, 100, 200)


def test_keys_are_compared_part_by_part_and_as_text() -> None:
    read = Ranges([(key("10", "b"), 100)])

    assert read.holds(key("10", "a"), 1)
    assert not read.holds(key("10", "c"), 1)
    assert not read.holds(key("9", "a"), 1)


def test_one_snapshot_is_one_range_however_often_it_is_read_on() -> None:
    read = Ranges([])
    for letter in "abc":
        read.extend(key(letter), 100)

    assert read.to_plain() == [[["c"], 100]]


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.lists(st.text(), min_size=1)), st.integers(0))),
    st.lists(st.text(), min_size=1),
    st.integers(0),
)
def test_plain_values_say_the_same(
    plain: list[tuple[list[str] | None, int]], at: list[str], lsn: int
) -> None:
    read = Ranges.from_plain(plain)
    again = Ranges.from_plain(read.to_plain())

    assert again.to_plain() == read.to_plain()
    assert again.holds(tuple(at), lsn) == read.holds(tuple(at), lsn)
