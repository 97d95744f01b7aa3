"""The matcher: a pure machine that takes the records of a key, one by one, and returns matches.

A record is shown to every partial match of its key. What may take it makes a longer one; the old
one stays as far as it may still go another way. With ``Skip.NO`` a match comes out at once. With
any other, matches come out in the order of their beginnings: one waits while there is a partial
match that began before it, since that could still rule it out.

Source: Agrawal et al., "Efficient Pattern Matching over Event Streams" (SIGMOD 2008); Flink CEP.
"""

from __future__ import annotations

from bisect import bisect_right
from math import inf
from typing import Any, NamedTuple

from flowsnap.errors import ConfigError
from flowsnap.operators.pattern.automaton import BEFORE_ALL, Automaton, Place, Way
from flowsnap.operators.pattern.condition import Condition, SoFar
from flowsnap.operators.pattern.definition import Contiguity, Pattern
from flowsnap.operators.pattern.runs import Held, Partial, Runs, Taken
from flowsnap.operators.pattern.skip import Skip

Match = dict[str, list[Any]]
"""The records of each step that took any, under its name."""


class Outcome(NamedTuple):
    """What came of a partial match, and when it was decided (ms)."""

    match: Match
    at_ms: int


class Outcomes(NamedTuple):
    """Matches, and partial matches whose time was up."""

    matches: list[Outcome]
    timed_out: list[Outcome]


class Matcher:
    """Runs one pattern for many keys: what a key has under way is handed in.

    Raises:
        ConfigError: the pattern cannot be decided, or ``skip`` names a step that takes nothing.
    """

    def __init__(self, pattern: Pattern, skip: Skip = Skip.NO) -> None:
        pattern.check()
        self.within_ms = pattern.within_ms
        self.skip = skip
        self.automaton = Automaton(pattern)
        self.names = [step.name for step in self.automaton.steps]
        if skip.step is not None and skip.step not in self.names:
            raise ConfigError(f"skip: no step {skip.step!r} takes records").hint(
                f"one of {', '.join(self.names)}"
            )
        self._steps = self.automaton.steps
        self._start = self.automaton.place(*BEFORE_ALL)

    def runs(self, *, is_timed: bool = True) -> Runs:
        """Return what a key begins with."""
        return Runs(self.automaton.shape, is_timed=is_timed)

    @property
    def may_hold(self) -> bool:
        """Whether a complete match may have to wait."""
        return self.skip.kind != "no" or self.automaton.has_decisions

    def deadline_ms(self, runs: Runs) -> int | None:
        """Return when the time of the oldest partial match is up."""
        if self.within_ms is None or not runs.partials:
            return None
        return runs.partials[0].start_ms + self.within_ms

    def feed(self, runs: Runs, record: Any, at_ms: int) -> Outcomes:
        """Take the next record of a key, which comes at ``at_ms``."""
        outcomes = self.expire(runs, at_ms)
        show = _Show(self, record, at_ms, runs.next_number)
        runs.next_number += 1
        for partial in runs.partials:
            show.to(partial)
        show.to_start(self._start)
        runs.partials = show.partials
        self._settle(runs, show.found, at_ms, outcomes.matches)
        return outcomes

    def expire(self, runs: Runs, now_ms: int) -> Outcomes:
        """Give up partial matches whose time is up at ``now_ms``."""
        outcomes = Outcomes([], [])
        if self.within_ms is None or not runs.partials:
            return outcomes
        while runs.partials and runs.partials[0].start_ms + self.within_ms <= now_ms:
            start = runs.partials[0].start
            at_ms = runs.partials[0].start_ms + self.within_ms
            count = bisect_right(runs.partials, start, key=_start_of)
            ended, runs.partials = runs.partials[:count], runs.partials[count:]
            found: list[Held] = []
            for partial in ended:
                place = self.automaton.place(partial.last.step, partial.last.nth)
                if partial.open & place.waiting:
                    found.append(Held(partial.last, partial.start))
                elif not place.is_match:
                    outcomes.timed_out.append(Outcome(self.match(partial.last), at_ms))
            self._settle(runs, found, at_ms, outcomes.matches)
        return outcomes

    def end(self, runs: Runs) -> list[Outcome]:
        """Return the matches that no record can rule out or make longer any more."""
        found = []
        for partial in runs.partials:
            place = self.automaton.place(partial.last.step, partial.last.nth)
            if partial.open & place.waiting:
                found.append(Held(partial.last, partial.start))
        runs.partials = []
        outcomes: list[Outcome] = []
        self._settle(runs, found, None, outcomes)
        return outcomes

    def match(self, last: Taken) -> Match:
        """Return what has been taken up to ``last``."""
        found: Match = {}
        for taken in last.path():
            found.setdefault(self.names[taken.step], []).append(taken.record)
        return found

    def _settle(
        self, runs: Runs, found: list[Held], at_ms: int | None, outcomes: list[Outcome]
    ) -> None:
        """Let out what nothing holds back; ``found`` has been completed just now."""
        if not (found or runs.held):
            return
        if len(found) > 1:
            found.sort(key=_order)
        if self.skip.kind == "no":
            outcomes += [self._outcome(one, at_ms) for one in found]
            return
        held = runs.held = sorted(runs.held + found, key=_start_of) if found else runs.held
        while held and not (runs.partials and runs.partials[0].start < held[0].start):
            match = held[0]
            outcomes.append(self._outcome(match, at_ms))
            path = [(taken.number, self.names[taken.step]) for taken in match.last.path()]
            limit = self.skip.limit(path)
            runs.partials = [one for one in runs.partials if one.start >= limit]
            held = runs.held = [one for one in held[1:] if one.start >= limit]

    def _outcome(self, held: Held, at_ms: int | None) -> Outcome:
        return Outcome(self.match(held.last), held.last.at_ms if at_ms is None else at_ms)


class _Show:
    """One record, while it is shown to the partial matches of its key."""

    def __init__(self, matcher: Matcher, record: Any, at_ms: int, number: int) -> None:
        self.partials: list[Partial] = []
        self.found: list[Held] = []
        self._matcher = matcher
        self._automaton = matcher.automaton
        self._record = record
        self._at_ms = at_ms
        self._number = number
        self._verdicts: dict[int, bool] = {}
        self._last: Taken | None = None

    def to(self, partial: Partial) -> None:
        """Show the record to one partial match."""
        self._last = last = partial.last
        place = self._automaton.place(last.step, last.nth)
        refused = place.refused if last.number + 1 == self._number else ()
        nots = (*place.banned, *refused)
        if nots and any(map(self._is_met, nots)):
            return
        longer, left = self._taken(place, partial.open)
        if left & place.waiting and place.decided == "by the next":
            self.found.append(Held(last, partial.start))
            left &= ~place.waiting
        if left:
            self.partials.append(partial if left == partial.open else partial._replace(open=left))
        for taken in longer:
            self._grown(taken, partial.start, partial.start_ms)

    def to_start(self, place: Place) -> None:
        """See whether a match begins with the record."""
        self._last = None
        for taken in self._taken(place, place.opening)[0]:
            self._grown(taken, self._number, self._at_ms)

    def _taken(self, place: Place, is_open: int) -> tuple[list[Taken], int]:
        """Return what takes the record, and the bits of the ways that stay open."""
        longer = []
        for way in place.ways:
            if not is_open & way.bit:
                continue
            step = self._matcher.automaton.steps[way.step]
            is_over = step.until is not None and self._is_met(step.until)
            if not is_over and self._is_met(step.condition):
                longer.append(self._by(way))
                if way.contiguity is not Contiguity.ANY:
                    is_open &= ~way.bit
                if step.is_greedy:  # What comes after it has to wait for the longer match.
                    return longer, is_open & (2 * way.bit - 1)
            elif way.contiguity is Contiguity.STRICT or (is_over and way.is_loop):
                is_open &= ~way.bit
        return longer, is_open

    def _by(self, way: Way) -> Taken:
        return Taken(self._last, way.step, way.nth, self._number, self._at_ms, self._record)

    def _grown(self, taken: Taken, start: int, start_ms: int) -> None:
        """Take note of a partial match that has taken the record."""
        place = self._automaton.place(taken.step, taken.nth)
        if place.is_match and place.decided == "at once":
            self.found.append(Held(taken, start))
        if place.opening:
            self.partials.append(Partial(taken, place.opening, start, start_ms))

    def _is_met(self, condition: Condition) -> bool:
        """Judge the record; a verdict that is the same for all partial matches is made once."""
        if condition.is_iterative:
            return condition.is_met(self._record, self._so_far)
        verdict = self._verdicts.get(id(condition))
        if verdict is None:
            verdict = condition.is_met(self._record, dict)
            self._verdicts[id(condition)] = verdict
        return verdict

    def _so_far(self) -> SoFar:
        found: SoFar = {name: [] for name in self._matcher.names}
        if self._last is not None:
            found.update(self._matcher.match(self._last))
        return found


def _order(held: Held) -> tuple[int, list[tuple[float, int]]]:
    """Matches found at once: by their records, so that the longest of a beginning is first."""
    path: list[tuple[float, int]] = [(taken.number, taken.step) for taken in held.last.path()]
    return held.start, [*path, (inf, 0)]


def _start_of(one: Held | Partial) -> int:
    return one.start
