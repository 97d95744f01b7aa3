"""Streams that come round again: results, ends, snapshots, restores, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Collect, Generator, JsonLinesFiles
from flowsnap.errors import ConfigError
from flowsnap.storage.job_directory import JobDirectory
from tests.integration.jobs import rows

Steps = tuple[int, int, int]
"""Where a number began, where it is, and after how many steps."""


def collatz(step: Steps) -> Steps:
    start, value, steps = step
    return start, value // 2 if value % 2 == 0 else 3 * value + 1, steps + 1


def is_done(step: Steps) -> bool:
    return step[1] == 1


def expected(count: int) -> dict[int, int]:
    found = {}
    for start in range(2, count):
        step = (start, start, 0)
        while not is_done(step):
            step = collatz(step)
        found[start] = step[2]
    return found


def pipeline(count: int) -> tuple[Pipeline, Collect]:
    drawn, out = Pipeline("collatz"), Collect()
    loop = drawn.loop("again")
    numbers = drawn.source(Generator(lambda i: (i + 2, i + 2, 0), count - 2), name="numbers")
    steps = numbers.union(loop).map(collatz, name="step")
    loop.feed(steps.filter(lambda step: not is_done(step), name="more"))
    steps.filter(is_done, name="done").sink(out)
    return drawn, out


@pytest.mark.parametrize("workers", [0, 2])
def test_job_with_a_loop_ends_when_nothing_goes_round_any_more(workers: int) -> None:
    drawn, out = pipeline(120)

    result = drawn.run(workers=workers, quiet=True)

    assert result.state == "finished"
    assert {start: steps for start, _, steps in out.values} == expected(120)


def test_round_that_found_the_loops_at_rest_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    drawn, _ = pipeline(10)

    with caplog.at_level(logging.INFO, logger="flowsnap"):
        drawn.run(quiet=True)

    said = [line for line in caplog.messages if "the loops have come to rest" in line]
    assert len(said) == 1
    assert "tasks passive, 0 batches in transit" in said[0]


def test_loops_may_be_nested() -> None:
    drawn, out = Pipeline("nested"), Collect()
    outer, inner = drawn.loop("outer"), drawn.loop("inner")
    begun = drawn.from_iterable([(0, 0)]).union(outer)
    ticked = begun.union(inner).map(lambda at: (at[0], at[1] + 1), name="tick")
    inner.feed(ticked.filter(lambda at: at[1] % 3 != 0, name="within"))
    turned = ticked.filter(lambda at: at[1] % 3 == 0, name="turn")
    turned = turned.map(lambda at: (at[0] + 1, at[1]), name="turned")
    outer.feed(turned.filter(lambda at: at[0] < 4, name="round"))
    turned.filter(lambda at: at[0] == 4, name="out").sink(out)

    drawn.run(quiet=True)

    assert list(out.values) == [(4, 12)]


@pytest.mark.parametrize("workers", [0, 2])
def test_keyed_stream_is_fed_back_to_the_owners_of_its_keys(workers: int) -> None:
    drawn, out = Pipeline("halves"), Collect()
    loop = drawn.keyed_loop("again")
    values = drawn.source(Generator(lambda i: (i % 5, 64), 50)).key_by(0)
    halved = values.union(loop).sum(1, name="total").map(lambda t: (t[0], t[1]), name="as-is")
    small = halved.filter(lambda t: t[1] >= 1_000, name="done")
    small.sink(out)
    again = halved.filter(lambda t: t[1] < 1_000 and t[1] % 640 == 0, name="more")
    loop.feed(again.map(lambda t: (t[0], 1_000), name="push").key_by(0))

    drawn.run(workers=workers, quiet=True)

    assert {key for key, _ in out.values} == set(range(5))


def test_more_than_fits_into_memory_goes_round() -> None:
    drawn, out = Pipeline("burst"), Collect()
    loop = drawn.loop("again")
    grown = drawn.from_iterable([(0, 0)]).union(loop)
    grown = grown.flat_map(lambda at: [(at[0] + 1, n) for n in range(9)], name="grow")
    loop.feed(grown.filter(lambda at: at[0] < 5, name="more"))
    grown.filter(lambda at: at[0] == 5, name="leaves").sink(out)

    drawn.run(quiet=True, batch="1KB")

    assert len(out.values) == 9**5


def test_what_is_fed_back_at_the_very_end_is_counted_and_told() -> None:
    drawn, out = Pipeline("last"), Collect()
    loop = drawn.loop("again")
    counted = drawn.from_iterable([1, 2, 3]).union(loop).key_by(lambda n: n % 2)
    totals = counted.count(emit="final", name="totals").map(lambda pair: pair[1], name="number")
    loop.feed(totals)
    totals.sink(out)
    handle = drawn.start()

    assert handle.wait(60).state == "finished"
    assert sorted(out.values) == [1, 2]
    [again] = [one for one in handle.status().operators if one.name == "again"]
    assert again.counters == {"dropped at the end": 2}


@pytest.mark.parametrize("alignment", ["aligned", "unaligned"])
def test_what_goes_round_is_in_the_snapshot_and_goes_on_from_there(
    alignment: str, tmp_path: Path
) -> None:
    def drawn() -> Pipeline:
        p = Pipeline("rounds")
        loop = p.loop("again")
        at = p.source(Generator(lambda i: (i, 0), 400), name="in").union(loop)
        at = at.map(lambda v: (v[0], v[1] + 1), name="step")
        loop.feed(at.filter(lambda v: v[1] < 500 or not ready(), name="more"))
        at.filter(lambda v: v[1] >= 500 and ready(), name="out").map(
            lambda v: v[0], name="number"
        ).sink(JsonLinesFiles(tmp_path / "out"))
        return p

    flag = tmp_path / "go"

    def ready() -> bool:
        return flag.exists()

    handle = drawn().start(state_dir=tmp_path / "state", checkpoint_alignment=alignment)
    handle.checkpoint(timeout_s=60)
    handle.stop()
    assert handle.wait(60).state == "stopped"
    with JobDirectory.read(tmp_path / "state", "rounds") as directory:
        manifest = directory.read_manifest(directory.checkpoints()[-1])
    assert sum(one.records for task in manifest.tasks for one in task.channels) > 0
    flag.touch()

    result = drawn().run(workers=2, state_dir=tmp_path / "state", quiet=True)

    assert result.state == "finished"
    assert sorted(rows(tmp_path / "out")) == list(range(400))


def unfed(p: Pipeline) -> None:
    p.loop("again").sink(Collect())


def fed_keys(p: Pipeline) -> None:
    loop = p.loop("again")
    loop.feed(p.from_iterable([1]).key_by())  # type: ignore[arg-type]


def fed_twice(p: Pipeline) -> None:
    loop = p.loop("again")
    stream = p.from_iterable([1]).union(loop).map(abs)
    loop.feed(stream, stream)


def fed_by_another(p: Pipeline) -> None:
    p.loop("again").feed(Pipeline("other").from_iterable([1]))


def defined(draw: Callable[[Pipeline], None]) -> None:
    p = Pipeline("loops")
    draw(p)
    p.definition()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (unfed, "loop 'again' .* is never fed"),
        (fed_keys, "is not a stream"),
        (fed_twice, "is fed by 'map-1' twice"),
        (fed_by_another, "another pipeline"),
    ],
)
def test_loop_that_cannot_be_is_refused_when_it_is_drawn(
    draw: Callable[[Pipeline], None], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        defined(draw)
