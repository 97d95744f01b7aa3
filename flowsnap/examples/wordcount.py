"""Word count: how often does each word occur in the sources of Python's own standard library?

``python -m flowsnap.examples.wordcount`` reads them, or the files given as the first argument,
and writes a file of JSON lines, ``["word", count]``, per subtask into ``out``, or the second
argument.
"""

from __future__ import annotations

import re
import sys
import sysconfig

from flowsnap import Pipeline
from flowsnap.connectors import JsonLinesFiles, TextFiles

WORD = re.compile(r"\w+")


def words(line: str) -> list[str]:
    """Return the words of a line, in lower case."""
    return WORD.findall(line.lower())


def pipeline(input: str = "", output: str = "out") -> Pipeline:
    """Return the pipeline; ``input`` is a file, a directory or a glob."""
    job = Pipeline("wordcount")
    (
        job.source(TextFiles(input or standard_library(), errors="replace"), name="lines")
        .flat_map(words, name="words")
        .key_by(name="by_word")
        .count(emit="final", name="counts")
        .sink(JsonLinesFiles(output, existing="replace"), name="output")
    )
    return job


def standard_library() -> str:
    """Return the glob of the standard library's sources."""
    return f"{sysconfig.get_path('stdlib')}/**/*.py"


if __name__ == "__main__":
    pipeline(*sys.argv[1:]).run()
