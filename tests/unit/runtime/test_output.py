from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowsnap.core.element import Barrier, Batch, Element
from flowsnap.core.graph import Partitioning
from flowsnap.core.ids import ChannelId, CheckpointId, OperatorId
from flowsnap.runtime.output import OutputChannel, Router, make_router

BARRIER = Barrier(CheckpointId(1))


class Wire:
    """Takes what channels send, by channel."""

    def __init__(self) -> None:
        self.sent: dict[int, list[Element]] = {}

    def deliver(self, channel: ChannelId, element: Element) -> int:
        self.sent.setdefault(channel, []).append(element)
        return 100 * len(element) if isinstance(element, Batch) else 0

    def values(self, channel: int) -> list[Any]:
        batches = [one for one in self.sent.get(channel, []) if isinstance(one, Batch)]
        return [value for batch in batches for value in batch.values]


def channels(wire: Wire, count: int, credits: int = 8) -> list[OutputChannel]:
    made = [
        OutputChannel(ChannelId(n), OperatorId("next"), wire.deliver, 65_536) for n in range(count)
    ]
    for channel in made:
        channel.grant(credits)
    return made


def router(
    kind: Partitioning,
    outputs: list[OutputChannel],
    group: Callable[[Any], int] = int,
    subtask: int = 0,
) -> Router:
    return make_router(
        kind,
        outputs,
        subtask,
        key_groups_of=lambda keys: [group(key) for key in keys],
        max_parallelism=128,
    )


def keyed(keys: list[Any]) -> Batch:
    return Batch([f"v{key}" for key in keys], keys=keys)


def test_a_batch_without_credit_waits_and_a_barrier_waits_behind_it() -> None:
    wire = Wire()
    [channel] = channels(wire, 1, credits=1)
    first, second = Batch([1]), Batch([2])

    for element in (first, second, BARRIER):
        channel.send(element)

    assert wire.sent[0] == [first]
    channel.grant(1)
    assert wire.sent[0] == [first, second, BARRIER]


def test_a_barrier_needs_no_credit() -> None:
    wire = Wire()
    channel = OutputChannel(ChannelId(0), OperatorId("next"), wire.deliver, 65_536)

    channel.send(BARRIER)

    assert wire.sent[0] == [BARRIER]


@pytest.mark.parametrize("count", [2, 3])
def test_a_key_always_goes_to_the_owner_of_its_group_and_in_order(count: int) -> None:
    wire = Wire()
    hashing = router(Partitioning.HASH, channels(wire, count))

    hashing.route(keyed([0, 127, 64, 0]))
    hashing.route(keyed([127, 64]))
    hashing.flush()

    assert wire.values(0)[:2] == ["v0", "v0"]
    assert wire.values(count - 1)[-1] == ("v64" if count == 2 else "v127")
    assert sorted(v for n in range(count) for v in wire.values(n)) == sorted(
        ["v0", "v0", "v64", "v64", "v127", "v127"]
    )


def test_keys_and_event_times_stay_with_their_values() -> None:
    wire = Wire()
    hashing = router(Partitioning.HASH, channels(wire, 2))

    hashing.route(Batch(["a", "b", "c"], timestamps=[1, 2, 3], keys=[0, 127, 0]))
    hashing.flush()

    assert wire.sent[0] == [Batch(["a", "c"], timestamps=[1, 3], keys=[0, 0])]
    assert wire.sent[1] == [Batch(["b"], timestamps=[2], keys=[127])]


def test_records_gather_until_a_batch_is_full() -> None:
    wire = Wire()
    outputs = channels(wire, 2)
    hashing = router(Partitioning.HASH, outputs)
    outputs[0].records_max = 3

    hashing.route(keyed([0, 1]))
    assert wire.sent == {}
    hashing.route(keyed([2, 127]))

    assert wire.values(0) == ["v0", "v1", "v2"]
    assert wire.values(1) == []


def test_the_size_of_a_batch_follows_from_the_bytes_of_the_last_one() -> None:
    wire = Wire()
    [channel] = channels(wire, 1)

    channel.send(Batch(list(range(10))))

    assert channel.records_max == 655


def test_a_large_batch_is_dealt_out_in_turn() -> None:
    wire = Wire()
    dealing = router(Partitioning.REBALANCE, channels(wire, 2), subtask=1)

    dealing.route(Batch(list(range(200))))

    assert wire.values(1) == list(range(100))
    assert wire.values(0) == list(range(100, 200))


def test_every_channel_gets_what_is_broadcast() -> None:
    wire = Wire()

    router(Partitioning.BROADCAST, channels(wire, 3)).route(Batch([1, 2]))

    assert [wire.values(n) for n in range(3)] == [[1, 2]] * 3


def test_a_key_keeps_its_owner_although_the_memory_of_owners_is_cleared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = Wire()
    hashing = router(Partitioning.HASH, channels(wire, 2, credits=100))
    monkeypatch.setattr("flowsnap.runtime.output.MEMO_KEYS_MAX", 2)

    for keys in ([0, 1, 127], [126, 0, 127], [1, 125]):
        hashing.route(keyed(keys))
    hashing.flush()

    assert wire.values(0) == ["v0", "v1", "v0", "v1"]
    assert wire.values(1) == ["v127", "v126", "v127", "v125"]
