from __future__ import annotations

import msgspec

from flowsnap.cli.graph import as_mermaid, as_text
from flowsnap.core.graph import (
    EdgeSpec,
    JobGraph,
    OperatorKind,
    OperatorSpec,
    Partitioning,
    build_execution_graph,
)
from flowsnap.core.ids import OperatorId

LINES, COUNT, OUT, ERRORS = map(OperatorId, ("lines", "count", "out", "errors"))


def word_count() -> JobGraph:
    return JobGraph(
        name="wordcount",
        operators=(
            OperatorSpec(LINES, OperatorKind.SOURCE, 2, "TextFiles"),
            OperatorSpec(COUNT, OperatorKind.OPERATOR, 2, "Count", is_keyed=True),
            OperatorSpec(OUT, OperatorKind.SINK, 2, "Collect"),
        ),
        edges=(
            EdgeSpec(LINES, COUNT, Partitioning.HASH),
            EdgeSpec(COUNT, OUT, Partitioning.FORWARD),
        ),
    )


def test_the_text_shows_chains_tasks_key_groups_and_edges() -> None:
    job = word_count()

    assert as_text(job, build_execution_graph(job, 2)).splitlines() == [
        "wordcount: 2 chains, 4 tasks, 4 channels on 2 workers",
        "",
        "chain 0  lines (TextFiles)",
        "  lines/0  worker 0",
        "  lines/1  worker 1",
        "  └─ to chain 1 (count): 4 channels, hash, to the owner of the key",
        "",
        "chain 1  count → out (Collect)",
        "  count/0  worker 0  key groups [0, 64)",
        "  count/1  worker 1  key groups [64, 128)",
    ]


def test_without_workers_it_runs_in_one_process() -> None:
    job = word_count()

    assert as_text(job, build_execution_graph(job, 0)).splitlines()[0].endswith("in one process")


def test_side_outputs_and_second_inputs_are_named() -> None:
    job = word_count()
    errors = OperatorSpec(ERRORS, OperatorKind.SINK, 1)
    edge = EdgeSpec(COUNT, ERRORS, Partitioning.REBALANCE, port=1, tag="late")
    job = msgspec.structs.replace(job, operators=(*job.operators, errors), edges=(*job.edges, edge))

    text = as_text(job, build_execution_graph(job, 1))

    how = "2 channels, rebalance, to each task in turn, side output 'count/late', input 1"
    assert f"(errors): {how}" in text


def test_the_diagram_has_a_box_for_each_chain_and_an_arrow_for_each_edge() -> None:
    job = word_count()

    assert as_mermaid(job, build_execution_graph(job, 2)).splitlines() == [
        "flowchart LR",
        '  subgraph c0["2 tasks"]',
        '    n0(["lines"])',
        "  end",
        '  subgraph c1["2 tasks"]',
        '    n1["count"]',
        '    n2[/"out"/]',
        "  end",
        "  n0 -->|hash| n1",
        "  n1 --> n2",
    ]


def test_what_is_fed_back_is_drawn_as_a_broken_line_to_a_circle() -> None:
    again, step, out = map(OperatorId, ("again", "step", "out"))
    job = JobGraph(
        name="loop",
        operators=(
            OperatorSpec(again, OperatorKind.LOOP, 1, "Loop"),
            OperatorSpec(step, OperatorKind.OPERATOR, 1, "Map"),
            OperatorSpec(out, OperatorKind.SINK, 1, "Collect"),
        ),
        edges=(
            EdgeSpec(again, step, Partitioning.FORWARD),
            EdgeSpec(step, out, Partitioning.FORWARD),
            EdgeSpec(step, again, Partitioning.FORWARD, is_feedback=True),
        ),
    )
    execution = build_execution_graph(job, 1)

    assert 'n0(("again"))' in as_mermaid(job, execution)
    assert "n1 -.->|forward| n0" in as_mermaid(job, execution)
    assert "to the task of the same index, fed back" in as_text(job, execution)
