"""over, top_n, deduplicate, stateful_map and rate_limit against the obvious, with restarts."""

from __future__ import annotations

from collections import defaultdict
from itertools import accumulate
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.operators import Deduplicate, OverRange, OverRows, RateLimit, StatefulMap, TopN
from tests.unit.operators.rig import Rig

QUICK = settings(max_examples=60, deadline=None)
RECORDS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-5, 5)), max_size=30)
CUTS = st.sets(st.integers(0, 30), max_size=4)
NAMES = ("sum", "count", "min", "max", "mean")
AGGREGATES = {name: (name, 1) for name in NAMES}


def fed(rig: Rig, records: list[tuple[str, int]], cuts: set[int], size: int) -> Rig:
    """Push the records in batches; restart before those with a number in ``cuts``."""
    for number, start in enumerate(range(0, len(records), size)):
        if number in cuts:
            rig = rig.restored()
        batch = records[start : start + size]
        rig.push(batch, keys=[key for key, _ in batch])
    return rig


def aggregated(values: list[int]) -> dict[str, Any]:
    mean = sum(values) / len(values)
    found = (sum(values), len(values), min(values), max(values), mean)
    return dict(zip(NAMES, found, strict=True))


@QUICK
@given(RECORDS, CUTS, st.integers(1, 6), st.integers(1, 5))
def test_over_rows_is_the_aggregate_of_the_last_rows_of_the_key(
    records: list[tuple[str, int]], cuts: set[int], size: int, rows: int
) -> None:
    rig = fed(Rig(OverRows(AGGREGATES, rows)), records, cuts, size)

    seen: dict[str, list[int]] = defaultdict(list)
    expected = []
    for key, value in records:
        seen[key].append(value)
        expected.append(((key, value), aggregated(seen[key][-rows:])))
    assert rig.values == expected


@QUICK
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(-5, 5), st.integers(0, 40)), max_size=25),
    st.integers(1, 12),
    CUTS,
    st.integers(0, 8),
)
def test_over_range_is_the_aggregate_of_the_last_time_of_the_key(
    records: list[tuple[str, int, int]], range_ms: int, cuts: set[int], lag_ms: int
) -> None:
    rig = Rig(OverRange(AGGREGATES, f"{range_ms}ms"))
    kept: list[tuple[str, int, int]] = []
    newest = -1
    for number, (key, value, at) in enumerate(records):
        rig = rig.restored() if number in cuts else rig
        if at > newest - lag_ms:
            kept.append((key, value, at))
        rig.push([(key, value)], [at], [key])
        newest = max(newest, at)
        rig.watermark(newest - lag_ms)
    rig.end()

    expected = []
    for key, value, at in kept:
        reach = [v for k, v, t in kept if k == key and at - range_ms <= t <= at]
        expected.append((((key, value), aggregated(reach)), at))
    times = [at for _, at in rig.timed]
    assert times == sorted(t for _, _, t in kept)
    assert sorted(map(repr, rig.timed)) == sorted(map(repr, expected))


@QUICK
@given(RECORDS, CUTS, st.integers(1, 4))
def test_top_n_is_the_head_of_a_stable_sort(
    records: list[tuple[str, int]], cuts: set[int], n: int
) -> None:
    numbered: list[Any] = [(key, value, number) for number, (key, value) in enumerate(records)]
    final = Rig(TopN(n, 1, "final"))
    each = Rig(TopN(n, 1, "each"))
    for number, record in enumerate(numbered):
        if number in cuts:
            final, each = final.restored(), each.restored()
        for rig in (final, each):
            rig.push([record], keys=[record[0]])
    final.end()

    heads = {
        key: sorted((r for r in numbered if r[0] == key), key=lambda r: -r[1])[:n]
        for key in {r[0] for r in numbered}
    }
    assert dict(final.values) == heads
    assert dict(each.values) == heads


@QUICK
@given(RECORDS, CUTS, st.integers(1, 6))
def test_deduplicate_lets_the_first_of_each_key_pass(
    records: list[tuple[str, int]], cuts: set[int], size: int
) -> None:
    rig = fed(Rig(Deduplicate()), records, cuts, size)

    firsts = {key: (key, value) for key, value in reversed(records)}
    assert rig.values == [r for i, r in enumerate(records) if r[0] not in dict(records[:i])]
    assert sorted(rig.values) == sorted(firsts.values())


@QUICK
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 700)), max_size=30), CUTS)
def test_deduplicate_with_a_ttl_lets_a_key_pass_once_per_ttl(
    records: list[tuple[str, int]], cuts: set[int]
) -> None:
    rig = Rig(Deduplicate("1s"))
    passed: dict[str, int] = {}
    expected = []
    for number, (key, wait_ms) in enumerate(records):
        rig = rig.restored() if number in cuts else rig
        rig.clock(rig.now_ms + wait_ms).push([number], keys=[key])
        if passed.get(key, -1000) + 1000 <= rig.now_ms:
            passed[key] = rig.now_ms
            expected.append(number)
    assert rig.values == expected


@QUICK
@given(RECORDS, CUTS, st.integers(1, 6))
def test_stateful_map_is_a_running_fold_of_each_key(
    records: list[tuple[str, int]], cuts: set[int], size: int
) -> None:
    def add(total: int, record: tuple[str, int]) -> tuple[int, tuple[str, int]]:
        return total + record[1], (record[0], total + record[1])

    rig = fed(Rig(StatefulMap(add, 0)), records, cuts, size)

    for key in "abc":
        totals = accumulate(value for k, value in records if k == key)
        assert [total for k, total in rig.values if k == key] == list(totals)


@QUICK
@given(
    st.floats(0.5, 2000),
    st.lists(st.tuples(st.sampled_from([0, 1, 20, 700]), st.integers(0, 80)), max_size=30),
    CUTS,
)
def test_rate_limit_keeps_order_and_never_exceeds_its_rate(
    per_second: float, steps: list[tuple[int, int]], cuts: set[int]
) -> None:
    rig = Rig(RateLimit(per_second))
    pushed, starts = 0, []
    for number, (wait_ms, count) in enumerate(steps):
        rig = rig.restored() if number in cuts else rig
        if rig.chain.can_accept():
            rig.push(range(pushed, pushed + count))
            pushed += count
        rig.now_ms += wait_ms
        before = len(rig.values)
        rig.poll()
        starts.append((rig.now_ms, before))
        assert rig.values == list(range(len(rig.values)))
        if not cuts:  # A restart begins with a fresh allowance.
            for since_ms, seen in starts:
                span_ms = rig.now_ms - since_ms + 50
                assert len(rig.values) - seen <= span_ms * per_second / 1000 + 1
    while not rig.chain.can_accept():
        rig.now_ms += 2000
        rig.poll()
    assert rig.values == list(range(pushed))
