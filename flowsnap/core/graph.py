"""What the user drew and what runs: JobGraph to ExecutionGraph.

A ``JobGraph`` holds operators and edges and no user code. ``validate`` says whether it can run;
``build_execution_graph`` makes chains, tasks and channels of it, and ``Index`` answers the
questions about them. All of it is deterministic: job manager and workers see the same graph.

Operators are fused into one chain where nothing has to move between them: the upstream has one
consumer, the downstream one input, both the same parallelism, and record i of subtask n goes to
subtask n. Such a hand-over is a call and no channel. Side outputs and second inputs end a chain.

A cycle goes through a *loop*: an operator that only feedback edges lead to. Without them the graph
is acyclic; every order here leaves them out.

Source: Flink, "Tasks and Operator Chains". Deviation: at parallelism 1 a hash, rebalance or
broadcast edge is fused as well, for there is only one place where a record can go.

>>> read = OperatorSpec(OperatorId("read"), OperatorKind.SOURCE, parallelism=2)
>>> count = OperatorSpec(OperatorId("count"), OperatorKind.OPERATOR, parallelism=2)
>>> write = OperatorSpec(OperatorId("write"), OperatorKind.SINK, parallelism=2)
>>> shuffle = EdgeSpec(read.name, count.name, Partitioning.HASH)
>>> forward = EdgeSpec(count.name, write.name, Partitioning.FORWARD)
>>> graph = build_execution_graph(JobGraph("words", (read, count, write), (shuffle, forward)), 2)
>>> [chain.operators for chain in graph.chains]
[('read',), ('count', 'write')]
>>> [channel.id for channel in Index.of(graph).inputs(TaskId("count/1"))]
[1, 3]
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

import msgspec

from flowsnap.core.ids import ChainId, ChannelId, OperatorId, TaskId, WorkerId, task_id
from flowsnap.core.partition import key_group_range
from flowsnap.errors import ConfigError, LocalProtocolError

MAX_PARALLELISM = 32_768
"""A row of keyed state begins with its key group in 16 bits."""

_K = TypeVar("_K")
_V = TypeVar("_V")

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class OperatorKind(StrEnum):
    """What an operator is to the engine."""

    SOURCE = "source"
    OPERATOR = "operator"
    SINK = "sink"
    LOOP = "loop"  # where what is fed back begins its next round


class Partitioning(StrEnum):
    """Which subtask downstream gets a record."""

    FORWARD = "forward"  # the one of the same index
    HASH = "hash"  # the owner of the key's group
    REBALANCE = "rebalance"  # the next, in turn
    BROADCAST = "broadcast"  # every one


class OperatorSpec(msgspec.Struct, frozen=True):
    """An operator as the control plane knows it: no user code."""

    name: OperatorId
    kind: OperatorKind
    parallelism: int
    type: str = ""  # "Map", "TextFiles", ...: for people and for the check against a checkpoint
    is_keyed: bool = False


class EdgeSpec(msgspec.Struct, frozen=True):
    """Records of ``source`` go to input ``port`` of ``target``; ``tag`` names a side output.

    ``is_feedback``: the target is a loop, and the edge closes a cycle.
    """

    source: OperatorId
    target: OperatorId
    partitioning: Partitioning
    port: int = 0
    tag: str = ""
    is_feedback: bool = False


class JobGraph(msgspec.Struct, frozen=True):
    """The pipeline as drawn: operators in the order they were added, and edges."""

    name: str
    operators: tuple[OperatorSpec, ...]
    edges: tuple[EdgeSpec, ...]
    max_parallelism: int = 128


class ChainSpec(msgspec.Struct, frozen=True):
    """Operators fused into one task per subtask."""

    id: ChainId
    operators: tuple[OperatorId, ...]
    parallelism: int


class TaskSpec(msgspec.Struct, frozen=True):
    """One subtask of a chain. ``key_groups`` is the half-open range it owns."""

    id: TaskId
    chain: ChainId
    subtask: int
    worker: WorkerId
    key_groups: tuple[int, int]


class ChainEdge(msgspec.Struct, frozen=True):
    """An edge between chains; ``channels`` are ordered by (source subtask, target subtask).

    ``tag`` is empty, or ``<operator>/<tag>`` for a side output, whose operator may stand anywhere
    in its chain.
    """

    source: ChainId
    target: ChainId
    partitioning: Partitioning
    port: int
    tag: str
    channels: tuple[ChannelId, ...]
    is_feedback: bool = False


class ChannelSpec(msgspec.Struct, frozen=True):
    """One FIFO channel from a task to a task; ``edge`` is the index of its ChainEdge."""

    id: ChannelId
    edge: int
    source: TaskId
    target: TaskId


class ExecutionGraph(msgspec.Struct, frozen=True):
    """What runs: chains, their tasks, and the channels between them."""

    chains: tuple[ChainSpec, ...]
    edges: tuple[ChainEdge, ...]
    tasks: tuple[TaskSpec, ...]
    channels: tuple[ChannelSpec, ...]
    workers: int
    max_parallelism: int


# --- is it right? ----------------------------------------------------------------------------


def validate(graph: JobGraph) -> None:
    """Check that a pipeline can run.

    Raises:
        ConfigError: it cannot; the message names the operator and what is wrong with it.
    """
    _check_identifier("job", graph.name)
    if not 1 <= graph.max_parallelism <= MAX_PARALLELISM:
        raise ConfigError(
            f"job {graph.name}: max_parallelism {graph.max_parallelism} is not in "
            f"1 to {MAX_PARALLELISM}"
        )
    _check_operators(graph)
    operators = {operator.name: operator for operator in graph.operators}
    for edge in graph.edges:
        _check_edge(edge, operators)
    _topological(graph)
    _check_flow(graph)


def _check_identifier(what: str, name: str) -> None:
    if _IDENTIFIER.fullmatch(name) is None:
        raise ConfigError(f"{name!r} is no name for {what}").hint(
            "use 1 to 64 letters, digits and . _ -, beginning with a letter or a digit"
        )


def _check_operators(graph: JobGraph) -> None:
    if not graph.operators:
        raise ConfigError(f"job {graph.name} has no operators")
    for operator in graph.operators:
        _check_identifier("an operator", operator.name)
        if not 1 <= operator.parallelism <= graph.max_parallelism:
            raise ConfigError(
                f"operator {operator.name}: parallelism {operator.parallelism} is not in "
                f"1 to {graph.max_parallelism}"
            ).hint("the upper bound is the job's max_parallelism")
    name, count = Counter(operator.name for operator in graph.operators).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"{count} operators have the name {name}").hint(
            "a name is the identity of an operator's state: pass name= to tell them apart"
        )
    kinds = {operator.kind for operator in graph.operators}
    if kinds.isdisjoint({OperatorKind.SOURCE, OperatorKind.LOOP}):  # a loop may move by itself
        raise ConfigError(f"job {graph.name} has no {OperatorKind.SOURCE}")
    if OperatorKind.SINK not in kinds:
        raise ConfigError(f"job {graph.name} has no {OperatorKind.SINK}")


def _check_edge(edge: EdgeSpec, operators: dict[OperatorId, OperatorSpec]) -> None:
    shown = f"edge {edge.source} to {edge.target}"
    for name in (edge.source, edge.target):
        if name not in operators:
            raise ConfigError(f"{shown}: there is no operator {name}")
    source, target = operators[edge.source], operators[edge.target]
    if source.kind is OperatorKind.SINK:
        raise ConfigError(f"{shown}: nothing comes out of a sink")
    if target.kind is OperatorKind.SOURCE:
        raise ConfigError(f"{shown}: nothing goes into a source")
    if (target.kind is OperatorKind.LOOP) is not edge.is_feedback:
        raise ConfigError(f"{shown}: a loop is fed back to, and nothing else is")
    if edge.is_feedback and edge.partitioning is Partitioning.BROADCAST:
        raise ConfigError(f"{shown}: what is fed back cannot be broadcast")
    if edge.port < 0:
        raise ConfigError(f"{shown}: there is no input port {edge.port}")
    if edge.partitioning is Partitioning.FORWARD and source.parallelism != target.parallelism:
        raise ConfigError(
            f"{shown}: cannot forward from parallelism {source.parallelism} to {target.parallelism}"
        ).hint("give both the same parallelism, or rebalance between them")


def _check_flow(graph: JobGraph) -> None:
    """Check that every operator has an input, and that what it puts out ends in a sink."""
    fed = {edge.target for edge in graph.edges}
    useful = {operator.name for operator in graph.operators if operator.kind is OperatorKind.SINK}
    while found := {edge.source for edge in graph.edges if edge.target in useful} - useful:
        useful |= found
    for operator in graph.operators:
        if operator.name not in useful:
            raise ConfigError(f"{operator.kind} {operator.name} leads to no sink").hint(
                "end every branch of the pipeline with a sink"
            )
        if operator.kind is not OperatorKind.SOURCE and operator.name not in fed:
            error = ConfigError(f"{operator.kind} {operator.name} has no input")
            if operator.kind is OperatorKind.LOOP:
                error.hint("feed it: loop.feed(stream)")
            raise error


def _topological(graph: JobGraph) -> list[OperatorId]:
    """Return the operators so that every edge but feedback points forward: always the same order.

    Raises:
        ConfigError: there is a cycle without a loop.
    """
    sorter: TopologicalSorter[OperatorId] = TopologicalSorter()
    for operator in graph.operators:
        sorter.add(operator.name)
    for edge in graph.edges:
        if not edge.is_feedback:
            sorter.add(edge.target, edge.source)
    try:
        return list(sorter.static_order())
    except CycleError as error:
        cycle = " to ".join(reversed(error.args[1]))
        raise ConfigError(f"job {graph.name} has a cycle: {cycle}") from error


# --- what runs -------------------------------------------------------------------------------


def build_execution_graph(graph: JobGraph, workers: int) -> ExecutionGraph:
    """Return the chains, tasks and channels of a pipeline on ``workers`` processes.

    0 workers: everything runs in one worker, 0, which is this process. Chains are in topological
    order; subtask i of every chain is on worker i modulo the number of workers, but for loops of
    one subtask, which are dealt out in turn: so a network's processes are on several workers.

    Raises:
        ConfigError: the graph cannot run, see ``validate``.
    """
    validate(graph)
    chains = _chains(graph)
    shifts = _shifts(graph, chains)
    tasks = tuple(
        TaskSpec(
            task_id(chain.operators[0], subtask),
            chain.id,
            subtask,
            WorkerId((subtask + shifts[chain.id]) % max(workers, 1)),
            key_group_range(subtask, chain.parallelism, graph.max_parallelism),
        )
        for chain in chains
        for subtask in range(chain.parallelism)
    )
    edges, channels = _channels(graph, chains)
    return ExecutionGraph(chains, edges, tasks, channels, workers, graph.max_parallelism)


def _shifts(graph: JobGraph, chains: tuple[ChainSpec, ...]) -> dict[ChainId, int]:
    """Return by how many workers each chain is moved: single loops are dealt out in turn."""
    loops = {one.name for one in graph.operators if one.kind is OperatorKind.LOOP}
    single = [c.id for c in chains if c.parallelism == 1 and c.operators[0] in loops]
    return {chain.id: 0 for chain in chains} | {id_: n for n, id_ in enumerate(single)}


def _chains(graph: JobGraph) -> tuple[ChainSpec, ...]:
    parallelism = {operator.name: operator.parallelism for operator in graph.operators}
    fused = {edge.target: edge.source for edge in _fused_edges(graph)}
    members: dict[OperatorId, list[OperatorId]] = {}  # by the operator a chain ends with so far
    order = _topological(graph)
    for name in order:
        chain = members.pop(fused[name]) if name in fused else []
        members[name] = [*chain, name]
    # An edge between chains leaves a last operator and enters a first one, so that the order of
    # the first operators is an order of the chains.
    position = {name: index for index, name in enumerate(order)}
    ordered = sorted(members.values(), key=lambda chain: position[chain[0]])
    return tuple(
        ChainSpec(ChainId(index), tuple(chain), parallelism[chain[0]])
        for index, chain in enumerate(ordered)
    )


def _fused_edges(graph: JobGraph) -> list[EdgeSpec]:
    parallelism = {operator.name: operator.parallelism for operator in graph.operators}
    # A side output leaves from the middle of a chain: it does not stand in the way of fusing.
    outgoing = Counter(edge.source for edge in graph.edges if edge.tag == "")
    incoming = Counter(edge.target for edge in graph.edges)
    return [
        edge
        for edge in graph.edges
        if outgoing[edge.source] == incoming[edge.target] == 1
        and edge.tag == ""
        and edge.port == 0
        and not edge.is_feedback
        and parallelism[edge.source] == parallelism[edge.target]
        and (edge.partitioning is Partitioning.FORWARD or parallelism[edge.source] == 1)
    ]


def _channels(
    graph: JobGraph, chains: tuple[ChainSpec, ...]
) -> tuple[tuple[ChainEdge, ...], tuple[ChannelSpec, ...]]:
    chain_of = {name: chain for chain in chains for name in chain.operators}
    fused = _fused_edges(graph)
    edges: list[ChainEdge] = []
    channels: list[ChannelSpec] = []
    for edge in graph.edges:
        if edge in fused:
            continue
        source, target = chain_of[edge.source], chain_of[edge.target]
        made = [
            ChannelSpec(ChannelId(number), len(edges), *ends)
            for number, ends in enumerate(_ends(edge, source, target), start=len(channels))
        ]
        ids = tuple(channel.id for channel in made)
        tag = f"{edge.source}/{edge.tag}" if edge.tag else ""
        ends = (source.id, target.id, edge.partitioning, edge.port, tag, ids, edge.is_feedback)
        edges.append(ChainEdge(*ends))
        channels += made
    return tuple(edges), tuple(channels)


def _ends(edge: EdgeSpec, source: ChainSpec, target: ChainSpec) -> list[tuple[TaskId, TaskId]]:
    """Return the two tasks of every channel of an edge, by source subtask, then target subtask."""
    is_forward = edge.partitioning is Partitioning.FORWARD
    return [
        (task_id(source.operators[0], out), task_id(target.operators[0], into))
        for out in range(source.parallelism)
        for into in range(target.parallelism)
        if out == into or not is_forward
    ]


@dataclass(frozen=True, slots=True)
class Index:
    """The questions one asks of an execution graph; made once by ``Index.of``.

    Channels of a task are in the order of their ids: by edge, and within an edge by the subtask at
    the other end.
    """

    _tasks: dict[TaskId, TaskSpec]
    _of_worker: dict[WorkerId, tuple[TaskSpec, ...]]
    _inputs: dict[TaskId, tuple[ChannelSpec, ...]]
    _outputs: dict[TaskId, tuple[ChannelSpec, ...]]
    _edges_out: dict[ChainId, tuple[ChainEdge, ...]]
    source_tasks: tuple[TaskId, ...]  # of the chains that begin with a source
    loop_tasks: tuple[TaskId, ...]  # of the chains that begin with a loop
    sink_tasks: tuple[TaskId, ...]  # of the chains that end with a sink

    @classmethod
    def of(cls, graph: ExecutionGraph) -> Index:
        """Return the index of a graph that ``build_execution_graph`` made."""
        names = [task.id for task in graph.tasks]
        workers = [WorkerId(worker) for worker in range(max(graph.workers, 1))]
        # The graph is valid: what has no input is a source, what has no output is a sink.
        fed = {edge.target for edge in graph.edges if not edge.is_feedback}
        looped = {edge.target for edge in graph.edges if edge.is_feedback}
        feeding = {edge.source for edge in graph.edges}
        return cls(
            {task.id: task for task in graph.tasks},
            _group(workers, graph.tasks, lambda task: task.worker),
            _group(names, graph.channels, lambda channel: channel.target),
            _group(names, graph.channels, lambda channel: channel.source),
            _group((chain.id for chain in graph.chains), graph.edges, lambda edge: edge.source),
            tuple(task.id for task in graph.tasks if task.chain not in fed | looped),
            tuple(task.id for task in graph.tasks if task.chain in looped),
            tuple(task.id for task in graph.tasks if task.chain not in feeding),
        )

    def task(self, task: TaskId) -> TaskSpec:
        """Return the task of that id.

        Raises:
            LocalProtocolError: there is none; so do all lookups here.
        """
        return _look_up(self._tasks, task, "task")

    def tasks_of_worker(self, worker: WorkerId) -> tuple[TaskSpec, ...]:
        """Return the tasks that run on a worker: none, if there are more workers than subtasks."""
        return _look_up(self._of_worker, worker, "worker")

    def inputs(self, task: TaskId) -> tuple[ChannelSpec, ...]:
        """Return the channels into a task."""
        return _look_up(self._inputs, task, "task")

    def outputs(self, task: TaskId) -> tuple[ChannelSpec, ...]:
        """Return the channels out of a task."""
        return _look_up(self._outputs, task, "task")

    def edges_out(self, chain: ChainId) -> tuple[ChainEdge, ...]:
        """Return the edges out of a chain, in the order in which the user drew them."""
        return _look_up(self._edges_out, chain, "chain")


def _look_up(mapping: dict[_K, _V], key: _K, what: str) -> _V:
    try:
        return mapping[key]
    except KeyError as error:
        raise LocalProtocolError(f"there is no {what} {key}") from error


def _group(
    keys: Iterable[_K], values: Iterable[_V], key_of: Callable[[_V], _K]
) -> dict[_K, tuple[_V, ...]]:
    groups: dict[_K, list[_V]] = {key: [] for key in keys}
    for value in values:
        groups[key_of(value)].append(value)
    return {key: tuple(group) for key, group in groups.items()}
