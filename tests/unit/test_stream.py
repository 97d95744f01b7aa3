from __future__ import annotations

from typing import Any

import pytest

from flowsnap import ConfigError, KeyedProcess, Pipeline, Stream
from flowsnap.connectors import Collect, Discard, Generator
from flowsnap.core.graph import JobGraph, OperatorSpec, build_execution_graph
from flowsnap.core.operator import OperatorContext
from flowsnap.operators import Combine, Count, Map


class Echo(KeyedProcess[Any, Any]):
    def process(self, value: Any, context: OperatorContext) -> list[Any]:
        return [value]


@pytest.fixture
def job() -> Pipeline:
    return Pipeline("job")


@pytest.fixture
def numbers(job: Pipeline) -> Stream[int]:
    return job.source(Generator(abs, 10), name="numbers")


def edges(graph: JobGraph) -> set[str]:
    return {f"{edge.source} {edge.partitioning} {edge.target}" for edge in graph.edges}


def spec(graph: JobGraph, name: str) -> OperatorSpec:
    (found,) = [operator for operator in graph.operators if operator.name == name]
    return found


def test_steps_of_one_parallelism_forward(job: Pipeline, numbers: Stream[int]) -> None:
    numbers.map(abs).filter(bool).flat_map(lambda n: [n]).sink(Discard())

    graph = job.definition(2).graph

    assert edges(graph) == {
        "numbers forward map-1",
        "map-1 forward filter-1",
        "filter-1 forward flat_map-1",
        "flat_map-1 forward discard-1",
    }
    assert {operator.parallelism for operator in graph.operators} == {2}
    assert len(build_execution_graph(graph, 2).chains) == 1


def test_change_of_parallelism_rebalances(job: Pipeline, numbers: Stream[int]) -> None:
    numbers.map(abs, name="wide", parallelism=3).sink(Discard(), name="end")

    graph = job.definition(2).graph

    assert edges(graph) == {"numbers rebalance wide", "wide rebalance end"}


def test_rebalance_concerns_the_next_step_only(job: Pipeline, numbers: Stream[int]) -> None:
    numbers.rebalance().map(abs, name="m").sink(Discard(), name="end")

    assert edges(job.definition(2).graph) == {"numbers rebalance m", "m forward end"}


def test_keyed_step_is_reached_by_hash(job: Pipeline, numbers: Stream[int]) -> None:
    numbers.key_by(name="k").process(Echo, name="echo").sink(Discard(), name="end")

    graph = job.definition(2).graph

    assert edges(graph) == {"numbers forward k", "k hash echo", "echo forward end"}
    assert [o.name for o in graph.operators if o.is_keyed] == ["echo"]


@pytest.mark.parametrize("step", ["count", "sum", "min", "max"])
def test_aggregate_is_combined_before_the_shuffle(
    job: Pipeline, numbers: Stream[int], step: str
) -> None:
    keyed = numbers.key_by(name="k")
    getattr(keyed, step)(emit="final", name="total").sink(Discard(), name="end")

    graph = job.definition(2).graph

    assert {"k forward total.combine", "total.combine hash total"} <= edges(graph)
    assert spec(graph, "total.combine") == OperatorSpec(*_combine("total.combine"))
    assert spec(graph, "total").is_keyed


def _combine(name: str) -> tuple[Any, ...]:
    from flowsnap.core.graph import OperatorKind

    return name, OperatorKind.OPERATOR, 2, "Combine", False


def test_combine_and_aggregate_agree_on_partial_values(job: Pipeline, numbers: Stream[int]) -> None:
    numbers.key_by().count(emit="batch", name="n").sink(Discard())

    code = job.definition().code
    combine, count = (code[name] for name in code if name.startswith("n.") or name == "n")

    assert isinstance(combine, Combine)
    assert isinstance(count, Count)
    assert (combine.aggregate.is_merging, count.is_merging) == (False, True)


def test_values_that_all_are_seen_are_not_combined(job: Pipeline, numbers: Stream[int]) -> None:
    keyed = numbers.key_by(name="k")
    keyed.count(name="each").sink(Discard())
    keyed.fold(0, int.__add__, emit="final", name="fold").sink(Discard())

    assert {"k hash each", "k hash fold"} <= edges(job.definition(2).graph)


def test_key_by_and_combine_are_as_wide_as_what_they_read(job: Pipeline) -> None:
    words = job.from_iterable(["a"], name="words")
    words.key_by(name="k").count(emit="final", name="n").sink(Discard())

    graph = job.definition(4).graph

    widths = {operator.name: operator.parallelism for operator in graph.operators}
    assert widths == {"words": 1, "k": 1, "n.combine": 1, "n": 4, "discard-1": 4}


def test_plain_step_after_key_by_meets_the_records_of_a_key_in_one_subtask(
    job: Pipeline, numbers: Stream[int]
) -> None:
    numbers.key_by(name="k").map(abs, name="m").sink(Discard())

    graph = job.definition(2).graph

    assert "k hash m" in edges(graph)
    assert not spec(graph, "m").is_keyed


def test_union_feeds_one_step_from_several(job: Pipeline, numbers: Stream[int]) -> None:
    more = job.from_iterable([1], name="more")
    numbers.union(more).map(abs, name="m").sink(Discard(), name="end")

    assert edges(job.definition(2).graph) == {
        "numbers forward m",
        "more rebalance m",
        "m forward end",
    }


def test_stream_may_go_to_several_steps(job: Pipeline, numbers: Stream[int]) -> None:
    numbers.sink(Collect(), name="all")
    numbers.filter(bool, name="some").sink(Collect(), name="few")

    assert len(job.definition().graph.edges) == 3


def test_automatic_names_count_each_type_in_order_of_creation(
    job: Pipeline, numbers: Stream[int]
) -> None:
    first = numbers.map(abs)
    first.key_by().count(emit="final").sink(Discard())
    first.map(abs).key_by().count().sink(Discard())

    names = [operator.name for operator in job.definition().graph.operators]

    assert names == [
        *("numbers", "map-1", "key_by-1", "count-1.combine", "count-1", "discard-1"),
        *("map-2", "key_by-2", "count-2", "discard-2"),
    ]


def test_name_given_twice_is_an_error_that_says_both_places(numbers: Stream[int]) -> None:
    numbers.map(abs, name="same")
    with pytest.raises(ConfigError) as caught:
        numbers.filter(bool, name="same")

    line = caught.tb.tb_lineno
    assert f"{__file__}:{line - 2}" in str(caught.value)
    assert f"{__file__}:{line}" in str(caught.value)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "ä", "a" * 65, 3])
def test_malformed_name_is_refused(numbers: Stream[int], name: Any) -> None:
    with pytest.raises(ConfigError, match="is not a name"):
        numbers.map(abs, name=name)


def test_name_of_a_combined_step_leaves_room_for_that_of_its_combine(
    numbers: Stream[int],
) -> None:
    with pytest.raises(ConfigError, match="is not a name") as caught:
        numbers.key_by().count(emit="final", name="a" * 57)

    assert "1 to 56 letters" in caught.value.__notes__[0]


@pytest.mark.parametrize("parallelism", [0, -1, 1.5, True, "2"])
def test_nonsense_parallelism_is_refused(numbers: Stream[int], parallelism: Any) -> None:
    with pytest.raises(ConfigError, match="parallelism"):
        numbers.map(abs, parallelism=parallelism)


@pytest.mark.parametrize("step", ["map", "filter", "flat_map"])
def test_what_cannot_be_called_is_refused(numbers: Stream[int], step: str) -> None:
    with pytest.raises(ConfigError, match=f"{step}: 'fn' is not a function"):
        getattr(numbers, step)("fn")


def test_refused_step_is_not_drawn(job: Pipeline, numbers: Stream[int]) -> None:
    with pytest.raises(ConfigError):
        numbers.map(abs, parallelism=0)
    numbers.map(abs).sink(Discard())

    assert [o.name for o in job.definition().graph.operators] == ["numbers", "map-1", "discard-1"]


def test_what_is_no_sink_is_refused(numbers: Stream[int]) -> None:
    with pytest.raises(ConfigError, match="is not a sink"):
        numbers.sink(Map(abs))  # type: ignore[arg-type]  # what a user may pass


@pytest.mark.parametrize("other", [3, Pipeline("other").from_iterable([1])])
def test_only_streams_of_one_pipeline_can_be_united(numbers: Stream[int], other: Any) -> None:
    with pytest.raises(ConfigError, match="union"):
        numbers.union(other)


def test_stream_cannot_be_united_with_itself(numbers: Stream[int]) -> None:
    with pytest.raises(ConfigError, match="'numbers' would come in twice"):
        numbers.union(numbers.rebalance())


def test_union_of_steps_does_not_change_the_streams_it_was_made_of(
    job: Pipeline, numbers: Stream[int]
) -> None:
    more = job.from_iterable([1], name="more")
    numbers.union(more).sink(Discard(), name="both")
    numbers.sink(Discard(), name="one")

    assert {edge.source for edge in job.definition().graph.edges if edge.target == "one"} == {
        "numbers"
    }
