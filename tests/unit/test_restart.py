from __future__ import annotations

import doctest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.config import Restart
from flowsnap.core import restart
from flowsnap.core.restart import RestartPolicy
from flowsnap.errors import ConfigError, LocalProtocolError

MIDDLE = 0.5  # no jitter


def delays(policy: RestartPolicy, *failed_at_ms: int) -> list[int | None]:
    return [policy.failed(now_ms, MIDDLE) for now_ms in failed_at_ms]


def test_exponential_delays_double_up_to_their_bound() -> None:
    policy = RestartPolicy(Restart(delay_ms=100, delay_ms_max=500))

    assert delays(policy, 0, 1, 2, 3, 4) == [100, 200, 400, 500, 500]


def test_exponential_gives_up_after_its_attempts() -> None:
    policy = RestartPolicy(Restart(delay_ms=100, attempts_max=2))

    assert delays(policy, 0, 1, 2, 3) == [100, 200, None, None]


def test_a_long_run_without_failure_starts_anew() -> None:
    policy = RestartPolicy(Restart(delay_ms=100, attempts_max=2, reset_after_ms=1_000))

    # The second run begins at 300 and lasts 1,000 ms.
    assert delays(policy, 0, 100, 300 + 1_000, 1_400, 1_600) == [100, 200, 100, 200, None]


def test_the_delay_itself_is_no_run_without_failure() -> None:
    policy = RestartPolicy(Restart(delay_ms=100, attempts_max=2, reset_after_ms=1_000))

    assert delays(policy, 0, 100, 300 + 999) == [100, 200, None]


def test_jitter_spreads_a_delay_to_both_sides() -> None:
    config = Restart(delay_ms=1_000, jitter=0.1)

    assert RestartPolicy(config).failed(0, 0.0) == 900
    assert RestartPolicy(config).failed(0, 0.75) == 1_050


def test_jitter_does_not_pile_up_over_failures() -> None:
    policy = RestartPolicy(Restart(delay_ms=1_000, jitter=0.5))

    assert [policy.failed(0, 0.0), policy.failed(0, MIDDLE)] == [500, 2_000]


@given(st.lists(st.floats(0, 1, exclude_max=True), max_size=20), st.floats(0, 1))
def test_no_delay_exceeds_the_bound_or_is_negative(draws: list[float], jitter: float) -> None:
    policy = RestartPolicy(Restart(delay_ms=7, delay_ms_max=50, jitter=jitter, attempts_max=99))

    for draw in draws:
        delay_ms = policy.failed(0, draw)
        assert delay_ms is not None
        assert 0 <= delay_ms <= 50


def test_fixed_delays_stay_the_same_until_the_attempts_are_spent() -> None:
    policy = RestartPolicy(Restart(strategy="fixed", delay_ms=70, attempts_max=3))

    assert delays(policy, 0, 1, 10**9, 10**9 + 1) == [70, 70, 70, None]


def test_rate_gives_up_when_failures_are_too_frequent() -> None:
    policy = RestartPolicy(Restart(strategy="rate", delay_ms=70, attempts_max=2, interval_ms=1_000))

    assert delays(policy, 0, 500, 999) == [70, 70, None]


def test_rate_forgets_failures_that_are_older_than_its_interval() -> None:
    policy = RestartPolicy(Restart(strategy="rate", delay_ms=70, attempts_max=2, interval_ms=1_000))

    assert delays(policy, 0, 500, 1_000, 1_500, 2_500) == [70, 70, 70, 70, 70]


def test_none_gives_up_at_once() -> None:
    assert delays(RestartPolicy(Restart(strategy="none")), 0, 1) == [None, None]


@pytest.mark.parametrize("draw", [-0.1, 1.0])
def test_a_draw_out_of_bounds_is_refused_and_counts_no_failure(draw: float) -> None:
    policy = RestartPolicy(Restart(delay_ms=100, attempts_max=1))

    with pytest.raises(LocalProtocolError):
        policy.failed(0, draw)

    assert policy.failed(0, MIDDLE) == 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "exponentional"},
        {"attempts_max": -1},
        {"delay_ms": -1},
        {"reset_after_ms": -1},
        {"interval_ms": 0},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"delay_ms": 101, "delay_ms_max": 100},
    ],
    ids=str,
)
def test_settings_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="restart"):
        RestartPolicy(Restart(**wrong))


def test_a_fixed_delay_has_no_upper_bound() -> None:
    config = Restart(strategy="fixed", delay_ms=90_000, delay_ms_max=60_000)

    assert RestartPolicy(config).failed(0, MIDDLE) == 90_000


def test_the_session_in_the_docstring_is_true() -> None:
    assert doctest.testmod(restart).failed == 0
