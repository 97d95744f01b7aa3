from __future__ import annotations

import gzip
import sys
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest
import zstandard

from flowsnap.connectors import JsonLinesFiles, TextFiles
from flowsnap.connectors.compression import (
    Compression,
    check_compression,
    compressing,
    compression_of,
    decompressed,
)
from flowsnap.errors import ConfigError, MalformedInput, StorageError

DATA = b"".join(b"line %d\n" % n for n in range(20_000))


def read(source: TextFiles, position: int | None = None) -> list[str]:
    (split,) = source.splits(4)
    with closing(source.open_split(split, position)) as reader:
        values = []
        while (batch := reader.read(100)) is not None:
            values += batch.values
        return values


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_is_compressed_reads_back(compression: Compression) -> None:
    packed = BytesIO()
    writer = compressing(packed, compression)
    writer.write(DATA)
    writer.close()
    assert len(packed.getvalue()) < len(DATA)

    packed.seek(0)

    assert decompressed(packed, compression).read() == DATA


def test_frames_of_zstd_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "in.txt.zst"
    path.write_bytes(zstandard.compress(b"a\nb") + zstandard.compress(b"") + b"")
    path.write_bytes(path.read_bytes() + zstandard.compress(b"c\nd\n"))

    assert read(TextFiles(path, batch_bytes=1)) == ["a", "bc", "d"]


@pytest.mark.parametrize("name", ["in.gz", "in.zst"])
def test_position_is_an_offset_in_the_content(tmp_path: Path, name: str) -> None:
    pack = gzip.compress if name.endswith("gz") else zstandard.compress
    (tmp_path / name).write_bytes(pack(DATA))
    at = DATA.index(b"line 15000\n")

    assert read(TextFiles(tmp_path / name), at)[0] == "line 15000"


@pytest.mark.parametrize("name", ["in.gz", "in.zst"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_file_that_is_cut_off_is_malformed_and_not_shorter(
    tmp_path: Path, name: str, kept: float
) -> None:
    data = (gzip.compress if name.endswith("gz") else zstandard.compress)(DATA)
    (tmp_path / name).write_bytes(data[: int(len(data) * kept)])

    with pytest.raises(MalformedInput, match=r"is not a complete (gzip|zstd) file"):
        read(TextFiles(tmp_path / name))


@pytest.mark.parametrize("name", ["in.gz", "in.zst"])
def test_file_that_is_not_compressed_is_malformed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(DATA)

    with pytest.raises(MalformedInput, match="is not a complete"):
        read(TextFiles(tmp_path / name))


@pytest.mark.parametrize("name", ["in.gz", "in.zst"])
def test_content_that_has_become_shorter_than_the_position_is_an_error(
    tmp_path: Path, name: str
) -> None:
    pack = gzip.compress if name.endswith("gz") else zstandard.compress
    (tmp_path / name).write_bytes(pack(b"a\nb\n"))

    with pytest.raises(StorageError, match="is shorter than it was"):
        read(TextFiles(tmp_path / name), 1000)


def test_zstd_without_its_library_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.zst").write_bytes(zstandard.compress(DATA))
    monkeypatch.setitem(sys.modules, "zstandard", None)

    with pytest.raises(ConfigError, match="need the zstandard package") as caught:
        TextFiles(tmp_path / "in.zst").splits(1)
    assert "flowsnap[zstd]" in caught.value.__notes__[0]


def test_compression_is_told_by_the_name_and_unknown_ones_are_refused() -> None:
    assert [compression_of(f"a.{end}") for end in ("gz", "zst", "txt")] == ["gzip", "zstd", None]
    assert check_compression(None) is None
    with pytest.raises(ConfigError, match="compression: 'lzma'"):
        JsonLinesFiles("out", compression="lzma")  # type: ignore[arg-type]  # the point
