"""Builds a pipeline from a plan, by the same interface as everybody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flowsnap.api.pipeline import Pipeline
from flowsnap.api.stream import Stream
from flowsnap.core.event_time import Bounded, EventTime
from flowsnap.operators.window.aggregate import Count, Sum
from flowsnap.operators.window.assigner import Session, Tumbling, Window
from flowsnap.operators.window.result import WindowResult
from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.testing import reference
from flowsnap.testing.cycles import Cycle
from flowsnap.testing.plan import Node
from flowsnap.testing.reference import GAP_MS, NEAR_MS, SLOT_MS, Record
from flowsnap.testing.sink import TransactionalSink, TransactionalSystem
from flowsnap.testing.steps import Chained, Rules, SimulatedAsyncMap, SlotTimers, Trouble, ask

if TYPE_CHECKING:
    from flowsnap.testing.workload import Workload

MAX_PARALLELISM = 8
LATE = "late"


class Builder:
    """Builds one pipeline, node by node; ``widths`` are the parallelisms, by node."""

    def __init__(self, workload: Workload, widths: list[int], system: TransactionalSystem) -> None:
        self._workload = workload
        self._widths = widths
        self._system = system
        self._pipeline = Pipeline("simulated", max_parallelism=MAX_PARALLELISM)
        self._streams: dict[int, Stream[Any]] = {}

    def build(self) -> PipelineDefinition:
        """Return the pipeline."""
        for node in self._workload.nodes:
            above = [self._streams[index] for index in node.inputs]
            if node.kind == "sink":
                sink = TransactionalSink(self._system)
                above[0].sink(sink, name=node.name, parallelism=self._widths[node.index])
            else:
                self._streams[node.index] = self._drawn(node, above)
        return self._pipeline.definition(1)

    def _drawn(self, node: Node, above: list[Stream[Any]]) -> Stream[Any]:
        result: Stream[Any]
        match node.kind:
            case "source":
                result = self._source(node)
            case "union":
                result = above[0].union(*above[1:])
            case "rebalance":
                result = above[0].rebalance()
            case "broadcast" | "async" | "async_any":
                result = self._special(node, above)
            case "loop" | "mover" | "nested":
                result = Cycle(self._pipeline, node, above[0], self._widths).build()
            case "chain" | "count" | "total":
                result = self._keyed(node, above[0])
            case "tumbling" | "session" | "late" | "timer" | "interval":
                result = self._timed(node, above)
            case _:
                result = self._stateless(node, above[0])
        return result

    def _special(self, node: Node, above: list[Stream[Any]]) -> Stream[Any]:
        if node.kind == "broadcast":
            rules = Rules(node.name, is_ordered=node.is_ordered)
            return above[0].connect(above[1].broadcast()).process(rules, **self._own(node))
        code = SimulatedAsyncMap(ask, capacity=3, ordered=node.kind == "async")
        return above[0]._then(code, node.name, self._widths[node.index])

    def _own(self, node: Node) -> dict[str, Any]:
        return {"name": node.name, "parallelism": self._widths[node.index]}

    def _source(self, node: Node) -> Stream[Any]:
        workload, strategy = self._workload, Bounded(self._workload.delay_ms)
        code = workload.source(node)
        if not workload.is_timed:
            return self._pipeline.source(code, **self._own(node))
        if not workload.is_stamped_late:
            return self._pipeline.source(code, watermark=EventTime(strategy), **self._own(node))
        stream = self._pipeline.source(code, **self._own(node))
        return stream.assign_timestamps(
            2, watermarks=strategy, idle=None, name=f"{node.name}.stamp"
        )

    def _stateless(self, node: Node, above: Stream[Any]) -> Stream[Any]:
        match node.kind:
            case "filter":
                return above.filter(reference.is_kept, **self._own(node))
            case "flat_map":
                return above.flat_map(reference.flattened, **self._own(node))
            case "tag":
                return above.map(_tag(node.number), **self._own(node))
            case _:
                return above.map(_troubled(self._workload.trouble), **self._own(node))

    def _by_key(self, node: Node, above: Stream[Any], which: int = 0) -> Any:
        name = f"key-{node.index}" if which == 0 else f"key-{node.index}.{which}"
        width_above = self._widths[node.inputs[which]]
        return above.key_by(_key(node.number), name=name, parallelism=width_above)

    def _keyed(self, node: Node, above: Stream[Any]) -> Stream[Any]:
        keyed, settings = self._by_key(node, above), self._own(node)
        own = {**settings, "name": f"{node.name}.record"}
        match node.kind:
            case "chain":
                return keyed.process(Chained(node.number), **settings)  # type: ignore[no-any-return]
            case "count":
                return keyed.count(**settings).map(_record_of(node.name, 10**9), **own)  # type: ignore[no-any-return]
            case _:
                totals = keyed.sum(1, emit="final", **settings)
                return totals.map(_record_of(node.name, 1000), **own)  # type: ignore[no-any-return]

    def _timed(self, node: Node, above: list[Stream[Any]]) -> Stream[Any]:
        keyed, settings = self._by_key(node, above[0]), self._own(node)
        own = {**settings, "name": f"{node.name}.record"}
        result: Stream[Any]
        match node.kind:
            case "timer":
                result = keyed.process(SlotTimers(node.name), **settings)
            case "interval":
                other = self._by_key(node, above[1], 1)
                near = keyed.interval_join(other, lower=f"-{NEAR_MS}ms", upper=f"{NEAR_MS}ms")
                result = near.apply(_pair(node.name), **settings)
            case "late":
                windows = keyed.window(Tumbling(f"{SLOT_MS}ms"), late=LATE)
                fired = windows.process(_contents(node.name), **settings)
                late = fired.side_output(LATE).map(_late(node.name), **own)
                result = fired.union(late)
            case "session":
                sessions = keyed.window(Session(f"{GAP_MS}ms")).aggregate(Sum(1), **settings)
                result = sessions.map(_result_of(node.name), **own)
            case _:
                counts = keyed.window(Tumbling(f"{SLOT_MS}ms")).aggregate(Count(), **settings)
                result = counts.map(_result_of(node.name), **own)
        return result


def _tag(number: int) -> Callable[[Record], Record]:
    return lambda record: (f"{record[0]}/{number}", record[1], record[2])


def _key(modulus: int) -> Callable[[Record], int]:
    return lambda record: record[1] % modulus


def _record_of(name: str, modulus: int) -> Callable[[tuple[int, int]], Record]:
    return lambda pair: (name, pair[0] * 1000 + pair[1] % modulus, 0)


def _result_of(name: str) -> Callable[[WindowResult[int, int]], Record]:
    return lambda one: (name, one.key * 1000 + one.value % 1000, one.start)


def _contents(name: str) -> Callable[[int, Window, list[Record]], Iterator[Record]]:
    def contents(key: int, window: Window, records: list[Record]) -> Iterator[Record]:
        for record in records:
            yield name, record[1], window.start

    return contents


def _late(name: str) -> Callable[[Record], Record]:
    return lambda record: (name, record[1], record[2] // SLOT_MS * SLOT_MS)


def _pair(name: str) -> Callable[[Record, Record], Record]:
    return lambda left, right: (name, reference.paired(left[1], right[1]), max(left[2], right[2]))


def _troubled(trouble: Trouble) -> Callable[[Record], Record]:
    def function(record: Record) -> Record:
        trouble.pass_by()
        return reference.mapped(record)

    return function
