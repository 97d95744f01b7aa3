"""A cut is consistent if every receive in it has its send, and channels hold what is under way."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from flowsnap.core.element import Batch
from flowsnap.core.ids import ChannelId, OperatorId
from flowsnap.core.key import encode_key, key_group
from flowsnap.core.manifest import ChannelCount, TaskTrace
from flowsnap.errors import StateError
from flowsnap.snapshot import CutFinding, check_cut
from tests.manifests import changed, task
from tests.unit.snapshot.made import GROUPS, Maker, batches, channel

CHANNEL = ChannelId(0)


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def findings(maker: Maker) -> list[CutFinding]:
    with maker.opened() as snapshot:
        return check_cut(snapshot)


def traced(maker: Maker, sender: tuple[int, int], receiver: tuple[int, int]) -> Maker:
    """Give "lines" and "count" a clock each; all they did was to send and receive in channel 0."""
    sent = (ChannelCount(CHANNEL, sender[0]),)
    received = (ChannelCount(CHANNEL, receiver[1]),)
    maker.part("lines/0", trace=TaskTrace(0, sender, sent=sent))
    return maker.part("count/0", trace=TaskTrace(1, receiver, received=received))


def test_cut_without_clocks_and_channels_is_consistent(maker: Maker) -> None:
    assert findings(maker) == []


def test_cut_in_which_nobody_knows_of_what_was_not_done_is_consistent(maker: Maker) -> None:
    assert findings(traced(maker, (3, 0), (3, 3))) == []


def test_receive_without_its_send_is_found(maker: Maker) -> None:
    orphan, transit = findings(traced(maker, (3, 0), (4, 4)))

    assert orphan == CutFinding(
        "orphan",
        task("count/0"),
        "count/0 has heard of event 4 of lines/0, whose cut is at 3",
    )
    assert transit.kind == "transit"


def test_what_was_sent_and_not_received_is_in_the_channel(maker: Maker) -> None:
    traced(maker, (6, 0), (3, 3))
    maker.in_transit("lines/0", (channel(is_sent=True), batches([1])))
    maker.in_transit("count/0", (channel(), batches([2, 3])))

    assert findings(maker) == []


def test_lost_record_is_found(maker: Maker) -> None:
    (found,) = findings(traced(maker, (4, 0), (3, 3)))

    assert (found.kind, found.task) == ("transit", "count/0")
    assert found.detail == (
        "lines/0 to count/0 port 0 (all): 4 records were sent and 3 received, but 0 are recorded"
    )


def test_record_that_is_kept_though_it_was_received_is_found(maker: Maker) -> None:
    traced(maker, (3, 0), (3, 3)).in_transit("count/0", (channel(), batches([1])))

    assert [found.kind for found in findings(maker)] == ["transit"]


def test_task_without_a_clock_is_found_where_others_have_one(maker: Maker) -> None:
    maker.part("lines/0", trace=TaskTrace(0, (1, 0)))

    assert [(found.kind, found.task) for found in findings(maker)] == [("clock", "count/0")]


def test_clock_of_another_number_of_tasks_is_found(maker: Maker) -> None:
    traced(maker, (1, 0), (1, 1)).part("count/0", trace=TaskTrace(1, (1, 1, 9)))

    kinds = [found.kind for found in findings(maker)]

    assert kinds == ["clock", "orphan", "transit"]


def test_channel_that_the_graph_does_not_have_is_found(maker: Maker) -> None:
    stray = msgspec.structs.replace(channel(), tag="other")
    maker.in_transit("count/0", (stray, batches([1])))

    (found,) = findings(maker)

    assert found.detail == "the graph has no channel lines/0 to count/0 port 0 (other)"


def test_channel_of_a_subtask_that_there_is_not_is_found(maker: Maker) -> None:
    maker.in_transit("count/0", (channel(source=3), batches([1])))

    assert [found.kind for found in findings(maker)] == ["channel"]


def test_channel_that_was_recorded_by_neither_of_its_ends_is_found(maker: Maker) -> None:
    maker.in_transit("lines/0", (channel(), batches([1])))

    (found,) = findings(maker)

    assert found.detail == "lines/0 is no end of the channel lines/0 to count/0 port 0 (all)"


def test_records_that_were_not_counted_are_found(maker: Maker) -> None:
    made = maker.in_transit("count/0", (channel(), batches([1, 2]))).made()
    lines, count = made.manifest.tasks
    wrong = tuple(msgspec.structs.replace(known, records=3) for known in count.channels)
    count = msgspec.structs.replace(count, channels=wrong)
    made.manifest = msgspec.structs.replace(made.manifest, tasks=(lines, count))

    with made.opened() as snapshot:
        (found,) = check_cut(snapshot)

    assert found.detail.endswith("holds 2 records, 3 were counted")


def test_records_that_only_their_classes_can_read_are_not_looked_into(maker: Maker) -> None:
    class Local:
        pass

    traced(maker, (2, 0), (1, 1)).in_transit("count/0", (channel(), batches([Local()])))

    with maker.opened() as snapshot, pytest.raises(StateError, match="no plain value"):
        snapshot.channels()
    assert findings(maker) == []


def test_record_on_its_way_to_a_task_that_does_not_own_its_key_is_found(tmp_path: Path) -> None:
    maker = Maker(tmp_path, counters=2)
    keys = ["a", "b", "c", "d", "e"]
    own = [key for key in keys if key_group(encode_key(key), GROUPS) >= GROUPS // 2]
    batch = Batch(keys, None, list(keys))
    maker.in_transit("count/1", (channel(target=1), [batch]))

    found = findings(maker)

    assert 0 < len(own) < len(keys)
    assert len(found) == len(keys) - len(own)
    assert {f.kind for f in found} == {"key"}


def test_keys_of_a_channel_that_is_not_partitioned_do_not_matter(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.graph = changed(maker.graph, "count", parallelism=1)
    edge = msgspec.structs.replace(maker.graph.edges[0], partitioning="rebalance")
    edges = (edge, *maker.graph.edges[1:])
    maker.graph = msgspec.structs.replace(maker.graph, edges=edges)
    maker.in_transit("count/0", (channel(), [Batch([1], None, [OperatorId("x")])]))

    assert findings(maker) == []
