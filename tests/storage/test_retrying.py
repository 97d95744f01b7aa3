"""When a call is repeated, how far apart, and when no more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.bucket.retrying import RetryPolicy, Transient


class World:
    """A clock that only sleeping moves, and calls that fail a given number of times."""

    def __init__(self, failures: int, chance: float = 0.0, **limits: int) -> None:
        self.now_s, self.pauses, self.calls, self._failures = 0.0, list[float](), 0, failures
        self.policy = RetryPolicy(
            sleep=self._pass, now_s=lambda: self.now_s, chance=lambda: chance, **limits
        )

    def call(self) -> str:
        self.calls += 1
        if self.calls <= self._failures:
            raise Transient(f"failure {self.calls}")
        return "done"

    def _pass(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.now_s += pause_s


def test_what_succeeds_at_once_is_called_once() -> None:
    world = World(0)

    assert world.policy.run(world.call) == "done"
    assert (world.calls, world.pauses) == (1, [])


def test_pauses_double_up_to_the_longest() -> None:
    world = World(6, pause_ms_first=100, pause_ms_max=1_000)

    world.policy.run(world.call)

    assert world.pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.5, 0.5])


def test_the_last_failure_is_raised_when_the_tries_are_used_up() -> None:
    world = World(99, tries_max=3)

    with pytest.raises(Transient, match="failure 3"):
        world.policy.run(world.call)


def test_no_pause_begins_that_would_end_too_late() -> None:
    world = World(99, tries_max=99, pause_ms_first=100, pause_ms_max=100, total_ms_max=240)

    with pytest.raises(Transient):
        world.policy.run(world.call)

    assert world.now_s <= 0.24
    assert world.calls == 5


def test_what_is_no_passing_failure_is_not_repeated() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        RetryPolicy().run(call)
    assert calls == [1]


@given(tries=st.integers(1, 60), chance=st.floats(0, 1, exclude_max=True))
def test_every_pause_is_between_half_of_its_longest_and_all_of_it(
    tries: int, chance: float
) -> None:
    policy = RetryPolicy(pause_ms_first=100, pause_ms_max=5_000, chance=lambda: chance)

    longest = min(5_000, 100 * 2 ** (tries - 1))

    assert longest / 2 <= policy.pause_ms(tries) <= longest
