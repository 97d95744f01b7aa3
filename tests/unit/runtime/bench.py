"""One task put together from real parts, and everything that it tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from flowsnap.core.aligner import Aligner
from flowsnap.core.commit import SinkCommits
from flowsnap.core.element import (
    Batch,
    Element,
    EndOfInput,
)
from flowsnap.core.graph import ChainSpec, Partitioning, TaskSpec
from flowsnap.core.ids import (
    AttemptId,
    ChainId,
    ChannelId,
    CheckpointId,
    OperatorId,
    TaskId,
    WorkerId,
)
from flowsnap.core.operator import Operator, Sink
from flowsnap.core.rounds import RoundReport
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.runtime.chain import Chain
from flowsnap.runtime.context import NoTables, Place, TaskContext
from flowsnap.runtime.input import InputChannel, SourceInput
from flowsnap.runtime.output import OutputChannel, make_router
from flowsnap.runtime.parts import TakenSnapshot, TaskParts, Transit
from flowsnap.runtime.task import TaskRunner
from tests.unit.runtime.parts import ListSource, at

A, B, OUT = ChannelId(0), ChannelId(1), ChannelId(9)
TASK, NEXT = TaskId("first/1"), OperatorId("next")
ONE, TWO = CheckpointId(1), CheckpointId(2)
END = EndOfInput()


def no_groups(keys: list[Any]) -> list[int]:
    """Return one key group for all."""
    return [0] * len(keys)


class Bench:
    """One task with two inputs or a source, one output, and everything that it tells."""

    def __init__(
        self,
        *operators: Operator | Sink,
        source: ListSource | None = None,
        mode: Literal["exactly-once", "at-least-once"] = "exactly-once",
        is_ended: bool = False,
        credits: int = 100,
        transit: Sequence[Transit] = (),
        reached: Mapping[OperatorId, int] = MappingProxyType({}),
    ) -> None:
        self.sent: list[Element] = []
        self.told: list[tuple[Any, ...]] = []
        self.snapshots: list[TakenSnapshot] = []
        members = [(OperatorId(f"op-{n}"), operator) for n, operator in enumerate(operators)]
        names = ([OperatorId("first")] if source else []) + [name for name, _ in members]
        self.runner = TaskRunner(
            TaskParts(
                spec=TaskSpec(TASK, ChainId(0), 1, WorkerId(0), (0, 128)),
                chain_spec=ChainSpec(ChainId(0), tuple(names), 2),
                chain=Chain(members, 1, [operator for operator, *_ in transit]),
                source=None if source is None else self._reading(source),
                inputs=(inputs := [] if source else [self._input(A), self._input(B)]),
                routers=[self._router()],
                aligner=None if source else Aligner([one.id for one in inputs], mode=mode),
                state=None,
                commits=SinkCommits(),
                is_ended=is_ended,
                linger_ms=10,
                transit=transit,
                watermark_ms=reached.get(names[0], MIN_WATERMARK),
            ),
            self,
        )
        place = Place("job", 1, 2, AttemptId(1), wall_ms=lambda: 0)
        contexts = {name: TaskContext(NoTables(), name, place) for name, _ in members}
        self.runner._chain.open(contexts, reached)
        self.runner.start()
        if credits:
            self.grant(credits)

    @staticmethod
    def _reading(source: ListSource) -> SourceInput:
        splits = [at(name, len(values)) for name, values in source.lists.items()]
        return SourceInput(source, OperatorId("first"), 1, splits, 100)

    def _input(self, channel: ChannelId) -> InputChannel:
        return InputChannel(channel, 8, lambda id_, n: self.told.append(("grant", id_, n)))

    def _router(self) -> Any:
        output = OutputChannel(OUT, NEXT, self._deliver, 65_536)
        return make_router(
            Partitioning.FORWARD,
            [output],
            1,
            key_groups_of=lambda keys: [0] * len(keys),
            max_parallelism=128,
        )

    def _deliver(self, channel: ChannelId, element: Element) -> int:
        self.sent.append(element)
        return 0

    def grant(self, credits: int) -> None:
        self.runner.outputs[0].grant(credits)

    def feed(self, channel: ChannelId, *elements: Element) -> None:
        """Let elements arrive, and have the task do what it can."""
        for element in elements:
            self.runner.inputs[channel].receive(element)
        self.work()

    def work(self) -> None:
        while self.runner.step(0):
            pass

    @property
    def flow(self) -> list[Any]:
        """What left the task, batches as their values."""
        return [one.values if isinstance(one, Batch) else one for one in self.sent]

    # --- what the task tells

    def round_seen(self, report: RoundReport) -> None:
        self.told.append(("round", report))

    def snapshot_taken(self, snapshot: TakenSnapshot) -> None:
        self.snapshots.append(snapshot)

    def declined(self, task: TaskId, checkpoint_id: CheckpointId, reason: str) -> None:
        self.told.append(("declined", task, checkpoint_id, reason))

    def ended(self, task: TaskId) -> None:
        self.told.append(("ended", task))

    def committed(self, task: TaskId, checkpoint_id: CheckpointId) -> None:
        self.told.append(("committed", task, checkpoint_id))
