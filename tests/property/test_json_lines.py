"""Whatever is written, prepared, committed and lost: the parts hold the committed values, once."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.connectors import JsonLinesFiles
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.operator import Sink, SinkContext

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    SCALARS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
STEPS = st.lists(
    st.lists(VALUES, max_size=3) | st.sampled_from(["checkpoint", "commit", "crash"]), max_size=15
)


class Model:
    """A job with one sink subtask; ``complete`` is what its checkpoints cover."""

    def __init__(self, directory: str, zombies: ExitStack) -> None:
        self.directory = directory
        self.complete: list[Any] = []
        self._zombies = zombies
        self._written: list[Any] = []
        self._pending: list[dict[str, str]] = []
        self._attempt = 0
        self._checkpoint = 0
        self._sink = self._start()

    def take(self, step: list[Any] | str) -> None:
        if isinstance(step, list):
            self._sink.write(Batch(step))
            self._written += step
        elif step == "checkpoint":
            self._complete_checkpoint()
        elif step == "commit":
            self._sink.commit(self._pending)
            self._pending = []
        else:
            self._written = []
            self._sink = self._start()
            self._sink.recover(self._pending)

    def _complete_checkpoint(self) -> None:
        self._checkpoint += 1
        committable = self._sink.prepare(CheckpointId(self._checkpoint))
        self._pending += [committable] if committable is not None else []
        self.complete += self._written
        self._written = []

    def _start(self) -> Sink:
        self._attempt += 1
        sink = JsonLinesFiles(self.directory)
        sink.open(
            SinkContext(
                job="job",
                run_id="r1",
                operator=OperatorId("out"),
                subtask=0,
                parallelism=1,
                attempt=AttemptId(self._attempt),
            )
        )
        self._zombies.callback(sink.close)
        return sink


def read(path: str, **settings: Any) -> list[Any]:
    source = JsonLinesFiles(path, **settings)
    values = []
    for split in source.splits(1):
        with closing(source.open_split(split, None)) as reader:
            while (batch := reader.read(10)) is not None:
                values += batch.values
    return values


@settings(max_examples=80)
@given(steps=STEPS)
def test_parts_hold_what_completed_checkpoints_cover(steps: list[list[Any] | str]) -> None:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as zombies:
        model = Model(directory, zombies)
        for step in steps:
            model.take(step)
        model.take("crash")

        shown = read(directory) if any(Path(directory).glob("part-*")) else []

    assert shown == model.complete


@settings(max_examples=80)
@given(
    values=st.lists(VALUES, max_size=10),
    ending=st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]),
    split_bytes=st.integers(1, 60),
    batch_bytes=st.integers(1, 60),
)
def test_lines_decode_wherever_the_file_is_cut(
    values: list[Any], ending: str, split_bytes: int, batch_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as zombies:
        model = Model(f"{directory}/.", zombies)
        for step in (values, "checkpoint", "commit"):
            model.take(step)
        path = Path(directory) / "in.jsonl"
        parts = [part.read_text() for part in Path(directory).glob("part-*")]
        path.write_text("".join(parts).replace("\n", ending), newline="")

        shown = read(str(path), split_bytes=split_bytes, batch_bytes=batch_bytes)

    assert shown == values
