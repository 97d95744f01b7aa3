"""Where what is fed back begins its next round: nothing is done here."""

from __future__ import annotations

from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator


class Loop(Operator):
    """The head of a cycle: it passes on what is fed back, keyed as it comes."""

    def process(self, batch: Batch) -> Batch:
        return batch
