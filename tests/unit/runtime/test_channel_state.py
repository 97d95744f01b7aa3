"""Channel state on disk: what was recorded is read back, and dealt out by key."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from flowsnap.core.element import Batch
from flowsnap.core.graph import Partitioning
from flowsnap.core.ids import ChannelId, OperatorId
from flowsnap.core.manifest import ChannelState, FileHandle
from flowsnap.core.message import TransitAssignment
from flowsnap.errors import ManifestCorrupt, StateError
from flowsnap.runtime.channel_state import Recording, Restored, read_batches

A, B = ChannelId(3), ChannelId(7)
FILE = FileHandle("channels.bin", "checkpoints/1/x/channels.bin", 1, "0" * 64)


def channel(target: str, partitioning: Partitioning = Partitioning.REBALANCE) -> ChannelState:
    return ChannelState(0, OperatorId("in"), 0, OperatorId(target), 0, partitioning)


def recording(path: Path) -> Recording:
    return Recording(path / "c", {A: channel("a"), B: channel("b", Partitioning.HASH)})


def owns_even(keys: list[object]) -> list[bool]:
    return [isinstance(key, int) and key % 2 == 0 for key in keys]


def test_batches_are_read_back_as_they_were_recorded(tmp_path: Path) -> None:
    made = recording(tmp_path)
    batches = [Batch([1, {"b": 2}], [5, 6]), Batch(["x"], None, ["k"]), Batch([b"", None])]
    for id_, batch in zip((A, B, A), batches, strict=True):
        made.add(id_, batch)
    made.finish()

    assert list(read_batches(made.path)) == [(0, batches[0]), (1, batches[1]), (0, batches[2])]
    assert [(s.target, s.index, s.batches, s.records) for s in made.states()] == [
        ("a", 0, 2, 4),
        ("b", 1, 1, 1),
    ]


def test_recording_of_nothing_makes_no_file(tmp_path: Path) -> None:
    made = recording(tmp_path)
    made.finish()

    assert made.is_complete
    assert made.states() == ()
    assert list(tmp_path.iterdir()) == []


def test_record_that_is_changed_later_is_recorded_as_it_was(tmp_path: Path) -> None:
    made, record = recording(tmp_path), {"count": 1}
    made.add(A, Batch([record]))
    record["count"] = 2
    made.finish()

    assert list(read_batches(made.path)) == [(0, Batch([{"count": 1}]))]


def test_record_that_cannot_be_recorded_is_named_with_its_operator(tmp_path: Path) -> None:
    made = recording(tmp_path)

    with pytest.raises(StateError, match="in transit to operator 'b' cannot be recorded"):
        made.add(B, Batch([threading.Lock()]))
    made.close()


def test_what_is_dropped_leaves_no_file(tmp_path: Path) -> None:
    made = recording(tmp_path)
    made.add(A, Batch([1]))
    made.drop()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 7, 9])
def test_file_that_ends_in_the_middle_is_refused(tmp_path: Path, cut: int) -> None:
    made = recording(tmp_path)
    made.add(A, Batch([1, 2, 3]))
    made.finish()
    made.path.write_bytes(made.path.read_bytes()[:cut])

    with pytest.raises(ManifestCorrupt, match="ends in the middle"):
        list(read_batches(made.path))


def test_only_the_assigned_channels_are_restored_and_only_keys_of_ones_own(tmp_path: Path) -> None:
    made = recording(tmp_path)
    made.add(A, Batch(["whole"]))
    made.add(B, Batch(["x", "y", "z"], [1, 2, 3], [1, 2, 4]))
    made.add(B, Batch(["none"], None, [1]))
    made.finish()
    keyed = msgspec.structs.replace(made.states()[1], index=1)

    restored = Restored([TransitAssignment(FILE, (keyed,))], [made.path], owns_even)

    assert list(restored) == [(OperatorId("b"), 0, Batch(["y", "z"], [2, 3], [2, 4]))]
    both = Restored([TransitAssignment(FILE, made.states())], [made.path], owns_even)
    assert [target for target, _, _ in both] == ["a", "b"]
