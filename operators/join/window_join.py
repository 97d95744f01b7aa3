"""Window join: the pairs of the records of a key that are in the same window.

Source: Flink, "Window Join" of the DataStream API, for the inner join; Flink SQL, "Window Join",
for the outer ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any

from flowsnap.operators.join.co_group import CoGroup, Contents, Window
from flowsnap.operators.join.pairing import How, Pairing, Rows, check_how
from flowsnap.operators.window.assigner import Assigner


class WindowJoin(CoGroup):
    """Pairs every left record with every right one of its key and window, when the window ends.

    A pair has the last ms of the window as its time. ``how`` says which side's records come out
    with None if the other side has none in the window. See ``CoGroup`` for what is late.
    """

    what = "join"

    def __init__(
        self,
        pairing: Pairing,
        assigner: Assigner,
        how: How = "inner",
        allowed_lateness_ms: int = 0,
    ) -> None:
        super().__init__(pairing, assigner, allowed_lateness_ms)
        check_how(how)
        self.how = how

    def fire(self, rows: Rows, key: Any, window: Window, contents: Contents) -> Iterator[None]:
        lefts, rights = contents
        if not rights and self.how in ("left", "full"):
            rights = [None]
        elif not lefts and self.how in ("right", "full"):
            lefts = [None]
        time = window[1] - 1
        for left in lefts:
            rows.add(repeat(time, len(rights)), repeat(left), rights)
            if rows.is_full():
                yield
