"""Runs seeds: ``python -m flowsnap.testing.simulate --seeds 2000``, or replays one with ``--seed``.

A failure prints the seed, the faults that are really needed for it, and the command that replays
it. A batch that is large enough must have reached every named situation, and a share of its seeds
is run twice and must give the same trace.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from flowsnap.testing.cluster import Cluster
from flowsnap.testing.trace import SITUATIONS
from flowsnap.testing.trouble import Fault

SEEDS_FOR_ALL_SITUATIONS = 1_500
REPEATED_EVERY = 100
RECORDS_TRIED = (1, 2, 4, 8)
"""How many records of each split a failing job is left with, to see whether it still fails."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one world; ``violation`` is empty if every property held."""

    seed: int
    faults: tuple[Fault, ...]
    violation: str
    digest: str
    steps: int
    effects: int
    situations: Counter[str]
    lines: tuple[str, ...] = ()
    records_max: int | None = None


def run_seed(
    seed: int,
    faults: Sequence[Fault] | None = None,
    *,
    records_max: int | None = None,
    with_trace: bool = False,
) -> Outcome:
    """Run one world, with its own faults or with those given.

    ``records_max``: of each split only the first so many records are there.
    """
    with _quiet():  # The world is gone when its cycles are collected: there is little left.
        return _run_world(Cluster(seed, faults, records_max=records_max), with_trace=with_trace)


def _run_world(cluster: Cluster, *, with_trace: bool) -> Outcome:
    world = cluster.world
    try:
        cluster.run()
    except Exception:  # a bug anywhere is a finding, and must be reported with its seed
        world.fail(f"C0: the simulation broke: {traceback.format_exc()}")
    return Outcome(
        world.seed,
        tuple(cluster.faults),
        world.violation,
        world.trace.digest(),
        world.steps,
        world.effects,
        world.trace.situations,
        tuple(world.trace.lines()) if with_trace else (),
        cluster.workload.records_max,
    )


def minimise(outcome: Outcome) -> Outcome:
    """Drop every fault that a failure does not need, one after the other, and then records."""
    best, needed = outcome, list(outcome.faults)
    for fault in outcome.faults:
        fewer = needed.copy()
        fewer.remove(fault)
        without = run_seed(outcome.seed, fewer)
        if without.violation:
            best, needed = without, fewer
    for records_max in RECORDS_TRIED:
        shorter = run_seed(outcome.seed, needed, records_max=records_max)
        if shorter.violation:
            return shorter
    return best


def command(outcome: Outcome) -> str:
    """Return the command that replays an outcome."""
    faults = msgspec.json.encode(outcome.faults).decode()
    records = "" if outcome.records_max is None else f" --records {outcome.records_max}"
    return (
        f"python -m flowsnap.testing.simulate --seed {outcome.seed} --trace{records} "
        f"--faults '{faults}'"
    )


@dataclass(slots=True)
class Batch:
    """What many seeds have shown."""

    count: int
    failures: list[Outcome]
    situations: Counter[str]
    steps: int = 0
    seconds: float = 0.0

    @property
    def missing(self) -> list[str]:
        """The named situations that none of the seeds has reached."""
        return [situation for situation in SITUATIONS if not self.situations[situation]]


def run_batch(first: int, count: int, *, failures_max: int = 3) -> Batch:
    """Run seeds ``[first, first + count)``, and a share of them twice."""
    batch, began_s = Batch(0, [], Counter()), time.perf_counter()
    gc.freeze()  # What was there before is not looked at behind every seed.
    for seed in range(first, first + count):
        outcome = run_seed(seed)
        if seed % REPEATED_EVERY == 0 and not outcome.violation:
            outcome = _repeated(outcome)
        batch.count += 1
        batch.situations.update(outcome.situations)
        batch.steps += outcome.steps
        if outcome.violation:
            batch.failures.append(outcome)
            if len(batch.failures) >= failures_max:
                break
    gc.unfreeze()
    batch.seconds = time.perf_counter() - began_s
    return batch


def _repeated(outcome: Outcome) -> Outcome:
    again = run_seed(outcome.seed)
    if again.digest == outcome.digest:
        return outcome
    return Outcome(
        outcome.seed,
        outcome.faults,
        f"C13: two runs of the seed differ: {outcome.digest[:16]} and {again.digest[:16]}",
        again.digest,
        outcome.steps,
        outcome.effects,
        outcome.situations,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Have nothing logged and nothing collected meanwhile: a seed takes some milliseconds."""
    log, worker_log = logging.getLogger("flowsnap"), logging.getLogger("flowsnap.worker")
    was, was_enabled = (log.disabled, worker_log.disabled), gc.isenabled()
    log.disabled = worker_log.disabled = True
    gc.disable()
    try:
        yield
    finally:
        log.disabled, worker_log.disabled = was
        if was_enabled:
            gc.enable()


# --- the command line ----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m flowsnap.testing.simulate")
    parser.add_argument("--seed", type=int, help="replay one seed")
    parser.add_argument("--faults", help="its faults, as JSON, instead of its own")
    parser.add_argument("--records", type=int, help="how many records of each split there are")
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--situations", action="store_true", help="print what was reached")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _replay(options)
    return _run_many(options)


def _replay(options: argparse.Namespace) -> int:
    faults = None
    if options.faults:
        faults = msgspec.json.decode(options.faults, type=list[Fault])
    outcome = run_seed(options.seed, faults, records_max=options.records, with_trace=options.trace)
    for line in outcome.lines:
        print(line)
    print(f"seed {outcome.seed}: {outcome.violation or 'every property held'}")
    print(f"{outcome.steps} steps, {outcome.effects} effects, trace {outcome.digest[:16]}")
    return 1 if outcome.violation else 0


def _run_many(options: argparse.Namespace) -> int:
    batch = run_batch(options.first, options.seeds)
    for failure in batch.failures:
        shrunk = failure if failure.violation.startswith("C13") else minimise(failure)
        print(f"seed {shrunk.seed}: {shrunk.violation}\n  replay: {command(shrunk)}")
    rate = batch.count / batch.seconds * 60
    print(
        f"{batch.count} seeds, {len(batch.failures)} failed, {batch.steps} steps, "
        f"{batch.seconds:.1f} s, {rate:.0f} seeds a minute"
    )
    if options.situations:
        for situation in SITUATIONS:
            print(f"{batch.situations[situation]:8}  {situation}")
    is_blind = batch.count >= SEEDS_FOR_ALL_SITUATIONS and batch.missing
    if is_blind:
        print(f"never reached: {', '.join(batch.missing)}")
    return 1 if batch.failures or is_blind else 0


if __name__ == "__main__":
    sys.exit(main())
