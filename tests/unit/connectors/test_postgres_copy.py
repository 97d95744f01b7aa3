"""Rows as CSV: made where it is the same as value by value, and nowhere else."""

from __future__ import annotations

import csv
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="pip install 'flowsnap[postgres]'")

from hypothesis import given
from hypothesis import strategies as st

from flowsnap.connectors.postgres_copy import as_csv

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6)
ROWS = st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), TEXT, TEXT), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("rows", "categories", "lines"),
    [
        ([(1, "a"), (2, "b")], "NS", b'1,"a"\n2,"b"\n'),
        ([(None, "null"), (0, "")], "NS", b'null,"null"\n0,""\n'),
        ([("]",), ("[",)], "S", b'"]"\n"["\n'),
        ([('\\"',)], "S", b'"\\\\\\""\n'),
        ([(0.5, True), (None, None), (-0.0, False)], "NB", b"0.5,true\nnull,null\n-0.0,false\n"),
        ([(1, 1.5), (0, 0)], "NN", b"1,1.5\n0,0\n"),
    ],
)
def test_plain_rows_are_lines_of_csv(rows: list[Any], categories: str, lines: bytes) -> None:
    assert as_csv(rows, categories) == lines


@pytest.mark.parametrize(
    ("value", "category"),
    [
        ("line\nbreak", "S"), ("tab\t", "S"), ("nul\0", "S"), ("\\\n", "S"), (1.5, "S"),
        (True, "S"), (True, "N"), (float("nan"), "N"), (float("inf"), "N"), (-float("inf"), "N"),
        (b"bytes", "U"), ([1], "A"), (1.5, "B"), (1.5, ""),
    ],
)  # fmt: skip
def test_what_csv_would_write_in_another_way_goes_value_by_value(value: Any, category: str) -> None:
    assert as_csv([(1, value)], ["N", category]) is None


def test_number_that_json_has_not_is_found_among_others() -> None:
    assert as_csv([(0.0,), (None,), (1,), (float("nan"),)], "N") is None


@given(rows=ROWS)
def test_csv_holds_the_rows(rows: list[tuple[Any, ...]]) -> None:
    lines = as_csv(rows, "NSS")

    assert lines is not None
    read = csv.reader(lines.decode().split("\n")[:-1], escapechar="\\", doublequote=False)
    assert [(int(number), *texts) for number, *texts in read] == rows
