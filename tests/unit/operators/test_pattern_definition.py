"""Patterns that cannot be: each is refused where it is written, with a hint or a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowsnap import ConfigError
from flowsnap.operators.pattern import Pattern, Skip
from flowsnap.operators.pattern.definition import Step
from flowsnap.operators.pattern.nfa import Matcher

wrong: Any = 5


def begin(name: Any = "a", where: Any = None) -> Pattern:
    return Pattern.begin(name, where)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: begin(""), "'' is not a name for a step"),
        (lambda: begin(5), "5 is not a name for a step"),
        (lambda: begin().next("b").not_next("a"), "two steps are named 'a'"),
        (lambda: begin(where=5), "where of 'a': 5 is not a function"),
        (lambda: begin().or_where(wrong), "or_where of 'a': 5 is not a function"),
        (lambda: begin(where=lambda: True), "takes 0 arguments"),
        (lambda: begin(where=lambda a, b, c: True), "takes 3 arguments"),
        (lambda: begin().times(0), r"times\(0, 0\)"),
        (lambda: begin().times(3, 2), r"times\(3, 2\)"),
        (lambda: begin().times(True), r"times\(True, True\)"),
        (lambda: begin().times_or_more(0), r"times_or_more\(0\)"),
        (lambda: begin().times(2).one_or_more(), "second time"),
        (lambda: begin().greedy(), "greedy is for a step that takes several"),
        (lambda: begin().times(1).greedy(), "greedy is for a step that takes several"),
        (lambda: begin().consecutive(), "consecutive is for a step that takes several"),
        (lambda: begin().allow_combinations(), "allow_combinations is for a step"),
        (lambda: begin().one_or_more().greedy().allow_combinations(), "contradicts greedy"),
        (lambda: begin().one_or_more().allow_combinations().greedy(), "contradicts allow_comb"),
        (lambda: begin().until(len), "until ends a loop without limit"),
        (lambda: begin().times(2).until(len), "until ends a loop without limit"),
        (lambda: begin().not_next("b").times(2), "is not for a step that must not come"),
        (lambda: begin().not_next("b").optional(), "is not for a step that must not come"),
        (lambda: begin().optional().not_next("b"), "stands before the not 'b'"),
        (lambda: begin().within("soon"), "'soon' is not a duration"),
        (lambda: begin().within("0s"), "shorter than 1 ms"),
    ],
)
def test_wrong_step_is_refused_where_it_is_written(
    make: Callable[[], Pattern], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (begin().not_followed_by("b"), "is last, and nothing ends the wait"),
        (begin().not_next("b").next("c").optional(), "has only optional steps behind it"),
    ],
)
def test_pattern_that_nothing_decides_is_refused(pattern: Pattern, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Matcher(pattern)
    assert caught.value.__notes__


@pytest.mark.parametrize(("kind", "step"), [("far", None), ("to_first", None), ("no", "a")])
def test_unknown_way_to_skip_is_refused(kind: str, step: str | None) -> None:
    with pytest.raises(ConfigError, match="is no way to skip"):
        Skip(kind, step)


def test_step_that_must_not_come_cannot_be_skipped_to() -> None:
    with pytest.raises(ConfigError, match="no step 'x' takes records"):
        Matcher(begin().not_next("x").next("b"), Skip.to_last("x"))


def test_pattern_is_not_changed_by_its_methods() -> None:
    pattern = begin()
    pattern.next("b").times(2).within("1s")

    assert pattern == begin()


def test_function_of_c_takes_a_record() -> None:
    (step,) = begin(where=max).steps

    assert isinstance(step, Step)
    assert not step.condition.is_iterative
