"""``reduce``: folds the records of each key into one of their kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowsnap.operators.rolling import Emit, Rolling


class Reduce(Rolling):
    """Keeps ``fn(reduced, record)`` for each key, beginning with its first record, and emits it.

    ``fn`` returns a new record and changes neither argument: both may be seen elsewhere. With
    ``emit="batch"`` or ``"final"`` records are reduced before the shuffle as well, so that ``fn``
    must be associative: ``fn(fn(a, b), c) == fn(a, fn(b, c))``.
    """

    state = "reduce"
    emits_pairs = False

    def __init__(self, fn: Callable[[Any, Any], Any], emit: Emit = "each") -> None:
        super().__init__(emit)
        self.merge = fn
