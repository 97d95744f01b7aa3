"""The user's pipeline with sources that a test feeds and sinks that it can look into.

Only the ends are exchanged. Every operator in between is the user's own, with its name, its state
and its place in the graph. ``watch`` adds a sink behind a step, or behind one of its side outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec

from flowsnap.api.drawing import Input
from flowsnap.api.pipeline import Pipeline
from flowsnap.api.stream import Steps
from flowsnap.core.graph import EdgeSpec, JobGraph, OperatorKind, OperatorSpec, Partitioning
from flowsnap.core.ids import OperatorId
from flowsnap.core.operator import Operator, Sink, Source
from flowsnap.core.watermark import MAX_WATERMARK
from flowsnap.errors import ConfigError
from flowsnap.runtime.definition import Code, PipelineDefinition
from flowsnap.testing.capture import CapturingSink, Ledger
from flowsnap.testing.feed import Feed, FeedSource, Untime
from flowsnap.testing.sources import TestSource

T = TypeVar("T", Source, Sink)


class Substitutes:
    """The feeds and ledgers of one pipeline, and the pipeline with them in it.

    Sources and sinks named in ``keep`` run for real, and so does every ``TestSource``; what is
    written to a sink that is kept is seen all the same.

    Raises:
        ConfigError: ``keep`` or ``watch`` names nothing of the pipeline, or it is not complete.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        keep: Collection[str] = (),
        watch: Iterable[Any] = (),
        partitions: int = 1,
    ) -> None:
        if partitions < 1:
            raise ConfigError(f"partitions: {partitions} is less than 1")
        self._pipeline = pipeline
        self._keep = {keep} if isinstance(keep, str) else set(keep)
        self.drawn = pipeline.definition(1)
        self.operators = {str(spec.name): spec for spec in self.drawn.graph.operators}
        self.feeds: dict[str, Feed] = {}
        self.test_sources: dict[str, TestSource] = {}
        for name, code in ends_of(self.drawn, Source).items():
            if isinstance(code, TestSource):
                self.test_sources[name] = code
            elif name not in self._keep:
                self.feeds[name] = Feed(name, partitions, code.event_time)
        ends = [n for n, spec in self.operators.items() if spec.kind is not OperatorKind.OPERATOR]
        for kept in self._keep:
            if kept not in ends:
                raise unknown("keep", kept, ends)
        wanted = [watch] if isinstance(watch, str | Steps) else watch
        self.watched = [self._checked(stream_name(one)) for one in wanted]
        outputs = [*ends_of(self.drawn, Sink), *self.watched]
        self.ledgers = {name: Ledger() for name in outputs}

    def definition(self, parallelism: int) -> PipelineDefinition:
        """Return the pipeline with its ends exchanged, ``parallelism`` wide.

        Raises:
            ConfigError: it cannot run so wide.
        """
        base = self._pipeline.definition(parallelism)
        code: dict[OperatorId, Code] = dict(base.code)
        for name, own in ends_of(base, Sink).items():
            kept = own if name in self._keep else None
            code[OperatorId(name)] = CapturingSink(self.ledgers[name], kept)
        for generator in self._generators():
            code[generator] = _steered(code[generator])
        for number, output in enumerate(self.watched):
            code[_watch_name(number)] = CapturingSink(self.ledgers[output])
        for number, (name, feed) in enumerate(self.feeds.items()):
            code[OperatorId(name)] = FeedSource(feed)
            if feed.event_time is None:
                code[_feed_name(number)] = Untime()
        return PipelineDefinition(self._graph(base.graph), code, base.modules)

    def _graph(self, graph: JobGraph) -> JobGraph:
        for number, output in enumerate(self.watched):
            graph = _watch(graph, output, _watch_name(number))
        for number, (name, feed) in enumerate(self.feeds.items()):
            if feed.event_time is None:  # Last, so that a sink that watches it stands behind it.
                graph = _behind(graph, OperatorId(name), _feed_name(number))
        return graph

    def stops_at(self, source: str) -> list[str]:
        """Return the steps behind ``source`` that watermarks of it do not get past."""
        ahead, found, steered = [source], [], set(self._generators())
        for name in ahead:
            code = self.drawn.code[OperatorId(name)]
            if _makes_watermarks(code) and name not in steered:
                found.append(name)
            else:
                below = [edge.target for edge in self.drawn.graph.edges if edge.source == name]
                ahead += [one for one in below if one not in ahead]
        return found

    def _checked(self, output: str) -> str:
        operator = output.partition("/")[0]
        steps = [n for n, spec in self.operators.items() if spec.kind is not OperatorKind.SINK]
        if operator not in steps:
            raise unknown("watch", output, steps)
        return output

    def _generators(self) -> Iterator[OperatorId]:
        """Yield the steps that make watermarks of streams which had none before."""
        for name, code in self.drawn.code.items():
            if _makes_watermarks(code) and not self._is_timed_above(name):
                yield name

    def _is_timed_above(self, operator: str) -> bool:
        above = [edge.source for edge in self.drawn.graph.edges if edge.target == operator]
        for name in above:
            code = self.drawn.code[name]
            if self.operators[name].kind is OperatorKind.SOURCE:
                if isinstance(code, Source) and code.event_time is not None:
                    return True
            elif _makes_watermarks(code):
                return True
            above += [
                edge.source
                for edge in self.drawn.graph.edges
                if edge.target == name and edge.source not in above
            ]
        return False


def ends_of(definition: PipelineDefinition, kind: type[T]) -> dict[str, T]:
    """Return the sources, or the sinks, of a pipeline; a class may be able to be either."""
    wanted = OperatorKind.SOURCE if issubclass(kind, Source) else OperatorKind.SINK
    found = {}
    for spec in definition.graph.operators:
        code = definition.code[spec.name]
        if spec.kind is wanted and isinstance(code, kind):
            found[str(spec.name)] = code
    return found


def stream_name(output: Any) -> str:
    """Return the name of an output: of a step, or ``<step>/<tag>`` of a side output.

    Raises:
        ConfigError: it is neither a name nor a stream of one step.
    """
    if isinstance(output, str):
        return output
    inputs: tuple[Input, ...] = getattr(output, "_inputs", ())
    if not isinstance(output, Steps) or len(inputs) != 1:
        raise ConfigError(f"{output!r} is not the name of an output").hint(
            'write the name of a step, "<step>/<tag>" for a side output, or pass the stream itself'
        )
    return f"{inputs[0].step.name}/{inputs[0].tag}" if inputs[0].tag else str(inputs[0].step.name)


def unknown(what: str, name: object, known: Iterable[str]) -> ConfigError:
    """Return the error that says which names there are."""
    names = sorted(known)
    near = get_close_matches(str(name), names, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names) or 'none'}"
    return ConfigError(f"{what}: there is no {name!r} in the pipeline").hint(advice)


def _makes_watermarks(code: Code) -> bool:
    """Return whether event time begins anew at a step."""
    return isinstance(code, Operator) and code.generates_watermarks and not code.delays_watermarks


def _watch_name(number: int) -> OperatorId:
    return OperatorId(f"harness-watch-{number}")


def _feed_name(number: int) -> OperatorId:
    return OperatorId(f"harness-feed-{number}")


def _behind(graph: JobGraph, source: OperatorId, step: OperatorId) -> JobGraph:
    """Return the graph with a step between a source and all that reads from it."""
    wide = next(spec.parallelism for spec in graph.operators if spec.name == source)
    edges = [
        msgspec.structs.replace(edge, source=step) if edge.source == source else edge
        for edge in graph.edges
    ]
    spec = OperatorSpec(step, OperatorKind.OPERATOR, wide, Untime.__name__, False)
    edges.append(EdgeSpec(source, step, Partitioning.FORWARD))
    return msgspec.structs.replace(graph, operators=(*graph.operators, spec), edges=tuple(edges))


def _watch(graph: JobGraph, output: str, sink: OperatorId) -> JobGraph:
    """Return the graph with one more sink."""
    name, _, tag = output.partition("/")
    wide = next(spec.parallelism for spec in graph.operators if spec.name == name)
    spec = OperatorSpec(sink, OperatorKind.SINK, wide, CapturingSink.__name__, False)
    edge = EdgeSpec(OperatorId(name), sink, Partitioning.FORWARD, 0, tag)
    return msgspec.structs.replace(
        graph, operators=(*graph.operators, spec), edges=(*graph.edges, edge)
    )


def _steered(template: Code) -> Code:
    """Return a step that makes watermarks, to whom those that a test gives count as well."""
    assert isinstance(template, Operator)
    own = type(template)

    def advance(self: Any, watermark_ms: int) -> Iterator[Any]:
        yield from own.advance(self, watermark_ms)
        reached = self.watermark_ms
        if watermark_ms < MAX_WATERMARK and (reached is None or watermark_ms > reached):
            self.watermark_ms = watermark_ms

    steered = copy.copy(template)
    steered.__class__ = type(own.__name__, (own,), {"advance": advance})
    return steered
