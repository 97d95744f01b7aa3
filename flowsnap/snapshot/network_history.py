"""What really happened in a network, and what might have happened as well.

A snapshot shows a state of the whole network that need never have been: while one process was
recording its state, others went on. It is not arbitrary either. Take the events as they happened,
and move all those before the cut in front of all those behind it, each group in its own order. No
message is then received before it is sent, and every process does what it did. So this is a history
that might have happened just as well; it begins and ends as the real one, and it passes through the
state that was recorded.

Source: Chandy and Lamport 1985, section 3.3, theorem 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from flowsnap.errors import ConfigError

if TYPE_CHECKING:
    from flowsnap.snapshot.network_snapshot import NetworkSnapshot


class Event(msgspec.Struct, frozen=True):
    """Something that a process did, at once: it started, or took a message.

    ``number`` counts the events of the process, from 1. ``sent`` are the messages that it sent by
    this, as (channel, number, message); ``state`` is what it was in then. ``at_ns``: when it was
    done, by a clock that all processes of one machine share.
    """

    process: str
    number: int
    kind: str
    channel: str = ""
    message_number: int = 0
    message: Any = None
    sent: tuple[tuple[str, int, Any], ...] = ()
    state: dict[str, Any] = {}
    at_ns: int = 0


class GlobalState(msgspec.Struct, frozen=True):
    """A state of the whole network: of those processes that have begun, and of every channel.

    ``channels``: the messages in transit by (source, target), where there are any.
    """

    states: dict[str, dict[str, Any]]
    channels: dict[tuple[str, str], tuple[Any, ...]]


def as_happened(events: Iterable[Event]) -> list[Event]:
    """Return events in the order in which they happened."""
    return sorted(events, key=lambda event: (event.at_ns, event.process, event.number))


def reordered(events: Iterable[Event], snapshot: NetworkSnapshot) -> list[Event]:
    """Return events so that those before the cut of a snapshot come before those behind it."""
    cut = snapshot.events
    return sorted(as_happened(events), key=lambda event: event.number > cut[event.process])


def global_states(events: Iterable[Event]) -> Iterator[GlobalState]:
    """Yield the states that the network goes through when ``events`` happen in this order.

    The first is that before any event.

    Raises:
        ConfigError: they cannot: a process does not go by its own order, or a message is received
            that is not the first of its channel.
    """
    done: dict[str, int] = {}
    states: dict[str, dict[str, Any]] = {}
    channels: dict[tuple[str, str], list[tuple[int, Any]]] = {}
    yield GlobalState({}, {})
    for event in events:
        _check_order(event, done)
        if event.kind == "message":
            _receive(event, channels.get((event.channel, event.process), []))
        for target, number, message in event.sent:
            channels.setdefault((event.process, target), []).append((number, message))
        states[event.process] = event.state
        held = {ends: tuple(m for _, m in waiting) for ends, waiting in channels.items() if waiting}
        yield GlobalState(dict(states), held)


def passes_through(events: Sequence[Event], snapshot: NetworkSnapshot) -> int | None:
    """Return after how many of ``events`` the network is in the state of a snapshot; None: never.

    Raises:
        ConfigError: they cannot happen in this order.
    """
    wanted = snapshot.global_state
    found = None
    for number, state in enumerate(global_states(events)):
        if found is None and state == wanted:
            found = number
    return found


def _check_order(event: Event, done: dict[str, int]) -> None:
    expected = done.get(event.process, 0) + 1
    if event.number != expected:
        raise ConfigError(
            f"event {event.number} of process {event.process!r} cannot happen now: "
            f"its next one is {expected}"
        ).hint("a log is whole only once its network has ended")
    done[event.process] = expected


def _receive(event: Event, waiting: list[tuple[int, Any]]) -> None:
    if not waiting or waiting[0] != (event.message_number, event.message):
        first = f"message {waiting[0][0]}" if waiting else "nothing"
        raise ConfigError(
            f"process {event.process!r} cannot receive message {event.message_number} of "
            f"{event.channel!r} now: the channel holds {first} first"
        )
    waiting.pop(0)
