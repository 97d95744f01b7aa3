"""The snippets of the documentation: those that run a job do run, all others are Python."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from flowsnap.testing import Harness

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets() -> list[Any]:
    """Return every block, named by its page and the line it begins at."""
    found = []
    for name in ("operators.md", "event-time.md", "testing.md", "snapshots.md"):
        page = DOCS / name
        text = page.read_text(encoding="utf-8")
        for block in _BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 2
            found.append(pytest.param(page, line, block[1], id=f"{page.name}:{line}"))
    return found


@pytest.mark.parametrize(("page", "line", "text"), snippets())
def test_snippet_of_the_documentation_is_right(
    page: Path, line: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = compile("\n" * (line - 1) + text, page.name, "exec")

    if "run(quiet=True)" in text:
        exec(code, {"__name__": "snippet"})
        assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(text)))


def test_page_on_testing_holds_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.chdir(tmp_path)
    # The plugin does it, in an environment that flowsnap was installed in since it has one.
    pytestconfig.addinivalue_line("markers", "flowsnap_seeds(seeds): one test for each seed")
    page: dict[str, Any] = {"__name__": "page"}
    for path, line, text in (one.values for one in snippets()):
        if path.name == "testing.md":
            exec(compile("\n" * (line - 1) + text, path.name, "exec"), page)

    with Harness(page["warnings"]()) as harness:
        page["test_warning_is_forgotten_after_five_minutes"](lambda _: harness)
    page["test_warnings_are_exactly_once"](seed=3)
