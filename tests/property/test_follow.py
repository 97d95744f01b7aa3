"""However a log is written, rotated, looked at and gone on with: each line comes once."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.connectors import TextFiles
from flowsnap.connectors.follow import FollowReader

STEPS = st.lists(
    st.one_of(
        st.integers(1, 4),  # so many lines are written
        st.sampled_from(["half", "rotate", "read", "look", "restart"]),
    ),
    max_size=25,
)


class Log:
    """A log that is written and rotated by numbers, and the reader that follows it."""

    def __init__(self, directory: Path, batch_bytes: int) -> None:
        self.path = directory / "app.log"
        self.source = TextFiles(f"{self.path}*", follow=True, batch_bytes=batch_bytes)
        self.written: list[str] = []
        self.read: list[str] = []
        self.half = ""
        self.now_s = 0.0
        self.reader = self._opened(None)

    def take(self, step: int | str) -> None:
        if isinstance(step, int):
            for _ in range(step):
                self._write()
        elif step == "half" and not self.half:
            self.half = f"half {len(self.written)} "
            self._append(self.half)
        elif step == "rotate" and not self.half:
            self._rotate()
        elif step == "look":
            self.now_s += 1.0
        elif step == "restart":
            position = msgspec.json.decode(msgspec.json.encode(self.reader.position()))
            self.reader.close()
            self.reader = self._opened(position)
        elif step == "read":
            self.drain(1)

    def drain(self, batches: int) -> None:
        for _ in range(batches):
            batch = self.reader.read(1)
            assert batch is not None
            self.read += batch.values

    def _write(self) -> None:
        line = f"{self.half}line {len(self.written)}"
        self._append(line.removeprefix(self.half) + "\n")
        self.written.append(line)
        self.half = ""

    def _append(self, text: str) -> None:
        with open(self.path, "a") as file:
            file.write(text)

    def _rotate(self) -> None:
        if not self.path.exists():
            return
        count = len(list(self.path.parent.iterdir()))
        for number in range(count, 0, -1):
            former = self.path.with_name(f"app.log.{number}")
            if former.exists():
                former.rename(self.path.with_name(f"app.log.{number + 1}"))
        self.path.rename(self.path.with_name("app.log.1"))

    def _opened(self, position: Any) -> FollowReader:
        (split,) = self.source.splits(1)
        return FollowReader(
            split,
            position,
            batch_bytes=self.source.batch_bytes,
            parse=self.source.parser(),
            look_ms=1_000,
            clock=lambda: self.now_s,
        )


@settings(max_examples=120, deadline=None)
@given(steps=STEPS, batch_bytes=st.integers(1, 60))
def test_each_line_comes_once_whatever_is_rotated_between_two_looks(
    steps: list[int | str], batch_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = Log(Path(directory), batch_bytes)
        for step in steps:
            log.take(step)
        log.take(1)  # The end of a line that was begun.
        for _ in range(2):
            log.take("look")
            log.drain(len(log.written) + 2)
        with closing(log.reader):
            assert sorted(log.read) == sorted(log.written)
