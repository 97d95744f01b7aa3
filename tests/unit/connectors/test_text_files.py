from __future__ import annotations

import gzip
import pickle
from contextlib import closing
from pathlib import Path

import pytest

from flowsnap.connectors import TextFiles
from flowsnap.errors import ConfigError, MalformedInput, StorageError
from tests.ends import drain, read, rest_of, written


def zipped(path: Path, data: bytes) -> Path:
    return written(path, gzip.compress(data))


def test_line_ends_with_newline_or_carriage_return_newline_and_nothing_else(tmp_path: Path) -> None:
    data = "a\r\nb\x0bc\x0cd\x1ce\u2028f\x85g\nlone\rreturn\r\r\n\nlast\r".encode()
    path = written(tmp_path / "in.txt", data)

    expected = ["a", "b\x0bc\x0cd\x1ce\u2028f\x85g", "lone\rreturn\r", "", "last\r"]
    assert read(TextFiles(path)) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", ["a", "\ufeffb"]),
    ],
)
def test_edges_of_a_file(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    assert read(TextFiles(written(tmp_path / "in.txt", data))) == expected


@pytest.mark.parametrize("batch_bytes", [1, 2, 3, 5, 64])
def test_character_across_a_chunk_boundary_stays_whole(tmp_path: Path, batch_bytes: int) -> None:
    path = written(tmp_path / "in.txt", "äöü€\n𝄞𝄞\r\nñ".encode())

    assert read(TextFiles(path, batch_bytes=batch_bytes)) == ["äöü€", "𝄞𝄞", "ñ"]


@pytest.mark.parametrize("split_bytes", [1, 2, 3, 7, 8, 9])
def test_every_line_of_a_cut_file_is_read_once_in_order(tmp_path: Path, split_bytes: int) -> None:
    path = written(tmp_path / "in.txt", b"1\n22\n\n333\r\n4444444444444444\n5")

    source = TextFiles(path, split_bytes=split_bytes, batch_bytes=4)

    assert len(source.splits(1)) > 1
    assert read(source) == ["1", "22", "", "333", "4444444444444444", "5"]


def test_line_that_begins_at_a_cut_belongs_to_the_range_after_it(tmp_path: Path) -> None:
    path = written(tmp_path / "in.txt", b"ab\ncd\nef\n")

    source = TextFiles(path, split_bytes=3)

    assert [rest_of(source, split) for split in source.splits(1)] == [["ab"], ["cd"], ["ef"]]


def test_splits_are_named_by_file_and_offset_whatever_the_parallelism(tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    written(tmp_path / "books/a.txt", b"x" * 25)
    written(tmp_path / "books/b.txt", b"")

    source = TextFiles(tmp_path / "books", split_bytes=10)

    found = [(split.id, split.size) for split in source.splits(3)]
    assert dict(found) == {
        "books/a.txt@0": 10,
        "books/a.txt@10": 10,
        "books/a.txt@20": 5,
        "books/b.txt@0": 0,
    }
    assert source.splits(3) == source.splits(8)


def test_without_split_bytes_a_file_is_one_split(tmp_path: Path) -> None:
    path = written(tmp_path / "in.txt", b"x" * 1000)

    assert [split.size for split in TextFiles(path, split_bytes=None).splits(4)] == [1000]


def test_gzip_file_is_read_and_resumed_at_an_uncompressed_offset(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in.txt.gz", b"".join(b"line %d\n" % n for n in range(1000)))
    source = TextFiles(path, batch_bytes=100, split_bytes=10)
    (split,) = source.splits(4)

    with closing(source.open_split(split, None)) as reader:
        first = [line for _ in range(7) for line in reader.read(1).values]  # type: ignore[union-attr]
        position = reader.position()

    assert len("\n".join(first)) + 1 == position
    assert first + rest_of(source, split, position) == [f"line {n}" for n in range(1000)]


def test_gzip_file_of_several_members_is_one_text(tmp_path: Path) -> None:
    path = written(tmp_path / "in.gz", gzip.compress(b"a\nb") + gzip.compress(b"c\nd\n"))

    assert read(TextFiles(path)) == ["a", "bc", "d"]


@pytest.mark.parametrize(
    "data",
    [b"not gzip\n", gzip.compress(b"a\n" * 1000, mtime=0)[:-12], b"\x1f\x8b\x08"],
    ids=["text", "cut off", "header"],
)
def test_broken_gzip_file_is_malformed_input(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path / "in.gz", data)

    with pytest.raises(MalformedInput, match="not a complete gzip file") as caught:
        read(TextFiles(path))
    assert caught.value.file == str(path)


def test_progress_reaches_the_size_of_the_split(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", b"abc\n" * 10)
    zipped(tmp_path / "b.gz", b"abc\n" * 10)
    source = TextFiles(tmp_path, split_bytes=13)

    for split in source.splits(1):
        with closing(source.open_split(split, None)) as reader:
            list(drain(reader))
            assert reader.progress() == split.size


def test_undecodable_byte_is_named_by_file_and_offset(tmp_path: Path) -> None:
    path = written(tmp_path / "in.txt", b"\xef\xbb\xbfgood\n" + b"x" * 10 + b"\n" + b"ba\xff\n")

    with pytest.raises(MalformedInput, match=r"in\.txt is not utf-8 at byte 21") as caught:
        read(TextFiles(path, batch_bytes=9))
    assert (caught.value.file, caught.value.offset) == (str(path), 21)
    assert not caught.value.restartable


def test_mark_of_utf_8_is_text_in_another_encoding(tmp_path: Path) -> None:
    path = written(tmp_path / "in.txt", b"\xef\xbb\xbfa\n")

    assert read(TextFiles(path, encoding="latin-1")) == ["ï»¿a"]
    assert read(TextFiles(path, encoding="UTF8")) == ["a"]
    assert read(TextFiles(path, encoding="utf-8-sig")) == ["a"]


def test_undecodable_bytes_are_treated_as_errors_says(tmp_path: Path) -> None:
    path = written(tmp_path / "in.txt", b"a\xff\n\xff")

    assert read(TextFiles(path, errors="replace")) == ["a\ufffd", "\ufffd"]
    assert read(TextFiles(path, errors="ignore")) == ["a", ""]
    assert read(TextFiles(path, encoding="latin-1")) == ["aÿ", "ÿ"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le", "cp037"])
def test_encoding_whose_lines_do_not_end_with_byte_10_is_refused(encoding: str) -> None:
    with pytest.raises(ConfigError, match="do not end with the byte 10"):
        TextFiles("in.txt", encoding=encoding)


@pytest.mark.parametrize("encoding", ["no-such", "hex", "rot13"])
def test_unknown_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(ConfigError, match="not a text encoding"):
        TextFiles("in.txt", encoding=encoding)


def test_unknown_error_handling_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="errors: 'shrug'"):
        TextFiles("in.txt", errors="shrug")
    with pytest.raises(ConfigError, match="split_bytes"):
        TextFiles("in.txt", split_bytes=0)
    with pytest.raises(ConfigError, match="batch_bytes"):
        TextFiles("in.txt", batch_bytes="a lot")


def test_vanished_file_is_a_storage_error_that_names_it(tmp_path: Path) -> None:
    source = TextFiles(written(tmp_path / "in.txt", b"a\n"))
    (split,) = source.splits(1)
    (tmp_path / "in.txt").unlink()

    with pytest.raises(StorageError, match=r"in\.txt has vanished"):
        source.open_split(split, None)


@pytest.mark.parametrize("name", ["in.txt", "in.gz"])
def test_file_that_is_shorter_than_the_position_is_a_storage_error(
    tmp_path: Path, name: str
) -> None:
    write = zipped if name.endswith(".gz") else written
    source = TextFiles(write(tmp_path / name, b"abc\n" * 10))
    (split,) = source.splits(1)
    write(tmp_path / name, b"abc\n" * 5)

    with pytest.raises(StorageError, match="shorter than it was"):
        source.open_split(split, 24)


@pytest.mark.parametrize("left", [b"", b"abc\n", b"abc\nab"])
def test_file_that_shrinks_while_it_is_read_is_a_storage_error(tmp_path: Path, left: bytes) -> None:
    source = TextFiles(written(tmp_path / "in.txt", b"abc\n" * 10), batch_bytes=3)
    (split,) = source.splits(1)
    with closing(source.open_split(split, None)) as reader:
        (tmp_path / "in.txt").write_bytes(left)

        with pytest.raises(StorageError, match="shorter than it was"):
            list(drain(reader))


def test_what_is_appended_after_submission_is_not_read(tmp_path: Path) -> None:
    source = TextFiles(written(tmp_path / "in.txt", b"a\nb\n"))
    (split,) = source.splits(1)
    written(tmp_path / "in.txt", b"a\nb\nc\n")

    assert rest_of(source, split) == ["a", "b"]


def test_reader_that_could_not_be_opened_leaves_no_file_open(tmp_path: Path) -> None:
    source = TextFiles(written(tmp_path / "in.txt", b"a\n"))
    (split,) = source.splits(1)

    # An open file would be a ResourceWarning, which is an error here.
    with pytest.raises(StorageError):
        source.open_split(split, 100)


def test_template_can_be_pickled(tmp_path: Path) -> None:
    source = TextFiles(written(tmp_path / "in.txt", b"a\nb\n"))

    assert read(pickle.loads(pickle.dumps(source))) == ["a", "b"]
