"""Random jobs with finite input: the plan, its input, and what must come out.

The plan is drawn once per seed. It is built anew for each run of the job, perhaps in another
layout: other widths, another number of workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random

from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.testing import reference
from flowsnap.testing.building import Builder
from flowsnap.testing.plan import LOOPS, Node, PlanDrawing
from flowsnap.testing.reference import Item, Record, Streams
from flowsnap.testing.sink import TransactionalSystem
from flowsnap.testing.steps import Pace, SimulatedSource, Trouble

WIDTHS = (*[1] * 20, *[2] * 5, 3, 4)
WORKERS = (0, 1, 2, 2, 2, 3, 3)
RECORDS = (5, 12, 20, 40)
"""At least, and at most: one of those."""
STEP_MS, JITTER_MS = 20, 30
"""How far the records of a split are apart in event time, and by how much they are out of order."""
TOO_SHORT_MS = 6
WAITS_MS = (10, 50, 80)
"""How long a source has nothing to say, at most; so slow that checkpoints fall in between."""


class Workload:
    """One job: its plan, its input, and the functions to build and to check it.

    ``records_max`` cuts every split off behind so many records; the rest stays as it was.
    """

    def __init__(self, topology: Random, chance: Random, records_max: int | None = None) -> None:
        self.records_max = records_max
        plan = PlanDrawing(topology)
        self.nodes = plan.nodes
        self.sinks = [node for node in self.nodes if node.kind == "sink"]
        self.is_timed = plan.is_timed
        self.delay_ms = JITTER_MS if plan.is_punctual else TOO_SHORT_MS
        self.is_stamped_late = not plan.is_punctual and topology.random() < 0.5
        self.trouble = Trouble()
        self.inputs = {
            node.name: _input(node, chance) for node in self.nodes if node.kind == "source"
        }
        for splits in self.inputs.values():
            for items in splits.values():
                del items[len(items) if records_max is None else records_max :]
        self._pace = _pace(chance)
        self._layouts = topology.getrandbits(32)

    def workers(self, layout: int) -> int:
        """Return the number of workers of a layout."""
        return Random(f"{self._layouts}/{layout}/workers").choice(WORKERS)

    def widths(self, layout: int) -> list[int]:
        """Return how wide every node is in a layout."""
        chance = Random(f"{self._layouts}/{layout}/widths")
        widths: list[int] = []
        for node in self.nodes:
            is_own = node.width_of == node.index
            width = chance.choice(WIDTHS) if is_own else widths[node.width_of]
            # A loop has many steps of its own: two subtasks of each show as much as four.
            widths.append(min(width, 2) if node.kind in LOOPS else width)
        return widths

    def build(self, layout: int, system: TransactionalSystem) -> PipelineDefinition:
        """Return the pipeline in a layout."""
        return Builder(self, self.widths(layout), system).build()

    def source(self, node: Node) -> SimulatedSource:
        """Return the source of a node."""
        return SimulatedSource(self.inputs[node.name], self._pace, is_timed=self.is_timed)

    def expected(self) -> dict[str, Counter[Record]]:
        """Return what every sink must have got of all input."""
        streams = reference.evaluate(self.nodes, self.inputs, is_ended=True)
        return {sink.name: reference.bag(streams[sink.index]) for sink in self.sinks}

    def expected_of(
        self, positions: Mapping[str, Mapping[str, int]], *, is_ended: bool
    ) -> list[Streams]:
        """Return what must have come out of every node for the input up to ``positions``.

        ``is_ended``: as if that were all there is. Otherwise only for prompt nodes.
        """
        read = {
            source: {split: items[: positions[source][split]] for split, items in splits.items()}
            for source, splits in self.inputs.items()
        }
        return reference.evaluate(self.nodes, read, is_ended=is_ended)


def _input(node: Node, chance: Random) -> dict[str, list[Item]]:
    count, splits = chance.randint(RECORDS[0], chance.choice(RECORDS[1:])), chance.randint(1, 3)
    found: dict[str, list[Item]] = {f"{node.name}.{split}": [] for split in range(splits)}
    for _ in range(count):
        items = found[f"{node.name}.{chance.randrange(splits)}"]
        at_ms = len(items) * STEP_MS + 2 * chance.randrange(JITTER_MS // 2)
        items.append((chance.randrange(1009), at_ms))
    return found


def _pace(chance: Random) -> Pace:
    wait_ms = chance.choice(WAITS_MS)
    return [
        (0, chance.randint(1, wait_ms)) if chance.random() < 0.6 else (chance.randint(1, 3), 0)
        for _ in range(13)
    ] + [(1, 0)]
