"""Loops in simulated worlds: what goes round is neither lost nor doubled, and all of it ends."""

from __future__ import annotations

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Collect
from flowsnap.core.graph import build_execution_graph
from flowsnap.core.ids import AttemptId, TaskId
from flowsnap.core.message import EndOfLoops, LookRound, RoundSeen, TaskEnded, ToWorker
from flowsnap.core.rounds import RoundReport
from flowsnap.runtime.loops import LoopRounds, stages
from flowsnap.testing.checker import hops_before, is_inside
from flowsnap.testing.plan import Node
from flowsnap.testing.reference import passed, trail
from flowsnap.testing.simulate import command, run_seed

Step = tuple[int, int]
"""A number, and how often it still goes round."""


def fewer(step: Step) -> Step:
    return step[0], step[1] - 1


def two_loops() -> tuple[Pipeline, Collect]:
    """Between the loops is a step that says nothing before its input has ended."""
    drawn, out = Pipeline("two"), Collect()
    first, second = drawn.loop("first"), drawn.loop("second")
    steps = drawn.from_iterable([(n, n) for n in range(1, 4)]).union(first)
    hopped = steps.map(fewer, name="hop")
    first.feed(hopped.filter(lambda step: step[1] > 0, name="again"))
    done = hopped.filter(lambda step: step[1] == 0, name="done")
    totals = done.key_by(1).sum(0, emit="final", name="total")
    spun = totals.map(lambda total: (total[1], 3), name="begin").union(second)
    spun = spun.map(fewer, name="spin")
    second.feed(spun.filter(lambda step: step[1] > 0, name="more"))
    spun.filter(lambda step: step[1] == 0, name="out").sink(out)
    return drawn, out


def nested_loops() -> Pipeline:
    drawn = Pipeline("nested")
    outer, inner = drawn.loop("outer"), drawn.loop("inner")
    steps = drawn.from_iterable([(1, 1)]).union(outer).map(fewer, name="begin").union(inner)
    hopped = steps.map(fewer, name="hop")
    inner.feed(hopped.filter(lambda step: step[1] > 0, name="again"))
    outer.feed(hopped.filter(lambda step: step[1] < 0, name="back"))
    hopped.sink(Collect(), name="sink")
    return drawn


def loops_of(drawn: Pipeline) -> list[set[str]]:
    graph = build_execution_graph(drawn.definition(1).graph, 1)
    return [set(map(str, loops)) for loops, _ in stages(graph)]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_comes_between_two_loops_at_the_end_goes_round_in_the_second(workers: int) -> None:
    drawn, out = two_loops()

    drawn.run(workers=workers, quiet=True)

    assert list(out.values) == [(6, 0)]


def test_loops_behind_one_another_end_one_after_the_other() -> None:
    assert loops_of(two_loops()[0]) == [{"first/0"}, {"second/0"}]


def test_loops_that_feed_each_other_end_together() -> None:
    assert loops_of(nested_loops()) == [{"inner/0", "outer/0"}]


def test_a_loop_waits_for_everybody_before_it_who_is_in_no_loop_with_it() -> None:
    graph = build_execution_graph(two_loops()[0].definition(1).graph, 1)

    _, (_, before_second) = stages(graph)

    names = {chain.operators[0] for chain in graph.chains}
    tasks = {task.partition("/")[0] for task in before_second}
    assert tasks == names - {"second", "begin", "spin", "more", "out"} - {"sink"}


class Rounds:
    """The rounds of a job in which nothing goes round any more."""

    def __init__(self, drawn: Pipeline) -> None:
        graph = build_execution_graph(drawn.definition(1).graph, 1)
        self.tasks = [task.id for task in graph.tasks]
        self.rounds = LoopRounds(AttemptId(1), graph)
        self.rounds.start()

    def end(self, task: TaskId) -> list[ToWorker]:
        return self.rounds.hear(TaskEnded(attempt=AttemptId(1), task=task), 0)

    def rest(self, number: int) -> list[ToWorker]:
        """Have every task report that it is passive."""
        told: list[ToWorker] = []
        for task in self.tasks:
            report = RoundReport(task, number, is_passive=True, in_transit=0)
            told += self.rounds.hear(RoundSeen(attempt=AttemptId(1), report=report), 0)
        return told


def test_rounds_for_the_second_loop_begin_when_everybody_before_it_has_ended() -> None:
    job = Rounds(two_loops()[0])
    (source,) = (task for task in job.tasks if task.startswith("from"))
    assert job.end(source) == [LookRound(attempt=AttemptId(1), number=1)]

    first = job.rest(1)
    told = [message for task in job.tasks if task != source for message in job.end(task)]

    assert first == [EndOfLoops(attempt=AttemptId(1), loops=frozenset({TaskId("first/0")}))]
    assert told == [LookRound(attempt=AttemptId(1), number=2)]


def test_a_report_of_a_round_of_the_first_loop_does_not_end_the_second() -> None:
    job = Rounds(two_loops()[0])
    for task in job.tasks:
        job.end(task)
    job.rest(1)

    assert job.rest(1) == []
    ends = [message for message in job.rest(2) if isinstance(message, EndOfLoops)]
    assert [set(end.loops) for end in ends] == [{TaskId("second/0")}]


# --- what the checkers know of loops --------------------------------------------------------------

MOVER = Node(3, "mover", (0,), 5, False, False, True, 3)


def test_a_trail_is_what_a_record_goes_through() -> None:
    numbers, last = trail(4, 2, 0)

    assert (numbers, last) == ([4, 13], 40)
    assert trail(4, 0, 0) == ([], 4)


def test_a_record_that_comes_back_to_the_outer_loop_begins_another_lap() -> None:
    assert trail(13, 0, 1) == trail(13, 2, 0)


def test_the_hops_done_and_those_to_come_are_all_hops() -> None:
    all_hops = passed(MOVER, [{"a": [(4, 0)]}])

    assert sum(all_hops.values()) == 2
    assert hops_before(MOVER, [("mover-3", ("a", 4, 0, 2, 0))]) == all_hops


@pytest.mark.parametrize(
    ("target", "left", "count"),
    [("again", 1, 1), ("again", 0, 0), ("done", 1, 0), ("inner", 1, 1), ("key", 1, 1)],
)
def test_a_record_that_a_filter_will_drop_has_no_hops_before_it(
    target: str, left: int, count: int
) -> None:
    assert hops_before(MOVER, [(f"mover-3.{target}", ("a", 4, 0, left, 0))]).total() == count


def test_a_loop_is_not_mistaken_for_another() -> None:
    assert is_inside(MOVER, "mover-3.inner")
    assert not is_inside(MOVER, "mover-31.inner")


# --- worlds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [6, 19, 32, 62])
def test_worlds_with_loops_keep_every_property(seed: int) -> None:
    outcome = run_seed(seed)

    assert not outcome.violation, f"{outcome.violation}\nreplay: {command(outcome)}"
    assert outcome.situations["another round is made"] + outcome.situations["feedback on disk"]
