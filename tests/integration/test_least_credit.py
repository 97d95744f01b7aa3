"""The least credit there can be is enough, also where every barrier overtakes.

FLINK-22946: there unaligned checkpoints took the buffers that the job needed to go on.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Collect, Generator

CHECKPOINTS, KEYS = 3, 7


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"checkpoint_alignment": "unaligned"}, {"alignment_timeout": "1ms"}], ids=str
)
def test_job_of_the_least_credit_goes_on_while_every_barrier_overtakes(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    pipeline, sink = Pipeline("narrow"), Collect()
    (
        pipeline.source(Generator(lambda n: n, rate=20_000, splits=2), name="numbers")
        .key_by(lambda n: n % 50)
        .count(parallelism=3)
        .key_by(lambda row: row[0] % KEYS)
        .count(parallelism=2)
        .sink(sink)
    )
    handle = pipeline.start(state_dir=tmp_path, batch="1KB", channel_capacity_batches=2, **settings)

    for _ in range(CHECKPOINTS):
        handle.checkpoint(timeout_s=60)
    handle.stop()

    assert handle.wait(60).state == "stopped"
    seen = Counter(sink.values)
    newest = {key: max(n for one, n in seen if one == key) for key in range(KEYS)}
    assert seen == Counter((key, n) for key in newest for n in range(1, newest[key] + 1))
