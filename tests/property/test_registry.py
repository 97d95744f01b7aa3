"""Any delay of news: no checkpoint is complete while it lists a file that is gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import FileHandle
from flowsnap.core.registry import SharedFiles
from tests.manifests import hash_of

ALIVE = st.sets(st.sampled_from("abcd"), min_size=1)
"""The local files at a barrier."""


class Store:
    """The job manager's side: keeps the newest complete checkpoint alone, and collects the rest."""

    def __init__(self) -> None:
        self.stored: set[str] = set()
        self.paths_made = 0

    def put(self, name: str) -> FileHandle:
        self.paths_made += 1
        handle = FileHandle(name, f"shared/{self.paths_made}", 1, hash_of(name))
        self.stored.add(handle.path)
        return handle

    def keep_only(self, handles: list[FileHandle]) -> None:
        self.stored = {handle.path for handle in handles}


def take(
    shared: SharedFiles, store: Store, number: CheckpointId, names: set[str]
) -> list[FileHandle]:
    handles = []
    for name in sorted(names):
        handle = shared.lookup(name, hash_of(name))
        if handle is None:
            handle = store.put(name)
            shared.stored(number, handle)
        handles.append(handle)
    shared.used(number, handles)
    shared.check()
    return handles


@given(st.data())
def test_complete_checkpoint_has_all_its_files_however_late_the_news_is(
    data: st.DataObject,
) -> None:
    shared, store = SharedFiles(), Store()
    news: list[tuple[CheckpointId, bool]] = []  # in the order it was sent: FIFO, but late
    kept: list[FileHandle] = []
    for number in map(CheckpointId, range(1, 9)):
        for _ in range(data.draw(st.integers(0, len(news)))):
            told, is_complete = news.pop(0)
            (shared.complete if is_complete else shared.abort)(told)
        handles = take(shared, store, number, data.draw(ALIVE))
        is_complete = data.draw(st.booleans())
        if is_complete:
            kept = handles
        assert {handle.path for handle in kept} <= store.stored
        store.keep_only(kept)
        news.append((number, is_complete))


def test_what_has_not_changed_is_stored_once_when_the_news_is_in_time() -> None:
    shared, store = SharedFiles(), Store()
    for number in map(CheckpointId, range(1, 9)):
        take(shared, store, number, {"a", "b"})
        shared.complete(number)

    assert store.paths_made == 2
