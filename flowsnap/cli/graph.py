"""``flowsnap graph``: what a pipeline becomes when it runs: chains, tasks and channels."""

from __future__ import annotations

from collections.abc import Iterator

import click
import msgspec

from flowsnap.api.format import plural
from flowsnap.cli.options import argument_option, log_level_option, target_argument
from flowsnap.cli.pairs import parse_pairs
from flowsnap.cli.target import load
from flowsnap.core.graph import (
    ChainEdge,
    ChainSpec,
    ExecutionGraph,
    JobGraph,
    OperatorKind,
    OperatorSpec,
    Partitioning,
    build_execution_graph,
)
from flowsnap.core.ids import OperatorId

_WHY = {
    Partitioning.FORWARD: "forward, to the task of the same index",
    Partitioning.HASH: "hash, to the owner of the key",
    Partitioning.REBALANCE: "rebalance, to each task in turn",
    Partitioning.BROADCAST: "broadcast, to every task",
}
_SHAPES = {
    OperatorKind.SOURCE: '(["{}"])',
    OperatorKind.OPERATOR: '["{}"]',
    OperatorKind.SINK: '[/"{}"/]',
    OperatorKind.LOOP: '(("{}"))',
}


@click.command("graph")
@target_argument
@argument_option
@click.option("--workers", "-w", type=click.IntRange(0), default=1, show_default=True)
@click.option("--mermaid", "style", flag_value="mermaid", help="A diagram for a Markdown page.")
@click.option("--json", "style", flag_value="json", help="Everything, for programs.")
@log_level_option
def graph_command(target: str, arguments: tuple[str, ...], workers: int, style: str | None) -> int:
    """Show the chains and tasks of a pipeline.

    Nothing is run, and no input is read.
    """
    job = load(target, parse_pairs(arguments, "--arg")).definition(max(workers, 1)).graph
    execution = build_execution_graph(job, workers)
    if style == "mermaid":
        click.echo(as_mermaid(job, execution))
    elif style == "json":
        click.echo(msgspec.json.encode({"job": job, "execution": execution}))
    else:
        click.echo(as_text(job, execution))
    return 0


def as_text(job: JobGraph, execution: ExecutionGraph) -> str:
    """Return the chains with their tasks, and below each what goes on to which chain."""
    return "\n".join(_lines(job, execution))


def _lines(job: JobGraph, execution: ExecutionGraph) -> Iterator[str]:
    where = f"on {plural(execution.workers, 'worker')}" if execution.workers else "in one process"
    yield (
        f"{job.name}: {plural(len(execution.chains), 'chain')}, "
        f"{plural(len(execution.tasks), 'task')}, "
        f"{plural(len(execution.channels), 'channel')} {where}"
    )
    operators = {operator.name: operator for operator in job.operators}
    for chain in execution.chains:
        yield ""
        yield f"chain {chain.id}  {' → '.join(_titles(chain, operators))}"
        is_keyed = any(operators[name].is_keyed for name in chain.operators)
        yield from _tasks(chain, execution, is_keyed=is_keyed)
        for edge in execution.edges:
            if edge.source == chain.id:
                yield f"  └─ {_edge(edge, execution)}"


def _titles(chain: ChainSpec, operators: dict[OperatorId, OperatorSpec]) -> Iterator[str]:
    for name in chain.operators:
        kind = operators[name].type
        yield f"{name} ({kind})" if kind and kind.lower() != name.lower() else name


def _tasks(chain: ChainSpec, execution: ExecutionGraph, *, is_keyed: bool) -> Iterator[str]:
    tasks = [task for task in execution.tasks if task.chain == chain.id]
    width = max(len(task.id) for task in tasks)
    for task in tasks:
        owns = f"  key groups [{task.key_groups[0]}, {task.key_groups[1]})" if is_keyed else ""
        yield f"  {task.id:<{width}}  worker {task.worker}{owns}"


def _edge(edge: ChainEdge, execution: ExecutionGraph) -> str:
    target = execution.chains[edge.target]
    facts = [plural(len(edge.channels), "channel"), _WHY[edge.partitioning]]
    facts += ["fed back"] if edge.is_feedback else []
    facts += [f"side output {edge.tag!r}"] if edge.tag else []
    facts += [f"input {edge.port}"] if edge.port else []
    return f"to chain {edge.target} ({target.operators[0]}): {', '.join(facts)}"


def as_mermaid(job: JobGraph, execution: ExecutionGraph) -> str:
    """Return a Mermaid flowchart: one box for each chain, one node for each operator in it."""
    nodes = {operator.name: f"n{index}" for index, operator in enumerate(job.operators)}
    operators = {operator.name: operator for operator in job.operators}
    lines = ["flowchart LR"]
    for chain in execution.chains:
        lines.append(f'  subgraph c{chain.id}["{plural(chain.parallelism, "task")}"]')
        for name in chain.operators:
            lines.append(f"    {nodes[name]}{_SHAPES[operators[name].kind].format(name)}")
        lines.append("  end")
    chain_of = {name: chain.id for chain in execution.chains for name in chain.operators}
    for edge in job.edges:
        is_chained = chain_of[edge.source] == chain_of[edge.target] and not edge.is_feedback
        arrow = "-.->" if edge.is_feedback else "-->"
        arrow += "" if is_chained else f"|{edge.tag or edge.partitioning}|"
        lines.append(f"  {nodes[edge.source]} {arrow} {nodes[edge.target]}")
    return "\n".join(lines)
