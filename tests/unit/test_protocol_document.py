"""The protocol document says what the code does: its diagrams and its evidence are looked up."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from flowsnap.core import job, message, task

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


def functions() -> set[str]:
    """Return the names of all tests there are."""
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("diagram", [job.diagram(), task.diagram()], ids=["job", "task"])
def test_the_state_diagrams_are_those_of_the_tables(diagram: str) -> None:
    assert f"```mermaid\n{diagram}```\n" in TEXT


def test_no_other_state_diagram_is_in_the_document() -> None:
    assert TEXT.count("stateDiagram") == 2


def test_every_test_that_is_cited_exists() -> None:
    cited = set(re.findall(r"`(test_\w+)`", TEXT))

    assert len(cited) > 50
    assert cited - functions() == set()


def test_every_scenario_that_is_cited_exists() -> None:
    cited = set(re.findall(r"`((?:aligner|coordinator|job)/\w+\.txt)`", TEXT))

    assert len(cited) > 10
    assert [one for one in cited if not (ROOT / "tests" / "scenarios" / one).is_file()] == []


def test_every_document_and_module_that_is_named_exists() -> None:
    named = set(re.findall(r"`(decisions/[\w-]+\.md|formats\.md)`", TEXT))

    assert named
    assert [one for one in named if not (ROOT / "docs" / one).is_file()] == []


def test_every_message_of_a_checkpoint_is_in_the_document() -> None:
    messages = {"TriggerCheckpoint", "CompleteCheckpoint", "AbortCheckpoint"}
    messages |= {"Acknowledged", "Declined", "Committed", "TaskEnded"}

    assert all(hasattr(message, name) for name in messages)
    assert [name for name in sorted(messages) if f"`{name}" not in TEXT] == []
