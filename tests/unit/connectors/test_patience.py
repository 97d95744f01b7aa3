from __future__ import annotations

from flowsnap.connectors.patience import RETRY_S_MAX, Patience


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_every_failure_doubles_the_pause_up_to_a_limit() -> None:
    patience = Patience(1_000_000, Clock())
    assert patience.wait_ms == 0

    pauses = []
    for _ in range(9):
        patience.may_go_on()
        pauses.append(patience.wait_ms)

    assert pauses == [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]
    assert pauses[-1] == RETRY_S_MAX * 1000


def test_it_ends_when_the_server_has_been_away_for_the_timeout() -> None:
    clock = Clock()
    patience = Patience(1_000, clock)
    assert patience.may_go_on()

    clock.now_s += 0.9
    assert patience.may_go_on()
    clock.now_s += 0.1
    assert not patience.may_go_on()


def test_success_begins_anew() -> None:
    clock = Clock()
    patience = Patience(1_000, clock)
    patience.may_go_on()
    clock.now_s += 0.9
    patience.succeeded()

    clock.now_s += 0.9
    assert patience.may_go_on()
    assert patience.wait_ms == 50


def test_pause_is_over_when_its_time_has_passed() -> None:
    clock = Clock()
    patience = Patience(1_000, clock)
    patience.may_go_on()

    clock.now_s += 0.02
    assert patience.wait_ms == 30
    clock.now_s += 0.1
    assert patience.wait_ms == 0


def test_no_patience_at_all_gives_up_at_once() -> None:
    assert not Patience(0, Clock()).may_go_on()
