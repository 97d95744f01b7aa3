"""The entries of frozen generations in the order of their rows, without sorting them all at once.

Entries are put into buckets by key group and table. A bucket is sorted just before it is written;
one that is too large for a slice is first parted by sampled rows (a sample sort), so that no slice
depends on how keys are spread over groups.

Source: Frazer and McKellar, "Samplesort", JACM 1970, for the splitting.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

from flowsnap.errors import LocalProtocolError
from flowsnap.state.codec import row_prefix
from flowsnap.state.generation import Frozen, Generations

Part = tuple[Generations, Frozen]

SLICE_ENTRIES = 512
RUN_ENTRIES_MAX = 8192
"""So many entries are sorted at once: 1 to 4 ms."""

RUN_ENTRIES = 2048
SAMPLES_PER_RUN = 16

Run = list[Any]
"""References of entries of one key group of one table, in no order; runs are in order."""


class Buckets:
    """The references of all entries of some frozen generations, by key group."""

    def __init__(self, parts: Sequence[Part], key_groups: range) -> None:
        self._parts = parts
        self._key_groups = key_groups
        self._runs: dict[tuple[int, int], list[Run]] = {}

    def fill(self) -> Iterator[None]:
        """Find each entry's bucket, in slices.

        Raises:
            LocalProtocolError: a key belongs to another task.
            StateError: a key has no bytes.
        """
        self._runs.clear()
        for number, (table, frozen) in enumerate(self._parts):
            appends: dict[int, Callable[[Any], None]] = {}
            references = table.references(frozen)
            while chunk := list(islice(references, SLICE_ENTRIES)):
                for group, reference in zip(table.groups(chunk), chunk, strict=True):
                    try:
                        append = appends[group]
                    except KeyError:
                        self._check_group(group, table, reference)
                        run: Run = []
                        self._runs[group, number] = [run]
                        append = appends[group] = run.append
                    append(reference)
                yield
        for (_, number), runs in self._runs.items():
            if len(runs[0]) > RUN_ENTRIES_MAX:
                yield from _part(runs, self._parts[number][0])

    def ordered(self) -> Iterator[tuple[bytes, Part, Run]]:
        """Yield the runs in the order of their rows, with their prefix and where they come from.

        Each is let go of as the next is asked for: to do so with a million at once takes 12 ms.
        """
        by_prefix = {
            row_prefix(group, self._parts[number][0].spec.state_id): (group, number)
            for group, number in self._runs
        }
        for prefix in sorted(by_prefix):
            identity = by_prefix[prefix]
            runs = self._runs.pop(identity)
            runs.reverse()
            while runs:
                yield prefix, self._parts[identity[1]], runs.pop()

    def _check_group(self, group: int, table: Generations, reference: Any) -> None:
        if group not in self._key_groups:
            spec, (key,) = table.spec, table.keys([reference])
            raise LocalProtocolError(
                f"state {spec.name!r} of operator {spec.operator!r} was given key {key!r} of "
                f"key group {group}, but the task owns {self._key_groups.start} to "
                f"{self._key_groups.stop - 1}"
            )


def _part(runs: list[Run], table: Generations) -> Iterator[None]:
    """Replace one large run by several, each of whose rows are above all those before."""
    whole = runs[0]
    count = len(whole) // RUN_ENTRIES
    # At random, since every n-th entry may be of one kind; seeded, so that a repeat is the same.
    sample = Random(count).sample(whole, count * SAMPLES_PER_RUN)
    _, rows = table.in_order(sample, b"")
    bounds = rows[SAMPLES_PER_RUN::SAMPLES_PER_RUN]
    runs[:] = [[] for _ in range(len(bounds) + 1)]
    for start in range(0, len(whole), SLICE_ENTRIES):
        chunk = whole[start : start + SLICE_ENTRIES]
        for row, reference in zip(table.rows(chunk, b""), chunk, strict=True):
            runs[bisect_right(bounds, row)].append(reference)
        yield
