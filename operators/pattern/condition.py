"""Conditions: which records a step of a pattern takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from flowsnap.errors import ConfigError

SoFar = dict[str, list[Any]]
"""The records that a partial match has taken so far, by the name of the step; all steps are there,
and records of the step itself too, where it loops."""

Function = Callable[..., object]
"""``fn(record)``, or ``fn(record, so_far)`` for an iterative condition."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Clause:
    """One function of a condition, and how it is joined to those before it."""

    join: Literal["and", "or"]
    fn: Function
    is_iterative: bool


@dataclass(frozen=True)
class Condition:
    """Clauses, joined from left to right; none: every record is right."""

    clauses: tuple[Clause, ...] = ()

    @cached_property
    def is_iterative(self) -> bool:
        """Whether it looks at what has been taken so far."""
        return any(clause.is_iterative for clause in self.clauses)

    def joined(self, join: Literal["and", "or"], fn: Function, what: str) -> Condition:
        """Return this condition with one clause more.

        Raises:
            ConfigError: ``fn`` cannot be called with a record, or with a record and ``so_far``.
        """
        return Condition((*self.clauses, Clause(join, fn, _takes_two(fn, what))))

    def is_met(self, record: Any, so_far: Callable[[], SoFar]) -> bool:
        """Return whether a record is right; ``so_far`` is called where a clause asks for it."""
        is_met = True
        for number, clause in enumerate(self.clauses):
            if number and is_met == (clause.join == "or"):
                continue  # It is decided, as far as this clause goes.
            fn = clause.fn
            is_met = bool(fn(record, so_far()) if clause.is_iterative else fn(record))
        return is_met


def _takes_two(fn: object, what: str) -> bool:
    """Return whether a function wants ``so_far`` as well."""
    if not callable(fn):
        raise ConfigError(f"{what}: {fn!r} is not a function")
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return False  # A function of C that does not say: it is given the record.
    needed = [one for one in parameters if one.default is one.empty and one.kind in _POSITIONAL]
    is_open = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    optional = sum(one.kind in _POSITIONAL for one in parameters) - len(needed)
    if len(needed) > 2 or not (needed or optional or is_open):
        raise ConfigError(f"{what}: {fn!r} takes {len(needed)} arguments").hint(
            "a condition is fn(record), or fn(record, so_far)"
        )
    return len(needed) == 2
