"""A user's pipeline as the job of a simulated world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from random import Random
from typing import Any

import msgspec

from flowsnap.api.pipeline import Pipeline
from flowsnap.connectors.iterable import FromIterable
from flowsnap.core.ids import OperatorId
from flowsnap.core.operator import Sink, Source
from flowsnap.errors import ConfigError
from flowsnap.operators.async_map import AsyncMap
from flowsnap.runtime.definition import Code, PipelineDefinition
from flowsnap.testing.kit_ends import DirectAsyncMap, InputSource, OwnSink, Splits, View
from flowsnap.testing.reference import Record
from flowsnap.testing.sink import TransactionalSink, TransactionalSystem
from flowsnap.testing.sources import END, Sentinel, TestSource, Timed
from flowsnap.testing.steps import Pace, Trouble
from flowsnap.testing.substitute import ends_of, unknown
from flowsnap.testing.workload import Workload

PARALLELISMS = (1, 1, 2, 2, 3)
WORKERS = (0, 1, 2, 2, 3)
JOB = "simulated"
READS = 40
"""In about so many batches a source is read, so that there are some checkpoints meanwhile."""


class UserWorkload(Workload):
    """One pipeline with its inputs, in the layouts that its seed decides."""

    def __init__(
        self,
        seed: int,
        pipeline: Pipeline,
        inputs: Mapping[str, Splits],
        views: Mapping[str, View],
        *,
        is_rescaled: bool,
    ) -> None:
        self.nodes, self.sinks = [], []
        self.trouble = Trouble()
        given: Any = {name: dict(splits) for name, splits in inputs.items()}
        self.inputs = given
        self.own_sinks: list[OwnSink] = []
        self._seed = seed
        self._pipeline = pipeline
        self._views = views
        self._is_rescaled = is_rescaled
        longest = max((len(v) for splits in inputs.values() for v in splits.values()), default=0)
        self._pace = _pace(Random(f"{seed}/pace"), max(1, longest // READS))

    def workers(self, layout: int) -> int:
        return self._chance("workers", layout).choice(WORKERS)

    def build(self, layout: int, system: TransactionalSystem) -> PipelineDefinition:
        width = self._chance("width", layout).choice(PARALLELISMS)
        base = self._pipeline.definition(min(width, self._pipeline.max_parallelism))
        code: dict[OperatorId, Code] = {
            name: DirectAsyncMap.of(one) if isinstance(one, AsyncMap) else one
            for name, one in base.code.items()
        }
        for name, source in ends_of(base, Source).items():
            splits: Any = self.inputs[name]
            code[OperatorId(name)] = InputSource(
                splits, self._pace, source.event_time, self.trouble
            )
        for name, sink in ends_of(base, Sink).items():
            code[OperatorId(name)] = self._sink(name, sink, system)
        graph = msgspec.structs.replace(base.graph, name=JOB)
        return PipelineDefinition(graph, code, base.modules)

    def _sink(self, name: str, sink: Sink, system: TransactionalSystem) -> TransactionalSink:
        if name not in self._views:
            return TransactionalSink(system)
        own = OwnSink(system, sink, self._views[name])
        self.own_sinks.append(own)
        return own

    def expected(self) -> dict[str, Counter[Record]]:
        """Return nothing: what must come out is found by a run without faults."""
        return {}

    def expected_of(self, positions: Mapping[str, Mapping[str, int]], *, is_ended: bool) -> Any:
        return {}

    def _chance(self, what: str, layout: int) -> Random:
        return Random(f"{self._seed}/{layout if self._is_rescaled else 0}/{what}")


def splits_of(pipeline: Pipeline, inputs: Mapping[str, Any]) -> dict[str, Splits]:
    """Return the values of every source of a pipeline, by split.

    ``inputs`` has a sequence for a source, or a mapping of several; a source that holds its values
    itself (``from_iterable``, ``TestSource``) may be left out.

    Raises:
        ConfigError: a source has no input, or there is no such source; event times are missing.
    """
    sources = ends_of(pipeline.definition(1), Source)
    for name in inputs:
        if name not in sources:
            raise unknown("inputs", name, sources)
    found: dict[str, Splits] = {}
    for name, source in sources.items():
        given = inputs[name] if name in inputs else _own_values(name, source)
        splits: Splits = given if isinstance(given, Mapping) else {"all": list(given)}
        found[str(name)] = {str(split): _checked(name, source, v) for split, v in splits.items()}
    return found


def _own_values(name: str, source: Source) -> Sequence[Any]:
    if isinstance(source, TestSource):
        read = takewhile(lambda one: one is not END, source.values)
        return [one for one in read if not isinstance(one, Sentinel)]
    if isinstance(source, FromIterable):
        return list(source.values() if callable(source.values) else source.values)
    raise ConfigError(f"inputs: source {name!r} ({type(source).__name__}) has none").hint(
        f"simulate(pipeline, {{{name!r}: [...]}})"
    )


def _checked(name: str, source: Source, values: Sequence[Any]) -> list[Any]:
    settings = source.event_time
    needs_times = settings is not None and settings.stamp is None
    if needs_times and not all(isinstance(one, Timed) for one in values):
        raise ConfigError(f"inputs: the records of source {name!r} need event times").hint(
            "write at(1_000, value) for each"
        )
    return list(values)


def _pace(chance: Random, count: int) -> Pace:
    hurry = chance.choice((2, 5, 15))
    return [
        (0, chance.randint(1, 2 * hurry))
        if chance.random() < 0.4
        else (chance.randint(count, 3 * count), 0)
        for _ in range(13)
    ] + [(count, 0)]
