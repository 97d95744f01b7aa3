"""Visits every order of events of a small world, breadth first, each of its states once.

Random orders sample what can happen; here nothing within the bound is left out. A world holds the
real machine, what is under way around it, and what an observer remembers of it. Two histories that
lead to equal worlds go on equally, so the second need not be followed: what is compared is every
attribute, to the last one, so that no state is taken for another.
"""

from __future__ import annotations

import pickle
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from typing import Any, Protocol, cast


class World(Protocol):
    """Everything that the next event and its effect depend on; it can be pickled."""

    def moves(self) -> Sequence[tuple[Any, ...]]:
        """Return what may happen next: nothing, where it is over."""

    def make(self, move: tuple[Any, ...]) -> list[str]:
        """Let it happen, assert that all is well, and return which situations were reached."""

    def check_end(self) -> None:
        """Assert what must hold where nothing can happen any more."""


@dataclass
class Visited:
    """How much there was to see; ``reached`` counts the transitions into each situation."""

    states: int = 0
    transitions: int = 0
    ends: int = 0
    reached: Counter[str] = field(default_factory=Counter)


def visit_all(first: World) -> Visited:
    """Visit every state that can be reached from ``first``.

    Raises:
        AssertionError: something must not be, or a world raises one; a note has the way there.
    """
    visited = Visited()
    came_by: dict[Hashable, tuple[Hashable, tuple[Any, ...]] | None] = {frozen(first): None}
    frontier = [(frozen(first), pickle.dumps(first))]
    for place, stored in frontier:  # which grows meanwhile
        visited.states += 1
        world: World = pickle.loads(stored)
        moves = world.moves()
        try:
            if not moves:
                visited.ends += 1
                world.check_end()
            for move in moves:
                world = pickle.loads(stored)
                visited.reached.update(world.make(move))
                visited.transitions += 1
                if (after := frozen(world)) not in came_by:
                    came_by[after] = (place, move)
                    frontier.append((after, pickle.dumps(world)))
        except AssertionError as error:
            error.add_note(f"after {way(came_by, place)}, then one of {moves}")
            raise
    return visited


def way(
    came_by: dict[Hashable, tuple[Hashable, tuple[Any, ...]] | None], place: Hashable
) -> list[tuple[Any, ...]]:
    """Return the moves that led to a state: as few as can be."""
    moves = []
    while (step := came_by[place]) is not None:
        place, move = step
        moves.append(move)
    return moves[::-1]


def frozen(value: Any) -> Hashable:
    """Return a value that is equal exactly if ``value`` is equal in every attribute.

    Raises:
        AssertionError: it is a collection of a kind of its own, whose items are not its attributes.
    """
    kind: Any = type(value)
    if kind in _AS_THEY_ARE or (_is_frozen(kind) and _is_hashable(value)):
        return cast("Hashable", value)
    if kind is list or kind is tuple:
        return tuple([frozen(one) for one in value])
    if kind is dict:
        return tuple([(key, frozen(one)) for key, one in value.items()])
    if kind is set or kind is frozenset:
        return frozenset(value)
    assert not isinstance(value, _COLLECTIONS), f"{kind} is not looked into"
    names = _fields(kind) or vars(value)
    return (kind, *[frozen(getattr(value, name)) for name in names])


_COLLECTIONS = (list, tuple, dict, set, frozenset, deque)
_AS_THEY_ARE = frozenset({int, float, bool, str, bytes, type(None)})


@cache
def _is_frozen(kind: Any) -> bool:
    """Return whether objects of a class are compared by value, and never change."""
    return is_dataclass(kind) and kind.__hash__ not in (None, object.__hash__)


def _is_hashable(value: object) -> bool:
    """Return whether everything in an object that never changes does not change either."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


@cache
def _fields(kind: Any) -> tuple[str, ...]:
    """Return the attributes of a class that has no dict of them."""
    if (names := getattr(kind, "__struct_fields__", None)) is not None:
        return tuple(names)
    return tuple(name for base in kind.__mro__ for name in getattr(base, "__slots__", ()))
