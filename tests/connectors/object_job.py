"""A job whose files are all in a bucket: lines in, the running counts by word out; and its run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from flowsnap import Pipeline
from flowsnap.connectors import JsonLinesFiles, TextFiles
from tests.acceptance.processes import flat
from tests.places import BucketPlace

WORDS = [f"word-{number % 61}" for number in range(20_000)]


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


def run(place: BucketPlace, state_dir: Path, **environment: str) -> str:
    """Write the input, run the job to its end on two workers, and return what it printed."""
    for part in range(4):
        place.write(f"in/{part}.txt", "\n".join(WORDS[part::4]).encode())
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "flowsnap.cli.main", "run", f"{__file__}:pipeline"),
            *("--arg", f"source={place.path}/in/*.txt", "--arg", f"output={place.path}/out"),
            *("--state-dir", str(state_dir), "--workers", "2", "--checkpoint-interval", "100ms"),
        ],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return flat(finished.stdout + finished.stderr)


def assert_exactly_once(place: BucketPlace) -> None:
    """Check that each count of each word, on its way up, is in the output once."""
    names = [name for name in place.names() if name.startswith("out/")]
    counted = [json.loads(line) for name in names for line in place.read(name).splitlines()]
    totals = Counter(WORDS)
    expected = [(word, n) for word, total in totals.items() for n in range(1, total + 1)]
    assert sorted(map(tuple, counted)) == sorted(expected)
    assert [name for name in names if "/." in name] == []
