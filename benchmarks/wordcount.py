"""How much of a hand-written loop's speed is left when a word count is exactly-once on workers?"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from benchmarks.engine import measured_run
from benchmarks.harness import Row, per_second, rounds
from flowsnap import Pipeline
from flowsnap.connectors import JsonLinesFiles, TextFiles

DISTINCT = 100_000
WORDS_PER_LINE = 10
FILES = 8


def run(quick: bool) -> list[Row]:
    """Measure 5 M words (quick: 500,000), Zipf over 100,000, read from files."""
    words = 500_000 if quick else 5_000_000
    with tempfile.TemporaryDirectory(prefix="flowsnap-bench-") as name:
        books = Path(name) / "books"
        write_words(books, words)
        cases: dict[str, Callable[[], float]] = {
            "hand loop": lambda: per_second(words, lambda: hand_loop(books)),
            "1 worker": lambda: engine(books, Path(name), words, workers=1),
            "2 workers": lambda: engine(books, Path(name), words, workers=2),
        }
        measured = rounds(1 if quick else 5, cases, warm_up=not quick)
    return measured.rows(
        "words/s",
        baseline="hand loop",
        notes={
            "hand loop": "one thread, d[w] = d.get(w, 0) + 1, keeps nothing",
            "1 worker": "a checkpoint each second, from running to committed output",
            "2 workers": "a checkpoint each second, from running to committed output",
        },
    )


def write_words(books: Path, words: int) -> None:
    """Write a text whose words are Zipf-distributed over 100,000 different ones."""
    books.mkdir(mode=0o700)
    chance = random.Random(7)
    vocabulary = [f"word{number:05d}" for number in range(DISTINCT)]
    weights = list(accumulate(1 / rank for rank in range(1, DISTINCT + 1)))
    per_file = words // FILES
    for number in range(FILES):
        chosen = chance.choices(vocabulary, cum_weights=weights, k=per_file)
        lines = (
            " ".join(chosen[at : at + WORDS_PER_LINE]) for at in range(0, per_file, WORDS_PER_LINE)
        )
        (books / f"{number}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def hand_loop(books: Path) -> dict[str, int]:
    """Count the words as one would by hand."""
    counts: dict[str, int] = {}
    for path in sorted(books.iterdir()):
        with path.open(encoding="utf-8") as file:
            for line in file:
                for word in line.split():
                    counts[word] = counts.get(word, 0) + 1
    return counts


def engine(books: Path, directory: Path, words: int, *, workers: int) -> float:
    """Return the words per second of the pipeline."""
    pipeline = Pipeline("wordcount")
    with tempfile.TemporaryDirectory(dir=directory) as out:
        (
            pipeline.source(TextFiles(books), name="lines")
            .flat_map(str.split)
            .key_by()
            .count(emit="final", name="counts")
            .sink(JsonLinesFiles(Path(out) / "counts"), name="out")
        )
        result = measured_run(pipeline, workers=workers, checkpoint_interval="1s")
    return words / result.running_s
