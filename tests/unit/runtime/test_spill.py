"""The queue of a feedback channel: FIFO, without bound, and on disk where it is long."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.core.element import Barrier, Batch, Element, Marker, Watermark
from flowsnap.core.ids import ChannelId, CheckpointId
from flowsnap.runtime.input import FeedbackChannel
from flowsnap.runtime.spill import SpillQueue


def test_elements_come_out_in_order_however_many_there_are(tmp_path: Path) -> None:
    queue = SpillQueue(tmp_path / "spill", batches_max=2)
    elements: list[Element] = [Batch([n], [n], [str(n)]) for n in range(9)]
    elements[4:4] = [Barrier(CheckpointId(3), 0), Marker(2), Watermark(5)]
    for element in elements:
        queue.append(element)

    assert list(queue) == elements
    assert [queue.popleft() for _ in elements] == elements
    assert not queue
    queue.close()


def test_only_what_is_too_much_goes_to_disk_and_the_file_goes_with_the_queue(
    tmp_path: Path,
) -> None:
    queue = SpillQueue(tmp_path / "spill", batches_max=4)
    for n in range(4):
        queue.append(Batch([n]))
    assert not (tmp_path / "spill").exists()

    for n in range(20):
        queue.append(Batch([n]))
    assert queue.spilled > 0
    queue.close()
    assert not (tmp_path / "spill").exists()


def test_element_that_is_put_back_comes_first(tmp_path: Path) -> None:
    queue = SpillQueue(tmp_path / "spill", batches_max=1)
    for n in range(5):
        queue.append(Batch([n]))
    first = queue.popleft()

    queue.appendleft(first)

    assert [queue.popleft() for _ in range(5)] == [Batch([n]) for n in range(5)]
    queue.close()


def test_file_of_a_queue_that_is_never_empty_does_not_grow_for_ever(tmp_path: Path) -> None:
    queue = SpillQueue(tmp_path / "spill", batches_max=2, file_bytes_max=256)
    for n in range(8):
        queue.append(Batch([n]))
    sizes = set()
    for n in range(8, 1_000):
        queue.append(Batch([n]))
        assert queue.popleft() == Batch([n - 8])
        sizes.add((tmp_path / "spill").stat().st_size)

    assert max(sizes) < 10_000
    assert [batch.values for batch in queue if isinstance(batch, Batch)] == [
        [n] for n in range(992, 1_000)
    ]
    queue.close()


@settings(max_examples=60)
@given(st.lists(st.one_of(st.integers(0, 9), st.none()), max_size=60), st.integers(1, 4))
def test_it_is_a_queue(acts: list[int | None], bound: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        queue, model = SpillQueue(Path(directory) / "spill", bound, 64), list[Element]()
        for act in acts:
            if act is not None:
                queue.append(Batch([act]))
                model.append(Batch([act]))
            elif model:
                assert queue.popleft() == model.pop(0)
            assert (len(queue), bool(queue), list(queue)) == (len(model), bool(model), model)
        queue.close()


def test_feedback_gives_credit_back_for_what_has_arrived(tmp_path: Path) -> None:
    granted: list[int] = []
    queue = SpillQueue(tmp_path / "spill", batches_max=2)
    channel = FeedbackChannel(ChannelId(0), 4, lambda _, n: granted.append(n), queue)
    channel.replenish()
    for n in range(100):
        channel.receive(Batch([n]))

    assert sum(granted) >= 100, "whoever feeds a loop never waits for it"
    assert len(channel.queue) == 100
    queue.close()


def test_loop_that_has_ended_lets_nothing_more_in_and_counts_it(tmp_path: Path) -> None:
    queue = SpillQueue(tmp_path / "spill")
    channel = FeedbackChannel(ChannelId(0), 4, lambda _, __: None, queue)
    channel.replenish()
    channel.close()

    channel.receive(Batch([1, 2, 3]))

    assert channel.dropped == 3
    assert not channel.queue
