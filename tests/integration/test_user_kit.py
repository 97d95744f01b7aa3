"""A user's pipeline in worlds of faults: what is right stays right, and what is wrong is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from flowsnap import (
    ConfigError,
    KeyedProcess,
    OperatorError,
    Pipeline,
    ProcessContext,
    Tumbling,
    bounded,
)
from flowsnap.connectors import Collect, FromIterable, JsonLinesFiles
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Sink, SinkContext
from flowsnap.testing import Faults, TestSource, at, simulate

ORDERS = [{"user": "abc"[n % 3], "amount": n} for n in range(60)]


def totals(sink: Sink | None = None) -> Pipeline:
    pipeline = Pipeline("totals")
    (
        pipeline.source(FromIterable([]), name="orders")
        .key_by("user", name="by-user")
        .sum("amount", name="totals")
        .sink(sink or Collect(), name="out")
    )
    return pipeline


def test_pipeline_is_exactly_once_in_every_world() -> None:
    simulation = simulate(totals(), {"orders": ORDERS}, seeds=range(40))

    simulation.assert_exactly_once(ordered_by=lambda record: record[0])
    assert sorted(simulation.outputs[7]["out"]) == sorted(simulation.expected["out"])
    assert len(simulation.expected["out"]) == 60
    assert simulation.situations["worker killed"] > 2
    assert simulation.situations["rescale on restore"] > 1


def test_same_seed_does_the_same() -> None:
    first, second = (simulate(totals(), {"orders": ORDERS}, seeds=[5]).runs[5] for _ in range(2))

    assert first.trace == second.trace
    assert first.faults == second.faults
    assert len(first.trace) > 100


def test_windows_and_several_splits_are_exactly_once() -> None:
    pipeline = Pipeline("windows")
    source = pipeline.source(FromIterable([]), watermark=bounded("40ms"), name="clicks")
    keyed = source.key_by(lambda n: n % 3, name="by-third")
    keyed.window(Tumbling("50ms")).count(name="counts").sink(Collect(), name="out")
    clicks = {f"p{part}": [at(10 * n, n + part) for n in range(30)] for part in range(2)}

    simulate(pipeline, {"clicks": clicks}, seeds=range(12)).assert_exactly_once()


def test_asynchronous_steps_run_in_one_thread() -> None:
    async def double(number: int) -> int:
        return 2 * number

    pipeline = Pipeline("async")
    source = pipeline.source(TestSource(range(20)), name="numbers")
    source.async_map(double, name="double").sink(Collect(), name="out")

    simulation = simulate(pipeline, seeds=range(10))

    simulation.assert_exactly_once()
    assert sorted(simulation.expected["out"]) == list(range(0, 40, 2))


class Forgetful(KeyedProcess[dict[str, Any], tuple[str, int]]):
    """Keeps what it counts in the wrong place: in itself instead of in its state."""

    def open(self, context: ProcessContext) -> None:
        self.totals: dict[str, int] = {}

    def process(self, value: dict[str, Any], context: ProcessContext) -> Iterator[tuple[str, int]]:
        self.totals[context.key] = self.totals.get(context.key, 0) + value["amount"]
        yield context.key, self.totals[context.key]


def test_state_outside_of_state_is_found() -> None:
    pipeline = Pipeline("forgetful")
    orders = pipeline.source(FromIterable([]), name="orders")
    orders.key_by("user", name="by").process(Forgetful, name="p").sink(Collect(), name="out")

    simulation = simulate(pipeline, {"orders": ORDERS}, seeds=range(15))
    with pytest.raises(AssertionError) as caught:
        simulation.assert_exactly_once()

    lines = str(caught.value).splitlines()
    assert "of 15 seeds are not exactly-once" in lines[0]
    assert "sink 'out':" in lines[1]
    assert "records lost" in lines[1]
    assert any(line.startswith("  replay: simulate(..., seeds=[") for line in lines)


def test_failing_seed_is_shortened_to_the_faults_that_it_needs() -> None:
    pipeline = Pipeline("forgetful")
    orders = pipeline.source(FromIterable([]), name="orders")
    orders.key_by("user", name="by").process(Forgetful, name="p").sink(Collect(), name="out")
    simulation = simulate(pipeline, {"orders": ORDERS}, seeds=range(9, 24), faults="workers")

    with pytest.raises(AssertionError) as caught:
        simulation.assert_exactly_once()

    lines = str(caught.value).splitlines()
    faults = [line for line in lines if line.startswith("    ")]
    seed = int(lines[1].split()[1].rstrip(":"))
    assert 1 <= len(faults) <= len(simulation.runs[seed].faults)
    assert all("worker" in line for line in faults)


def test_what_depends_on_batches_may_be_left_out() -> None:
    pipeline = Pipeline("batches")
    orders = pipeline.source(FromIterable([]), name="orders")
    keyed = orders.key_by("user", name="by")
    keyed.sum("amount", emit="batch", name="totals").sink(Collect(), name="out")
    simulation = simulate(pipeline, {"orders": ORDERS}, seeds=range(5))

    with pytest.raises(AssertionError, match="none: other batches, delays, or a restart"):
        simulation.assert_exactly_once()


def test_projection_leaves_out_what_may_differ() -> None:
    pipeline = Pipeline("clocked")
    numbers = pipeline.source(FromIterable(range(20)), name="numbers")

    class Stamped(KeyedProcess[int, tuple[int, int]]):
        def process(self, value: int, context: ProcessContext) -> Iterator[tuple[int, int]]:
            yield value, context.processing_time_ms()

    numbers.key_by(name="by").process(Stamped, name="stamp").sink(Collect(), name="out")
    simulation = simulate(pipeline, seeds=range(5))

    simulation.assert_exactly_once(project=lambda record: record[0])
    with pytest.raises(AssertionError):
        simulation.assert_exactly_once()


class Table(Sink):
    """A target in memory: rows by transaction, as a database would have them."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {}

    def open(self, context: SinkContext) -> None:
        self.place = f"{context.subtask}@{context.attempt}"
        self.written: list[Any] = []

    def write(self, batch: Batch) -> None:
        self.written += batch.values

    def prepare(self, checkpoint_id: CheckpointId) -> Any:
        written, self.written = self.written, []
        return [f"{self.place}/{checkpoint_id}", written] if written else None

    def commit(self, committables: Sequence[Any]) -> None:
        for id, rows in committables:
            self.rows[id] = rows

    def visible(self) -> Iterator[Any]:
        for rows in self.rows.values():
            yield from map(tuple, rows)


class Eager(Table):
    """Shows what is written at once."""

    def write(self, batch: Batch) -> None:
        self.rows[f"{self.place}/{len(self.rows)}"] = batch.values


class Hasty(Table):
    """Commits when it should only prepare."""

    def prepare(self, checkpoint_id: CheckpointId) -> Any:
        prepared = super().prepare(checkpoint_id)
        self.commit([prepared] if prepared else [])
        return prepared


class Repeating(Table):
    """Counts a commit again that is repeated."""

    def commit(self, committables: Sequence[Any]) -> None:
        for _, rows in committables:
            self.rows[str(len(self.rows))] = rows


class Losing(Table):
    """Forgets to commit what a restored checkpoint holds."""

    def recover(self, committables: Sequence[Any]) -> None:
        """Do nothing."""


def view(sink: Sink) -> Iterator[Any]:
    assert isinstance(sink, Table)
    return sink.visible()


def test_sink_that_keeps_its_contract_is_exactly_once() -> None:
    simulation = simulate(
        lambda: totals(Table()), {"orders": ORDERS}, seeds=range(12), views={"out": view}
    )

    simulation.assert_exactly_once()
    assert len(simulation.outputs[0]["out"]) == 60


@pytest.mark.parametrize(
    ("make", "seeds", "message"),
    [
        (Eager, 3, "write makes output visible"),
        (Hasty, 3, "prepare makes output visible"),
        (Repeating, 3, "a commit that is repeated"),
        (Losing, 80, "lost"),
    ],
)
def test_sink_that_breaks_its_contract_is_found(
    make: Callable[[], Table], seeds: int, message: str
) -> None:
    simulation = simulate(
        lambda: totals(make()), {"orders": ORDERS}, seeds=range(seeds), views={"out": view}
    )

    with pytest.raises(AssertionError, match=message):
        simulation.assert_exactly_once()


def test_sink_of_files_is_exactly_once(tmp_path: Path) -> None:
    places = iter(range(1_000))

    def make() -> Pipeline:
        return totals(JsonLinesFiles(tmp_path / str(next(places))))

    def lines(sink: Sink) -> list[str]:
        assert isinstance(sink, JsonLinesFiles)
        parts = sorted(Path(sink.paths[0]).glob("*.jsonl"))
        return [line for part in parts for line in part.read_text().splitlines()]

    simulation = simulate(make, {"orders": ORDERS}, seeds=range(6), views={"out": lines})

    simulation.assert_exactly_once()
    assert len(simulation.expected["out"]) == 60


def test_world_without_faults_needs_none_to_fail() -> None:
    none = Faults(**dict.fromkeys(Faults.__struct_fields__, False))

    simulation = simulate(totals(), {"orders": ORDERS}, seeds=range(3), faults=none)

    assert [run.faults for run in simulation.runs.values()] == [(), (), ()]
    simulation.assert_exactly_once()
    assert repr(simulation) == "<Simulation of 3 seeds, 0 of them with faults>"


def test_error_of_the_user_is_raised_before_any_world() -> None:
    pipeline = Pipeline("broken")
    numbers = pipeline.source(FromIterable([0]), name="numbers")
    numbers.map(lambda n: 1 // n, name="divide").sink(Collect(), name="out")

    with pytest.raises(OperatorError, match=r"'divide'.*ZeroDivisionError"):
        simulate(pipeline, seeds=range(3))


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((totals(), {"oders": []}), {}, "inputs: there is no 'oders'"),
        ((totals(), {}), {"views": {"out": view}}, "need a pipeline of their own"),
        ((totals, {}), {"views": {"sink": view}}, "views: there is no 'sink'"),
        ((totals(), {}), {"faults": ["gremlins"]}, "there is no kind 'gremlins'"),
        ((3, {}), {}, "3 is not a pipeline"),
    ],
)
def test_misuse_is_explained(
    arguments: tuple[Any, ...], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(*arguments, seeds=[], **settings)


def test_pipeline_with_a_loop_is_exactly_once_in_every_world() -> None:
    pipeline = Pipeline("halves")
    loop = pipeline.loop("again")
    numbers = pipeline.source(FromIterable(list(range(2, 40))), name="numbers")
    halves = numbers.union(loop).map(lambda n: n // 2, name="halve")
    loop.feed(halves.filter(lambda n: n > 1, name="more"))
    halves.sink(Collect(), name="out")

    simulation = simulate(pipeline, seeds=range(12))

    simulation.assert_exactly_once()
    assert simulation.situations["barrier inside a loop"]


def test_source_that_needs_event_times_must_be_given_them() -> None:
    pipeline = Pipeline("timed")
    source = pipeline.source(FromIterable([]), watermark=bounded("1s"), name="clicks")
    source.sink(Collect(), name="out")

    with pytest.raises(ConfigError, match="source 'clicks' need event times"):
        simulate(pipeline, {"clicks": [1, 2]}, seeds=[])


@pytest.mark.slow(seconds=15)
@pytest.mark.parametrize("first", range(0, 1_000, 250))
def test_pipeline_is_exactly_once_in_many_worlds(first: int) -> None:
    simulation = simulate(totals(), {"orders": ORDERS}, seeds=range(first, first + 250))

    simulation.assert_exactly_once(ordered_by=lambda record: record[0])
