from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from flowsnap import (
    BroadcastContext,
    BroadcastProcess,
    ConfigError,
    CoProcess,
    KeyedProcess,
    OutputTag,
    Pipeline,
    ProcessContext,
    ProcessFunction,
    Stream,
    bounded,
    monotonous,
    split,
)
from flowsnap.connectors import Discard, Generator
from flowsnap.core.event_time import Bounded
from flowsnap.core.graph import (
    EdgeSpec,
    JobGraph,
    OperatorSpec,
    Partitioning,
    build_execution_graph,
)
from flowsnap.core.operator import Source
from flowsnap.core.restore import assign
from flowsnap.operators import AssignTimestamps
from flowsnap.runtime.definition import pickle_definition
from tests.manifests import at, checkpoint, found, words


class Each(ProcessFunction[int, int]):
    def process(self, value: int, context: ProcessContext) -> list[int]:
        return [value]


class Keyed(KeyedProcess[int, int]):
    def process(self, value: int, context: ProcessContext) -> list[int]:
        return [value]


class Both(CoProcess[int, int, int]):
    pass


class Rules(BroadcastProcess[int, int, int]):
    def process(self, value: int, context: BroadcastContext) -> list[int]:
        return [value]


@pytest.fixture
def job() -> Pipeline:
    return Pipeline("job")


@pytest.fixture
def numbers(job: Pipeline) -> Stream[int]:
    return job.source(Generator(abs, 10), name="numbers", parallelism=2)


def edges(graph: JobGraph, target: str) -> list[tuple[str, str, int, str]]:
    def shown(edge: EdgeSpec) -> tuple[str, str, int, str]:
        return edge.source, edge.partitioning.value, edge.port, edge.tag

    return [shown(edge) for edge in graph.edges if edge.target == target]


def spec(graph: JobGraph, name: str) -> OperatorSpec:
    (one,) = [operator for operator in graph.operators if operator.name == name]
    return one


def template(job: Pipeline, name: str) -> Any:
    return {str(key): code for key, code in job.definition(2).code.items()}[name]


# --- timestamps


def test_timestamps_are_assigned_where_the_records_are(job: Pipeline, numbers: Stream[int]) -> None:
    numbers.assign_timestamps(abs, name="times").sink(Discard(), parallelism=2)

    graph = job.definition(3).graph

    assert edges(graph, "times") == [("numbers", "forward", 0, "")]
    assert spec(graph, "times").parallelism == 2


def test_defaults_are_five_seconds_of_disorder_and_thirty_of_silence(
    job: Pipeline, numbers: Stream[int]
) -> None:
    numbers.assign_timestamps(abs, name="times").sink(Discard())

    times = template(job, "times")

    assert isinstance(times, AssignTimestamps)
    assert (times.strategy, times.idle_ms, times.max_future_ms) == (Bounded(5_000), 30_000, None)


def test_settings_of_time_reach_the_operator(job: Pipeline, numbers: Stream[int]) -> None:
    stream = numbers.assign_timestamps("at", "1m", idle=None, max_future="2h", name="a")
    stream.assign_timestamps("at", watermarks=monotonous(), name="b").sink(Discard())

    first, second = template(job, "a"), template(job, "b")

    assert (first.strategy, first.idle_ms, first.max_future_ms) == (
        Bounded(60_000), None, 7_200_000
    )  # fmt: skip
    assert second.strategy == Bounded(0)


MISTAKES: dict[str, Callable[[Stream[int]], object]] = {
    "must be selected": lambda s: s.assign_timestamps(None),
    "True does not select": lambda s: s.assign_timestamps(True),
    "out_of_orderness: 5 is not a duration": lambda s: s.assign_timestamps(abs, 5),  # type: ignore[arg-type]
    "idle: 'never' is not": lambda s: s.assign_timestamps(abs, idle="never"),
    "max_future: 'x' is not": lambda s: s.assign_timestamps(abs, max_future="x"),
    "both out_of_orderness and": lambda s: s.assign_timestamps(abs, "1s", watermarks=monotonous()),
    "is not a watermark strategy": lambda s: s.assign_timestamps(abs, watermarks=abs),  # type: ignore[arg-type]
    "are for a source": lambda s: s.assign_timestamps(abs, watermarks=bounded(group="g")),
    "is not a function": lambda s: s.split(3),  # type: ignore[arg-type]
    "is not a ProcessFunction": lambda s: s.process(3),  # type: ignore[arg-type]
    "needs a key": lambda s: s.process(Keyed),  # type: ignore[arg-type]
    "is not a CoProcess": lambda s: s.connect(s.map(abs)).process(Each),  # type: ignore[arg-type]
    "is not a BroadcastProcess": lambda s: s.connect(s.broadcast()).process(Both),  # type: ignore[arg-type]
    "connect: 3 is not a stream": lambda s: s.connect(3),  # type: ignore[call-overload]
    "one stream has keys and": lambda s: s.connect(s.key_by()),  # type: ignore[call-overload]
    "one stream has keys": lambda s: s.key_by().connect(s),  # type: ignore[call-overload]
    "different pipelines": lambda s: s.connect(Pipeline("other").from_iterable([1])),
    "other pipelines' rules": lambda s: s.connect(Pipeline("o").from_iterable([1]).broadcast()),
    "is not a name for a side output": lambda s: s.process(Each).side_output("a b"),
    "has no side outputs": lambda s: s.map(abs).side_output("late"),
    "'numbers' .* has no side": lambda s: s.side_output("late"),
    "is not an output of one step": lambda s: s.union(s.map(abs)).side_output("late"),
    "'x' is not an output of one": lambda s: s.process(Each).side_output("x").side_output("x"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistake_is_refused_where_it_is_made(message: str, numbers: Stream[int]) -> None:
    expected = "different pipelines" if message.startswith("other") else message

    with pytest.raises(ConfigError, match=expected):
        MISTAKES[message](numbers)


# --- several inputs and outputs


def test_side_output_is_an_edge_with_a_tag(job: Pipeline, numbers: Stream[int]) -> None:
    stream = numbers.process(Each, name="each")
    stream.side_output(OutputTag("late")).sink(Discard(), name="late")
    stream.sink(Discard(), name="out")

    graph = job.definition(2).graph

    assert edges(graph, "late") == [("each", "forward", 0, "late")]
    assert edges(graph, "out") == [("each", "forward", 0, "")]


def test_side_output_stays_one_when_it_is_rebalanced_or_united(
    job: Pipeline, numbers: Stream[int]
) -> None:
    stream = numbers.process(Each, name="each")
    stream.union(stream.side_output("late").rebalance()).sink(Discard(), name="out")

    assert edges(job.definition(2).graph, "out") == [
        ("each", "forward", 0, ""),
        ("each", "rebalance", 0, "late"),
    ]


def test_split_has_one_step_and_two_outputs(job: Pipeline, numbers: Stream[int]) -> None:
    yes, no = split(numbers, bool, name="zero")
    yes.sink(Discard(), name="yes")
    no.sink(Discard(), name="no")

    graph = job.definition(2).graph

    assert edges(graph, "yes") == [("zero", "forward", 0, "")]
    assert edges(graph, "no") == [("zero", "forward", 0, "rest")]


def test_connected_keyed_streams_come_in_by_key_at_two_ports(
    job: Pipeline, numbers: Stream[int]
) -> None:
    left, right = numbers.key_by(name="left"), numbers.map(abs).key_by(name="right")
    left.connect(right).process(Both, name="both").sink(Discard())

    graph = job.definition(3).graph

    assert edges(graph, "both") == [("left", "hash", 0, ""), ("right", "hash", 1, "")]
    assert spec(graph, "both").is_keyed


def test_connected_plain_streams_have_no_keys(job: Pipeline, numbers: Stream[int]) -> None:
    others = job.from_iterable([1], name="one")
    numbers.connect(others).process(Both, name="both").sink(Discard())

    graph = job.definition(2).graph

    assert edges(graph, "both") == [("numbers", "forward", 0, ""), ("one", "rebalance", 1, "")]
    assert not spec(graph, "both").is_keyed


@pytest.mark.parametrize("is_keyed", [True, False])
def test_broadcast_stream_goes_to_every_subtask(
    is_keyed: bool, job: Pipeline, numbers: Stream[int]
) -> None:
    rules = job.from_iterable([1], name="rules").broadcast()
    connected = numbers.key_by(name="k").connect(rules) if is_keyed else numbers.connect(rules)
    connected.process(Rules, name="checked").sink(Discard())

    graph = job.definition(2).graph

    assert edges(graph, "checked")[1] == ("rules", Partitioning.BROADCAST.value, 1, "")
    assert spec(graph, "checked").is_keyed is is_keyed


# --- sources


def test_source_is_copied_when_it_is_told_of_event_time(job: Pipeline) -> None:
    source = Generator(abs, 10)
    timed = job.source(source, watermark=bounded("1s", timestamp=abs), name="timed")
    timed.sink(Discard())

    drawn = template(job, "timed")

    assert source.event_time is None
    assert isinstance(drawn, Source)
    assert drawn.event_time is not None
    assert spec(job.definition(2).graph, "timed").type == "Generator"
    assert pickle_definition(job.definition(2))


def test_source_may_have_a_strategy_of_the_users_own(job: Pipeline) -> None:
    job.source(Generator(abs, 10), watermark=Bounded(7), name="timed").sink(Discard())

    assert template(job, "timed").event_time.strategy == Bounded(7)


def test_what_is_no_strategy_is_refused_for_a_source(job: Pipeline) -> None:
    with pytest.raises(ConfigError, match="'5s' is not a watermark strategy"):
        job.source(Generator(abs, 10), watermark="5s")  # type: ignore[arg-type]


def test_restored_split_has_the_watermark_of_its_position() -> None:
    half_read = msgspec.structs.replace(at("a", 5), watermark_ms=77)
    manifest = checkpoint(words(), {"lines/0": {"splits": (half_read,)}})
    graph = words(readers=2)

    assigned = assign(manifest, build_execution_graph(graph, 2), graph, found("a", "b"))

    marks = {split.split: split.watermark_ms for task in assigned for split in task.splits}
    assert marks == {"a": 77, "b": None}
