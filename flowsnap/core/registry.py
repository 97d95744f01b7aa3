"""Which local immutable files are already stored?

RocksDB's files never change, so an incremental checkpoint stores a file once and later checkpoints
list it again. Two things can go wrong, and both lost state in other systems. A file is known by the
wrong mark: names are used again after a failure, with another content. So a file is known by its
name *and* the sha256 of its content. And a file is listed again that is deleted meanwhile: what was
stored for an aborted checkpoint is garbage, and what only a retired checkpoint listed is too.

So a stored file may be listed again only when it *stays*:

- the newest checkpoint known to be committed lists it (or the restored one, until another is
  complete);
- and so does every younger checkpoint whose fate is not known yet. The news of its completion may
  be on its way while the job manager has already retired what came before it.

Everything else is stored once more: waste, but never loss. A file of a checkpoint whose completion
was never heard of becomes usable when a later one that lists it is complete.

One registry serves one task of one attempt; it dies with the attempt. It keeps no count of
references: what may be deleted is decided by ``retention`` from the manifests alone.

Source: Flink's SharedStateRegistry, without its reference counts; the bugs are SPARK-43404 and
SPARK-51717 (known by name and size) and SPARK-52637 (deleted while in use again).

Example:
    >>> file = FileHandle("000007.sst", "shared/5f2e.sst", 4096, "ab12")
    >>> shared = SharedFiles()
    >>> shared.stored(CheckpointId(1), file)
    >>> shared.used(CheckpointId(1), [file])
    >>> shared.lookup("000007.sst", "ab12")  # not committed: it may yet be deleted
    >>> shared.complete(CheckpointId(1))
    >>> shared.lookup("000007.sst", "ab12") == file
    True
"""

from __future__ import annotations

from collections.abc import Iterable

from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import FileHandle
from flowsnap.errors import LocalProtocolError

_Files = dict[tuple[str, str], FileHandle]


class SharedFiles:
    """The stored files of one task, by local name and sha256."""

    def __init__(self) -> None:
        self._committed: _Files = {}
        self._newest_complete = CheckpointId(0)
        self._stored: dict[CheckpointId, set[FileHandle]] = {}
        self._used: dict[CheckpointId, _Files] = {}  # acknowledged, fate unknown
        self._aborted: set[CheckpointId] = set()

    def restored(self, handles: Iterable[FileHandle]) -> None:
        """Take the files of the restored checkpoint that this task has locally, by their names."""
        self._committed.update(_by_key(handles))

    def lookup(self, name: str, sha256: str) -> FileHandle | None:
        """Return the handle that the next checkpoint may list for a file, or None: store it."""
        handle = self._committed.get((name, sha256))
        if all(files.get((name, sha256)) == handle for files in self._used.values()):
            return handle
        return None

    def stored(self, checkpoint_id: CheckpointId, handle: FileHandle) -> None:
        """Note that a file has been stored for a checkpoint."""
        if not self._is_over(checkpoint_id):
            self._stored.setdefault(checkpoint_id, set()).add(handle)

    def used(self, checkpoint_id: CheckpointId, handles: Iterable[FileHandle]) -> None:
        """Note all files that a checkpoint lists, when it is about to be acknowledged.

        Raises:
            LocalProtocolError: one was neither stored for it nor is it certain to stay.
        """
        if self._is_over(checkpoint_id):
            return
        files, stored = _by_key(handles), self._stored.get(checkpoint_id, set())
        for key, handle in files.items():
            if handle not in stored and self._committed.get(key) != handle:
                raise LocalProtocolError(
                    f"checkpoint {checkpoint_id} lists {handle.path}, which is not sure to stay"
                )
        self._used[checkpoint_id] = files

    def complete(self, checkpoint_id: CheckpointId) -> None:
        """Note that a checkpoint is committed; its files are the ones to list again from now on."""
        if checkpoint_id not in self._used:
            # A repeat, or late: a newer one has taken its place. Or of before this attempt: what it
            # lists came with ``restored``.
            return
        self._committed = self._used[checkpoint_id]
        self._newest_complete = checkpoint_id
        # A complete checkpoint subsumes the older ones, whether their fate was ever told or not.
        self._stored = {id_: some for id_, some in self._stored.items() if id_ > checkpoint_id}
        self._used = {id_: some for id_, some in self._used.items() if id_ > checkpoint_id}
        self._aborted = {id_ for id_ in self._aborted if id_ > checkpoint_id}

    def abort(self, checkpoint_id: CheckpointId) -> None:
        """Forget a checkpoint: what was stored for it alone may be deleted at any time."""
        if not self._is_over(checkpoint_id):
            self._aborted.add(checkpoint_id)
            self._stored.pop(checkpoint_id, None)
            self._used.pop(checkpoint_id, None)

    def check(self) -> None:
        """Assert the invariants of this machine."""
        undecided = self._stored.keys() | self._used.keys() | self._aborted
        assert all(checkpoint_id > self._newest_complete for checkpoint_id in undecided)
        assert self._aborted.isdisjoint(self._stored.keys() | self._used.keys())
        assert self._committed == _by_key(self._committed.values())

    def _is_over(self, checkpoint_id: CheckpointId) -> bool:
        # Storing takes a while: meanwhile the checkpoint may have been aborted, or a newer one may
        # be complete. Nobody waits for it any more.
        return checkpoint_id <= self._newest_complete or checkpoint_id in self._aborted


def _by_key(handles: Iterable[FileHandle]) -> _Files:
    return {(handle.name, handle.sha256): handle for handle in handles}
