"""Groups of steps against the same steps written out, once for each number of times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.operators.pattern import Match, MatchPattern, Pattern, Skip
from flowsnap.operators.pattern.nfa import Matcher
from tests.unit.operators.rig import Rig

Pick = tuple[int, str]
"""The index of an event, and the name of the step that takes it."""

EVENTS_MAX = 8


@dataclass(frozen=True)
class Spec:
    """A step that takes one record."""

    letters: str
    contiguity: str
    is_optional: bool = False


@dataclass(frozen=True)
class Case:
    """Perhaps a step before, the group, perhaps a step after; and events."""

    before: Spec | None
    body: tuple[Spec, ...]
    low: int
    high: int | None
    contiguity: str
    inner: str
    is_optional: bool
    after: Spec | None
    events: str

    def grouped(self) -> Pattern:
        body = None
        for number, spec in enumerate(self.body):
            body = extended(body, spec.contiguity, spec, f"body{number}")
        assert body is not None
        pattern = None
        if self.before is not None:
            pattern = extended(None, "next", self.before, "before")
        whole = Pattern.begin(body) if pattern is None else getattr(pattern, self.contiguity)(body)
        whole = whole.times_or_more(self.low) if self.high is None else whole.times(*self.counts)
        if whole.steps[-1].is_looping and self.inner != "followed_by":
            is_strict = self.inner == "next"
            whole = whole.consecutive() if is_strict else whole.allow_combinations()
        whole = whole.optional() if self.is_optional else whole
        return self.ended(whole)

    @property
    def counts(self) -> tuple[int, int]:
        return self.low, self.high or EVENTS_MAX

    def ended(self, pattern: Pattern) -> Pattern:
        after = self.after
        return pattern if after is None else extended(pattern, after.contiguity, after, "after")

    def written_out(self, count: int) -> Pattern | None:
        """Return the pattern with the steps of the group ``count`` times; None: it has no step."""
        pattern = None
        if self.before is not None:
            pattern = extended(None, "next", self.before, "before")
        for time in range(count):
            for number, spec in enumerate(self.body):
                contiguity = spec.contiguity
                if number == 0:
                    contiguity = self.inner if time else self.contiguity
                pattern = extended(pattern, contiguity, spec, f"body{number}#{time}")
        if pattern is None and self.after is None:
            return None
        return extended(None, "", self.after, "after") if pattern is None else self.ended(pattern)  # type: ignore[arg-type]


def extended(pattern: Pattern | None, contiguity: str, spec: Spec, name: str) -> Pattern:
    append = Pattern.begin if pattern is None else getattr(pattern, contiguity)
    longer: Pattern = append(name, lambda event: event[1] in spec.letters)
    return longer.optional() if spec.is_optional else longer


def picked(match: Match) -> list[Pick]:
    return sorted((event[0], name.split("#")[0]) for name, own in match.items() for event in own)


def expected(case: Case) -> list[list[Pick]]:
    low, high = case.counts
    found: list[list[Pick]] = []
    for count in [*([0] if case.is_optional else []), *range(low, high + 1)]:
        pattern = case.written_out(count)
        if pattern is not None:
            matcher = Matcher(pattern)
            runs = matcher.runs()
            for event in enumerate(case.events):
                found += [picked(one.match) for one in matcher.feed(runs, event, 0).matches]
    return sorted(found)


def run(case: Case, restore_at: int) -> list[Any]:
    rig = Rig(MatchPattern(case.grouped(), picked, skip=Skip.NO))
    for index, event in enumerate(enumerate(case.events)):
        rig = rig.restored() if index == restore_at else rig
        rig.push([event], None, ["key"])
    return sorted(rig.end().values)


letters = st.sets(st.sampled_from("abc"), min_size=1).map(lambda some: "".join(sorted(some)))
contiguities = st.sampled_from(["next", "followed_by", "followed_by_any"])
steps = st.builds(Spec, letters, contiguities)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    body = draw(st.lists(steps, min_size=1, max_size=3))
    if len(body) > 1 and draw(st.booleans()):
        body[-1] = Spec(body[-1].letters, body[-1].contiguity, is_optional=True)
    low = draw(st.integers(1, 2))
    high = draw(st.sampled_from([None, low, low + 1]))
    before, after = draw(st.none() | steps), draw(st.none() | steps)
    is_optional = draw(st.booleans()) and (before or after) is not None
    ways = (draw(contiguities), draw(contiguities))
    events = draw(st.text("abcd", max_size=EVENTS_MAX))
    return Case(before, tuple(body), low, high, *ways, is_optional, after, events)


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(0, EVENTS_MAX))
def test_group_is_its_steps_written_out_for_each_number_of_times(
    case: Case, restore_at: int
) -> None:
    assert run(case, restore_at) == expected(case)
