"""Draws the plan of a job: a small dataflow of nodes, in an order in which it can be built.

A record is ``(origin, number, at_ms)``. The origin names the split and the way that the record has
taken; records of one origin keep their order wherever the engine promises order. Behind a point
where it promises none, only operators follow whose outputs do not depend on it.

Event time is part of every second plan. In most of those no record is late, and every operator in
event time may follow; otherwise what is late depends on who was faster, and only windows follow
whose results and late records are the same bag together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

Kind = Literal[
    "source", "map", "filter", "flat_map", "tag", "union", "rebalance", "chain", "count", "total",
    "async", "async_any", "broadcast", "loop", "mover", "nested", "tumbling",
    "session", "late", "timer", "interval", "sink",
]  # fmt: skip
STATELESS: tuple[Kind, ...] = ("map", "filter", "flat_map")
LOOPS: tuple[Kind, ...] = ("loop", "mover", "nested")
"""Records go round some times: plainly, by their keys, or in a keyed loop inside of a plain one."""
ENDING_TIME: frozenset[Kind] = frozenset(
    ("count", "total", "tumbling", "session", "late", "timer", "interval", *LOOPS)
)
"""Behind these the reference knows no event times."""
ENDING_ORDER: frozenset[Kind] = ENDING_TIME | {"rebalance", "async_any"}
"""Behind these no order is promised."""
DELAYING: frozenset[Kind] = frozenset(
    ("total", "async", "async_any", "tumbling", "session", "late", "timer", "interval")
)
"""Their output comes later than the input that it is made of."""
NODES_MAX = 10


@dataclass(frozen=True, slots=True)
class Node:
    """One step: what it does to which earlier nodes; ``number`` is its parameter.

    ``is_prompt``: what has come out at a cut is a function of what has been read, and no part of it
    is still on its way.
    """

    index: int
    kind: Kind
    inputs: tuple[int, ...]
    number: int
    is_ordered: bool
    is_timed: bool
    is_prompt: bool
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
        self.is_timed = chance.random() < 0.5
        self.is_punctual = chance.random() < 0.75
        streams = self._sources()
        if len(streams) > 1 and chance.random() < 0.8:
            streams = [self._add("union", streams)]
        for _ in range(chance.choice((1, 1, 1, 1, 1, 2, 2, 3))):
            if len(self.nodes) < NODES_MAX:
                streams[0] = self._body(streams[0])
        for stream in streams:
            self._add("sink", [stream], is_own_width=chance.random() < 0.3)
        if len(streams) == 1 and chance.random() < 0.25:
            self._add("sink", [self._body(streams[0])])

    def _sources(self) -> list[Node]:
        streams = []
        first = -1
        for _ in range(self._chance.choice((1, 1, 1, 1, 1, 2, 2, 3))):
            source = self._add("source", [], is_own_width=first < 0, width_of=first)
            first = source.index if first < 0 else first
            streams.append(self._stateless(source))
        return streams

    def _body(self, stream: Node) -> Node:
        """Add one piece of topology; a new kind of piece is one more line here."""
        if stream.is_timed and self._chance.random() < 0.6:
            return self._stateless(self._timed(stream))
        pieces: tuple[tuple[float, Callable[[], Node]], ...] = (
            (0.36, lambda: self._stateless(self._keyed(stream))),
            (0.52, lambda: self._fan(stream)),
            (0.61, lambda: self._shuffled(stream)),
            (0.69, lambda: self._stateless(self._asynchronous(stream))),
            (0.76, lambda: self._stateless(self._broadcast(stream))),
            (0.91, lambda: self._stateless(self._loop(stream))),
            (1.00, lambda: self._add("total", [stream], number=self._modulus(), is_own_width=True)),
        )
        draw = self._chance.random()
        return next(piece() for limit, piece in pieces if draw < limit)

    def _timed(self, stream: Node) -> Node:
        """Add a step in event time."""
        if not self.is_punctual:
            return self._add("late", [stream], number=self._modulus(), is_own_width=True)
        kinds: tuple[Kind, ...] = ("tumbling", "session", "late", "timer", "interval")
        kind = self._chance.choice(kinds)
        inputs = [stream] if kind != "interval" else self._two_of(stream)
        return self._add(kind, inputs, number=self._modulus(), is_own_width=True)

    def _fan(self, stream: Node) -> Node:
        """Two ways out of one stream, and together again: a diamond."""
        branches = []
        for branch in self._two_of(stream):
            is_keyed = self._chance.random() < 0.4
            branches.append(self._keyed(branch, is_own_width=False) if is_keyed else branch)
        return self._add("union", branches)

    def _two_of(self, stream: Node) -> list[Node]:
        return [self._stateless(self._add("tag", [stream], number=number)) for number in (0, 1)]

    def _shuffled(self, stream: Node) -> Node:
        rebalanced = self._add("rebalance", [stream], is_own_width=True)
        return self._stateless(self._add("map", [rebalanced]))

    def _asynchronous(self, stream: Node) -> Node:
        return self._add(self._chance.choice(("async", "async_any")), [stream])

    def _broadcast(self, stream: Node) -> Node:
        """Records of one branch meet those of the other, which every subtask has."""
        records, rules = self._two_of(stream)
        return self._add("broadcast", [records, rules])

    def _loop(self, stream: Node) -> Node:
        kind = self._chance.choice(LOOPS)
        return self._add(kind, [stream], number=self._modulus(), is_own_width=True)

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
        width_of: int = -1,
    ) -> Node:
        index = len(self.nodes)
        if width_of < 0:
            width_of = index if is_own_width else inputs[0].width_of
        is_timed = self.is_timed if kind == "source" else all(one.is_timed for one in inputs)
        is_ordered = kind not in ENDING_ORDER and all(one.is_ordered for one in inputs)
        knows_times = kind not in ENDING_TIME and (kind != "broadcast" or is_ordered)
        node = Node(
            index,
            kind,
            tuple(one.index for one in inputs),
            number,
            is_ordered=is_ordered,
            is_timed=is_timed and knows_times,
            is_prompt=kind not in DELAYING and all(one.is_prompt for one in inputs),
            width_of=width_of,
        )
        self.nodes.append(node)
        return node
