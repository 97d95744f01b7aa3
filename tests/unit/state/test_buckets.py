"""The order of rows, found in slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flowsnap.core.ids import OperatorId
from flowsnap.state.backend import StateBackend
from flowsnap.state.buckets import RUN_ENTRIES_MAX, SLICE_ENTRIES, Buckets
from flowsnap.state.generation import Generations

A = OperatorId("a")
COUNT = 3 * RUN_ENTRIES_MAX


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[StateBackend]:
    made = StateBackend(tmp_path, key_groups=(0, 1), max_parallelism=1, memory_bytes=64 << 20)
    yield made
    made.close()


def values_of(make: Callable[[int], Any]) -> Callable[[StateBackend], Generations]:
    def fill(backend: StateBackend) -> Generations:
        table = backend.value_table(A, "t", "value")
        table.young.update((make(n), n) for n in Random(1).sample(range(COUNT), COUNT))
        return table

    return fill


def one_large_map(backend: StateBackend) -> Generations:
    table = backend.map_table(A, "m")
    for n in range(COUNT):
        table.put("k", f"{n % 8}-{n}", n)
    return table


@pytest.mark.parametrize(
    "fill", [values_of(str), values_of(int), values_of(lambda n: (str(n), n)), one_large_map]
)
def test_a_large_key_group_is_parted_into_runs_in_order(
    backend: StateBackend, fill: Callable[[StateBackend], Generations]
) -> None:
    table = fill(backend)
    frozen = table.freeze()
    assert frozen is not None
    buckets = Buckets([(table, frozen)], range(1))
    slices = sum(1 for _ in buckets.fill())
    runs = [table.in_order(run, prefix)[1] for prefix, _, run in buckets.ordered()]
    rows = [row for run in runs for row in run]
    assert slices >= COUNT / SLICE_ENTRIES
    assert max(map(len, runs)) <= RUN_ENTRIES_MAX
    assert rows == sorted(set(rows))
    assert len(rows) == COUNT
