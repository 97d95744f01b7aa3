"""However a file is cut, chunked, stopped and resumed: the lines are those of its bytes."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.connectors import TextFiles
from tests.ends import read_in_pieces

PIECES = ["\n", "\r\n", "\r", "a", "bc", "ä", "€", "𝄞", "\x0b", "\x1c", "\u2028", "\x85", "\ufeff"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
SIZES = st.integers(1, 50)


def expected(data: bytes) -> list[str]:
    """Return the lines, found in the most literal way."""
    lines, line = [], b""
    for byte in data.removeprefix(b"\xef\xbb\xbf"):
        line += bytes([byte])
        if byte == 10:
            lines.append(line[:-1].removesuffix(b"\r"))
            line = b""
    return [line.decode() for line in lines + ([line] if line else [])]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@settings(max_examples=300)
@given(text=TEXTS, split_bytes=SIZES, batch_bytes=SIZES, batches=st.integers(1, 4))
def test_cut_and_resumed_file_gives_its_lines(
    directory: Path, text: str, split_bytes: int, batch_bytes: int, batches: int
) -> None:
    path = directory / "in.txt"
    path.write_bytes(text.encode())

    source = TextFiles(path, split_bytes=split_bytes, batch_bytes=batch_bytes)
    lines = [line for split in source.splits(1) for line in read_in_pieces(source, split, batches)]

    assert lines == expected(text.encode())


@settings(max_examples=100)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3), batch_bytes=SIZES, batches=st.integers(1, 4))
def test_resumed_gzip_file_of_several_members_gives_its_lines(
    directory: Path, texts: list[str], batch_bytes: int, batches: int
) -> None:
    path = directory / "in.gz"
    path.write_bytes(b"".join(gzip.compress(text.encode()) for text in texts))

    source = TextFiles(path, batch_bytes=batch_bytes)
    lines = [line for split in source.splits(1) for line in read_in_pieces(source, split, batches)]

    assert lines == expected("".join(texts).encode())


@settings(max_examples=100)
@given(data=st.binary(max_size=60), split_bytes=SIZES, batch_bytes=SIZES)
def test_any_bytes_can_be_read_as_latin_1_and_come_back(
    directory: Path, data: bytes, split_bytes: int, batch_bytes: int
) -> None:
    path = directory / "any.bin"
    path.write_bytes(data.replace(b"\r", b" "))

    source = TextFiles(path, encoding="latin-1", split_bytes=split_bytes, batch_bytes=batch_bytes)
    lines = [line for split in source.splits(1) for line in read_in_pieces(source, split, 2)]

    assert "\n".join(lines).encode("latin-1") == path.read_bytes().removesuffix(b"\n")
