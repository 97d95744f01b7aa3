"""The explorer itself: what it visits is everything, once."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.property.exploration import frozen, visit_all


@dataclass
class Counters:
    """Two counters, each of which may go up by one until it has reached ``limit``."""

    limit: int
    forbidden: tuple[int, int] = (-1, -1)
    counts: list[int] = field(default_factory=lambda: [0, 0])

    def moves(self) -> Sequence[tuple[Any, ...]]:
        return [(number,) for number in (0, 1) if self.counts[number] < self.limit]

    def make(self, move: tuple[Any, ...]) -> list[str]:
        self.counts[move[0]] += 1
        assert tuple(self.counts) != self.forbidden, "forbidden"
        return ["even"] if self.counts[0] == self.counts[1] else []

    def check_end(self) -> None:
        assert self.counts == [self.limit, self.limit]


def test_every_state_is_visited_once_however_many_ways_lead_to_it() -> None:
    visited = visit_all(Counters(3))

    assert (visited.states, visited.transitions, visited.ends) == (16, 24, 1)
    assert visited.reached == {"even": 6}


def test_what_fails_anywhere_is_found_with_the_shortest_way_to_it() -> None:
    with pytest.raises(AssertionError, match="forbidden") as caught:
        visit_all(Counters(3, forbidden=(2, 1)))

    assert caught.value.__notes__ == ["after [(0,), (0,)], then one of [(0,), (1,)]"]


def test_states_that_differ_in_any_attribute_are_two() -> None:
    assert frozen(Counters(3)) == frozen(Counters(3))
    assert frozen(Counters(3)) != frozen(Counters(2))
    assert frozen(Counters(3)) != frozen(Counters(3, counts=[1, 0]))
    assert frozen({1: {2}}) != frozen({1: {3}})


@pytest.mark.parametrize("value", [Counter(a=1), OrderedDict(a=1), [deque([1])]])
def test_what_the_explorer_cannot_look_into_is_refused(value: object) -> None:
    with pytest.raises(AssertionError, match="is not looked into"):
        frozen(value)
