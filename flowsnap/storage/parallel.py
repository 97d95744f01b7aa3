"""Doing the same for many files, several at once, where the store is far away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

FILES_AT_ONCE = 8


def each(function: Callable[[T], R], items: Sequence[T], at_once: int = FILES_AT_ONCE) -> list[R]:
    """Return what ``function`` returns for each item; it may run in several threads at once.

    Where it raises, those that have not begun never do, and the others have ended.
    """
    if at_once == 1 or len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(at_once, "flowsnap-files") as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)
