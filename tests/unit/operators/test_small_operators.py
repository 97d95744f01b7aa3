from __future__ import annotations

from typing import Any

import pytest

from flowsnap.core.ids import OperatorId
from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators import Deduplicate, MapBatches, RateLimit, StatefulMap
from tests.unit.operators.rig import Rig


def test_the_first_record_of_a_key_passes_with_its_event_time() -> None:
    rig = Rig(Deduplicate()).push("abcd", [1, 2, 3, 4], "xxyx")

    assert rig.timed == [("a", 1), ("c", 3)]


def test_keys_that_are_forgotten_go_from_state_without_a_record() -> None:
    rig = Rig(Deduplicate("1s")).push(range(50), keys=range(50))

    rig.clock(2_000)

    table = rig.backend.value_table(OperatorId("op-0"), "seen", "value+ttl")
    assert list(table.items()) == []


def test_a_ttl_can_be_added_to_keys_that_were_to_be_known_for_ever() -> None:
    saved = Rig(Deduplicate()).push("a", keys="k").snapshot()
    rig = Rig(Deduplicate("1s"), saved=saved)
    assert rig.push("b", keys="k").values == []

    rig.clock(1_000)

    assert rig.push("c", keys="k").values == ["c"]


def test_a_batch_of_the_same_length_keeps_its_event_times() -> None:
    rig = Rig(MapBatches(lambda records: [n + 1 for n in records])).push([1, 2], [7, 8])

    assert rig.timed == [(2, 7), (3, 8)]


def test_a_batch_of_another_length_loses_its_event_times() -> None:
    rig = Rig(MapBatches(lambda records: [sum(records)])).push([1, 2], [7, 8])

    assert rig.timed == [(3, None)]


def test_a_batch_may_be_changed_in_place_without_anybody_noticing() -> None:
    def popping(records: list[int]) -> list[int]:
        records.pop()
        return records

    batch = [1, 2]
    assert Rig(MapBatches(popping)).push(batch).values == [1]
    assert batch == [1, 2]


def test_a_function_of_batches_that_returns_no_list_is_refused() -> None:
    with pytest.raises(OperatorError, match="returned a dict, no list"):
        Rig(MapBatches(dict.fromkeys)).push([1])  # type: ignore[arg-type]


def running(state: list[int], value: int) -> tuple[list[int], int]:
    state.append(value)
    return state, len(state)


def test_state_made_by_a_function_is_one_per_key_and_outlives_a_restart() -> None:
    rig = Rig(StatefulMap(running, list)).push([5, 5, 5], [1, 2, 3], "aba")

    rig = rig.restored().push([5], [4], "a")

    assert rig.timed == [(1, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("result", [5, None, (1, 2, 3)])
def test_a_function_that_returns_no_pair_is_refused_and_its_record_named(result: Any) -> None:
    with pytest.raises(OperatorError, match=r"stateful_map: .* on record 1 of a batch of 2"):
        Rig(StatefulMap(lambda state, value: result, 0)).push([1, 2], keys="kk")


def test_records_beyond_the_rate_are_held_and_then_nothing_is_accepted() -> None:
    rig = Rig(RateLimit(10)).push([1, 2, 3]).poll()
    assert (rig.values, rig.chain.can_accept()) == ([1], False)

    for rig.now_ms in (99, 100, 200):
        rig.poll()

    assert (rig.values, rig.chain.can_accept()) == ([1, 2, 3], True)


def test_no_more_than_50_ms_of_what_was_not_used_is_made_up_for() -> None:
    rig = Rig(RateLimit(100))

    rig.now_ms = 10_000
    rig.push(range(200)).poll()

    assert len(rig.values) == 6


def test_a_watermark_does_not_overtake_records_that_are_held() -> None:
    rig = Rig(RateLimit(10)).push([1, 2], [5, 6]).watermark(6).poll()
    assert rig.watermarks == []

    rig = rig.restored()
    rig.now_ms += 100
    rig.poll()

    assert (rig.timed, rig.watermarks) == ([(1, 5), (2, 6)], [6])


@pytest.mark.fault("F24", promise="P4", oracles="O5")
def test_a_clock_that_is_set_back_holds_records_for_one_interval_only() -> None:
    rig = Rig(RateLimit(10), wall_ms=1_000_000).push([1, 2]).poll()

    rig.now_ms = 5
    rig.poll()
    rig.now_ms = 105
    rig.poll()

    assert rig.values == [1, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Deduplicate("soon"),
        lambda: Deduplicate("0s"),
        lambda: MapBatches(5),  # type: ignore[arg-type]
        lambda: StatefulMap("fn", 0),  # type: ignore[arg-type]
        lambda: StatefulMap(running, []),
        lambda: RateLimit(0),
        lambda: RateLimit(-5),
        lambda: RateLimit("5"),  # type: ignore[arg-type]
        lambda: RateLimit(True),
        lambda: RateLimit(float("nan")),
    ],
)
def test_wrong_arguments_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()
