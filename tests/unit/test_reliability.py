"""The page on reliability says what the tests' marks say, and no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest

from tests.reliability import (
    FAULTS,
    PAGE,
    UNTESTED,
    Figure,
    Figures,
    Mark,
    Recorder,
    marks,
    page,
    read_figures,
    table,
)

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_the_marks_and_the_figures_generate() -> None:
    assert page(TEXT, table(marks(), read_figures())) == TEXT, "run python -m tests.reliability"


def test_every_fault_has_a_test_or_a_reason() -> None:
    marked = {mark.fault for mark in marks()}

    assert marked == set(FAULTS)
    assert not FAULTS.keys() & UNTESTED.keys()
    assert {*FAULTS, *UNTESTED} == {f"F{number}" for number in range(1, 36)}


def test_every_promise_has_a_test_and_every_promise_and_oracle_is_explained() -> None:
    used = {word for mark in marks() for word in (*mark.promise.split(), *mark.oracles.split())}
    explained = set(re.findall(r"^- \*\*([PO]\d)\*\*", TEXT, re.MULTILINE))

    assert used <= explained
    assert {f"P{number}" for number in range(1, 9)} <= used


def test_figures_are_of_tests_that_are_marked() -> None:
    assert read_figures().tests.keys() <= {mark.test for mark in marks()}


def test_the_table_names_a_fault_once_and_every_test() -> None:
    found = [Mark("F1", "P1", "O1", f"tests/x.py::test_{name}") for name in "ab"]
    figures = Figures("a machine", {"tests/x.py::test_a": Figure(2, 0, {"crashes": 6})})

    lines = table(found, figures).splitlines()

    assert lines[2].startswith(f"| **F1** {FAULTS['F1']} | P1 | O1 | [`test_a`](../tests/x.py)")
    assert lines[2].endswith("| 2 runs, 6 crashes |")
    assert lines[3] == "|  | P1 | O1 | [`test_b`](../tests/x.py) | - |"
    assert "2 runs of 1 tests: 6 crashes" in "\n".join(lines)


@pytest.mark.parametrize(
    "decorator", ['("F99", promise="P1", oracles="O1")', '("F1", promise="P1")']
)
def test_a_mark_that_says_too_little_is_refused(tmp_path: Path, decorator: str) -> None:
    (tmp_path / "tests").mkdir()
    text = f"@pytest.mark.fault{decorator}\ndef test_it(): ..."
    (tmp_path / "tests" / "test_x.py").write_text(text)

    with pytest.raises(ValueError, match="is no mark"):
        marks(tmp_path)


def test_a_page_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="has no part between"):
        page("nothing", "| table |")


def reported(recorder: Recorder, case: str, outcome: Literal["passed", "failed"]) -> None:
    report = pytest.TestReport(
        f"tests/x.py::{case}", ("", 0, ""), {}, outcome, None, "call",
        user_properties=[("flips", 250)],
    )  # fmt: skip
    recorder.pytest_runtest_logreport(report)


def test_what_the_cases_of_a_test_record_is_added_up() -> None:
    recorder = Recorder()
    reported(recorder, "test_a[one]", "passed")
    reported(recorder, "test_a[two]", "passed")

    assert recorder.tests == {"tests/x.py::test_a": Figure(2, 0, {"flips": 500})}


def test_a_test_with_a_failing_case_has_no_figure_and_one_that_was_not_run_keeps_its_own() -> None:
    recorder = Recorder()
    reported(recorder, "test_a[one]", "passed")
    reported(recorder, "test_a[two]", "failed")
    reported(recorder, "test_b", "passed")
    former = {f"tests/x.py::test_{name}": Figure(7) for name in "abcd"}

    merged = recorder.merged(former, {f"tests/x.py::test_{name}" for name in "abc"})

    assert merged == {
        "tests/x.py::test_b": Figure(1, 0, {"flips": 250}),
        "tests/x.py::test_c": Figure(7),
    }
