"""The messages in transit: what each channel held at the cut, put together from both of its ends.

Source: Chandy and Lamport 1985, section 3.2: the state of a channel is what was sent before the
sender recorded its state, less what was received before the receiver recorded its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flowsnap.core.manifest import ChannelState, TaskSnapshot
from flowsnap.errors import ManifestCorrupt
from flowsnap.runtime.channel_state import read_batches
from flowsnap.snapshot.content import ChannelBatch, ChannelContent
from flowsnap.snapshot.copies import LocalCopies

Identity = tuple[str, int, str, int, int, str]


def read_channels(
    tasks: Sequence[TaskSnapshot], copies: LocalCopies, load: Callable[[bytes], Any]
) -> list[ChannelContent]:
    """Return the channels in which something was in transit, by source, target, port and tag.

    Raises:
        ManifestCorrupt: a file is missing, damaged, or lists other channels than it holds.
        StateError: a batch cannot be read.
    """
    found: dict[Identity, tuple[ChannelState, list[ChannelBatch]]] = {}
    parts = [part for task in tasks for part in _of_task(task, copies, load)]
    # What the receiver has recorded came out of the channel before what was left at the sender.
    for channel, batch in sorted(parts, key=lambda part: part[0].is_sent):
        found.setdefault(_identity(channel), (channel, []))[1].append(batch)
    return [
        ChannelContent(
            channel.source,
            channel.source_subtask,
            channel.target,
            channel.target_subtask,
            channel.port,
            channel.tag,
            tuple(batches),
        )
        for _, (channel, batches) in sorted(found.items(), key=lambda item: item[0])
    ]


def _identity(channel: ChannelState) -> Identity:
    return (
        channel.source,
        channel.source_subtask,
        channel.target,
        channel.target_subtask,
        channel.port,
        channel.tag,
    )


def _of_task(
    task: TaskSnapshot, copies: LocalCopies, load: Callable[[bytes], Any]
) -> list[tuple[ChannelState, ChannelBatch]]:
    """Return what one task has recorded, in the order in which it met it."""
    path = copies.channel_file(task)
    if path is None:
        return []
    channels = {channel.index: channel for channel in task.channels}
    found = []
    for number, batch in read_batches(path, load):
        if number not in channels:
            raise ManifestCorrupt(f"the channel file of {task.task} has no channel {number}")
        channel = channels[number]
        content = ChannelBatch(batch.values, batch.timestamps, batch.keys, channel.is_sent)
        found.append((channel, content))
    return found
