"""The parts of documents that are made from the code: where they stand, and how they get there."""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """What stands between ``begin`` and ``end`` in a document, each once on a line of its own."""

    document: str
    begin: str
    end: str

    def put(self, text: str, generated: str) -> str:
        """Return the document's text with ``generated`` in its place.

        Raises:
            ValueError: the document has no place for it.
        """
        before, begin, rest = text.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not begin or not end:
            raise ValueError(f"{self.document} has no part between {self.begin} and {self.end}")
        return f"{before}{self.begin}\n{generated}\n{self.end}{after}"
