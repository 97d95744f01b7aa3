"""The page on connectors says under which faults each was tested, and those tests exist."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path

import pytest

import flowsnap.connectors
from flowsnap.core.operator import Sink, Source
from tests.connectors.guarantees import (
    EAGER,
    EPOCH_LOGS,
    EVIDENCE,
    FAULTS,
    GUARANTEES,
    PAGE,
    ROOT,
    SINK_SUITE,
    SOURCE_SUITE,
    Evidence,
    classes,
    page,
)
from tests.contract import sinks, test_source

UNPROMISED = {
    "Discard": "keeps nothing",
    "EpochLogSink": "a base class",
}
"""What is no row of the table, and why."""


@cache
def functions(path: Path) -> set[str]:
    """Return the tests that a file has, or collects from another."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names}
    return names


def test_page_is_what_the_table_generates() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert page(text) == text, "run python -m tests.connectors.guarantees"


def test_page_without_a_place_for_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no part between"):
        page("# Connectors")


@pytest.mark.parametrize("evidence", EVIDENCE, ids=lambda one: f"{one.fault}-{one.path}")
def test_every_test_that_is_named_exists(evidence: Evidence) -> None:
    assert set(evidence.tests) - functions(ROOT / evidence.path) == set()


def test_evidence_is_of_known_faults_in_their_order_and_of_known_connectors() -> None:
    known = {one.connector for one in GUARANTEES}

    assert [*dict.fromkeys(one.fault for one in EVIDENCE)] == [*FAULTS]
    assert {connector for one in EVIDENCE for connector in one.connectors} == known


def test_suites_try_the_connectors_that_they_are_named_for() -> None:
    assert set(SINK_SUITE.values()) <= set(sinks.SINKS)
    assert set(SOURCE_SUITE.values()) <= set(test_source.CASES)
    assert {SINK_SUITE[name] for name in EPOCH_LOGS} <= set(sinks.EPOCH_LOGS)
    assert len(EAGER) == len(sinks.EAGER)


def test_every_public_connector_has_a_guarantee_or_a_reason() -> None:
    public = {name: getattr(flowsnap.connectors, name) for name in flowsnap.connectors.__all__}
    connectors = {
        name
        for name, found in public.items()
        if inspect.isclass(found) and issubclass(found, (Source, Sink))
    }

    assert connectors - classes() - UNPROMISED.keys() == set()
