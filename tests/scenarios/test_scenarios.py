"""Every script in a folder beside this file is a test; ``--rewrite`` writes the answers anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.adapters import ADAPTERS
from tests.scenarios.script import replay

HERE = Path(__file__).parent
SCRIPTS = sorted(HERE.glob("*/*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_machine_answers_as_the_script_says(path: Path, request: pytest.FixtureRequest) -> None:
    script = path.read_text(encoding="utf-8")

    answered = replay(script, ADAPTERS[path.parent.name]())

    if request.config.getoption("--rewrite"):
        path.write_text(answered, encoding="utf-8")
        return
    assert answered == script


def test_every_folder_of_scripts_has_an_adapter_and_every_adapter_a_script() -> None:
    assert {path.parent.name for path in SCRIPTS} == set(ADAPTERS)


def test_a_wrong_answer_is_noticed() -> None:
    script = "# one\n\nhello\n---\nhollo\n"

    assert replay(script, lambda command: [command]) == "# one\n\nhello\n---\nhello\n"


def test_a_paragraph_of_several_commands_collects_all_answers() -> None:
    script = "a\n# why\nb\n"

    assert replay(script, lambda command: [command, "ok"]) == "a\n# why\nb\n---\na\nok\nb\nok\n"


def test_a_command_that_does_nothing_answers_nothing() -> None:
    assert replay("a\n---\n", lambda _: []) == "a\n---\n"
