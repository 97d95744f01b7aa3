"""Channel state on disk: what was in transit to a task is written as it is met, and read once.

A file holds the batches of all channels that one task has recorded for one checkpoint, in the order
in which they were met::

    ( channel u32 | length u32 | pickle of (values, timestamps, keys) ) *

big endian. It is written beside the task's state, stored with the checkpoint, and read only after
its sha256 has been compared with the manifest's. Batches are pickled when they are recorded: what
is done with their records afterwards does not change the snapshot.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from flowsnap import serialize
from flowsnap.core.element import Batch
from flowsnap.core.graph import Partitioning
from flowsnap.core.ids import ChannelId, OperatorId
from flowsnap.core.manifest import ChannelState
from flowsnap.core.message import TransitAssignment
from flowsnap.errors import ManifestCorrupt, StateError

FILE_NAME = "channels.bin"
_HEAD = struct.Struct("!II")


class Recording:
    """What is in transit in the channels of one task at one checkpoint.

    ``is_complete`` is set once nothing more can come; until then the snapshot is not whole.
    """

    is_shared = False
    name = FILE_NAME

    def __init__(self, path: Path, channels: Mapping[ChannelId, ChannelState]) -> None:
        self.path = path
        self.is_complete = False
        self.recording_ms = 0.0
        self._is_dropped = False
        self._channels = channels
        self._file: BinaryIO | None = None
        self._numbers: dict[ChannelId, int] = {}
        self._counts: dict[ChannelId, tuple[int, int]] = {}

    def add(self, channel: ChannelId, batch: Batch) -> None:
        """Record one batch.

        Raises:
            StateError: the local disk failed.
        """
        if self._is_dropped:
            return  # Declined already; the abort that ends the recording is on its way.
        number = self._numbers.setdefault(channel, len(self._numbers))
        batches, records = self._counts.get(channel, (0, 0))
        self._counts[channel] = batches + 1, records + len(batch)
        blob = self._encode(channel, batch)
        try:
            if self._file is None:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file = self.path.open("wb")
            self._file.write(_HEAD.pack(number, len(blob)) + blob)
        except OSError as error:
            raise StateError(f"cannot record channel state in {self.path}: {error}") from error

    def _encode(self, channel: ChannelId, batch: Batch) -> bytes:
        try:
            return serialize.dump((batch.values, batch.timestamps, batch.keys))
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
            target = self._channels[channel].target
            raise StateError(
                f"a record in transit to operator {target!r} cannot be recorded: {error}"
            ).hint("aligned checkpoints record nothing: checkpoint_alignment='aligned'") from error

    def finish(self) -> None:
        """Take nothing more; the file is whole."""
        self.is_complete = True
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def drop(self) -> None:
        """Forget everything: the checkpoint was given up, or its file is stored."""
        self._is_dropped = True
        self.close()
        self.path.unlink(missing_ok=True)

    def states(self) -> tuple[ChannelState, ...]:
        """Return the channels in which there was something, each with its number in the file."""
        return tuple(
            msgspec.structs.replace(
                self._channels[channel],
                index=number,
                batches=self._counts[channel][0],
                records=self._counts[channel][1],
            )
            for channel, number in self._numbers.items()
        )


def read_batches(
    path: Path, load: Callable[[bytes], Any] = serialize.load
) -> Iterator[tuple[int, Batch]]:
    """Yield the batches of a verified file, each with the number of its channel.

    ``load`` makes the three lists of their pickle.

    Raises:
        ManifestCorrupt: it ends in the middle of a batch.
        StateError: the local disk failed.
    """
    try:
        with path.open("rb") as file:
            while head := file.read(_HEAD.size):
                number, length = _HEAD.unpack(head.ljust(_HEAD.size, b"\xff"))
                blob = file.read(length)
                if len(head) < _HEAD.size or len(blob) < length:
                    raise ManifestCorrupt(f"{path} ends in the middle of a batch")
                values, timestamps, keys = load(blob)
                yield number, Batch(values, timestamps, keys)
    except OSError as error:
        raise StateError(f"cannot read channel state in {path}: {error}") from error


class Restored:
    """What was in transit to a task when the restored snapshot was taken, in order.

    ``files`` are local copies of the assignments' files. ``owns`` tells for a list of keys which of
    them are the task's.
    """

    def __init__(
        self,
        assignments: Sequence[TransitAssignment],
        files: Sequence[Path],
        owns: Callable[[list[object]], list[bool]],
    ) -> None:
        self._assignments = assignments
        self._files = files
        self._owns = owns

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[tuple[OperatorId, int, Batch]]:
        for assignment, path in zip(self._assignments, self._files, strict=True):
            channels = {channel.index: channel for channel in assignment.channels}
            for number, batch in read_batches(path):
                channel = channels.get(number)
                own = None if channel is None else self._own(channel, batch)
                if channel is not None and own is not None:
                    yield channel.target, channel.port, own

    def _own(self, channel: ChannelState, batch: Batch) -> Batch | None:
        if channel.partitioning is not Partitioning.HASH or batch.keys is None:
            return batch
        mask = self._owns(batch.keys)
        if all(mask):
            return batch
        if not any(mask):
            return None
        return Batch(
            list(compress(batch.values, mask)),
            None if batch.timestamps is None else list(compress(batch.timestamps, mask)),
            list(compress(batch.keys, mask)),
        )
