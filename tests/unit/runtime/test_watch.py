from __future__ import annotations

from flowsnap.config import JobConfig
from flowsnap.core.ids import WorkerId
from flowsnap.runtime.watch import Watch

ONE, TWO = WorkerId(1), WorkerId(2)
CONFIG = JobConfig(heartbeat_timeout_ms=100, stall_timeout_ms=1_000)


def test_a_silent_worker_is_overdue_once() -> None:
    watch = Watch(CONFIG)
    watch.begin(ONE, 0)
    watch.begin(TWO, 0)
    watch.beat(TWO, 1, 90)

    assert [worker for worker, _ in watch.overdue(101)] == [ONE]
    assert watch.overdue(102) == []


def test_a_worker_that_beats_but_does_not_get_on_is_overdue() -> None:
    watch = Watch(CONFIG)
    watch.begin(ONE, 0)
    for now_ms in range(0, 1_001, 50):
        watch.beat(ONE, 7, now_ms)

    assert watch.overdue(1_000) == []
    [(worker, why)] = watch.overdue(1_001)
    assert worker == ONE
    assert "stuck" in why


def test_a_worker_that_gets_on_again_is_not_overdue() -> None:
    watch = Watch(CONFIG)
    watch.begin(ONE, 0)
    for now_ms in range(0, 3_001, 50):
        watch.beat(ONE, now_ms // 900, now_ms)

    assert watch.overdue(3_001) == []


def test_a_replacement_is_watched_anew() -> None:
    watch = Watch(CONFIG)
    watch.begin(ONE, 0)
    assert watch.overdue(200) != []

    watch.begin(ONE, 200)

    assert watch.overdue(300) == []
    assert [worker for worker, _ in watch.overdue(301)] == [ONE]


def test_a_beat_of_a_worker_that_was_given_up_is_ignored() -> None:
    watch = Watch(CONFIG)
    watch.begin(ONE, 0)
    watch.overdue(200)

    watch.beat(ONE, 5, 210)

    assert watch.overdue(10_000) == []


def test_nothing_is_expected_of_a_forgotten_worker() -> None:
    watch = Watch(CONFIG)
    watch.begin(ONE, 0)
    watch.forget(ONE)
    watch.beat(ONE, 1, 10)

    assert watch.overdue(10_000) == []
