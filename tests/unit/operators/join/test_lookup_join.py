from __future__ import annotations

from typing import Any

import pytest

from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators.join import LookupCache, LookupJoin, LookupRetry
from flowsnap.operators.join.pairing import Pairing
from tests.unit.operators.rig import Rig


class Table:
    """Knows the squares of even numbers; every call is noted. It fails at first, if asked to."""

    def __init__(self, *failures: Exception) -> None:
        self.calls: list[list[int]] = []
        self.failures = list(failures)

    def __call__(self, keys: list[int]) -> dict[int, int]:
        self.calls.append(keys)
        if self.failures:
            raise self.failures.pop(0)
        return {key: key * key for key in keys if key % 2 == 0}


def rig_of(table: Any, how: Any = "inner", **settings: Any) -> Rig:
    return Rig(LookupJoin(Pairing(), table, None, how, **settings))


def test_a_batch_is_one_call_with_distinct_keys() -> None:
    rig = rig_of(table := Table()).push([4, 2, 4, 3], [1, 2, 3, 4])

    assert rig.timed == [((4, 16), 1), ((2, 4), 2), ((4, 16), 3)]
    assert table.calls == [[4, 2, 3]]


def test_a_record_without_a_row_comes_out_with_none_of_a_left_join() -> None:
    assert rig_of(Table(), "left").push([3, 2]).timed == [((3, None), None), ((2, 4), None)]


def test_the_answer_may_be_a_list_in_the_order_of_the_keys() -> None:
    rig = rig_of(lambda keys: [None if key == 1 else -key for key in keys])

    assert rig.push([2, 1, 3, 2]).values == [(2, -2), (3, -3), (2, -2)]


def test_the_key_is_what_the_selector_selects() -> None:
    operator = LookupJoin(Pairing(lambda record, row: row), Table(), "n")

    assert Rig(operator).push([{"n": 6}]).values == [36]


def test_the_key_may_be_that_of_the_stream() -> None:
    operator = LookupJoin(Pairing(), Table())

    assert Rig(operator.by_key()).push("ab", None, [2, 4]).values == [("a", 4), ("b", 16)]
    assert not operator.is_by_key


def test_what_is_known_is_not_asked_again_not_even_that_there_is_no_row() -> None:
    rig = rig_of(table := Table()).push([2, 3])

    assert rig.push([3, 2, 4]).values == [(2, 4), (2, 4), (4, 16)]
    assert table.calls == [[2, 3], [4]]


def test_a_missing_row_is_asked_for_again_if_it_is_not_to_be_remembered() -> None:
    rig = rig_of(table := Table(), cache=LookupCache(missing=False)).push([2, 3])

    rig.push([2, 3])

    assert table.calls == [[2, 3], [3]]


def test_what_is_known_is_forgotten_when_its_time_is_up() -> None:
    rig = rig_of(table := Table(), cache=LookupCache(ttl="10s")).push([2])

    rig.clock(9_999).push([2]).clock(10_000).push([2])

    assert table.calls == [[2], [2]]


def test_the_key_that_was_used_least_recently_is_crowded_out() -> None:
    rig = rig_of(table := Table(), cache=LookupCache(size=2))

    rig.push([2]).push([4]).push([2]).push([6]).push([2]).push([4])

    assert table.calls == [[2], [4], [6], [4]]


def test_a_cache_of_size_0_remembers_nothing() -> None:
    rig = rig_of(table := Table(), cache=LookupCache(size=0)).push([2, 2]).push([2])

    assert table.calls == [[2], [2]]
    assert rig.values == [(2, 4)] * 3


def test_the_cache_is_no_part_of_a_snapshot() -> None:
    rig = rig_of(table := Table()).push([2]).restored()

    assert rig.push([2]).values == [(2, 4), (2, 4)]
    assert table.calls == [[2], [2]]


def paused(table: Table, retry: LookupRetry) -> tuple[Rig, list[float]]:
    operator = LookupJoin(Pairing(), table, retry=retry)
    pauses: list[float] = []
    operator.pause = pauses.append
    return Rig(operator), pauses


def test_a_lookup_that_fails_is_tried_again_after_pauses_that_double() -> None:
    table = Table(ConnectionError(), TimeoutError(), OSError())
    rig, pauses = paused(table, LookupRetry(4, "200ms"))

    assert rig.push([2]).values == [(2, 4)]
    assert (len(table.calls), pauses) == (4, [0.2, 0.4, 0.8])


def test_after_the_last_attempt_the_operator_fails() -> None:
    rig, pauses = paused(Table(*[ConnectionError("gone")] * 9), LookupRetry(2))

    with pytest.raises(OperatorError, match="ConnectionError: gone"):
        rig.push([2])
    assert pauses == [0.1]


def test_an_error_that_is_not_to_be_retried_fails_at_once() -> None:
    rig, pauses = paused(table := Table(KeyError("bug")), LookupRetry(3))

    with pytest.raises(OperatorError, match="KeyError: 'bug'"):
        rig.push([2])
    assert (len(table.calls), pauses) == (1, [])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "lookup returned a NoneType, neither a mapping nor a list"),
        ("ab", "lookup returned a str"),
        ({1, 2}, "lookup returned a set"),
        ([1], "lookup returned 1 rows for 2 keys"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(answer: Any, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        rig_of(lambda keys: answer).push([1, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rig_of("users"), "'users' is not a function"),
        (lambda: rig_of(Table(), "full"), "how: 'full' is not 'inner' or 'left'"),
        (lambda: LookupJoin(Pairing(), Table(), 1.5), "lookup_join"),  # type: ignore[arg-type]
        (lambda: LookupCache(size=-1), "cache: -1 is not a number of keys"),
        (lambda: LookupCache(size="10"), "cache: '10' is not a number of keys"),  # type: ignore[arg-type]
        (lambda: LookupCache(ttl="0s"), "cache ttl"),
        (lambda: LookupCache(ttl="soon"), "cache ttl: 'soon' is not a duration"),
        (lambda: LookupRetry(0), "attempts_max 0 is not a positive int"),
        (lambda: LookupRetry(delay="-1s"), "retry delay"),
        (lambda: LookupRetry(errors=(3,)), "are not exception classes"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
