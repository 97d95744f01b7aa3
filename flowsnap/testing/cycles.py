"""Builds the loops of a plan: plain ones, keyed ones, and a keyed one inside of a plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowsnap.api.keyed import KeyedStream
from flowsnap.api.pipeline import Pipeline
from flowsnap.api.stream import Stream
from flowsnap.testing.plan import Node
from flowsnap.testing.reference import Record, laps, spins
from flowsnap.testing.steps import Mover, Token, hop


class Cycle:
    """One loop; its operators are called after its node, so that what is in it can be told."""

    def __init__(
        self, pipeline: Pipeline, node: Node, above: Stream[Record], widths: list[int]
    ) -> None:
        self._pipeline = pipeline
        self._node = node
        self._above = above
        self._width = widths[node.index]
        self._width_above = widths[node.inputs[0]]

    def build(self) -> Stream[Record]:
        """Return what comes out of the loop."""
        entered = self._above.map(
            _enter(self._node), name=f"enter-{self._node.index}", parallelism=self._width_above
        )
        match self._node.kind:
            case "loop":
                return self._plain(entered)
            case "mover":
                return self._leave(self._move(entered))
            case _:
                return self._nested(entered)

    def _plain(self, entered: Stream[Token]) -> Stream[Record]:
        loop = self._pipeline.loop(**self._named("loop", self._width_above))
        hopped = entered.union(loop).map(hop, name=self._node.name, parallelism=self._width)
        loop.feed(hopped.filter(_goes_round, **self._named("again")))
        return self._leave(hopped.filter(_has_hopped, **self._named("done")))

    def _move(self, entered: Stream[Token]) -> Stream[Token]:
        """Have records hop from key to key, until they have done all hops of this lap."""
        loop = self._pipeline.keyed_loop(**self._named("inner"))
        tokens = self._by_key(entered, "key").union(loop)
        moved: Stream[Token] = tokens.process(
            Mover(), name=self._node.name, parallelism=self._width
        )
        again = moved.filter(_goes_round, **self._named("again"))
        loop.feed(self._by_key(again, "next-key"))
        return moved.filter(_has_hopped, **self._named("done"))

    def _nested(self, entered: Stream[Token]) -> Stream[Record]:
        outer = self._pipeline.loop(**self._named("outer", self._width_above))
        hopped = self._move(entered.union(outer))
        back = hopped.filter(_has_laps, **self._named("back"))
        outer.feed(back.map(_next_lap, **self._named("next-lap")))
        return self._leave(hopped.filter(_is_through, **self._named("through")))

    def _leave(self, tokens: Stream[Token]) -> Stream[Record]:
        return tokens.map(_leave, **self._named("record"))

    def _by_key(self, tokens: Stream[Token], name: str) -> KeyedStream[int, Token]:
        return tokens.key_by(_key(self._node.number), **self._named(name))

    def _named(self, what: str, width: int = 0) -> dict[str, Any]:
        return {"name": f"{self._node.name}.{what}", "parallelism": width or self._width}


def _enter(node: Node) -> Callable[[Record], Token]:
    return lambda record: (*record, spins(record[1]), laps(node, record[1]))


def _key(modulus: int) -> Callable[[Token], int]:
    return lambda token: token[1] % modulus


def _goes_round(token: Token) -> bool:
    return token[3] > 0


def _has_hopped(token: Token) -> bool:
    return token[3] == 0


def _has_laps(token: Token) -> bool:
    return token[4] > 0


def _is_through(token: Token) -> bool:
    return token[4] == 0


def _next_lap(token: Token) -> Token:
    origin, number, at_ms, _, laps_left = token
    return origin, number, at_ms, spins(number), laps_left - 1


def _leave(token: Token) -> Record:
    return token[:3]
