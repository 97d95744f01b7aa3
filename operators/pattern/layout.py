"""The steps of a pattern laid out in a row: which may follow which, and where a match may end.

A group is laid out as often as it must be taken, and once more for each time it may be. One without
a limit leads back to its own beginning. So all that is left are steps, and *entries*: a step that
may take the next record, and how closely.

Source: Thompson, "Regular Expression Search Algorithm" (CACM 1968): fragments with ways in and out.

Example:
    >>> pattern = Pattern.begin(Pattern.begin("a").next("b")).one_or_more().followed_by("c")
    >>> layout = Layout(pattern)
    >>> [step.name for step in layout.steps], layout.ends
    (['a', 'b', 'c'], {2})
    >>> [(entry.step, entry.contiguity.value) for entry in layout.following[1]]
    [(0, 'relaxed'), (2, 'relaxed')]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flowsnap.errors import ConfigError
from flowsnap.operators.pattern.condition import Condition
from flowsnap.operators.pattern.definition import Contiguity, Element, Group, Pattern, Step

STEPS_MAX = 10_000
"""So many steps a pattern may have, groups laid out."""

_CLOSENESS = (Contiguity.ANY, Contiguity.RELAXED, Contiguity.STRICT)


class Entry(NamedTuple):
    """A step that may take a record, as its first one."""

    step: int
    contiguity: Contiguity


class _Fragment(NamedTuple):
    """A part of a pattern: the ways in, and the steps after which it may be left.

    ``is_optional``: it may be passed without a record.
    """

    entries: list[Entry]
    exits: list[int]
    is_optional: bool


class Layout:
    """The steps of a pattern that take records, by index.

    ``starts`` are the entries before all steps, ``following`` those after each. After a step of
    ``ends`` nothing is missing. What is ``refused`` after a step must not be the very next record,
    what is ``banned`` no record before the one that is taken next.

    Raises:
        ConfigError: it has too many steps.
    """

    def __init__(self, pattern: Pattern) -> None:
        self.steps: list[Step] = []
        self.following: list[list[Entry]] = []
        self.refused: list[tuple[Condition, ...]] = []
        self.banned: list[tuple[Condition, ...]] = []
        whole = self._sequence(pattern.steps, None)
        self.starts = whole.entries
        self.ends = set(whole.exits)

    def _sequence(self, elements: Sequence[Element], first: Contiguity | None) -> _Fragment:
        """Lay elements out one after the other; ``first`` is how closely the first one follows."""
        entries: list[Entry] = []
        exits: list[int] = []
        is_optional = True
        for number, element in enumerate(elements):
            if element.is_not:
                self._forbid(element, exits)
                continue
            contiguity = element.contiguity if number or first is None else first
            part = self._part(element, contiguity)
            for step in exits:
                self._connect(step, part.entries)
            entries += part.entries if is_optional else ()
            exits = part.exits + (exits if part.is_optional else [])
            is_optional = is_optional and part.is_optional
        return _Fragment(entries, exits, is_optional)

    def _part(self, element: Element, contiguity: Contiguity) -> _Fragment:
        if isinstance(element, Group):
            return self._repeated(element, contiguity)
        if len(self.steps) == STEPS_MAX:
            raise ConfigError(f"pattern: it has more than {STEPS_MAX:,} steps").hint(
                "a group is laid out for each time that it may be taken: lower its times(...)"
            )
        self.steps.append(element)
        self.following.append([])
        self.refused.append(())
        self.banned.append(())
        step = len(self.steps) - 1
        return _Fragment([Entry(step, contiguity)], [step], element.is_optional)

    def _repeated(self, group: Group, contiguity: Contiguity) -> _Fragment:
        copies = group.low if group.high is None else group.high
        bodies: list[_Fragment] = []
        for number in range(copies):
            body = self._sequence(group.steps, group.inner if number else contiguity)
            for step in bodies[-1].exits if bodies else ():
                self._connect(step, body.entries)
            bodies.append(body)
        if group.high is None:
            again = self._again(group, bodies[-1])
            for step in bodies[-1].exits:
                self._connect(step, again)
        exits = [step for body in bodies[group.low - 1 :] for step in body.exits]
        return _Fragment(bodies[0].entries, exits, group.is_optional)

    def _again(self, group: Group, body: _Fragment) -> list[Entry]:
        """Return the ways into a body from its own end: as close as the group says."""
        first, *others = body.entries
        return [first._replace(contiguity=group.inner), *others]

    def _connect(self, step: int, entries: list[Entry]) -> None:
        following = self.following[step]
        places = {entry.step: at for at, entry in enumerate(following)}
        for entry in entries:
            at = places.get(entry.step)
            if at is None:
                following.append(entry)
            else:  # The end of a group in a group: one way back, as loose as the looser.
                both = (following[at].contiguity, entry.contiguity)
                looser = min(both, key=_CLOSENESS.index)
                following[at] = entry._replace(contiguity=looser)

    def _forbid(self, element: Element, exits: list[int]) -> None:
        assert isinstance(element, Step), "a group cannot be forbidden"
        is_next = element.contiguity is Contiguity.STRICT
        kept = self.refused if is_next else self.banned
        for step in exits:
            kept[step] += (element.condition,)
