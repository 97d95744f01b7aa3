"""What the tests of the Kafka source share: reading until enough has come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from flowsnap.connectors.kafka import Json, KafkaSource
from flowsnap.core.operator import Split, SplitReader
from flowsnap.serialize import dump, load
from tests.servers.kafka.broker import broker

PATIENCE_S = 30


def numbers(*values: int) -> list[bytes | None]:
    return [b"%d" % value for value in values]


def source(topic: str, **settings: Any) -> KafkaSource:
    return KafkaSource(broker().servers, topic, format=Json(int), **settings)


def task_copy(source: KafkaSource) -> KafkaSource:
    """Return the source as another worker has it."""
    copy: KafkaSource = load(dump(source))
    return copy


@contextmanager
def opened(
    source: KafkaSource, splits: Sequence[Split], positions: Sequence[Any] = ()
) -> Iterator[list[SplitReader]]:
    """Open the splits in one subtask, and close them."""
    copy = task_copy(source)
    with ExitStack() as stack:
        readers = []
        for index, split in enumerate(splits):
            reader = copy.open_split(split, positions[index] if positions else None)
            stack.callback(reader.close)
            readers.append(reader)
        yield readers


def gather(readers: Sequence[SplitReader], count: int, limit: int = 1000) -> list[Any]:
    """Read in turn until ``count`` records have come; then once more, as there must be none."""
    found: list[Any] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(found) < count:
        assert time.monotonic() < deadline_s, f"{len(found)} of {count} records have come: {found}"
        found += read_each(readers, limit)
    return found + read_each(readers, limit)


def read_each(readers: Sequence[SplitReader], limit: int = 1000) -> list[Any]:
    """Read from each reader once."""
    batches = [reader.read(limit) for reader in readers]
    return [value for batch in batches if batch is not None for value in batch.values]


def rest(source: KafkaSource, split: Split, position: Any = None) -> list[Any]:
    """Read a bounded split from a position to its end."""
    with opened(source, [split], [position]) as (reader,):
        found: list[Any] = []
        while (batch := reader.read(1000)) is not None:
            found += batch.values
        return found
