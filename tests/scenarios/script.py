"""Scenario scripts: a session with one machine, as text.

A script is a list of paragraphs. A paragraph is some command lines, a line ``---``, and the lines
that the machine answers to all of them; lines that begin with ``#`` are for people. Every script
has a machine of its own, which its folder's adapter makes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

Answer = Callable[[str], list[str]]
"""Carries out one command line and returns the lines that say what the machine did."""


def replay(script: str, answer: Answer) -> str:
    """Return ``script`` with the answers that the machine gives now."""
    lines = script.rstrip("\n").split("\n")
    paragraphs = [list(group) for is_text, group in groupby(lines, key=bool) if is_text]
    return "\n\n".join(_replay_paragraph(paragraph, answer) for paragraph in paragraphs) + "\n"


def _replay_paragraph(lines: list[str], answer: Answer) -> str:
    asked = lines[: lines.index("---")] if "---" in lines else lines
    commands = [line for line in asked if not line.startswith("#")]
    if not commands:
        return "\n".join(asked)
    answers = [line for command in commands for line in answer(command)]
    return "\n".join([*asked, "---", *answers])
