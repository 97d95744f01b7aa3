"""A snapshot of a network: what each process was in, and what was on its way in each channel."""

from __future__ import annotations

import difflib
from typing import Any, NoReturn, Self

import msgspec

from flowsnap.core.graph import JobGraph, OperatorKind
from flowsnap.errors import ConfigError
from flowsnap.snapshot.network_history import GlobalState
from flowsnap.snapshot.network_operator import CHANNEL, STATE, ProcessOperator
from flowsnap.snapshot.snapshot import Snapshot


class Channel(msgspec.Struct, frozen=True):
    """One channel at the cut.

    ``sent``: how many messages had been sent before the cut of its source (n); ``received``: how
    many had been received before the cut of its target (m). ``messages`` are those on their way,
    ``numbers`` their places in the channel, from 1.
    """

    source: str
    target: str
    sent: int
    received: int
    numbers: tuple[int, ...] = ()
    messages: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.messages)

    def __str__(self) -> str:
        return f"{self.source} to {self.target}"


class Condition(msgspec.Struct, frozen=True):
    """What must hold of a channel: n >= m, and it holds exactly the messages m + 1 to n."""

    channel: str
    n: int
    m: int
    numbers: tuple[int, ...]

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.n >= self.m and self.numbers == tuple(range(self.m + 1, self.n + 1))

    def __str__(self) -> str:
        held = ", ".join(map(str, self.numbers)) or "nothing"
        return f"{self.channel}: n = {self.n}, m = {self.m}, recorded {held}"


class States(dict[str, dict[str, Any]]):
    """The state of each process, by name; a name that is none is an error."""

    def __missing__(self, name: object) -> NoReturn:
        error = ConfigError(f"the snapshot has no state of a process {name!r}")
        near = difflib.get_close_matches(str(name), self, n=1)
        raise error.hint(
            f"did you mean {near[0]!r}?" if near else f"it has those of {', '.join(self)}"
        )


class NetworkSnapshot(msgspec.Struct, frozen=True):
    """A consistent global state of a network, in memory; made by ``NetworkRun.snapshot`` or ``of``.

    ``states`` has the public attributes of each process, ``events`` how much each had done.
    """

    job: str
    checkpoint_id: int
    states: States
    channels: tuple[Channel, ...]
    events: dict[str, int]

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """Return what a snapshot holds of a network; messages may be of any type if it is trusted.

        Raises:
            ConfigError: it is no snapshot of a network.
            ManifestCorrupt: a file is missing or damaged.
            StateError: a message cannot be read without its class: open with ``trust=True``.
        """
        graph = snapshot.manifest.graph
        operators = _process_operators(graph)
        if not operators:
            raise ConfigError(
                f"checkpoint {snapshot.checkpoint_id} of {snapshot.job} holds no network"
            )
        records = {name: _record(snapshot, operator) for operator, name in operators.items()}
        return cls(
            snapshot.job,
            snapshot.checkpoint_id,
            States({name: record["state"] for name, record in records.items()}),
            _channels(snapshot, operators, records),
            {name: record["events"] for name, record in records.items()},
        )

    def channel(self, source: str, target: str) -> Channel:
        """Return the channel from one process to another.

        Raises:
            ConfigError: there is none.
        """
        for channel in self.channels:
            if (channel.source, channel.target) == (source, target):
                return channel
        known = ", ".join(map(str, self.channels))
        raise ConfigError(f"the network has no channel {source} to {target}").hint(
            f"it has {known or 'no channels'}"
        )

    @property
    def in_transit(self) -> list[Any]:
        """All messages on their way, by channel, in order."""
        return [message for channel in self.channels for message in channel.messages]

    @property
    def global_state(self) -> GlobalState:
        """The same without counts, to compare with what has happened."""
        held = {(c.source, c.target): c.messages for c in self.channels if c.messages}
        return GlobalState(dict(self.states), held)

    def conditions(self) -> list[Condition]:
        """Return for each channel what was sent, received, and recorded."""
        return [Condition(str(c), c.sent, c.received, c.numbers) for c in self.channels]

    def violations(self) -> list[str]:
        """Return the conditions that do not hold; nothing: the cut is consistent."""
        return [str(condition) for condition in self.conditions() if not condition.holds]


def _process_operators(graph: JobGraph) -> dict[str, str]:
    """Return the name of each process, by that of its operator."""
    steps = {one.name for one in graph.operators if one.type == ProcessOperator.__name__}
    heads = {one.name for one in graph.operators if one.kind is OperatorKind.LOOP}
    return {e.target: e.source for e in graph.edges if e.target in steps and e.source in heads}


def _record(snapshot: Snapshot, operator: str) -> dict[str, Any]:
    values = [value for part in snapshot.operator_state(operator, STATE) for value in part.values]
    if len(values) != 1 or not isinstance(values[0], dict):
        raise ConfigError(
            f"checkpoint {snapshot.checkpoint_id} of {snapshot.job} holds no state of a process "
            f"in {operator!r}"
        )
    record: dict[str, Any] = values[0]
    return record


def _channels(
    snapshot: Snapshot, operators: dict[str, str], records: dict[str, dict[str, Any]]
) -> tuple[Channel, ...]:
    found = []
    held = {
        (c.source, c.target): c.values for c in snapshot.channels() if c.tag.startswith(CHANNEL)
    }
    for edge in snapshot.manifest.graph.edges:
        if edge.source not in operators or not edge.tag.startswith(CHANNEL):
            continue
        source, target = operators[edge.source], str(edge.target)
        values = held.get((edge.source, edge.target), [])
        found.append(
            Channel(
                source,
                target,
                records[source]["sent"].get(target, 0),
                records[target]["received"].get(source, 0),
                tuple(number for _, number, _ in values),
                tuple(message for _, _, message in values),
            )
        )
    return tuple(found)
