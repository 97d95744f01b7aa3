"""Three operators with state in one task, whose checkpoints hold what each of them has changed.

FLINK-12296: there two of them wrote to the same files, and one lost its state in silence.
"""

from __future__ import annotations

from typing import Any

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Collect, FromIterable
from flowsnap.testing import Harness

WORDS = ["ant", "ape", "bee", "bat"]


def letters() -> Pipeline:
    """Count words, then the updates of each letter, then those of each number of updates."""
    pipeline = Pipeline("letters")
    (
        pipeline.source(FromIterable([]), name="words")
        .key_by(name="by-word")
        .count(name="words-seen")
        .key_by(lambda row: row[0][0], name="by-letter")
        .count(name="letters-seen")
        .key_by(lambda row: row[1] % 2, name="by-parity")
        .count(name="parities-seen")
        .sink(Collect(), name="out")
    )
    return pipeline


def states(harness: Harness) -> list[Any]:
    names = ("words-seen", "letters-seen", "parities-seen")
    return [harness.states(name) for name in names]


@pytest.mark.parametrize("backend", ["memory", "rocksdb"])
def test_every_operator_of_a_chain_has_its_own_state_again(backend: Any) -> None:
    with Harness(letters(), backend=backend) as harness:
        for words in (WORDS, WORDS[:1], WORDS[2:]):  # so that each checkpoint has some of it new
            harness.push("words", *words)
            harness.checkpoint()
        before = states(harness)

        harness.crash()
        harness.restore()
        assert states(harness) == before
        harness.push("words", "ant")

        assert [list(one.values()) for one in states(harness)] == [
            [{"ant": 3, "ape": 1, "bee": 2, "bat": 2}],
            [{"a": 4, "b": 4}],
            [{0: 4, 1: 4}],
        ]
