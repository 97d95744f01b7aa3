"""A job whose files are all in a bucket: lines in, the running counts by word out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from flowsnap import Pipeline
from flowsnap.connectors import JsonLinesFiles, TextFiles


def pipeline(source: str, output: str) -> Pipeline:
    p = Pipeline("words")
    (
        p.source(TextFiles(source, split_bytes="8KB", batch_bytes="256B"), name="lines")
        .rate_limit(20_000)
        .key_by(lambda word: word, name="by-word")
        .count(name="counts")
        .sink(JsonLinesFiles(output, partition_by=lambda pair: str(pair[1] % 2)), name="out")
    )
    return p


def expected(words: Iterable[str]) -> list[tuple[Any, ...]]:
    """Return what the job writes for words, sorted: each of their counts on its way up."""
    totals = Counter(words)
    return sorted((word, n) for word, total in totals.items() for n in range(1, total + 1))
