"""Patterns against a matcher that tries all choices of records, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement, pairwise
from math import inf
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.operators.pattern import Match, MatchPattern, Pattern, Skip
from tests.unit.operators.rig import Rig

Pick = tuple[int, int]
"""The index of an event, and the step that takes it."""

STEPS_MAX, EVENTS_MAX = 3, 8
SKIPS = [Skip.TO_NEXT, Skip.PAST_LAST, Skip.to_first("1"), Skip.to_last("1")]


@dataclass(frozen=True)
class Spec:
    """A step of a pattern, and the letters that must not come after it (at once, or at all)."""

    letters: str
    contiguity: str
    low: int
    high: float
    inner: str
    is_optional: bool
    until: str = ""
    refused: str = ""
    banned: str = ""


@dataclass(frozen=True)
class Case:
    """A pattern, and events: letters with their times."""

    specs: tuple[Spec, ...]
    within: float
    letters: str
    times: tuple[int, ...]

    def pattern(self) -> Pattern:
        pattern = None
        for number, spec in enumerate(self.specs):
            name, where = str(number), letter_in(spec.letters)
            if pattern is None:
                pattern = Pattern.begin(name, where)
            else:
                pattern = getattr(pattern, spec.contiguity)(name, where)
            pattern = looped(pattern, spec)
            if spec.refused:
                pattern = pattern.not_next(f"{name}-", letter_in(spec.refused))
            if spec.banned:
                pattern = pattern.not_followed_by(f"{name}--", letter_in(spec.banned))
        assert pattern is not None
        return pattern if self.within == inf else pattern.within(f"{self.within}ms")


def letter_in(letters: str) -> Any:
    return lambda event: event[1] in letters


def looped(pattern: Pattern, spec: Spec) -> Pattern:
    if spec.high == inf:
        pattern = pattern.times_or_more(spec.low)
        pattern = pattern.until(letter_in(spec.until)) if spec.until else pattern
    elif spec.high > 1:
        pattern = pattern.times(spec.low, int(spec.high))
    if spec.high > 1 and spec.inner != "followed_by":
        is_strict = spec.inner == "next"
        pattern = pattern.consecutive() if is_strict else pattern.allow_combinations()
    return pattern.optional() if spec.is_optional else pattern


# --- the oracle


def every_match(case: Case) -> Iterator[list[Pick]]:
    """Yield every choice of events and steps that is a match."""
    indexes, steps = range(len(case.letters)), range(len(case.specs))
    for size in range(1, len(case.letters) + 1):
        for chosen in combinations(indexes, size):
            if case.times[chosen[-1]] - case.times[chosen[0]] >= case.within:
                continue
            for labels in combinations_with_replacement(steps, size):
                picks = list(zip(chosen, labels, strict=True))
                if is_right(case, picks) and is_close(case, picks) and is_allowed(case, picks):
                    yield picks


def is_right(case: Case, picks: list[Pick]) -> bool:
    """Return whether every step has as many of its letters as it wants."""
    for number, spec in enumerate(case.specs):
        count = sum(step == number for _, step in picks)
        if not (spec.low <= count <= spec.high or (count == 0 and spec.is_optional)):
            return False
    return all(
        case.letters[index] in case.specs[step].letters
        and case.letters[index] not in case.specs[step].until
        for index, step in picks
    )


def is_close(case: Case, picks: list[Pick]) -> bool:
    """Return whether every record is as close to the one before as its step wants."""
    for (one, before), (other, step) in pairwise(picks):
        spec, between = case.specs[step], case.letters[one + 1 : other]
        contiguity = spec.inner if before == step else spec.contiguity
        if contiguity == "next" and between:
            return False
        if contiguity == "followed_by" and set(between) & set(spec.letters) - set(spec.until):
            return False
        if before == step and set(between) & set(spec.until):
            return False
    return True


def is_allowed(case: Case, picks: list[Pick]) -> bool:
    """Return whether nothing comes that must not."""
    deadline = case.times[picks[0][0]] + case.within
    seen = sum(time < deadline for time in case.times)
    for number, spec in enumerate(case.specs):
        own = [index for index, step in picks if step == number]
        if not own:
            continue
        behind = [index for index, step in picks if step > number]
        until = behind[0] + 1 if behind else seen
        is_last = number == len(case.specs) - 1
        if (behind or is_last) and set(case.letters[own[0] + 1 : until]) & set(spec.banned):
            return False
        for index in own[spec.low - 1 :]:
            if index + 1 < seen and case.letters[index + 1] in spec.refused:
                return False
    return True


def decided(case: Case, picks: list[Pick]) -> float:
    """Return the event that decides a match; inf: its time, or the end."""
    last, deadline = picks[-1][0], case.times[picks[0][0]] + case.within
    if picks[-1][1] != len(case.specs) - 1 or not (case.specs[-1].banned or case.specs[-1].refused):
        return last
    if case.specs[-1].banned or last + 1 >= len(case.times) or case.times[last + 1] >= deadline:
        return inf
    return last + 1


def unskipped(case: Case, matches: list[list[Pick]], skip: Skip) -> list[list[Pick]]:
    """Return the matches that are not ruled out by those before them."""
    waiting = sorted(
        matches, key=lambda picks: (picks[0][0], decided(case, picks), [*picks, (inf, 0)])
    )
    found = []
    while waiting:
        match, *waiting = waiting
        found.append(match)
        limit = skip.limit((index, str(step)) for index, step in match)
        waiting = [other for other in waiting if other[0][0] >= limit]
    return found


# --- the real thing


def picked(match: Match) -> list[Pick]:
    return sorted((event[0], int(name)) for name, events in match.items() for event in events)


def run(case: Case, skip: Skip, restore_at: int, *, is_timed: bool) -> list[list[Pick]]:
    rig = Rig(MatchPattern(case.pattern(), picked, skip=skip))
    events = list(enumerate(case.letters))
    for index, (event, time) in enumerate(zip(events, case.times, strict=True)):
        if index == restore_at:
            rig = rig.restored()
        rig.clock(time)
        rig.push([event], [time] if is_timed else None, ["key"])
        if index % 3 == 2:
            rig.watermark(time - 1)
    return rig.end().values


letters = st.sets(st.sampled_from("abc"), min_size=1).map(lambda some: "".join(sorted(some)))
no_letters = st.one_of(st.just(""), st.just(""), st.sampled_from("abcd"))
contiguities = st.sampled_from(["next", "followed_by", "followed_by_any"])


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    low = draw(st.sampled_from([1, 1, 2]))
    high = draw(st.sampled_from([low, low + 1, inf]))
    is_optional = draw(st.booleans())
    nots = ("", "") if is_optional else (draw(no_letters), draw(no_letters))
    until = draw(no_letters) if high == inf else ""
    ways = (draw(contiguities), low, high, draw(contiguities))
    return Spec(draw(letters), *ways, is_optional, until, *nots)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    steps = draw(st.lists(specs(), min_size=1, max_size=STEPS_MAX))
    for number, spec in enumerate(steps[:-1]):
        if all(other.is_optional for other in steps[number + 1 :]):
            steps[number] = replace(spec, refused="", banned="")
    within = draw(st.one_of(st.just(inf), st.integers(2, 8)))
    if steps[-1].banned and within == inf:
        within = 5
    events = draw(st.text("abcd", max_size=EVENTS_MAX))
    gaps = draw(st.lists(st.integers(0, 2), min_size=len(events), max_size=len(events)))
    times = tuple(100 + sum(gaps[: index + 1]) for index in range(len(events)))
    return Case(tuple(steps), within, events, times)


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(0, EVENTS_MAX), st.booleans())
def test_every_match_is_found_once(case: Case, restore_at: int, is_timed: bool) -> None:
    found = run(case, Skip.NO, restore_at, is_timed=is_timed)

    assert sorted(found) == sorted(every_match(case))


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from(SKIPS), st.integers(0, EVENTS_MAX), st.booleans())
def test_matches_that_others_rule_out_do_not_come(
    case: Case, skip: Skip, restore_at: int, is_timed: bool
) -> None:
    if len(case.specs) == 1 and skip.step is not None:
        skip = Skip(skip.kind, "0")

    found = run(case, skip, restore_at, is_timed=is_timed)

    assert found == unskipped(case, list(every_match(case)), skip)
