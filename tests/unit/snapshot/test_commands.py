"""``flowsnap inspect``, ``diff`` and ``verify`` as they are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet
import pytest

from flowsnap.cli.main import invoke
from flowsnap.core.ids import ChannelId, CheckpointId
from flowsnap.core.manifest import ChannelCount, TaskTrace
from flowsnap.snapshot import SavepointBuilder, Snapshot
from flowsnap.storage.job_directory import JobDirectory
from tests.manifests import checkpoint, words

CAPS = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(scope="module")
def savepoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("inspected") / "savepoint"
    builder = SavepointBuilder.new(words())
    builder.add_state("count", "balance", {"ada": 1, "bob": 2, 7: 3, "8": 4})
    builder.add_state("count", "cart", {"ada": {"x": "[red]1[/]\x1b"}}, kind="map")
    builder.set_operator_state("count", "buffer", [1]).set_position("lines", "a", 5).write(path)
    return str(path)


def told(capsys: CAPS, *arguments: str) -> str:
    assert invoke(arguments) == 0
    return capsys.readouterr().out


def answered(capsys: CAPS, *arguments: str) -> Any:
    return json.loads(told(capsys, *arguments, "--json"))


def refused(capsys: CAPS, *arguments: str) -> tuple[int, str]:
    code = invoke(arguments)
    return code, capsys.readouterr().err


def test_summary_tells_operators_states_and_what_they_hold(savepoint: str, capsys: CAPS) -> None:
    text = told(capsys, "inspect", savepoint)

    assert text.startswith("words  savepoint 1  ")
    assert "balance (value, 4 keys), buffer (list), cart (map, 1 key)" in text
    assert "1 split" in text


def test_summary_for_programs_has_it_all(savepoint: str, capsys: CAPS) -> None:
    found = answered(capsys, "inspect", savepoint, "--operator", "lines")

    assert (found["job"], found["kind"]) == ("words", "savepoint")
    (lines,) = found["operators"]
    assert lines["positions"][0]["position"] == 5


def test_rows_of_a_state_are_shown_up_to_a_limit(savepoint: str, capsys: CAPS) -> None:
    where = ("inspect", savepoint, "--operator", "count", "--state", "balance")

    assert "4 rows" in told(capsys, *where)
    assert "2 rows and more" in told(capsys, *where, "--limit", "2")
    assert len(answered(capsys, *where, "--limit", "2")) == 4


@pytest.mark.parametrize(
    ("key", "value"), [("ada", 1), ("'ada'", 1), ("7", 3), ("8", 4), ("'8'", 4)]
)
def test_one_key_is_looked_up_as_it_is_written(
    savepoint: str, capsys: CAPS, key: str, value: int
) -> None:
    where = ("inspect", savepoint, "--operator", "count", "--state", "balance", "--key", key)

    (row,) = answered(capsys, *where)

    assert row["value"] == value


def test_text_of_a_record_cannot_steer_the_terminal(savepoint: str, capsys: CAPS) -> None:
    text = told(capsys, "inspect", savepoint, "--operator", "count", "--state", "cart")

    assert "[red]1[/]\\x1b" in text


def test_query_is_answered(savepoint: str, capsys: CAPS) -> None:
    query = "select count(*) as n from count.balance where value > 1"

    assert answered(capsys, "inspect", savepoint, "--sql", query) == [{"n": 3}]
    assert "1 row" in told(capsys, "inspect", savepoint, "--sql", query)


def test_table_that_is_too_wide_is_shown_upright(
    savepoint: str, capsys: CAPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    text = told(capsys, "inspect", savepoint, "--table", "tasks")

    assert "key_group_start  0" in text


def test_what_is_in_transit_is_a_table(savepoint: str, capsys: CAPS) -> None:
    assert answered(capsys, "inspect", savepoint, "--channels") == []
    assert "0 rows" in told(capsys, "inspect", savepoint, "--channels")


@pytest.mark.parametrize(
    "what",
    [
        ("--operator", "count", "--state", "balance"),
        ("--table", "positions"),
        ("--sql", "select * from count.cart"),
    ],
)
def test_table_is_written_to_a_file(
    savepoint: str, capsys: CAPS, tmp_path: Path, what: tuple[str, ...]
) -> None:
    path = tmp_path / "out.parquet"

    text = told(capsys, "inspect", savepoint, *what, "--parquet", str(path))

    assert f"written to {path}" in text
    assert pyarrow.parquet.read_table(path).num_rows > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--state", "x"), "--state needs --operator"),
        (("--key", "x"), "--key needs --state"),
        (("--channels", "--table", "tasks"), "one of --channels and --table"),
        (("--channels", "--sql", "select 1"), "give one of"),
        (("--operator", "x"), "has no operator 'x'"),
        (("--operator", "count", "--state", "x"), "has no state 'x'"),
        (("--operator", "count", "--state", "balance", "--key", "eve"), "has no key 'eve'"),
        (("--table", "x"), "has no table 'x'"),
        (("--sql", "select"), "the query cannot be answered"),
        (("--parquet", "x"), "--parquet needs"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    savepoint: str, capsys: CAPS, options: tuple[str, ...], message: str
) -> None:
    code, text = refused(capsys, "inspect", savepoint, *options)

    assert code == 2
    assert message in text


def test_damaged_savepoint_has_the_exit_code_for_that(
    savepoint: str, capsys: CAPS, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_bytes((Path(savepoint) / "manifest.json").read_bytes()[:-9])

    code, text = refused(capsys, "inspect", str(tmp_path))

    assert code == 3
    assert "cut off" in text


def test_difference_is_told(savepoint: str, capsys: CAPS, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    with Snapshot.open(savepoint) as snapshot:
        builder = SavepointBuilder.of(snapshot).set_position("lines", "a", 9)
        builder.set_operator_state("count", "buffer", [2])
        builder.transform_state("count", "balance", lambda key, n: n + 1 if key == "ada" else n)
        builder.write(other)

    lines = told(capsys, "diff", savepoint, other).splitlines()

    assert lines[0] == "savepoint 1 to savepoint 1"
    assert "count.balance: 1 changed, 3 the same" in lines
    assert "  ~ ada: 1 → 2" in lines
    assert "~ operator state count.buffer" in lines
    assert "~ position of lines: a: 5 → 9" in lines


def test_difference_for_programs_has_it_all(savepoint: str, capsys: CAPS) -> None:
    found = answered(capsys, "diff", savepoint, savepoint)

    assert [state["same"] for state in found["states"]] == [4, 1]
    assert "nothing has changed" in told(capsys, "diff", savepoint, savepoint)


@pytest.mark.parametrize(("heard", "code"), [(1, 0), (2, 3)])
def test_inconsistent_cut_is_damage(capsys: CAPS, tmp_path: Path, heard: int, code: int) -> None:
    sent, received = ((ChannelCount(ChannelId(0), count),) for count in (1, heard))
    parts = {
        "lines/0": {"trace": TaskTrace(0, (1, 0), sent=sent)},
        "count/0": {"trace": TaskTrace(1, (heard, heard), received=received)},
    }
    with JobDirectory.open(tmp_path, "words") as job:
        changes: Any = {"run_id": job.begin_run(), "attempt": job.begin_attempt()}
        job.reserve_checkpoint(CheckpointId(1))
        job.write_manifest(msgspec.structs.replace(checkpoint(words(), parts), **changes))

    assert invoke(["verify", "--state-dir", str(tmp_path)]) == code
    text = capsys.readouterr().out
    assert ("count/0 has heard of event 2 of lines/0" in text) == (code != 0)
    assert ("nothing is damaged" in text) == (code == 0)
    assert invoke(["verify", "--state-dir", str(tmp_path), "--json"]) == code
    assert bool(json.loads(capsys.readouterr().out)["cuts"]) == (code != 0)
