"""What was in transit is read channel by channel, in the order in which it would have come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from flowsnap.core.element import Batch
from flowsnap.errors import ManifestCorrupt
from flowsnap.snapshot import ChannelBatch, Opaque
from tests.manifests import COUNT, LINES
from tests.unit.snapshot.made import Maker, batches, channel


@dataclass(frozen=True)
class Visit:
    user: str


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path, readers=2)


def test_what_the_receiver_recorded_comes_before_what_the_sender_did(maker: Maker) -> None:
    maker.in_transit("lines/0", (channel(is_sent=True), batches([3], [4, 5])))
    maker.in_transit("count/0", (channel(), batches([1], [2])))

    with maker.opened() as snapshot:
        (found,) = snapshot.channels()

        assert found.values == [1, 2, 3, 4, 5]
        assert [batch.is_sent for batch in found.batches] == [False, False, True, True]
        assert found.is_sent
        assert len(found) == 5


def test_channels_of_several_subtasks_are_kept_apart(maker: Maker) -> None:
    maker.in_transit("count/0", (channel(source=1), batches([1])), (channel(), batches([2], [3])))

    with maker.opened() as snapshot:
        found = snapshot.channels()

        assert [(c.source, c.source_subtask, c.target, c.values) for c in found] == [
            (LINES, 0, COUNT, [2, 3]),
            (LINES, 1, COUNT, [1]),
        ]
        assert (found[0].port, found[0].tag, found[0].is_sent) == (0, "all", False)


def test_channels_are_chosen_by_their_ends(maker: Maker) -> None:
    maker.in_transit("count/0", (channel(), batches([1])))

    with maker.opened() as snapshot:
        assert len(snapshot.channels("lines")) == len(snapshot.channels(target="count")) == 1
        assert snapshot.channels("count") == snapshot.channels(target="lines") == []


def test_records_have_their_times_and_keys(maker: Maker) -> None:
    timed, bare = Batch([1, 2], [10, 20], ["a", "b"]), Batch([3])
    maker.in_transit("count/0", (channel(), [timed, bare]))

    with maker.opened() as snapshot:
        (found,) = snapshot.channels()

        assert found.timestamps == [10, 20, None]
        assert found.keys == ["a", "b", None]
        assert found.batches[0] == ChannelBatch([1, 2], [10, 20], ["a", "b"])


def test_records_of_the_job_are_placeholders_unless_they_are_trusted(maker: Maker) -> None:
    made = maker.in_transit("count/0", (channel(), batches([Visit("ada")]))).made()

    with made.opened() as plain, made.opened(trust=True) as trusted:
        (visit,) = plain.channels()[0].values
        assert isinstance(visit, Opaque)
        assert visit.fields == {"user": "ada"}
        assert trusted.channels()[0].values == [Visit("ada")]


def test_snapshot_without_anything_in_transit_has_no_channels(maker: Maker) -> None:
    with maker.opened() as snapshot:
        assert snapshot.channels() == []


def test_file_with_a_channel_that_the_manifest_does_not_list_is_refused(maker: Maker) -> None:
    made = maker.in_transit("count/0", (channel(), batches([1]))).made()
    *others, count = made.manifest.tasks
    count = msgspec.structs.replace(count, channels=())
    made.manifest = msgspec.structs.replace(made.manifest, tasks=(*others, count))

    with (
        made.opened() as snapshot,
        pytest.raises(ManifestCorrupt, match="the channel file of count/0 has no channel 0"),
    ):
        snapshot.channels()


def test_damaged_channel_file_is_refused(maker: Maker) -> None:
    made = maker.in_transit("count/0", (channel(), batches([1]))).made()
    handle = made.manifest.tasks[-1].channel_file
    assert handle is not None
    made.store.put(handle.path, made.store.get(handle.path) + b"x")

    with made.opened() as snapshot, pytest.raises(ManifestCorrupt, match="is damaged"):
        snapshot.channels()
