"""Joins against oracles that look at everything: any disorder, any watermarks, any restores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.operators.join import CoGroup, IntervalJoin, StreamJoin, TemporalJoin, WindowJoin
from flowsnap.operators.join.pairing import How, Pairing
from flowsnap.operators.window.assigner import Assigner, Session, Sliding, Tumbling
from tests.unit.operators.rig import Rig


class Record(NamedTuple):
    port: int
    key: str
    time: int
    id: int


class Advance(NamedTuple):
    """Time goes on by ``by`` ms; or, where it is 0, a restart from a snapshot."""

    by: int


Step = list[Record] | Advance
Pair = tuple[Record | None, Record | None]


records = st.lists(st.tuples(st.sampled_from("aab"), st.integers(-8, 14)), min_size=1, max_size=6)
raw_steps = st.lists(
    st.one_of(st.tuples(st.integers(0, 1), records), st.integers(0, 12)), min_size=3, max_size=14
)


@st.composite
def sessions(draw: st.DrawFn) -> list[Step]:
    """Batches of one side each, watermarks and restarts; times are not far from the watermark."""
    steps: list[Step] = []
    count = watermark = 0
    for raw in draw(raw_steps):
        if isinstance(raw, int):
            steps.append(Advance(raw))
            watermark += raw
            continue
        port, batch = raw
        steps.append(
            [Record(port, key, watermark + at, count + n) for n, (key, at) in enumerate(batch)]
        )
        count += len(batch)
    return steps


def run(rig: Rig, steps: list[Step]) -> Rig:
    """Do the steps in event time, which begins at 0."""
    rig.watermark(0)
    for step in steps:
        if isinstance(step, Advance):
            rig = rig.watermark(rig.watermark_ms + step.by) if step.by else rig.restored()
        else:
            push(rig, step)
    return rig.end()


def push(rig: Rig, records: list[Record]) -> None:
    if not records:
        return
    times, keys = [r.time for r in records], [r.key for r in records]
    rig.push(records, times, keys, port=records[0].port)


def arrivals(steps: list[Step]) -> Iterator[tuple[Record, int]]:
    """Yield every record with the watermark at which it came."""
    watermark = 0
    for step in steps:
        if isinstance(step, Advance):
            watermark += step.by
        else:
            yield from ((record, watermark) for record in step)


def of_port(records: list[Record], port: int) -> list[Record]:
    return [record for record in records if record.port == port]


def joined(lefts: list[Any], rights: list[Any], how: str) -> list[Pair]:
    """Return all pairs of one group, or the records of an outer side that is alone."""
    if not rights and how in ("left", "full"):
        rights = [None]
    elif not lefts and how in ("right", "full"):
        lefts = [None]
    return list(product(lefts, rights))


hows = st.sampled_from(["inner", "left", "right", "full"])


@settings(max_examples=80, deadline=None)
@given(sessions(), st.integers(-10, 6), st.integers(0, 10))
def test_interval_join_finds_every_pair_of_records_that_are_not_late(
    steps: list[Step], lower: int, width: int
) -> None:
    rig = run(Rig(IntervalJoin(Pairing(), lower, lower + width)), steps)

    kept = [record for record, watermark in arrivals(steps) if record.time >= watermark]
    expected = Counter(
        ((left, right), max(left.time, right.time))
        for left, right in product(of_port(kept, 0), of_port(kept, 1))
        if left.key == right.key and lower <= right.time - left.time <= lower + width
    )
    assert Counter(rig.timed) == expected
    assert not any(kept_in(rig, name) for name in ("left", "right"))


def kept_in(rig: Rig, name: str) -> list[Any]:
    table = rig.backend.map_table(next(iter(rig.contexts)), name)
    return list(table.all_items())


class Open:
    """The sessions of one key, merged record by record."""

    def __init__(self) -> None:
        self.windows: list[tuple[int, int, list[Record]]] = []

    def add(self, record: Record, gap: int, watermark: int) -> None:
        start, end = record.time, record.time + gap
        touching = [
            w for w in self.windows if w[0] <= end and start <= w[1] and w[1] - 1 > watermark
        ]
        start, end = min([start, *(w[0] for w in touching)]), max([end, *(w[1] for w in touching)])
        if end - 1 > watermark:
            self.windows = [w for w in self.windows if w not in touching]
            self.windows.append((start, end, [record, *(r for w in touching for r in w[2])]))


def groups_of(steps: list[Step], assigner: Assigner) -> dict[Any, list[Record]]:
    """Return the records of every key and window, without the late ones."""
    groups: dict[Any, list[Record]] = {}
    if isinstance(assigner, Session):
        keys: dict[str, Open] = {"a": Open(), "b": Open()}
        for record, watermark in arrivals(steps):
            keys[record.key].add(record, assigner.gap_ms, watermark)
        return {(k, w[0], w[1]): w[2] for k, one in keys.items() for w in one.windows}
    for record, watermark in arrivals(steps):
        for window in assigner.windows(record.time, None):
            if window.end - 1 > watermark:
                groups.setdefault((record.key, *window), []).append(record)
    return groups


assigners = st.sampled_from(
    [Tumbling("10ms"), Tumbling("7ms", offset="-2ms"), Sliding("10ms", "4ms"), Session("6ms")]
)


@settings(max_examples=100, deadline=None)
@given(sessions(), assigners, hows)
def test_window_join_pairs_what_is_in_one_window(
    steps: list[Step], assigner: Assigner, how: How
) -> None:
    rig = run(Rig(WindowJoin(Pairing(), assigner, how)), steps)

    expected = Counter(
        (pair, end - 1)
        for (_, _, end), group in groups_of(steps, assigner).items()
        for pair in joined(of_port(group, 0), of_port(group, 1), how)
    )
    assert Counter(rig.timed) == expected
    assert kept_in(rig, "windows") == []


@settings(max_examples=60, deadline=None)
@given(sessions(), assigners)
def test_co_group_brings_the_records_of_a_window_together(
    steps: list[Step], assigner: Assigner
) -> None:
    rig = run(Rig(CoGroup(Pairing(), assigner)), steps)

    found = {(key, at): (sorted(lefts), sorted(rights)) for (key, lefts, rights), at in rig.timed}
    expected = {
        (key, end - 1): (sorted(of_port(group, 0)), sorted(of_port(group, 1)))
        for (key, _, end), group in groups_of(steps, assigner).items()
    }
    assert found == expected
    assert len(rig.values) == len(expected)


@pytest.mark.parametrize("ttl", [None, 10])
@settings(max_examples=60, deadline=None)
@given(steps=sessions(), how=hows, is_woken=st.booleans())
def test_stream_join_pairs_what_is_kept_at_the_same_time(
    ttl: int | None, steps: list[Step], how: How, is_woken: bool
) -> None:
    rig = Rig(StreamJoin(Pairing(), how, ttl))
    for step in steps:
        if not isinstance(step, Advance):
            push(rig, step)
        elif not step.by:
            rig = rig.restored()
        elif is_woken:
            rig.clock(rig.now_ms + step.by)
        else:
            rig.now_ms += step.by  # A record may come before the timer that was due.
    rig.end()

    records = list(arrivals(steps))
    pairs: list[Pair] = [
        (left, right)
        for (left, t), (right, u) in product(records, records)
        if (left.port, right.port) == (0, 1)
        and left.key == right.key
        and (ttl is None or abs(t - u) < ttl)
    ]
    met = {record for pair in pairs for record in pair}
    alone = [record for record, _ in records if record not in met]
    if how in ("left", "full"):
        pairs += [(record, None) for record in of_port(alone, 0)]
    if how in ("right", "full"):
        pairs += [(None, record) for record in of_port(alone, 1)]
    assert Counter(rig.values) == Counter(pairs)


@settings(max_examples=100, deadline=None)
@given(sessions(), st.sampled_from(["inner", "left"]))
def test_as_of_join_finds_the_version_at_the_time_of_the_record(
    steps: list[Step], how: Literal["inner", "left"]
) -> None:
    punctual = {record for record, watermark in arrivals(steps) if record.time > watermark}
    steps = [
        step if isinstance(step, Advance) else [record for record in step if record in punctual]
        for step in steps
    ]
    rig = run(Rig(TemporalJoin(Pairing(), how)), steps)

    records = [record for record, _ in arrivals(steps)]
    expected: Counter[Any] = Counter()
    for left in of_port(records, 0):
        right = version_at(of_port(records, 1), left)
        if right is not None or how == "left":
            expected[(left, right), left.time] += 1
    assert Counter(rig.timed) == expected


def version_at(versions: list[Record], left: Record) -> Record | None:
    valid = [v for v in versions if v.key == left.key and v.time <= left.time]
    return max(valid, key=lambda v: (v.time, v.id), default=None)
