"""Draws the plan of a job: a small dataflow of nodes, in an order in which it can be built.

A record is ``(origin, number)``. The origin names the split and the way that the record has taken;
records of one origin keep their order wherever the engine promises order. Behind a point where it
promises none, only operators follow whose outputs do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

Kind = Literal[
    "source", "map", "filter", "flat_map", "tag", "union", "rebalance", "chain", "count", "total",
    "sink",
]  # fmt: skip
STATELESS: tuple[Kind, ...] = ("map", "filter", "flat_map")
NODES_MAX = 14


@dataclass(frozen=True, slots=True)
class Node:
    """One step: what it does to which earlier nodes; ``number`` is its parameter."""

    index: int
    kind: Kind
    inputs: tuple[int, ...]
    number: int
    is_ordered: bool
    width_of: int  # the node whose width it shares; its own index: it draws one

    @property
    def name(self) -> str:
        """The operator's name."""
        return f"{self.kind.replace('_', '-')}-{self.index}"


class PlanDrawing:
    """Draws one plan; ``nodes`` is the result."""

    def __init__(self, chance: Random) -> None:
        self.nodes: list[Node] = []
        self._chance = chance
        streams = self._sources()
        if len(streams) > 1 and chance.random() < 0.8:
            streams = [self._add("union", streams)]
        for _ in range(chance.choice((1, 1, 2, 2, 3))):
            if len(self.nodes) < NODES_MAX:
                streams[0] = self._body(streams[0])
        for stream in streams:
            self._add("sink", [stream], is_own_width=chance.random() < 0.3)
        if len(streams) == 1 and chance.random() < 0.25:
            self._add("sink", [self._body(streams[0])])

    def _sources(self) -> list[Node]:
        streams = []
        first = -1
        for _ in range(self._chance.choice((1, 1, 2, 2, 3))):
            source = self._add("source", [], is_own_width=first < 0, width_of=first)
            first = source.index if first < 0 else first
            streams.append(self._stateless(source))
        return streams

    def _body(self, stream: Node) -> Node:
        draw = self._chance.random()
        if draw < 0.5:
            return self._stateless(self._keyed(stream))
        if draw < 0.75:
            return self._fan(stream)
        if draw < 0.9:
            rebalanced = self._add("rebalance", [stream], is_own_width=True, is_ordered=False)
            return self._stateless(self._add("map", [rebalanced]))
        return self._add("total", [stream], number=self._modulus(), is_own_width=True)

    def _fan(self, stream: Node) -> Node:
        """Two ways out of one stream, and together again: a diamond."""
        branches = []
        for number in (0, 1):
            branch = self._stateless(self._add("tag", [stream], number=number))
            if self._chance.random() < 0.4:
                branch = self._keyed(branch, is_own_width=False)
            branches.append(branch)
        return self._add("union", branches)

    def _keyed(self, stream: Node, *, is_own_width: bool = True) -> Node:
        kind: Kind = "chain" if stream.is_ordered and self._chance.random() < 0.7 else "count"
        return self._add(kind, [stream], number=self._modulus(), is_own_width=is_own_width)

    def _stateless(self, stream: Node) -> Node:
        if stream.kind == "union":
            return stream
        for _ in range(self._chance.choice((0, 1, 1, 2))):
            stream = self._add(self._chance.choice(STATELESS), [stream])
        return stream

    def _modulus(self) -> int:
        return self._chance.randrange(2, 9)

    def _add(
        self,
        kind: Kind,
        inputs: list[Node],
        *,
        number: int = 0,
        is_own_width: bool = False,
        is_ordered: bool = True,
        width_of: int = -1,
    ) -> Node:
        index = len(self.nodes)
        if width_of < 0:
            width_of = index if is_own_width else inputs[0].width_of
        keeps = is_ordered and kind not in {"count", "total"}
        node = Node(
            index,
            kind,
            tuple(one.index for one in inputs),
            number,
            keeps and all(one.is_ordered for one in inputs),
            width_of,
        )
        self.nodes.append(node)
        return node
