"""``key_by``: gives every record a key."""

from __future__ import annotations

from collections import deque
from itertools import islice
from operator import length_hint
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.key import encode_key
from flowsnap.core.operator import Operator
from flowsnap.errors import StateError
from flowsnap.operators.selector import Selector, check_selector, selected

_ALWAYS_HASHABLE = frozenset({str, int, bytes, float, bool})


class KeyBy(Operator):
    """Puts beside every record the key that ``selector`` selects from it.

    Records of equal keys meet in one subtask of the keyed operator that follows, in the order
    in which they came from each subtask of this one.
    """

    def __init__(self, selector: Selector = None) -> None:
        check_selector(selector, "key_by")
        self.selector = selector

    def process(self, batch: Batch) -> Batch:
        """Return the batch with its keys.

        A key of a plain type vouches for the rest of its batch: looking at each would cost as much
        as counting it.

        Raises:
            TypeError: a key cannot be hashed, or its type has no stable bytes.
        """
        self.cursor = iter(batch.values)
        keys = batch.values  # lists of a batch are never changed: without a selector one serves
        if self.selector is not None:
            keys = list(selected(self.selector, keys, self.cursor))
        if keys and type(keys[0]) not in _ALWAYS_HASHABLE:
            self._check(keys, batch)
        return Batch(batch.values, batch.timestamps, keys)

    def _check(self, keys: list[Any], batch: Batch) -> None:
        remaining = iter(keys)
        try:
            deque(map(hash, remaining), maxlen=0)
        except TypeError as error:
            index = len(keys) - length_hint(remaining) - 1
            self.cursor = iter(batch.values)
            deque(islice(self.cursor, index + 1), maxlen=0)
            raise TypeError(
                f"a key of type {type(keys[index]).__name__} cannot be hashed ({error}): "
                "use a tuple of its fields"
            ) from error
        try:
            encode_key(keys[0])
        except StateError as error:
            self.cursor = iter(batch.values)
            next(self.cursor)
            advice = "; ".join(getattr(error, "__notes__", ()))
            raise TypeError(f"{error}: {advice}") from error
