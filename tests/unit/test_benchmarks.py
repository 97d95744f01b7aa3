from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import comparison, main, markdown, read, updated, with_figures
from benchmarks.harness import Record, Result, Rounds, Row, per_second, rounds


def values(*numbers: float) -> Callable[[], float]:
    found: Iterator[float] = iter(numbers)
    return lambda: next(found)


def record(value: float, *, is_lower_better: bool = False) -> Record:
    row = Row(case="two workers", value=value, ratio=0.5, is_lower_better=is_lower_better)
    return Record(
        benchmarks=(Result(name="wordcount", question="how fast?", rows=(row,)),),
        machine={"cpu": "a cpu", "cores": 2, "python": "CPython 3.11.7"},
        versions={"flowsnap": "0.1.0"},
        commit="abc",
    )


def test_cases_are_run_in_turn() -> None:
    order: list[str] = []

    def case(name: str) -> Callable[[], float]:
        def measure() -> float:
            order.append(name)
            return 1.0

        return measure

    rounds(2, {"a": case("a"), "b": case("b")})

    assert order == ["a", "b", "a", "b"]


def test_the_warm_up_does_not_count() -> None:
    measured = rounds(2, {"a": values(100, 1, 3)}, warm_up=True)

    assert measured.values == {"a": [1, 3]}


def test_a_ratio_is_taken_within_a_round() -> None:
    measured = Rounds({"ours": [10, 40, 12], "loop": [20, 80, 20]})

    assert measured.median("ours") == 12
    assert measured.ratio("ours", "loop") == 0.5


def test_the_spread_is_that_of_the_quartiles() -> None:
    assert Rounds({"a": [1, 2, 3, 4, 5]}).spread("a") == pytest.approx(2 / 3)
    assert Rounds({"a": [7]}).spread("a") == 0


def test_rows_stand_in_the_order_of_the_cases_with_ratios_to_the_baseline() -> None:
    rows = Rounds({"loop": [20.0], "ours": [10.0]}).rows(baseline="loop", notes={"ours": "1 core"})

    assert [(row.case, row.value, row.ratio, row.note) for row in rows] == [
        ("loop", 20.0, 1.0, ""),
        ("ours", 10.0, 0.5, "1 core"),
    ]


def test_nothing_to_measure_is_refused() -> None:
    for n, cases in ((0, {"a": values(1)}), (1, {})):
        with pytest.raises(ValueError, match="measure nothing"):
            rounds(n, cases)


def test_work_is_measured_in_records_per_second() -> None:
    assert per_second(1000, lambda: sum(range(1000))) > 1000


def test_the_figures_replace_what_stood_between_the_marks() -> None:
    readme = "before\n<!-- figures -->\nold\n<!-- /figures -->\nafter"

    made = with_figures(readme, record(1_234_567))

    assert made.startswith("before\n<!-- figures -->\n| benchmark |")
    assert made.endswith("\n<!-- /figures -->\nafter")
    assert "old" not in made
    assert with_figures(made, record(1_234_567)) == made


def test_a_row_of_the_table_has_value_unit_and_ratio() -> None:
    lines = markdown(record(1_234_567)).splitlines()

    assert lines[2] == "| wordcount | two workers | 1,234,567 records/s | 0.50x |  |"
    assert "a cpu, 2 cores, CPython 3.11.7, commit abc" in lines[-1]


@pytest.mark.parametrize(("is_lower_better", "colour"), [(False, "green"), (True, "red")])
def test_a_comparison_shows_whether_it_got_better(is_lower_better: bool, colour: str) -> None:
    now = record(150, is_lower_better=is_lower_better)
    table = comparison(now, record(100, is_lower_better=is_lower_better))

    assert list(table.columns[3].cells) == [f"[{colour}]+50.0%[/]"]


def measured(commit: str, *names: str) -> Record:
    results = tuple(Result(name=name, commit=commit) for name in names)
    return msgspec.structs.replace(record(1.0), benchmarks=results, commit=commit)


def test_update_keeps_what_was_not_measured_again_with_its_commit() -> None:
    merged = updated(measured("old", "one", "two"), measured("new", "two", "three"))

    found = [(one.name, one.commit) for one in merged.benchmarks]
    assert found == [("one", "old"), ("two", "new"), ("three", "new")]
    assert "one: commit old; two, three: commit new" in markdown(merged)


def test_update_keeps_what_the_others_were_measured_on() -> None:
    other = {"cpu": "another cpu", "cores": 8, "python": "CPython 3.12.1"}
    again = msgspec.structs.replace(
        measured("new", "two"), machine=other, versions={"flowsnap": "0.2.0"}
    )

    merged = updated(measured("old", "one", "two"), again)

    one, two = merged.benchmarks
    assert (one.machine["cpu"], one.versions) == ("a cpu", {"flowsnap": "0.1.0"})
    assert (two.machine or merged.machine, merged.versions) == (other, {"flowsnap": "0.2.0"})
    assert "one: a cpu, 2 cores, CPython 3.11.7; two: another cpu, 8 cores" in markdown(merged)


def test_update_keeps_no_figures_of_a_quick_look(tmp_path: Path) -> None:
    called = CliRunner().invoke(main, ["--quick", "--update", str(tmp_path / "kept.json")])

    assert called.exit_code == 2
    assert "--quick gives none" in called.output


def test_update_adds_no_figures_to_those_of_a_quick_look(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    quick = msgspec.structs.replace(measured("old", "one"), is_quick=True)
    kept.write_bytes(msgspec.json.encode(quick))

    called = CliRunner().invoke(main, ["--update", str(kept)])

    assert called.exit_code == 2
    assert "was written with --quick" in called.output
    assert read(kept) == quick


def test_update_beside_a_file_of_a_single_benchmark_gives_the_kept_ones_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, alone = tmp_path / "kept.json", tmp_path / "alone.json"
    kept.write_bytes(msgspec.json.encode(measured("old", "one", "two")))
    benchmark = SimpleNamespace(__doc__="How fast?", run=lambda quick: [Row(case="a", value=1.0)])
    monkeypatch.setattr("benchmarks.__main__.choose", lambda names: {"two": benchmark})

    CliRunner().invoke(main, ["two", "--json", str(alone), "--update", str(kept)])

    assert (read(alone).name, len(read(alone).rows)) == ("two", 1)
    assert (read(kept).name, read(kept).rows) == ("", ())
    assert [one.name for one in read(kept).benchmarks] == ["one", "two"]
