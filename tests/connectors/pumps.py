"""Sources driven by hand, until they have given what is wanted."""

from __future__ import annotations

from threading import Event
from typing import Any

import msgspec

from flowsnap.core.operator import Source, Split, SplitReader

ROUNDS_MAX = 2_000


def opened(source: Source, position: Any = None) -> SplitReader:
    """Return a reader of the one split of a source, as a task on another worker opens it."""
    (split,) = source.splits(1)
    sent = msgspec.convert(plain(msgspec.to_builtins(split)), Split)
    return source.open_split(sent, plain(position))


def plain(value: Any) -> Any:
    """Return a value as it comes out of a manifest."""
    return msgspec.json.decode(msgspec.json.encode(value))


def take(reader: SplitReader, count: int, limit: int = 3) -> list[Any]:
    """Read until there are ``count`` records, or the end, or nothing comes for long."""
    found: list[Any] = []
    for _ in range(ROUNDS_MAX):
        if len(found) >= count:
            break
        batch = reader.read(limit)
        if batch is None:
            break
        found += batch.values
        if not batch.values:
            Event().wait(min(reader.wait_ms(), 5) / 1000)
    return found


def read_on(reader: SplitReader, rounds: int = 20) -> list[Any]:
    """Read on for a while; return what came."""
    found: list[Any] = []
    for _ in range(rounds):
        batch = reader.read(3)
        found += batch.values if batch is not None else []
        Event().wait(0.002)
    return found
