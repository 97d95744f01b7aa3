"""Stable properties, asked of a snapshot.

A property is stable if, once true, it stays true: the network has terminated, some processes are
deadlocked, a token is lost, an object is garbage. If it is true of a snapshot, it is true of the
network now: the state that was recorded leads to the one it is in. If it is not true of a snapshot,
it was not true when the snapshot was begun.

Every function here is pure: it is told what to look for by functions of a process's state and of a
message, and looks at nothing but the snapshot.

Source: Chandy and Lamport 1985, section 4, "stability detection"; for deadlock in the model where a
process waits for all of several others, Chandy, Misra and Haas, "Distributed Deadlock Detection",
1983.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from flowsnap.snapshot.network_snapshot import NetworkSnapshot
from flowsnap.snapshot.snapshot import Snapshot

State = dict[str, Any]
"""The state of a process: its public attributes."""

OfState = Callable[[str, State], Any]
"""Answers something about a process, by its name and state."""

OfMessage = Callable[[Any], Any]
"""Answers something about a message."""


class Deadlock(msgspec.Struct, frozen=True):
    """Processes of which each waits for the next, and the last for the first."""

    cycle: tuple[str, ...]

    def __str__(self) -> str:
        return " waits for ".join((*self.cycle, self.cycle[0]))


def terminated(snapshot: NetworkSnapshot | Snapshot, *, is_active: OfState | None = None) -> bool:
    """Return whether nothing can happen any more: nobody is active, and nothing is on its way.

    A process of a network does something only when it takes a message; ``is_active`` tells of one
    that has work left nevertheless, such as what another would have to ask for. Of a snapshot of
    any other job: every task has ended, and nothing is in transit.
    """
    if isinstance(snapshot, Snapshot):
        return all(task.is_ended for task in snapshot.tasks) and not snapshot.channels()
    if snapshot.in_transit:
        return False
    return is_active is None or not any(is_active(*one) for one in snapshot.states.items())


def waiting(
    snapshot: NetworkSnapshot, waits_for: OfState | str = "waits_for"
) -> dict[str, tuple[str, ...]]:
    """Return the wait-for graph: for whom each process waits, where no answer is on its way.

    ``waits_for`` answers one name, several, or None; or it is the name of the attribute that holds
    them. A process that waits for another to which a message of that one is on its way may not
    wait any longer: there is no edge.
    """
    return {
        name: tuple(
            other
            for other in _names(_asked(waits_for, name, state))
            if not _is_answered(snapshot, other, name)
        )
        for name, state in snapshot.states.items()
    }


def deadlocked(
    snapshot: NetworkSnapshot, waits_for: OfState | str = "waits_for"
) -> Deadlock | None:
    """Return processes that wait for each other in a circle, for good; None: there are none.

    A process waits for all that ``waits_for`` names, see ``waiting``: so one circle is enough.
    """
    cycle = find_cycle(waiting(snapshot, waits_for))
    return None if cycle is None else Deadlock(cycle)


def find_cycle(graph: Mapping[str, Iterable[str]]) -> tuple[str, ...] | None:
    """Return the nodes of a cycle in ``graph``, in its order, beginning with the least; or None."""
    done: set[str] = set()
    for start in graph:
        path: dict[str, Iterator[str]] = {}
        node: str | None = start
        while node is not None:
            path.setdefault(node, iter(graph.get(node, ())))
            following = next((other for other in path[node] if other not in done), None)
            if following in path:
                return _from_least(list(path)[list(path).index(following) :])
            if following is None:
                done.add(node)
                path.popitem()
                following = next(reversed(path), None)
            node = following
    return None


def token_count(
    snapshot: NetworkSnapshot,
    *,
    held: OfState | str = "tokens",
    carried: OfMessage = lambda message: [message],
) -> Counter[Any]:
    """Return how often each token is there: with a process, or on its way.

    ``held`` answers the tokens of a process, or is the attribute that holds them; ``carried``
    answers those of a message, and without it every message is a token.
    """
    found: Counter[Any] = Counter()
    for name, state in snapshot.states.items():
        found.update(_asked(held, name, state) or ())
    for message in snapshot.in_transit:
        found.update(carried(message))
    return found


def tokens_lost(
    snapshot: NetworkSnapshot,
    tokens: Iterable[Hashable],
    *,
    held: OfState | str = "tokens",
    carried: OfMessage = lambda message: [message],
) -> list[Any]:
    """Return those of ``tokens`` that are nowhere: neither with a process nor on their way.

    A token listed twice is to be there twice.
    """
    return list((Counter(tokens) - token_count(snapshot, held=held, carried=carried)).elements())


def unreachable(
    snapshot: NetworkSnapshot,
    *,
    roots: OfState | str = "roots",
    objects: OfState | str = "objects",
    carried: OfMessage = lambda message: [message],
) -> frozenset[Any]:
    """Return the objects that nobody can ever get hold of again.

    ``roots`` answers the objects that a process uses, ``objects`` a mapping of those that it keeps
    to the objects that each refers to, wherever they are kept. ``carried`` answers the references
    in a message: somebody is about to have them, so they are roots as well.
    """
    references: dict[Any, tuple[Any, ...]] = {}
    pending: list[Any] = [one for message in snapshot.in_transit for one in carried(message)]
    for name, state in snapshot.states.items():
        pending += _asked(roots, name, state) or ()
        for kept, referred in dict(_asked(objects, name, state) or {}).items():
            references[kept] = tuple(referred)
    reached: set[Any] = set()
    while pending:
        one = pending.pop()
        if one not in reached:
            reached.add(one)
            pending += references.get(one, ())
    return frozenset(references.keys() - reached)


def _asked(question: OfState | str, name: str, state: State) -> Any:
    return state.get(question) if isinstance(question, str) else question(name, state)


def _names(answer: str | Iterable[str] | None) -> tuple[str, ...]:
    if answer is None:
        return ()
    return (answer,) if isinstance(answer, str) else tuple(answer)


def _is_answered(snapshot: NetworkSnapshot, source: str, target: str) -> bool:
    return any(c.messages and (c.source, c.target) == (source, target) for c in snapshot.channels)


def _from_least(cycle: list[str]) -> tuple[str, ...]:
    at = cycle.index(min(cycle))
    return (*cycle[at:], *cycle[:at])
