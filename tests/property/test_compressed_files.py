"""However a compressed file is chunked, stopped and resumed: the lines are those of its content."""

from __future__ import annotations

import gzip
from contextlib import closing
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.connectors import TextFiles

TEXTS = st.lists(
    st.text(st.sampled_from("a€\n\r"), max_size=30), min_size=1, max_size=4
)  # one for each frame


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, batch_bytes=st.integers(1, 30), name=st.sampled_from(["in.gz", "in.zst"]))
def test_resumed_at_every_position_the_lines_are_those_of_the_content(
    directory: Path, texts: list[str], batch_bytes: int, name: str
) -> None:
    pack = gzip.compress if name == "in.gz" else zstandard.compress
    (directory / name).write_bytes(b"".join(pack(text.encode()) for text in texts))
    (directory / "in.txt").write_bytes("".join(texts).encode())
    source = TextFiles(directory / name, batch_bytes=batch_bytes)
    (split,) = source.splits(3)

    lines: list[str] = []
    position = None
    while True:
        with closing(source.open_split(split, position)) as reader:
            batch = reader.read(1)
            if batch is None:
                break
            lines += batch.values
            position = reader.position()

    plain = TextFiles(directory / "in.txt")
    with closing(plain.open_split(plain.splits(1)[0], None)) as reader:
        batch = reader.read(1)
    assert lines == ([] if batch is None else batch.values)
