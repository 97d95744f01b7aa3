from __future__ import annotations

import doctest
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core import graph as graph_module
from flowsnap.core.graph import (
    ChainEdge,
    EdgeSpec,
    ExecutionGraph,
    Index,
    JobGraph,
    OperatorKind,
    OperatorSpec,
    Partitioning,
    build_execution_graph,
    validate,
)
from flowsnap.core.ids import ChainId, OperatorId, TaskId, WorkerId
from flowsnap.errors import ConfigError, LocalProtocolError

FORWARD, HASH, REBALANCE, BROADCAST = Partitioning


def operator(name: str, parallelism: int = 1) -> OperatorSpec:
    """An operator whose kind follows from its name: ``in``..., ``out``..., or another."""
    kind = OperatorKind.OPERATOR
    if name.startswith("in"):
        kind = OperatorKind.SOURCE
    elif name.startswith("out"):
        kind = OperatorKind.SINK
    return OperatorSpec(OperatorId(name), kind, parallelism)


def edge(
    text: str, partitioning: Partitioning = FORWARD, *, port: int = 0, tag: str = ""
) -> EdgeSpec:
    source, target = text.split()
    return EdgeSpec(OperatorId(source), OperatorId(target), partitioning, port, tag)


def job(operators: str, *edges: EdgeSpec, max_parallelism: int = 8, name: str = "job") -> JobGraph:
    """A job of operators written ``name`` or ``name*parallelism``."""
    specs = []
    for word in operators.split():
        shown, _, parallelism = word.partition("*")
        specs.append(operator(shown, int(parallelism or 1)))
    return JobGraph(name, tuple(specs), edges, max_parallelism)


def chains(graph: JobGraph) -> list[str]:
    return [" ".join(chain.operators) for chain in build_execution_graph(graph, 1).chains]


def channels(graph: JobGraph) -> list[tuple[str, str]]:
    built = build_execution_graph(graph, 1)
    assert [channel.id for channel in built.channels] == list(range(len(built.channels)))
    return [(channel.source, channel.target) for channel in built.channels]


# --- validate --------------------------------------------------------------------------------

LINE = (edge("in map"), edge("map out"))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (job(""), "no operators"),
        (job("map out", edge("map out")), "no source"),
        (job("in map", edge("in map")), "no sink"),
        (job("in map out map", *LINE), "2 operators have the name map"),
        (job("in map out", *LINE, edge("map nowhere")), "no operator nowhere"),
        (job("in map out", *LINE, edge("nowhere map")), "no operator nowhere"),
        (job("in map out", edge("in out"), edge("in map")), "map leads to no sink"),
        (job("in in2 out", edge("in out")), "in2 leads to no sink"),
        (job("in map out", edge("in out"), edge("map out")), "map has no input"),
        (job("in out out2", edge("in out")), "out2 has no input"),
        (job("in map out", *LINE, edge("out map")), "nothing comes out of a sink"),
        (job("in map out", *LINE, edge("map in")), "nothing goes into a source"),
        (job("in map out", *LINE, edge("map map")), "cycle: map to map"),
        (job("in a b out", edge("in a"), edge("a b"), edge("b a"), edge("b out")), "a cycle"),
        (job("in map*0 out", *LINE), "map: parallelism 0"),
        (job("in map*9 out", *LINE), "map: parallelism 9 is not in 1 to 8"),
        (job("in map*2 out", *LINE), "cannot forward from parallelism 1 to 2"),
        (job("in map out", *LINE, max_parallelism=0), "max_parallelism 0"),
        (job("in map out", *LINE, max_parallelism=32_769), "max_parallelism 32769"),
        (job("in out", edge("in out", port=-1)), "port -1"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_a_graph_that_cannot_run_is_refused(graph: JobGraph, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(graph)
    with pytest.raises(ConfigError, match=message):
        build_execution_graph(graph, 1)


@pytest.mark.parametrize(
    "name", ["", "..", ".a", "-a", "a/b", "a b", "a\n", "ä", "a" * 65, "../../etc/passwd", "a\0"]
)
def test_a_name_that_could_be_a_path_or_garble_a_line_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for job"):
        validate(job("in out", edge("in out"), name=name))
    bad = JobGraph("job", (operator("in"), operator("out"), operator(name)), (edge("in out"),))
    with pytest.raises(ConfigError, match="is no name for an operator"):
        validate(bad)


@pytest.mark.parametrize("name", ["a", "7", "A.b_c-9", "a" * 64])
def test_an_ordinary_name_is_taken(name: str) -> None:
    validate(job("in out", edge("in out"), name=name))


def test_the_bounds_of_parallelism_are_themselves_allowed() -> None:
    validate(job("in*8 out*8", edge("in out"), max_parallelism=8))
    validate(job("in out", edge("in out"), max_parallelism=32_768))


# --- chains ----------------------------------------------------------------------------------


def test_operators_are_fused_until_a_shuffle() -> None:
    graph = job(
        "in*2 map*2 count*2 out*2", edge("in map"), edge("map count", HASH), edge("count out")
    )

    assert chains(graph) == ["in map", "count out"]


@pytest.mark.parametrize("partitioning", Partitioning)
def test_at_parallelism_one_nothing_needs_to_move(partitioning: Partitioning) -> None:
    assert chains(job("in out", edge("in out", partitioning))) == ["in out"]


@pytest.mark.parametrize("partitioning", [HASH, REBALANCE, BROADCAST])
def test_what_has_to_move_is_not_fused(partitioning: Partitioning) -> None:
    assert chains(job("in*2 out*2", edge("in out", partitioning))) == ["in", "out"]


def test_a_change_of_parallelism_ends_a_chain() -> None:
    assert chains(job("in out*2", edge("in out", REBALANCE))) == ["in", "out"]
    assert chains(job("in*2 out", edge("in out", REBALANCE))) == ["in", "out"]


def test_a_fan_out_ends_a_chain() -> None:
    assert chains(job("in out1 out2", edge("in out1"), edge("in out2"))) == ["in", "out1", "out2"]


def test_a_fan_in_begins_a_chain() -> None:
    graph = job("in1 in2 map out", edge("in1 map"), edge("in2 map"), edge("map out"))

    assert chains(graph) == ["in1", "in2", "map out"]


def test_a_side_output_is_not_fused() -> None:
    assert chains(job("in out", edge("in out", tag="late"))) == ["in", "out"]


def test_a_second_input_port_is_not_fused() -> None:
    assert chains(job("in out", edge("in out", port=1))) == ["in", "out"]


def test_a_stream_joined_with_itself_has_channels_of_both_edges() -> None:
    graph = job("in out", edge("in out"), edge("in out"))

    assert chains(graph) == ["in", "out"]
    assert channels(graph) == [("in/0", "out/0"), ("in/0", "out/0")]


def test_chains_are_in_topological_order_however_they_were_added() -> None:
    graph = job(
        "out join map in2 in1",
        edge("join out"),
        edge("in2 join", port=1),
        edge("map join"),
        edge("in1 map"),
    )

    assert chains(graph) == ["in2", "in1 map", "join out"]


# --- tasks and channels ----------------------------------------------------------------------


def test_subtask_i_of_every_chain_is_on_worker_i_modulo_the_workers() -> None:
    built = build_execution_graph(job("in*3 out*2", edge("in out", HASH)), 2)

    assert [(task.id, task.worker) for task in built.tasks] == [
        ("in/0", 0),
        ("in/1", 1),
        ("in/2", 0),
        ("out/0", 0),
        ("out/1", 1),
    ]


def test_without_worker_processes_all_tasks_are_on_worker_zero() -> None:
    built = build_execution_graph(job("in*3 out*2", edge("in out", HASH)), 0)

    assert built.workers == 0
    assert {task.worker for task in built.tasks} == {WorkerId(0)}
    assert len(Index.of(built).tasks_of_worker(WorkerId(0))) == 5


def test_every_task_owns_its_range_of_key_groups() -> None:
    built = build_execution_graph(job("in*3 out", edge("in out", HASH)), 1)

    assert [task.key_groups for task in built.tasks] == [(0, 3), (3, 6), (6, 8), (0, 8)]


def test_a_forward_edge_has_a_channel_for_each_subtask() -> None:
    graph = job("in*2 out1*2 out2*2", edge("in out1"), edge("in out2", HASH))

    assert channels(graph)[:2] == [("in/0", "out1/0"), ("in/1", "out1/1")]


@pytest.mark.parametrize("partitioning", [HASH, REBALANCE, BROADCAST])
def test_another_edge_has_a_channel_for_each_pair(partitioning: Partitioning) -> None:
    graph = job("in*2 out*3", edge("in out", partitioning))

    assert channels(graph) == [
        (f"in/{source}", f"out/{target}") for source in range(2) for target in range(3)
    ]


def test_an_edge_between_chains_keeps_port_and_tag() -> None:
    built = build_execution_graph(
        job("in out1 out2", edge("in out1"), edge("in out2", port=2, tag="late")), 1
    )

    # The main output is fused; the side output is named with its operator, wherever that stands.
    assert [chain.operators for chain in built.chains] == [("in", "out1"), ("out2",)]
    assert built.edges == (
        ChainEdge(ChainId(0), ChainId(1), FORWARD, 2, "in/late", (built.channels[0].id,)),
    )


@st.composite
def job_graphs(draw: st.DrawFn) -> JobGraph:
    """Any pipeline: layers from sources to sinks, every operator fed by some earlier ones."""
    names = ["in0", *(f"op{i}" for i in range(draw(st.integers(0, 5))))]
    specs = [operator(name, draw(st.integers(1, 4))) for name in names]
    edges = []
    for index, spec in enumerate(specs[1:], start=1):
        for source in draw(st.sets(st.sampled_from(specs[:index]), min_size=1)):
            edges.append(draw(_edges(source, spec)))
    fed = {made.source for made in edges}
    for spec in [spec for spec in specs if spec.name not in fed]:
        specs.append(operator(f"out{len(specs)}", draw(st.integers(1, 4))))
        edges.append(draw(_edges(spec, specs[-1])))
    return JobGraph("any", tuple(draw(st.permutations(specs))), tuple(edges), 16)


def _edges(source: OperatorSpec, target: OperatorSpec) -> st.SearchStrategy[EdgeSpec]:
    allowed = [HASH, REBALANCE, BROADCAST]
    if source.parallelism == target.parallelism:
        allowed.append(FORWARD)
    return st.builds(
        EdgeSpec,
        st.just(source.name),
        st.just(target.name),
        st.sampled_from(allowed),
        st.integers(0, 1),
        st.sampled_from(["", "side"]),
    )


@given(job_graphs(), st.integers(0, 3))
def test_every_operator_is_in_one_chain_and_every_edge_inside_or_between(
    graph: JobGraph, workers: int
) -> None:
    built = build_execution_graph(graph, workers)

    fused = [pair for chain in built.chains for pair in itertools.pairwise(chain.operators)]
    assert sorted(name for chain in built.chains for name in chain.operators) == sorted(
        spec.name for spec in graph.operators
    )
    assert len(fused) + len(built.edges) == len(graph.edges)
    assert all(made.source < made.target for made in built.edges)


@given(job_graphs(), st.integers(0, 3))
def test_the_index_agrees_with_the_graph(graph: JobGraph, workers: int) -> None:
    built = build_execution_graph(graph, workers)
    index = Index.of(built)

    for task in built.tasks:
        assert index.task(task.id) is task
        assert task in index.tasks_of_worker(task.worker)
        assert list(index.inputs(task.id)) == [c for c in built.channels if c.target == task.id]
        assert list(index.outputs(task.id)) == [c for c in built.channels if c.source == task.id]
    for chain in built.chains:
        assert list(index.edges_out(chain.id)) == [e for e in built.edges if e.source == chain.id]
    kinds = {spec.name: spec.kind for spec in graph.operators}
    ends = {chain.id: chain.operators for chain in built.chains}
    assert list(index.source_tasks) == [
        task.id for task in built.tasks if kinds[ends[task.chain][0]] is OperatorKind.SOURCE
    ]
    assert list(index.sink_tasks) == [
        task.id for task in built.tasks if kinds[ends[task.chain][-1]] is OperatorKind.SINK
    ]


@given(job_graphs())
def test_a_graph_is_the_same_every_time_and_survives_the_wire(graph: JobGraph) -> None:
    built = build_execution_graph(graph, 2)
    wired = msgspec.msgpack.decode(msgspec.msgpack.encode(graph), type=JobGraph)

    assert build_execution_graph(wired, 2) == built
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(built), type=ExecutionGraph) == built


# --- index -----------------------------------------------------------------------------------


def test_a_worker_beyond_the_parallelism_has_no_tasks() -> None:
    index = Index.of(build_execution_graph(job("in out", edge("in out")), 3))

    assert index.tasks_of_worker(WorkerId(2)) == ()


def test_a_task_that_reads_and_writes_is_source_and_sink() -> None:
    index = Index.of(build_execution_graph(job("in out", edge("in out")), 1))

    assert index.source_tasks == index.sink_tasks == (TaskId("in/0"),)


def test_what_is_not_in_the_graph_is_not_found() -> None:
    index = Index.of(build_execution_graph(job("in out", edge("in out")), 1))

    for look_up in (index.task, index.inputs, index.outputs):
        with pytest.raises(LocalProtocolError, match="no task out/0"):
            look_up(TaskId("out/0"))
    with pytest.raises(LocalProtocolError, match="no worker 1"):
        index.tasks_of_worker(WorkerId(1))
    with pytest.raises(LocalProtocolError, match="no chain 1"):
        index.edges_out(ChainId(1))


def test_the_session_in_the_docstring_is_true() -> None:
    assert doctest.testmod(graph_module).failed == 0
