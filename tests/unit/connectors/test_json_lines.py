from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest

from flowsnap.connectors import JsonLinesFiles
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import ConfigError, MalformedInput, OperatorError, StorageError
from tests.ends import commit, opened, read, submitted, written

ONE, TWO = CheckpointId(1), CheckpointId(2)


class Order(msgspec.Struct):
    user: str
    amount: int = 0


@dataclass
class Point:
    x: int
    y: int


# --- source -----------------------------------------------------------------------------------


def test_every_line_is_one_json_value(tmp_path: Path) -> None:
    path = written(tmp_path / "in.jsonl", b'\xef\xbb\xbf{"a":[1]}\r\n"\xc3\xa4\\n"\nnull\n1.5')

    assert read(JsonLinesFiles(path)) == [{"a": [1]}, "ä\n", None, 1.5]


@pytest.mark.parametrize("batch_bytes", [1, 3, 1000])
def test_empty_lines_are_left_out(tmp_path: Path, batch_bytes: int) -> None:
    path = written(tmp_path / "in.jsonl", b"\n\n1\n \t\r\n2\n\n\n")

    source = JsonLinesFiles(path, batch_bytes=batch_bytes)
    with closing(source.open_split(source.splits(1)[0], None)) as reader:
        batches = [batch.values for batch in iter(partial(reader.read, 100), None)]

    assert [] not in batches
    assert [value for values in batches for value in values] == [1, 2]


def test_lines_become_instances_of_the_given_type(tmp_path: Path) -> None:
    path = written(tmp_path / "in.jsonl", b'{"user":"ann","amount":3}\n{"user":"bob"}\n')

    assert read(JsonLinesFiles(path, type=Order)) == [Order("ann", 3), Order("bob", 0)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"user":7}', r"Expected `str`, got `int` - at `\$\.user`"),
        (b'{"user":', "truncated"),
        (b'{"user":"a"} {"user":"b"}', "malformed"),
        (b'{"user":\n"a"}', "truncated"),
        (b'{"user":"\xff"}', "utf-8"),
    ],
)
def test_line_that_does_not_fit_is_named_by_file_offset_and_reason(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = written(tmp_path / "in.jsonl", b'{"user":"x"}\n\n' + line + b"\n")

    with pytest.raises(MalformedInput, match=f"line at byte 14 .*{reason}") as caught:
        read(JsonLinesFiles(path, type=Order))
    assert (caught.value.file, caught.value.offset) == (str(path), 14)


def test_line_that_is_nested_too_deeply_is_malformed(tmp_path: Path) -> None:
    path = written(tmp_path / "in.jsonl", b"1\n" + b"[" * 100_000 + b"\n")

    with pytest.raises(MalformedInput, match=r"line at byte 2 .*recursion"):
        read(JsonLinesFiles(path))


def test_type_that_cannot_be_decoded_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be decoded"):
        JsonLinesFiles("in.jsonl", type=lambda line: line)


# --- sink -------------------------------------------------------------------------------------


def test_whatever_msgspec_encodes_becomes_a_line(tmp_path: Path) -> None:
    sink = opened(submitted(JsonLinesFiles(tmp_path / "new/out")))

    commit(sink, [("a", 1), Order("ann"), Point(1, 2), {1: "x"}, None, "ä\n", 2**70])

    (part,) = (tmp_path / "new/out").iterdir()
    assert part.name == "part-r1-out-00000-00000001.jsonl"
    lines = part.read_text().splitlines()
    assert lines[:3] == ['["a",1]', '{"user":"ann","amount":0}', '{"x":1,"y":2}']
    assert lines[3:] == ['{"1":"x"}', "null", '"ä\\n"', str(2**70)]


@pytest.mark.parametrize("value", [object(), 1j, {(1, 2): 3}, "\ud800"])
def test_record_without_a_form_in_json_is_named(tmp_path: Path, value: object) -> None:
    sink = opened(submitted(JsonLinesFiles(tmp_path)), subtask=2)

    with pytest.raises(
        OperatorError, match=r"'out', subtask 2: record 2 of a batch of 3"
    ) as caught:
        sink.write(Batch([1, value, 3]))

    assert type(value).__name__ in caught.value.record
    assert sink.prepare(ONE) is None


def test_empty_batch_makes_no_file(tmp_path: Path) -> None:
    sink = opened(submitted(JsonLinesFiles(tmp_path)))

    sink.write(Batch([]))

    assert os.listdir(tmp_path) == []


def test_sink_reads_back_as_a_source_and_hides_what_is_not_committed(tmp_path: Path) -> None:
    sink = opened(submitted(JsonLinesFiles(tmp_path)))
    commit(sink, [1, 2])
    sink.write(Batch([3]))
    sink.prepare(TWO)
    sink.write(Batch([4]))

    assert read(JsonLinesFiles(tmp_path)) == [1, 2]
    sink.close()


def test_two_sinks_of_a_job_share_a_directory(tmp_path: Path) -> None:
    for name in ("left", "right"):
        sink = submitted(JsonLinesFiles(tmp_path), operator=name)
        commit(opened(sink, operator=name), [name])

    assert sorted(read(JsonLinesFiles(tmp_path))) == ["left", "right"]


def test_parts_of_another_job_are_refused_and_stay(tmp_path: Path) -> None:
    commit(opened(submitted(JsonLinesFiles(tmp_path))), [1])

    with pytest.raises(ConfigError, match="holds 1 parts of another job") as caught:
        submitted(JsonLinesFiles(tmp_path), run_id="r2")

    assert 'existing="append"' in caught.value.__notes__[0]
    assert 'existing="replace"' in caught.value.__notes__[0]
    assert read(JsonLinesFiles(tmp_path)) == [1]


def test_append_leaves_all_parts(tmp_path: Path) -> None:
    commit(opened(submitted(JsonLinesFiles(tmp_path))), [1])

    sink = JsonLinesFiles(tmp_path, existing="append")
    commit(opened(submitted(sink, run_id="r2", former_run_ids=("r1",)), run_id="r2"), [2])

    assert read(JsonLinesFiles(tmp_path)) == [1, 2]


def test_replace_removes_all_parts_and_nothing_else(tmp_path: Path) -> None:
    commit(opened(submitted(JsonLinesFiles(tmp_path))), [1])
    written(tmp_path / "part-00000.jsonl", b"")
    written(tmp_path / "notes.jsonl", b"")

    submitted(JsonLinesFiles(tmp_path, existing="replace"), run_id="r2")

    assert os.listdir(tmp_path) == ["notes.jsonl"]


def test_job_that_starts_over_removes_the_output_of_its_former_lives(tmp_path: Path) -> None:
    sink = opened(submitted(JsonLinesFiles(tmp_path)))
    commit(sink, [1])
    sink.write(Batch([2]))
    sink.prepare(TWO)

    submitted(JsonLinesFiles(tmp_path), run_id="r2", former_run_ids=("r0", "r1"))

    assert os.listdir(tmp_path) == []


def test_job_that_starts_over_does_not_touch_the_output_of_others(tmp_path: Path) -> None:
    commit(opened(submitted(JsonLinesFiles(tmp_path))), [1])
    other = submitted(JsonLinesFiles(tmp_path, existing="append"), run_id="x1")
    commit(opened(other, run_id="x1"), [2])

    with pytest.raises(ConfigError, match="holds 1 parts of another job, such as part-x1-"):
        submitted(JsonLinesFiles(tmp_path), run_id="r2", former_run_ids=("r1",))
    assert read(JsonLinesFiles(tmp_path)) == [1, 2]


def test_job_that_goes_on_keeps_its_output(tmp_path: Path) -> None:
    commit(opened(submitted(JsonLinesFiles(tmp_path))), [1])

    submitted(JsonLinesFiles(tmp_path, existing="replace"), is_fresh=False)

    assert read(JsonLinesFiles(tmp_path)) == [1]


def test_finished_job_leaves_no_uncommitted_file(tmp_path: Path) -> None:
    sink = submitted(JsonLinesFiles(tmp_path))
    writer = opened(submitted(JsonLinesFiles(tmp_path)))
    commit(writer, [1])
    writer.write(Batch([2]))
    writer.prepare(TWO)

    sink.on_finish()

    assert os.listdir(tmp_path) == ["part-r1-out-00000-00000001.jsonl"]


def test_directory_is_that_of_the_submitting_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sink = submitted(JsonLinesFiles("out"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    commit(opened(sink), [1])

    assert len(os.listdir(tmp_path / "out")) == 1


def test_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "file", b"")

    for bad in (path, path / "below"):
        with pytest.raises(ConfigError, match="cannot be written"):
            submitted(JsonLinesFiles(bad))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(ConfigError, match="cannot be written: Permission denied"):
        submitted(JsonLinesFiles(tmp_path))
    tmp_path.chmod(0o700)


def test_directory_that_vanishes_is_a_storage_error(tmp_path: Path) -> None:
    sink = opened(submitted(JsonLinesFiles(tmp_path / "out")))
    (tmp_path / "out").rmdir()

    with pytest.raises(StorageError, match="writing below"):
        sink.write(Batch([1]))


def test_several_paths_are_no_sink_and_unknown_choices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one directory, not 2"):
        submitted(JsonLinesFiles([tmp_path / "a", tmp_path / "b"]))
    with pytest.raises(ConfigError, match="existing: 'merge'"):
        JsonLinesFiles(tmp_path, existing="merge")  # type: ignore[arg-type]  # the point
