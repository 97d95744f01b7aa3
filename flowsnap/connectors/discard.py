"""Discard: a sink that keeps nothing."""

from __future__ import annotations

from flowsnap.core.element import Batch
from flowsnap.core.operator import Sink


class Discard(Sink):
    """Drops every record: for benchmarks, and for pipelines run for their state."""

    def write(self, batch: Batch) -> None:
        pass
