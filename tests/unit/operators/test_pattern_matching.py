"""What a pattern finds: the examples of Flink's documentation, and every construct.

A record is a word: its first letter says what it is. ``found`` returns matches as words too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowsnap.operators.pattern import Match, Pattern, Skip
from flowsnap.operators.pattern.nfa import Matcher


def is_(letters: str) -> Callable[[str], bool]:
    return lambda record: record[0] in letters


def text(match: Match) -> str:
    return " ".join(record for records in match.values() for record in records)


def found(pattern: Pattern, records: str, skip: Skip = Skip.NO) -> list[str]:
    """Return the matches in the order in which they come out, each record a second later."""
    matcher = Matcher(pattern, skip)
    runs, matches = matcher.runs(), []
    for second, record in enumerate(records.split()):
        matches += matcher.feed(runs, record, second * 1000).matches
    matches += matcher.expire(runs, 10**9).matches + matcher.end(runs)
    return [text(one.match) for one in matches]


def a(letters: str = "a") -> Pattern:
    return Pattern.begin("a", where=is_(letters))


B, C, D, X = is_("b"), is_("c"), is_("d"), is_("x")


# --- contiguity


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (a().next("b", B), []),
        (a().followed_by("b", B), ["a b1"]),
        (a().followed_by_any("b", B), ["a b1", "a b2"]),
    ],
    ids=["strict", "relaxed", "any"],
)
def test_contiguity_of_two_steps(pattern: Pattern, expected: list[str]) -> None:
    assert found(pattern, "a c b1 b2") == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (
            a().followed_by_any("b", B).one_or_more().consecutive().next("c", C),
            {"a b3 c"},
        ),
        (
            a().followed_by_any("b", B).one_or_more().followed_by("c", C),
            {"a b1 c", "a b1 b2 c", "a b1 b2 b3 c", "a b2 c", "a b2 b3 c", "a b3 c"},
        ),
        (
            a().followed_by_any("b", B).one_or_more().allow_combinations().followed_by("c", C),
            {
                *("a b1 c", "a b1 b2 c", "a b1 b3 c", "a b1 b2 b3 c"),
                *("a b2 c", "a b2 b3 c", "a b3 c"),
            },
        ),
    ],
    ids=["strict", "relaxed", "any"],
)
def test_contiguity_within_a_loop(pattern: Pattern, expected: set[str]) -> None:
    matches = found(pattern, "a b1 d1 b2 d2 b3 c")

    assert set(matches) == expected
    assert len(matches) == len(expected)


def looping() -> Pattern:
    return Pattern.begin("c", C).followed_by("a", is_("a")).one_or_more()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (looping(), "a1 / a1 a2 / a1 a2 a3 / a1 a2 a3 a4"),
        (looping().consecutive(), "a1 / a1 a2 / a1 a2 a3"),
        (
            looping().allow_combinations(),
            "a1 / a1 a2 / a1 a3 / a1 a4 / a1 a2 a3 / a1 a2 a4 / a1 a3 a4 / a1 a2 a3 a4",
        ),
    ],
    ids=["relaxed", "consecutive", "combinations"],
)
def test_consecutive_and_combinations(pattern: Pattern, expected: str) -> None:
    matches = found(pattern.followed_by("b", B), "c d a1 a2 a3 d a4 b")

    assert sorted(matches) == sorted(f"c {one} b" for one in expected.split(" / "))


def test_combinations_may_begin_with_any_record_where_the_step_is_followed_by_any() -> None:
    pattern = Pattern.begin("c", C).followed_by_any("a", is_("a")).one_or_more()

    matches = found(pattern.allow_combinations().followed_by("b", B), "c d a1 a2 a3 d a4 b")

    assert len(matches) == len(set(matches)) == 15


# --- quantifiers


@pytest.mark.parametrize(
    ("pattern", "records", "expected"),
    [
        (a().times(2), "a1 a2 a3", ["a1 a2", "a2 a3"]),
        (a().times(2, 3), "a1 a2 a3", ["a1 a2", "a1 a2 a3", "a2 a3"]),
        (a().times(2).consecutive(), "a1 c a2 a3", ["a2 a3"]),
        (a().times_or_more(2), "a1 a2 a3", ["a1 a2", "a1 a2 a3", "a2 a3"]),
        (a().one_or_more(), "a1 x a2", ["a1", "a1 a2", "a2"]),
        (a().next("b", B).optional().next("c", C), "a b c", ["a b c"]),
        (a().next("b", B).optional().next("c", C), "a c", ["a c"]),
        (a().followed_by("b", B).optional().followed_by("c", C), "a b c", ["a b c", "a c"]),
        (a().followed_by("b", B).optional(), "a x b", ["a", "a b"]),
        (a().optional().next("b", B), "a b", ["a b", "b"]),
        (a().next("b", B).times(2).optional().next("c", C), "a c a b b c a b c",
         ["a c", "a b b c"]),
        (a().next("b", B).one_or_more().optional().next("c", C), "a c a b b c",
         ["a c", "a b b c"]),
    ],
)  # fmt: skip
def test_quantifier(pattern: Pattern, records: str, expected: list[str]) -> None:
    assert found(pattern, records) == expected


@pytest.mark.parametrize(
    ("pattern", "records", "expected"),
    [
        (a().followed_by("b", is_("bc")).one_or_more().greedy().followed_by("c", C),
         "a b1 c1 b2 d c2", []),
        (a().next("b", B).one_or_more().greedy().next("c", is_("bc")), "a b1 b2 c", ["a b1 b2 c"]),
        (a().next("b", B).one_or_more().next("c", is_("bc")), "a b1 b2 c",
         ["a b1 b2", "a b1 b2 c"]),
        (a().next("b", B).times(1, 2).greedy().next("c", is_("bc")), "a b1 b2 b3",
         ["a b1 b2 b3"]),
        (a().followed_by("b", B).one_or_more().optional().greedy().followed_by("c", C), "a b c",
         ["a b c"]),
        (a().next("b", B).one_or_more().greedy(), "a b1 b2 x", ["a b1 b2"]),
        (a().next("b", B).one_or_more().greedy(), "a b1 b2", ["a b1 b2"]),
        (a().next("b", B).times(1, 2).greedy(), "a b1 b2 b3", ["a b1 b2"]),
        (a().followed_by_any("b", B).one_or_more().greedy().next("c", C), "a b1 b2 c",
         ["a b1 b2 c", "a b2 c"]),
    ],
)  # fmt: skip
def test_greedy_loop_takes_what_it_can(pattern: Pattern, records: str, expected: list[str]) -> None:
    assert found(pattern, records) == expected


def test_until_ends_a_loop() -> None:
    pattern = a().one_or_more().until(B)

    assert found(pattern, "a1 c a2 b a3") == ["a1", "a1 a2", "a2", "a3"]


def test_until_does_not_keep_the_first_record_from_coming() -> None:
    pattern = a().followed_by("b", B).one_or_more().until(X).followed_by("c", C)

    assert found(pattern, "a x b1 x b2 c") == ["a b1 c"]


# --- nots


@pytest.mark.parametrize(
    ("pattern", "records", "expected"),
    [
        (a().not_next("x", X).followed_by("b", B), "a x b", []),
        (a().not_next("x", X).followed_by("b", B), "a c x b", ["a b"]),
        (a().not_next("x", X), "a x", []),
        (a().not_next("x", X), "a b", ["a"]),
        (a().not_next("x", X), "a", ["a"]),
        (a().not_followed_by("x", X).followed_by("b", B), "a c x b", []),
        (a().not_followed_by("x", X).followed_by("b", B), "a c b x", ["a b"]),
        (a().not_followed_by("x", X).next("b", B), "x a b", ["a b"]),
        (a().not_followed_by("x", X).followed_by_any("b", B), "a b1 x b2", ["a b1"]),
        (a().one_or_more().not_followed_by("x", X).next("b", B), "a1 x a2 b", ["a2 b"]),
        (a().not_followed_by("x", X).followed_by("b", B).optional().followed_by("c", C),
         "a b x c", ["a b c"]),
        (a().not_followed_by("x", X).not_followed_by("d", D).followed_by("b", B), "a d b", []),
        (a().not_followed_by("x", X).within("3s"), "a c c x", ["a"]),
        (a().not_followed_by("x", X).within("4s"), "a c c x", []),
    ],
)  # fmt: skip
def test_not(pattern: Pattern, records: str, expected: list[str]) -> None:
    assert found(pattern, records) == expected


# --- conditions


def test_conditions_are_joined_from_left_to_right() -> None:
    pattern = Pattern.begin("a", is_("a")).where(lambda r: r != "a1").or_where(lambda r: r == "c")

    assert found(pattern, "a1 a2 b c") == ["a2", "c"]


def test_or_where_comes_before_a_later_where() -> None:
    pattern = Pattern.begin("a", is_("a")).or_where(C).where(lambda r: r.endswith("1"))

    assert found(pattern, "a1 a2 b1 c1 c2") == ["a1", "c1"]


def test_condition_sees_what_has_been_taken_so_far() -> None:
    def is_new(record: str, so_far: dict[str, list[str]]) -> bool:
        return record not in so_far["a"] + so_far["b"]

    pattern = Pattern.begin("a").followed_by("b", is_new).times(2)

    assert found(pattern, "p p q p q r") == ["p q r", "p q r", "q p r", "p q r"]


def test_step_without_a_condition_takes_any_record() -> None:
    assert found(a().next("any"), "a x b") == ["a x"]


def test_optional_parameter_of_a_condition_is_not_what_has_been_taken() -> None:
    def is_either(record: str, letters: str = "bc") -> bool:
        return record in letters

    assert found(Pattern.begin("a", is_either), "a b c") == ["b", "c"]


# --- time


def test_within_is_longer_than_from_the_first_record_to_the_last() -> None:
    pattern = a().followed_by("b", B)

    assert found(pattern.within("2001ms"), "a x b") == ["a b"]
    assert found(pattern.within("2s"), "a x b") == []


def test_least_of_several_times_counts() -> None:
    assert a().within("2s").followed_by("b").within("1s").within("3s").within_ms == 1000


def test_what_timed_out_comes_with_what_it_had_once_for_each_beginning() -> None:
    matcher = Matcher(a().followed_by("b", B).optional().followed_by("c", C).within("3s"))
    runs = matcher.runs()
    for second, record in enumerate(["a", "x", "b"]):
        matcher.feed(runs, record, second * 1000)

    timed_out = matcher.expire(runs, 3000).timed_out

    assert [(text(one.match), one.at_ms) for one in timed_out] == [("a", 3000), ("a b", 3000)]
    assert runs.is_empty


def test_what_has_matched_does_not_time_out() -> None:
    matcher = Matcher(a().one_or_more().within("3s"))
    runs = matcher.runs()

    assert len(matcher.feed(runs, "a", 0).matches) == 1
    assert matcher.expire(runs, 3000) == ([], [])


# --- skipping


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        (Skip.NO, ["b1 b2 b3 c", "b2 b3 c", "b3 c"]),
        (Skip.TO_NEXT, ["b1 b2 b3 c", "b2 b3 c", "b3 c"]),
        (Skip.PAST_LAST, ["b1 b2 b3 c"]),
        (Skip.to_first("b"), ["b1 b2 b3 c", "b2 b3 c", "b3 c"]),
        (Skip.to_last("b"), ["b1 b2 b3 c", "b3 c"]),
    ],
    ids=str,
)
def test_skip_after_a_match_of_a_loop(skip: Skip, expected: list[str]) -> None:
    assert found(Pattern.begin("b", B).one_or_more().next("c", C), "b1 b2 b3 c", skip) == expected


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        (Skip.NO, ["a b c1 c2 c3 d", "b c1 c2 c3 d", "c1 c2 c3 d"]),
        (Skip.to_first("c"), ["a b c1 c2 c3 d", "c1 c2 c3 d"]),
    ],
    ids=str,
)
def test_skip_to_the_first_record_of_a_step(skip: Skip, expected: list[str]) -> None:
    pattern = a("abc").next("b", is_("bc")).next("c", C).one_or_more().greedy().next("d", D)

    assert found(pattern, "a b c1 c2 c3 d", skip) == expected


@pytest.mark.parametrize(
    ("skip", "expected"),
    [(Skip.NO, ["a b1", "a b1 b2", "a b1 b2 b3"]), (Skip.TO_NEXT, ["a b1"])],
    ids=str,
)
def test_skip_to_next_leaves_one_match_for_each_beginning(skip: Skip, expected: list[str]) -> None:
    assert found(a().next("b", B).one_or_more(), "a b1 b2 b3", skip) == expected


def test_skip_to_a_step_that_took_nothing_rules_nothing_out() -> None:
    pattern = a().followed_by("b", B).optional().followed_by("c", C)

    assert found(pattern, "a1 a2 c", Skip.to_first("b")) == ["a1 c", "a2 c"]


def test_match_waits_for_what_began_before_it() -> None:
    pattern = a().followed_by("b", lambda r, so_far: r == "b" + so_far["a"][0][1:])
    matcher = Matcher(pattern, Skip.PAST_LAST)
    runs = matcher.runs()

    comes = [matcher.feed(runs, record, 0).matches for record in ["a1", "a2", "b2", "b1"]]

    assert [[text(one.match) for one in matches] for matches in comes] == [[], [], [], ["a1 b1"]]
    assert runs.is_empty


def test_match_that_nothing_ruled_out_comes_at_the_end() -> None:
    pattern = a().followed_by("b", lambda r, so_far: r == "b" + so_far["a"][0][1:])

    assert found(pattern, "a1 a2 b2", Skip.PAST_LAST) == ["a2 b2"]


def test_longest_of_the_matches_found_at_once_rules_the_others_out() -> None:
    pattern = a().one_or_more().followed_by("b", B)

    assert found(pattern, "a1 a2 b", Skip.TO_NEXT) == ["a1 a2 b", "a2 b"]


def test_longest_of_those_whose_time_is_up_rules_the_others_out() -> None:
    pattern = a().one_or_more().not_followed_by("x", X).within("5s")

    assert found(pattern, "a1 a2 b", Skip.PAST_LAST) == ["a1 a2"]


# --- what is kept


def test_paths_share_their_beginning_also_after_a_restore() -> None:
    from flowsnap.state.codec import decode_value, encode_value

    matcher = Matcher(a().followed_by_any("b", B).followed_by("c", C))
    runs = matcher.runs()
    for record in ["a", "b1", "b2"]:
        matcher.feed(runs, record, 0)

    again: Any = decode_value(encode_value(runs))

    assert again.partials == runs.partials
    assert again.partials[1].last.before is again.partials[2].last.before


def test_long_loop_can_be_saved() -> None:
    from flowsnap.state.codec import decode_value, encode_value

    matcher = Matcher(a().next("b", B).one_or_more().next("c", C))
    runs = matcher.runs()
    for record in ["a"] + ["b"] * 20_000:
        matcher.feed(runs, record, 0)

    again: Any = decode_value(encode_value(runs))

    assert len(matcher.feed(again, "c", 0).matches[0].match["b"]) == 20_000


def test_nothing_is_kept_where_nothing_can_follow() -> None:
    matcher = Matcher(a().next("b", B))
    runs = matcher.runs()
    for record in ["a", "b"]:
        matcher.feed(runs, record, 0)

    assert runs.is_empty
