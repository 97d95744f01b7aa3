"""Groups: whole patterns in the place of a step. A record is a word; see test_pattern_matching."""

from __future__ import annotations

import doctest
from collections.abc import Callable

import pytest

from flowsnap.errors import ConfigError
from flowsnap.operators.pattern import Match, MatchPattern, Pattern, Skip, layout
from flowsnap.operators.pattern.nfa import Matcher
from tests.unit.operators.rig import Rig


def is_(letters: str) -> Callable[[str], bool]:
    return lambda record: record[0] in letters


def ab() -> Pattern:
    return Pattern.begin("a", where=is_("a")).followed_by("b", where=is_("b"))


def text(match: Match) -> str:
    return " ".join(sorted((record for own in match.values() for record in own), key=_number))


def _number(record: str) -> int:
    return int(record[1:])


def found(pattern: Pattern, records: str, skip: Skip = Skip.NO) -> list[str]:
    """Return the matches of records that are numbered in the order they come."""
    matcher = Matcher(pattern, skip)
    runs, matches = matcher.runs(), []
    for number, record in enumerate(records.split()):
        matches += matcher.feed(runs, f"{record}{number}", number * 1000).matches
    matches += matcher.expire(runs, 10**9).matches + matcher.end(runs)
    return [text(one.match) for one in matches]


def test_the_session_in_the_docstring_holds() -> None:
    assert doctest.testmod(layout).failed == 0


def test_group_is_taken_so_many_times() -> None:
    assert found(Pattern.begin(ab()).times(2), "a b x a b") == ["a0 b1 a3 b4"]
    assert found(Pattern.begin(ab()).times(1, 2), "a b a b") == ["a0 b1", "a0 b1 a2 b3", "a2 b3"]


def test_group_without_a_limit_goes_on_as_long_as_it_is_right() -> None:
    matches = found(Pattern.begin(ab()).one_or_more(), "a b a b a b", Skip.TO_NEXT)

    assert found(Pattern.begin(ab()).times_or_more(3), "a b a b a b") == ["a0 b1 a2 b3 a4 b5"]
    assert matches == ["a0 b1", "a2 b3", "a4 b5"]


def test_group_may_be_left_out_as_a_whole_only() -> None:
    pattern = Pattern.begin("s", is_("s")).next(ab()).optional().followed_by("e", is_("e"))

    assert found(pattern, "s a b e") == ["s0 a1 b2 e3", "s0 e3"]
    assert found(pattern, "s a e") == ["s0 e2"]


def test_times_of_a_group_can_be_next_to_each_other() -> None:
    pattern = Pattern.begin(ab()).times(2)

    assert found(pattern.consecutive(), "a b x a b") == []
    assert found(pattern.consecutive(), "a x b a b") == ["a0 b2 a3 b4"]


def test_times_of_a_group_can_be_combined() -> None:
    pattern = Pattern.begin(Pattern.begin("a", is_("a"))).times(2)

    assert found(pattern, "a a a") == ["a0 a1", "a1 a2"]
    assert sorted(found(pattern.allow_combinations(), "a a a")) == ["a0 a1", "a0 a2", "a1 a2"]


@pytest.mark.parametrize(
    ("append", "expected"),
    [
        (Pattern.next, []),
        (Pattern.followed_by, ["s0 a2 b3"]),
        (Pattern.followed_by_any, ["s0 a2 b3", "s0 a4 b5"]),
    ],
)
def test_group_follows_as_closely_as_a_step(
    append: Callable[[Pattern, Pattern], Pattern], expected: list[str]
) -> None:
    pattern = append(Pattern.begin("s", is_("s")), ab())

    assert found(pattern, "s x a b a b") == expected


def test_group_may_stand_in_a_group() -> None:
    inner = Pattern.begin(ab()).times(2).consecutive()
    pattern = Pattern.begin(inner.next("c", is_("c"))).times(2)

    assert found(pattern, "a b a b c a b a b c") == ["a0 b1 a2 b3 c4 a5 b6 a7 b8 c9"]


def test_loop_in_a_loop_gives_no_match_twice() -> None:
    pattern = Pattern.begin(Pattern.begin(Pattern.begin("a", is_("a"))).one_or_more()).one_or_more()

    assert found(pattern, "a a") == ["a0", "a0 a1", "a1"]


def test_what_must_not_come_within_a_group_ends_that_time_of_it() -> None:
    body = Pattern.begin("a", is_("a")).not_followed_by("x", is_("x")).followed_by("b", is_("b"))

    assert found(Pattern.begin(body).times(2), "a b a x b a b") == []
    assert found(Pattern.begin(body).times(2), "a b x a b") == ["a0 b1 a3 b4"]


def test_what_must_not_come_after_a_group_counts_once_it_is_complete() -> None:
    pattern = Pattern.begin(ab()).times(2).not_next("x", is_("x")).followed_by("e", is_("e"))

    assert found(pattern, "a b x a b e") == ["a0 b1 a3 b4 e5"]
    assert found(pattern, "a b a b x e") == []


def test_conditions_see_what_all_times_of_a_group_have_taken() -> None:
    rising = Pattern.begin("a", lambda record, so_far: len(so_far["a"]) < 2)

    assert found(Pattern.begin(rising).times(2), "a a") == ["a0 a1"]
    assert found(Pattern.begin(rising).times(3), "a a a") == []


def test_skip_strategy_goes_by_the_steps_of_a_group() -> None:
    pattern = Pattern.begin(ab()).times(2)

    assert found(pattern, "a b a b a b", Skip.NO) == ["a0 b1 a2 b3", "a2 b3 a4 b5"]
    assert found(pattern, "a b a b a b", Skip.PAST_LAST) == ["a0 b1 a2 b3"]
    assert found(pattern, "a b a b a b", Skip.to_last("a")) == ["a0 b1 a2 b3", "a2 b3 a4 b5"]


def test_time_of_a_whole_pattern_with_a_group_can_be_up() -> None:
    pattern = Pattern.begin(ab()).times(2).within("3s")

    assert found(pattern, "a b a b") == []
    assert found(pattern.within("2s"), "a b a b") == []
    assert found(Pattern.begin(ab()).times(2).within("4s"), "a b a b") == ["a0 b1 a2 b3"]


def test_partial_match_in_the_middle_of_a_group_survives_a_restart() -> None:
    rig = Rig(MatchPattern(Pattern.begin(ab()).one_or_more().next("e", is_("e")), text))

    for number, record in enumerate("ababe"):
        rig = rig.push([f"{record}{number}"], None, ["k"]).restored()

    assert rig.values == ["a0 b1 a2 b3 e4", "a2 b3 e4"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pattern.begin(ab(), is_("a")), "'a..b': where is for a step"),
        (lambda: Pattern.begin(ab()).where(is_("a")), "where is for a step"),
        (lambda: Pattern.begin(ab()).or_where(is_("a")), "or_where is for a step"),
        (lambda: Pattern.begin(ab()).one_or_more().until(is_("a")), "until is for a step"),
        (lambda: Pattern.begin(ab()).one_or_more().greedy(), "greedy is for a step"),
        (lambda: Pattern.begin(ab().within("1s")), "within is for the whole pattern"),
        (lambda: Pattern.begin(ab().not_next("x")), "cannot end with a step that must not come"),
        (lambda: Pattern.begin(Pattern.begin("a").optional()), "needs a step that is not optional"),
        (lambda: Pattern.begin("a").next(ab()), "two steps are named 'a'"),
        (lambda: Pattern.begin(ab()).next("b"), "two steps are named 'b'"),
        (lambda: Pattern.begin(ab()).consecutive(), "is for a step that takes several"),
        (lambda: Pattern.begin(ab()).times(2).times(3), "a second time how many"),
        (lambda: Matcher(Pattern.begin(ab()).times(6_000)), "more than 10,000 steps"),
    ],
)
def test_what_is_not_for_a_group_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
