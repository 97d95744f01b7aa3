from __future__ import annotations

from flowsnap.core.element import Active, Batch, Idle, Watermark
from flowsnap.operators.window import Count, Sum, Tumbling
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.combine import CombineWindows
from tests.unit.operators.rig import Rig
from tests.unit.runtime.bench import A, B, Bench

TOTALS = Aggregates(None, {"total": Sum(), "n": Count()})


def test_rows_leave_before_event_time_passes_the_end_of_their_window() -> None:
    rig = Rig(CombineWindows(Tumbling("10ms"), TOTALS))

    rig.push([1, 2, 12], [1, 2, 12], "aaa").watermark(8)
    assert rig.values == []
    assert rig.watermark(9).values == [(0, 3, 2)]
    assert rig.push([5], [5], "a").values[1:] == [(0, 5, 1)]
    assert rig.restored().values[2:] == [(10, 12, 1)]


def test_what_is_held_leaves_before_the_task_goes_idle() -> None:
    bench = Bench(CombineWindows(Tumbling("10ms"), TOTALS))

    bench.feed(A, Batch([5], [1], ["a"]), Watermark(1), Idle())
    assert bench.flow == []
    bench.feed(B, Idle())
    bench.feed(B, Active())

    assert bench.flow == [[(0, 5, 1)], Idle(), Active()]


def test_all_leaves_when_there_are_too_many() -> None:
    rig = Rig(CombineWindows(Tumbling("10ms"), TOTALS, keys_max=2))

    rig.push([1, 2], [1, 2], "ab")
    assert rig.values == []
    assert rig.push([3], [1], "c").values == [(0, 1, 1), (0, 2, 1), (0, 3, 1)]
