"""A user's pipeline in seeded worlds of faults, and the proof that its output is exactly-once.

Each seed is a world of its own (see ``docs/simulation.md``): the real engine, with crashes, lost
messages, failing disks and changes of parallelism at moments that the seed decides. What a seed
commits in the end is compared with what a run without any fault commits.

What is promised: the same seed does the same, as far as the user's functions do. A function whose
answer depends on the time, on chance, on a thread or on how records are batched may well give
another output in each world, without any record having been lost or repeated; ``project`` leaves
out of a comparison what may differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Any

from flowsnap.api.pipeline import Pipeline
from flowsnap.core.operator import Sink
from flowsnap.errors import ConfigError
from flowsnap.testing.cluster import Cluster
from flowsnap.testing.kit_compare import Project, difference, disorder
from flowsnap.testing.kit_ends import Splits, View
from flowsnap.testing.kit_faults import Faults, describe, faults_of
from flowsnap.testing.kit_reference import undisturbed
from flowsnap.testing.kit_workload import UserWorkload, splits_of
from flowsnap.testing.simulate import _quiet
from flowsnap.testing.substitute import ends_of, unknown
from flowsnap.testing.trouble import Fault

__all__ = ["Run", "Simulation", "simulate"]

SHOWN_MAX = 3
Make = Callable[[], Pipeline]


@dataclass(frozen=True, slots=True)
class Run:
    """What became of one seed.

    ``outputs``: what each sink had committed at the end, or what its view showed. ``violation`` is
    empty, or says which rule of the engine or of the sink's contract was broken. ``situations``
    counts what has happened. ``trace`` has a line for each effect if there was one seed only.
    """

    seed: int
    faults: tuple[Fault, ...]
    outputs: dict[str, list[Any]]
    violation: str
    situations: Counter[str]
    trace: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Check:
    """What two outputs must have in common."""

    expected: Mapping[str, list[Any]]
    project: Project | None
    ordered_by: Project | None

    def failure(self, run: Run) -> str:
        """Return in one line what is wrong with a run; empty: nothing."""
        if run.violation:
            return run.violation
        for sink, records in self.expected.items():
            found, wanted = self._projected(run.outputs[sink]), self._projected(records)
            wrong = difference(found, wanted)
            if not wrong and self.ordered_by is not None:
                wrong = disorder(found, wanted, self.ordered_by)
            if wrong:
                return f"sink {sink!r}: {wrong}"
        return ""

    def _projected(self, records: list[Any]) -> list[Any]:
        return records if self.project is None else [self.project(one) for one in records]


class Simulation:
    """The runs of all seeds, and ``expected``: the output of a run without faults."""

    def __init__(self, worlds: _Worlds, runs: Iterable[Run]) -> None:
        self.expected = worlds.expected
        self.runs = {run.seed: run for run in runs}
        self._worlds = worlds

    @property
    def outputs(self) -> dict[int, dict[str, list[Any]]]:
        """What each seed has committed: seed, then sink, then records."""
        return {seed: run.outputs for seed, run in self.runs.items()}

    @property
    def situations(self) -> Counter[str]:
        """What has happened over all seeds, and how often: "worker killed", "full disk", ..."""
        return sum((run.situations for run in self.runs.values()), Counter[str]())

    def __repr__(self) -> str:
        struck = sum(1 for run in self.runs.values() if run.faults)
        return f"<Simulation of {len(self.runs)} seeds, {struck} of them with faults>"

    def assert_exactly_once(
        self, *, project: Project | None = None, ordered_by: Project | None = None
    ) -> None:
        """Check that every seed has committed what a run without faults commits.

        As a bag: each record as often, in any order. ``ordered_by``: of records for which this
        function answers the same, the order must be the same as well. ``project`` is applied to
        each record first, to leave out what may differ.

        Raises:
            AssertionError: a seed has not; it says which, what is lost or too many, which faults it
                takes, and how to replay it.
        """
        check = _Check(self.expected, project, ordered_by)
        failed = [(run, wrong) for run in self.runs.values() if (wrong := check.failure(run))]
        if failed:
            raise AssertionError(self._explain(failed, check))

    def _explain(self, failed: list[tuple[Run, str]], check: _Check) -> str:
        run, wrong, needed = self._clearest(failed[:SHOWN_MAX], check)
        lines = [f"{len(failed)} of {len(self.runs)} seeds are not exactly-once"]
        lines += [f"seed {run.seed}: {wrong}", "  with these faults alone:"]
        lines += [f"    {describe(fault)}" for fault in needed]
        if not needed:
            lines.append("    none: other batches, delays, or a restart of the job are enough")
        lines.append(f"  replay: simulate(..., seeds=[{run.seed}]).runs[{run.seed}].trace")
        others = [pair for pair in failed[:SHOWN_MAX] if pair[0] is not run]
        lines += [f"seed {other.seed}: {wrong}" for other, wrong in others]
        return "\n".join(lines)

    def _clearest(
        self, failed: list[tuple[Run, str]], check: _Check
    ) -> tuple[Run, str, list[Fault]]:
        """Return a failed run with what it needs: one that needs a fault, if there is any."""
        found = []
        for run, wrong in failed:
            needed, wrong_then = self._worlds.minimise(run, wrong, check)
            found.append((run, wrong_then, needed))
            if needed:
                return found[-1]
        return found[0]


class _Worlds:
    """Makes worlds for one pipeline and its inputs."""

    def __init__(
        self, make: Make, inputs: Mapping[str, Any], views: Mapping[str, View], faults: Faults
    ) -> None:
        pipeline = make()
        drawn = pipeline.definition(1)
        sinks = ends_of(drawn, Sink)
        for name in views:
            if name not in sinks:
                raise unknown("views", name, sinks)
        self._make = make
        self._views = dict(views)
        self._faults = faults
        self._inputs: dict[str, Splits] = splits_of(pipeline, inputs)
        self.expected = undisturbed(pipeline, self._inputs, self._views)

    def run(self, seed: int, faults: list[Fault] | None = None, *, is_traced: bool = False) -> Run:
        """Run one world, with its own faults or with those given."""
        pipeline = self._make()
        rescales = self._faults.rescale
        workload = UserWorkload(seed, pipeline, self._inputs, self._views, is_rescaled=rescales)
        own = self._faults.draw(Random(f"{seed}/faults")) if faults is None else faults
        cluster = Cluster(seed, own, workload)
        world = cluster.world
        with _quiet(), ExitStack() as stack:
            stack.push(
                lambda _, error, __: error and error.add_note(f"in the world of seed {seed}")
            )
            cluster.run()
        outputs = self._outputs(pipeline, cluster)
        for sink in workload.own_sinks:
            sink.release()
        return Run(
            seed,
            tuple(cluster.faults),
            outputs,
            world.violation,
            world.trace.situations,
            tuple(world.trace.lines()) if is_traced else (),
        )

    def minimise(self, run: Run, wrong: str, check: _Check) -> tuple[list[Fault], str]:
        """Return faults of which none can be left out, and how a run fails with them."""
        needed, left = list(run.faults), list(run.faults)
        while left:
            fewer = needed.copy()
            fewer.remove(left.pop(0))
            without = check.failure(self.run(run.seed, fewer))
            if without:
                needed, left, wrong = fewer, list(fewer), without
        return needed, wrong

    def _outputs(self, pipeline: Pipeline, cluster: Cluster) -> dict[str, list[Any]]:
        sinks = ends_of(pipeline.definition(1), Sink)
        return {
            name: list(self._views[name](sink))
            if name in self._views
            else list(cluster.checker.system.visible(name))
            for name, sink in sinks.items()
        }


def simulate(
    pipeline: Pipeline | Make,
    inputs: Mapping[str, Any] | None = None,
    *,
    seeds: Iterable[int] = range(1_000),
    faults: Faults | str | Collection[str] | None = None,
    views: Mapping[str, View] | None = None,
) -> Simulation:
    """Run a pipeline with finite inputs in the world of every seed.

    ``inputs``: for each source its records, as a list, or as a dict of several splits; a source of
    values in memory may be left out. ``faults``: what may go wrong: ``Faults(...)``, or the names
    of its fields that are wanted alone; None: everything.

    Sinks are replaced by a transactional one, except those in ``views``: they run for real, and
    ``views[name](sink)`` returns the records that a reader of their target sees now. For that
    ``pipeline`` must be a function, which makes a new pipeline with a new target for each world.

    Raises:
        ConfigError: an input is missing, a name unknown; the pipeline does not end.
        OperatorError: the user's code raises without any fault.
    """
    if isinstance(pipeline, Pipeline):
        if views:
            raise ConfigError(
                "simulate: sinks that run for real need a pipeline of their own"
            ).hint("pass a function that makes the pipeline, with a new target each time")
        drawn = pipeline
        worlds = _Worlds(lambda: drawn, inputs or {}, {}, faults_of(faults))
    elif callable(pipeline):
        worlds = _Worlds(pipeline, inputs or {}, views or {}, faults_of(faults))
    else:
        raise ConfigError(f"simulate: {pipeline!r} is not a pipeline, and makes none")
    wanted = list(seeds)
    is_traced = len(wanted) == 1
    return Simulation(worlds, [worlds.run(seed, is_traced=is_traced) for seed in wanted])
