"""Random jobs with finite input: the plan, its input, and the pipeline built from both.

The plan is drawn once per seed. It is built anew for each run of the job, perhaps in another
layout: other widths, another number of workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from flowsnap.api.pipeline import Pipeline
from flowsnap.api.stream import Stream
from flowsnap.core.element import Batch
from flowsnap.core.operator import OperatorContext, Source, Split, SplitReader
from flowsnap.operators.process import KeyedProcess
from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.testing import reference
from flowsnap.testing.plan import Node, PlanDrawing
from flowsnap.testing.reference import Record
from flowsnap.testing.sink import TransactionalSink, TransactionalSystem

MAX_PARALLELISM = 8
WIDTHS = (1, 1, 1, 1, 2, 2, 2, 3, 4)
WORKERS = (0, 1, 2, 2, 2, 3, 3)
RECORDS = (5, 40)
Pace = list[tuple[int, int]]
"""How many records come at a time, and how long to wait where none do, in ms."""


@dataclass(slots=True)
class Trouble:
    """Makes a user function raise, once, at its n-th call."""

    at: set[int] = field(default_factory=set)
    calls: int = 0
    fired: int = 0

    def pass_by(self) -> None:
        """Count a call.

        Raises:
            ValueError: it is the turn of this one.
        """
        self.calls += 1
        if self.calls in self.at:
            self.fired += 1
            raise ValueError("a user function fails")


class SimulatedSource(Source):
    """Splits of prepared numbers; ``pace`` says how many come at a time."""

    discovers = False

    def __init__(self, inputs: Mapping[str, list[int]], pace: Pace) -> None:
        self.inputs = inputs
        self.pace = pace

    def splits(self, parallelism: int) -> list[Split]:
        return [Split(id, {}, len(numbers)) for id, numbers in self.inputs.items()]

    def open_split(self, split: Split, position: int | None) -> SplitReader:
        return SimulatedReader(split.id, self.inputs[split.id], self.pace, position or 0)


class SimulatedReader(SplitReader):
    """Reads a list in small batches, and has nothing to say now and then."""

    def __init__(self, split: str, numbers: list[int], pace: Pace, position: int) -> None:
        self._split = split
        self._numbers = numbers
        self._pace = pace
        self._next = position
        self._turn = position
        self._wait_ms = 0

    def read(self, limit: int) -> Batch | None:
        if self._next >= len(self._numbers):
            return None
        count, self._wait_ms = self._pace[self._turn % len(self._pace)]
        self._turn += 1
        numbers = self._numbers[self._next : self._next + min(count, limit)]
        self._next += len(numbers)
        return Batch([(self._split, number) for number in numbers])

    def position(self) -> int:
        return self._next

    def progress(self) -> int:
        return self._next

    def wait_ms(self) -> int:
        return self._wait_ms


class Chained(KeyedProcess[Record, Record]):
    """For each key and origin, a hash over all numbers so far, in order."""

    def __init__(self, modulus: int) -> None:
        self.modulus = modulus

    def open(self, context: OperatorContext) -> None:
        self._is_map = self.modulus % 2 == 0
        if self._is_map:
            self._map = context.map_state("hashes")
        else:
            self._value = context.value_state("hashes", dict)

    def process(self, value: Record, context: OperatorContext) -> Iterator[Record]:
        origin, number = value
        if self._is_map:
            hashed = reference.chained(self._map.get(origin) or 0, number)
            self._map.put(origin, hashed)
        else:
            hashes: dict[str, int] = self._value.value()
            hashed = hashes[origin] = reference.chained(hashes.get(origin, 0), number)
            self._value.update(hashes)
        yield f"{origin}|{context.key}", hashed


class Workload:
    """One job: its plan, its input, and the functions to build and to check it."""

    def __init__(self, topology: Random, chance: Random) -> None:
        self.nodes = PlanDrawing(topology).nodes
        self.sinks = [node.name for node in self.nodes if node.kind == "sink"]
        self.has_final = any(node.kind == "total" for node in self.nodes)
        self.trouble = Trouble()
        self.inputs = {
            node.name: _input(node, chance) for node in self.nodes if node.kind == "source"
        }
        self._pace = _pace(chance)
        self._layouts = topology.getrandbits(32)

    def workers(self, layout: int) -> int:
        """Return the number of workers of a layout."""
        return Random(f"{self._layouts}/{layout}/workers").choice(WORKERS)

    def widths(self, layout: int) -> list[int]:
        """Return how wide every node is in a layout."""
        chance = Random(f"{self._layouts}/{layout}/widths")
        widths: list[int] = []
        for node in self.nodes:
            is_own = node.width_of == node.index
            widths.append(chance.choice(WIDTHS) if is_own else widths[node.width_of])
        return widths

    def build(self, layout: int, system: TransactionalSystem) -> PipelineDefinition:
        """Return the pipeline in a layout."""
        builder = _Builder(self, self.widths(layout), system)
        return builder.build()

    def source(self, node: Node) -> SimulatedSource:
        """Return the source of a node."""
        return SimulatedSource(self.inputs[node.name], self._pace)

    def expected(
        self, positions: Mapping[str, Mapping[str, int]] | None = None
    ) -> dict[str, Counter[Record]]:
        """Return what every sink must have got of the input up to ``positions``, or of all of it.

        With positions, only what comes out before the end of input.
        """
        read = {
            source: {
                split: numbers if positions is None else numbers[: positions[source][split]]
                for split, numbers in splits.items()
            }
            for source, splits in self.inputs.items()
        }
        return reference.evaluate(self.nodes, read, is_ended=positions is None)


class _Builder:
    def __init__(self, workload: Workload, widths: list[int], system: TransactionalSystem) -> None:
        self._workload = workload
        self._widths = widths
        self._system = system
        self._pipeline = Pipeline("simulated", max_parallelism=MAX_PARALLELISM)
        self._streams: dict[int, Stream[Any]] = {}

    def build(self) -> PipelineDefinition:
        for node in self._workload.nodes:
            above = [self._streams[index] for index in node.inputs]
            if node.kind == "sink":
                sink = TransactionalSink(self._system)
                above[0].sink(sink, name=node.name, parallelism=self._widths[node.index])
            elif node.kind in {"chain", "count", "total"}:
                self._streams[node.index] = self._keyed(node, above[0])
            else:
                self._streams[node.index] = self._plain(node, above)
        return self._pipeline.definition(1)

    def _plain(self, node: Node, above: list[Stream[Any]]) -> Stream[Any]:
        settings: dict[str, Any] = {"name": node.name, "parallelism": self._widths[node.index]}
        if node.kind == "source":
            return self._pipeline.source(self._workload.source(node), **settings)
        if node.kind == "union":
            return above[0].union(*above[1:])
        return self._stateless(node, above[0], settings)

    def _stateless(self, node: Node, above: Stream[Any], settings: dict[str, Any]) -> Stream[Any]:
        match node.kind:
            case "rebalance":
                return above.rebalance()
            case "filter":
                return above.filter(reference.is_kept, **settings)
            case "flat_map":
                return above.flat_map(reference.flattened, **settings)
            case "tag":
                return above.map(_tag(node.number), **settings)
            case _:
                return above.map(_troubled(self._workload.trouble), **settings)

    def _keyed(self, node: Node, above: Stream[Any]) -> Stream[Any]:
        width, width_above = self._widths[node.index], self._widths[node.inputs[0]]
        keyed = above.key_by(_key(node.number), name=f"key-{node.index}", parallelism=width_above)
        if node.kind == "chain":
            return keyed.process(Chained(node.number), name=node.name, parallelism=width)
        own: dict[str, Any] = {"name": f"{node.name}.record", "parallelism": width}
        if node.kind == "count":
            counts = keyed.count(name=node.name, parallelism=width)
            return counts.map(_record_of(node.name, 10**9), **own)
        totals = keyed.sum(1, emit="final", name=node.name, parallelism=width)
        return totals.map(_record_of(node.name, 1000), **own)


def _tag(number: int) -> Callable[[Record], Record]:
    return lambda record: (f"{record[0]}/{number}", record[1])


def _key(modulus: int) -> Callable[[Record], int]:
    return lambda record: record[1] % modulus


def _record_of(name: str, modulus: int) -> Callable[[tuple[int, int]], Record]:
    return lambda pair: (name, pair[0] * 1000 + pair[1] % modulus)


def _troubled(trouble: Trouble) -> Callable[[Record], Record]:
    def function(record: Record) -> Record:
        trouble.pass_by()
        return reference.mapped(record)

    return function


def _input(node: Node, chance: Random) -> dict[str, list[int]]:
    count, splits = chance.randint(*RECORDS), chance.randint(1, 3)
    found: dict[str, list[int]] = {f"{node.name}.{split}": [] for split in range(splits)}
    for _ in range(count):
        found[f"{node.name}.{chance.randrange(splits)}"].append(chance.randrange(1009))
    return found


def _pace(chance: Random) -> Pace:
    hurry = chance.choice((1, 5, 15))
    return [
        (0, chance.randint(1, 2 * hurry)) if chance.random() < 0.4 else (chance.randint(1, 3), 0)
        for _ in range(13)
    ] + [(1, 0)]
