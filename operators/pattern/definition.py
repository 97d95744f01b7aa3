"""The definition of a pattern: its steps in order, and how closely they follow one another.

Source: Flink CEP, "The Pattern API".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from flowsnap.config import Duration, duration_ms
from flowsnap.errors import ConfigError
from flowsnap.operators.pattern.condition import Condition, Function

EVERYTHING = Condition()
TIMES_MAX = 1_000_000


class Contiguity(Enum):
    """How closely a record follows the one taken before it."""

    STRICT = "strict"
    """It is the very next one."""
    RELAXED = "relaxed"
    """It is the next one that is right."""
    ANY = "any"
    """It is any later one that is right."""


@dataclass(frozen=True)
class Step:
    """One step: which records it takes, and how many.

    ``contiguity`` is that of its first record to the step before, ``inner`` that between its own.
    ``high`` is None where there is no limit. ``is_not``: such a record must not come.
    """

    name: str
    contiguity: Contiguity
    condition: Condition = EVERYTHING
    until: Condition | None = None
    low: int = 1
    high: int | None = 1
    inner: Contiguity = Contiguity.RELAXED
    is_counted: bool = False
    is_optional: bool = False
    is_greedy: bool = False
    is_not: bool = False

    @property
    def is_looping(self) -> bool:
        """Whether it may take several records."""
        return self.high is None or self.high > 1


@dataclass(frozen=True)
class Group:
    """Several steps in the place of one: taken one after the other, and that several times.

    ``contiguity`` is that of its first record to the step before, ``inner`` that of its first
    record to the time before. ``high`` is None where there is no limit.
    """

    steps: tuple[Element, ...]
    contiguity: Contiguity
    low: int = 1
    high: int | None = 1
    inner: Contiguity = Contiguity.RELAXED
    is_counted: bool = False
    is_optional: bool = False
    is_greedy: bool = False
    is_not: bool = False

    @property
    def name(self) -> str:
        """What errors call it: its first step and its last."""
        names = _names(self.steps)
        return f"{names[0]}..{names[-1]}"

    @property
    def is_looping(self) -> bool:
        """Whether it may be taken several times."""
        return self.high is None or self.high > 1


Element = Step | Group


@dataclass(frozen=True)
class Pattern:
    """A sequence of steps; every method returns a new pattern.

    Begin with ``Pattern.begin``, and append steps with ``next``, ``followed_by``,
    ``followed_by_any``, ``not_next`` and ``not_followed_by``. The other methods are about the step
    appended last, ``within`` about the whole. A pattern in the place of a name is a group of steps,
    which ``times`` and the like, ``optional``, ``consecutive`` and ``allow_combinations`` are about
    as a whole. A condition is ``fn(record)``, or ``fn(record,
    so_far)``, where ``so_far`` has the records taken before, as a list under the name of each step.

    Every method raises ``ConfigError`` where its arguments are wrong.
    """

    steps: tuple[Element, ...]
    within_ms: int | None = None

    @classmethod
    def begin(cls, name: str | Pattern, where: Function | None = None) -> Pattern:
        """Return a pattern whose first step takes a record for which ``where`` is true."""
        return cls(())._with(name, where, Contiguity.RELAXED)

    def next(self, name: str | Pattern, where: Function | None = None) -> Pattern:
        """Append a step that takes the very next record, or there is no match (strict)."""
        return self._with(name, where, Contiguity.STRICT)

    def followed_by(self, name: str | Pattern, where: Function | None = None) -> Pattern:
        """Append a step that takes the next record that is right (relaxed)."""
        return self._with(name, where, Contiguity.RELAXED)

    def followed_by_any(self, name: str | Pattern, where: Function | None = None) -> Pattern:
        """Append a step for which every later record that is right makes a match of its own."""
        return self._with(name, where, Contiguity.ANY)

    def not_next(self, name: str, where: Function | None = None) -> Pattern:
        """Append: the very next record must not be like this.

        As the last step, it makes the match come out with the next record of the key, or when
        ``within`` has passed or the input ends.
        """
        return self._without(name, where, Contiguity.STRICT)

    def not_followed_by(self, name: str, where: Function | None = None) -> Pattern:
        """Append: no record like this must come before the next step.

        One that comes once the step before has begun makes an end of the partial match. As the last
        step it needs ``within``, and the match comes out when that has passed.
        """
        return self._without(name, where, Contiguity.RELAXED)

    def where(self, fn: Function) -> Pattern:
        """Require ``fn`` too."""
        last = self._step("where")
        return self._changed(condition=last.condition.joined("and", fn, f"where of {last.name!r}"))

    def or_where(self, fn: Function) -> Pattern:
        """Take also what ``fn`` is true for, whatever has been required before."""
        last = self._step("or_where")
        what = f"or_where of {last.name!r}"
        return self._changed(condition=last.condition.joined("or", fn, what))

    def until(self, fn: Function) -> Pattern:
        """End the loop, which has no other limit, at a record for which ``fn`` is true."""
        last = self._step("until")
        if last.high is not None:
            raise _wrong(last, "until", "ends a loop without limit").hint(
                "call one_or_more() or times_or_more(n) before"
            )
        return self._changed(
            until=(last.until or EVERYTHING).joined(
                "or" if last.until else "and", fn, f"until of {last.name!r}"
            )
        )

    def times(self, low: int, high: int | None = None) -> Pattern:
        """Take ``low`` records, or from ``low`` to ``high``."""
        high = low if high is None else high
        if not (_is_count(low) and _is_count(high) and low <= high):
            raise ConfigError(f"step {self.steps[-1].name!r}: times({low!r}, {high!r})").hint(
                f"times(n) or times(low, high), with 1 <= low <= high <= {TIMES_MAX}; "
                "optional() for none at all"
            )
        return self._counted("times", low, high)

    def one_or_more(self) -> Pattern:
        """Take one record or more."""
        return self._counted("one_or_more", 1, None)

    def times_or_more(self, low: int) -> Pattern:
        """Take ``low`` records or more."""
        if not _is_count(low):
            raise ConfigError(f"step {self.steps[-1].name!r}: times_or_more({low!r})").hint(
                f"an int from 1 to {TIMES_MAX}"
            )
        return self._counted("times_or_more", low, None)

    def optional(self) -> Pattern:
        """Let the step be left out as a whole."""
        self._positive("optional")
        return self._changed(is_optional=True)

    def greedy(self) -> Pattern:
        """Have the loop take as many records as it can, before the step after it takes any."""
        self._step("greedy")
        last = self._looping("greedy")
        if last.inner is Contiguity.ANY:
            raise _wrong(last, "greedy", "contradicts allow_combinations")
        return self._changed(is_greedy=True)

    def consecutive(self) -> Pattern:
        """Have the records of the loop be next to one another (strict; the default is relaxed)."""
        self._looping("consecutive")
        return self._changed(inner=Contiguity.STRICT)

    def allow_combinations(self) -> Pattern:
        """Let the loop take any of the records that are right, in all combinations."""
        last = self._looping("allow_combinations")
        if last.is_greedy:
            raise _wrong(last, "allow_combinations", "contradicts greedy")
        return self._changed(inner=Contiguity.ANY)

    def within(self, duration: Duration) -> Pattern:
        """Have less than ``duration`` pass from the first record to the last; the least counts."""
        given_ms = duration_ms(duration, "within", at_least_ms=1)
        least_ms = given_ms if self.within_ms is None else min(given_ms, self.within_ms)
        return replace(self, within_ms=least_ms)

    def check(self) -> None:
        """Check what only the whole shows.

        Raises:
            ConfigError: it ends in a way that nothing could ever decide.
        """
        last = self.steps[-1]
        if last.is_not and last.contiguity is Contiguity.RELAXED and self.within_ms is None:
            raise _wrong(last, "not_followed_by", "is last, and nothing ends the wait").hint(
                'add .within("10s")'
            )
        self._check_nots()

    def _check_nots(self) -> None:
        for number, step in enumerate(self.steps, 1):
            rest = self.steps[number:]
            if step.is_not and rest and all(one.is_optional for one in rest):
                raise _wrong(step, "a not", "has only optional steps behind it").hint(
                    "make one of them not optional, or leave them out"
                )

    def _with(self, name: str | Pattern, where: Function | None, contiguity: Contiguity) -> Pattern:
        if isinstance(name, Pattern):
            return self._grouped(name, where, contiguity)
        return self._appended(Step(name, contiguity), where)

    def _grouped(self, inner: Pattern, where: object, contiguity: Contiguity) -> Pattern:
        group = Group(inner.steps, contiguity)
        if where is not None:
            raise _wrong(group, "where", "is for a step, not for a group")
        if inner.within_ms is not None:
            raise _wrong(group, "within", "is for the whole pattern, not for a group")
        if inner.steps[-1].is_not:
            raise _wrong(group, "a group", "cannot end with a step that must not come")
        if all(element.is_optional for element in inner.steps):
            raise _wrong(group, "a group", "needs a step that is not optional").hint(
                "call optional() on the group as a whole"
            )
        inner._check_nots()
        self._check_names(_names(inner.steps))
        return replace(self, steps=(*self.steps, group))

    def _without(self, name: str, where: Function | None, contiguity: Contiguity) -> Pattern:
        before = self.steps[-1]
        if before.is_optional:
            raise _wrong(before, "optional", f"stands before the not {name!r}").hint(
                "use two patterns: one with the optional step, and one without it"
            )
        return self._appended(Step(name, contiguity, is_not=True), where)

    def _appended(self, step: Step, where: Function | None) -> Pattern:
        if not isinstance(step.name, str) or not step.name:
            raise ConfigError(f"pattern: {step.name!r} is not a name for a step")
        self._check_names([step.name])
        appended = replace(self, steps=(*self.steps, step))
        return appended if where is None else appended.where(where)

    def _check_names(self, names: list[str]) -> None:
        twice = set(names).intersection(_names(self.steps))
        if twice:
            raise ConfigError(f"pattern: two steps are named {min(twice)!r}").hint(
                "the name tells which records of a match are whose"
            )

    def _step(self, what: str) -> Step:
        last = self.steps[-1]
        if isinstance(last, Group):
            raise _wrong(last, what, "is for a step, not for a group")
        return last

    def _changed(self, **changes: Any) -> Pattern:
        return replace(self, steps=(*self.steps[:-1], replace(self.steps[-1], **changes)))

    def _counted(self, what: str, low: int, high: int | None) -> Pattern:
        last = self._positive(what)
        if last.is_counted:
            raise _wrong(last, what, "says a second time how many records it takes")
        return self._changed(low=low, high=high, is_counted=True)

    def _positive(self, what: str) -> Element:
        last = self.steps[-1]
        if last.is_not:
            raise _wrong(last, what, "is not for a step that must not come")
        return last

    def _looping(self, what: str) -> Element:
        last = self._positive(what)
        if not last.is_looping:
            raise _wrong(last, what, "is for a step that takes several records").hint(
                "call times(...), one_or_more() or times_or_more(n) before"
            )
        return last


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= TIMES_MAX


def _names(elements: Iterable[Element]) -> list[str]:
    """Return the names of all steps, those in groups too."""
    return [
        name
        for element in elements
        for name in (_names(element.steps) if isinstance(element, Group) else [element.name])
    ]


def _wrong(step: Element, what: str, why: str) -> ConfigError:
    return ConfigError(f"step {step.name!r}: {what} {why}")
