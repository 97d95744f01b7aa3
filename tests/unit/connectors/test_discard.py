from __future__ import annotations

from flowsnap.connectors import Discard
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId


def test_discard_takes_records_and_has_nothing_to_commit() -> None:
    sink = Discard()

    sink.write(Batch([1, 2]))

    assert sink.prepare(CheckpointId(1)) is None
    sink.recover([])
