"""The sending side of a task: which channel gets a record, and when may it leave.

An ``OutputChannel`` is one FIFO channel: what has no credit yet waits in its backlog, control
elements in their place behind it. A ``Router`` spreads the batches of one edge over its channels.
Partial batches wait until they are full, until they have lingered, until a control element
follows, or until the task has nothing else to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from operator import is_, not_
from typing import Any, Protocol

from flowsnap.core.credit import CreditSender
from flowsnap.core.element import Barrier, Batch, Element
from flowsnap.core.graph import Partitioning
from flowsnap.core.ids import ChannelId, CheckpointId, OperatorId
from flowsnap.core.partition import owner
from flowsnap.failpoint import failpoint

RECORDS_MIN, RECORDS_FIRST, RECORDS_MAX = 64, 4_096, 65_536
MEMO_KEYS_MAX = 1_000_000

KeyGroups = Callable[[list[Any]], Sequence[int]]
"""Returns the key group of each key."""

_is_none = partial(is_, None)


class OutputChannel:
    """The sending end of one channel; ``target`` names the operator that it leads to.

    ``can_overtake``: a barrier may leave ahead of what waits for credit here.
    """

    __slots__ = (
        "_batch_bytes",
        "_deliver",
        "backlog",
        "can_overtake",
        "credit",
        "id",
        "records_max",
        "target",
    )

    def __init__(
        self,
        id: ChannelId,
        target: OperatorId,
        deliver: Callable[[ChannelId, Element], int],
        batch_bytes: int,
    ) -> None:
        self.id = id
        self.target = target
        self.can_overtake = True
        self.credit = CreditSender()
        self.backlog: deque[Element] = deque()
        self.records_max = RECORDS_FIRST
        self._deliver = deliver
        self._batch_bytes = batch_bytes

    def send(self, element: Element) -> None:
        """Send an element, or keep it in order until there is credit for it."""
        if self.backlog or (isinstance(element, Batch) and not self.credit.has_credit):
            self.backlog.append(element)
        else:
            self._send_now(element)

    def grant(self, credits: int) -> None:
        """Take credit from the receiver, and send what waited for it."""
        self.credit.grant(credits)
        while self.backlog:
            if isinstance(self.backlog[0], Batch) and not self.credit.has_credit:
                return
            self._send_now(self.backlog.popleft())

    def overtake(self, barrier: Barrier) -> list[Batch]:
        """Send a barrier ahead of what waits, and return the batches it was or would be behind.

        A barrier of an older checkpoint that waits as well has been given up: it is dropped.
        """
        kept, ahead, is_behind = deque[Element](), list[Batch](), False
        for element in self.backlog:
            if isinstance(element, Barrier) and element.checkpoint_id <= barrier.checkpoint_id:
                is_behind = is_behind or element.checkpoint_id == barrier.checkpoint_id
                continue
            if isinstance(element, Batch) and not is_behind:
                ahead.append(element)
            kept.append(element)
        self.backlog = kept
        self._send_now(Barrier(barrier.checkpoint_id, 0))
        return ahead

    def holds(self, checkpoint_id: CheckpointId) -> bool:
        """Return whether the barrier of a checkpoint waits behind something here."""
        return any(
            isinstance(element, Barrier) and element.checkpoint_id == checkpoint_id
            for element in self.backlog
        )

    def _send_now(self, element: Element) -> None:
        if isinstance(element, Batch):
            self.credit.spend()
            size_bytes = self._deliver(self.id, element)
            if size_bytes:
                fitting = self._batch_bytes * len(element) // size_bytes
                self.records_max = min(max(fitting, RECORDS_MIN), RECORDS_MAX)
            failpoint("ch.frame_sent")
        else:
            self._deliver(self.id, element)
            if isinstance(element, Barrier):
                failpoint("ch.barrier_sent")


class Router(Protocol):
    """Spreads the batches of one edge over its channels."""

    channels: Sequence[OutputChannel]

    def route(self, batch: Batch) -> None:
        """Take one batch; what belongs together keeps its order."""
        ...

    def flush(self) -> None:
        """Send the partial batches."""
        ...


class Forward:
    """Every batch to the one channel of a subtask."""

    def __init__(self, channels: Sequence[OutputChannel]) -> None:
        self.channels = channels

    def route(self, batch: Batch) -> None:
        self.channels[0].send(batch)

    def flush(self) -> None:
        pass


class Broadcast:
    """Every batch to every channel."""

    def __init__(self, channels: Sequence[OutputChannel]) -> None:
        self.channels = channels

    def route(self, batch: Batch) -> None:
        for channel in self.channels:
            channel.send(batch)

    def flush(self) -> None:
        pass


class Rebalance:
    """Every batch to the next channel in turn; the first turn differs by subtask."""

    def __init__(self, channels: Sequence[OutputChannel], subtask: int) -> None:
        self.channels = channels
        self._next = subtask % len(channels)

    def route(self, batch: Batch) -> None:
        share = max(RECORDS_MIN, -(-len(batch) // len(self.channels)))
        for start in range(0, len(batch), share):
            part = batch if share >= len(batch) else batch.part(start, start + share)
            self.channels[self._next].send(part)
            self._next = (self._next + 1) % len(self.channels)

    def flush(self) -> None:
        pass


class _Owners:
    """Key to the index of the channel that owns it: a dict hit in C, computed once, in bulk."""

    def __init__(self, key_groups_of: KeyGroups, owner_of_group: list[int]) -> None:
        self._key_groups_of = key_groups_of
        self._owner_of_group = owner_of_group
        self._known: dict[Any, int] = {}

    def of(self, keys: list[Any]) -> list[int]:
        """Return the index of each key's owner."""
        indices = list(map(self._known.get, keys))
        if None in indices:
            if len(self._known) > MEMO_KEYS_MAX:
                self._known.clear()
                indices = [None] * len(keys)
            self._learn(list(dict.fromkeys(compress(keys, map(_is_none, indices)))))
            indices = list(map(self._known.__getitem__, keys))
        return indices  # type: ignore[return-value]  # none is None any more

    def _learn(self, keys: list[Any]) -> None:
        owners = map(self._owner_of_group.__getitem__, self._key_groups_of(keys))
        self._known.update(zip(keys, owners, strict=True))


class Hash:
    """Every record to the channel of the subtask that owns its key's group."""

    def __init__(
        self,
        channels: Sequence[OutputChannel],
        key_groups_of: KeyGroups,
        max_parallelism: int,
    ) -> None:
        self.channels = channels
        self._pending = [Pending() for _ in channels]
        groups, count = range(max_parallelism), len(channels)
        owners = [owner(group, count, max_parallelism) for group in groups]
        self._owners = _Owners(key_groups_of, owners)
        self._is_timed = False

    def route(self, batch: Batch) -> None:
        assert batch.keys is not None, "a hash edge carries keyed batches"
        if self._is_timed is (batch.timestamps is None):
            self.flush()  # Records with and without event times do not go into one batch.
            self._is_timed = not self._is_timed
        indices = self._owners.of(batch.keys)
        for index, pending in enumerate(self._pending):
            pending.take(batch, self._mask(indices, index))
            if len(pending.values) >= self.channels[index].records_max:
                self._send(index)

    def flush(self) -> None:
        for index, pending in enumerate(self._pending):
            if pending.values:
                self._send(index)

    def _mask(self, indices: list[int], index: int) -> Any:
        # Two channels are the common case, and 0 and 1 are their own masks.
        if len(self.channels) == 2:
            return indices if index else list(map(not_, indices))
        return list(map(index.__eq__, indices))

    def _send(self, index: int) -> None:
        channel = self.channels[index]
        for batch in self._pending[index].batches(channel.records_max):
            channel.send(batch)


class Pending:
    """Records on their way to one channel that do not make a full batch yet."""

    __slots__ = ("keys", "timestamps", "values")

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.keys: list[Any] = []
        self.timestamps: list[int] = []

    def take(self, batch: Batch, mask: Any) -> None:
        """Add the records of ``batch`` whose entry in ``mask`` is true."""
        self.values.extend(compress(batch.values, mask))
        assert batch.keys is not None
        self.keys.extend(compress(batch.keys, mask))
        if batch.timestamps is not None:
            self.timestamps.extend(compress(batch.timestamps, mask))

    def batches(self, records_max: int) -> list[Batch]:
        """Return everything as batches of at most ``records_max``, and begin anew."""
        whole = Batch(self.values, self.timestamps or None, self.keys)
        self.values, self.keys, self.timestamps = [], [], []
        if len(whole) <= 2 * records_max:
            return [whole]
        return [whole.part(at, at + records_max) for at in range(0, len(whole), records_max)]


def make_router(
    partitioning: Partitioning,
    channels: Sequence[OutputChannel],
    subtask: int,
    *,
    key_groups_of: KeyGroups,
    max_parallelism: int,
) -> Router:
    """Return the router of one edge for one subtask."""
    match partitioning:
        case Partitioning.FORWARD:
            return Forward(channels)
        case Partitioning.BROADCAST:
            return Broadcast(channels)
        case Partitioning.REBALANCE:
            return Rebalance(channels, subtask)
        case Partitioning.HASH:
            return Hash(channels, key_groups_of, max_parallelism)
