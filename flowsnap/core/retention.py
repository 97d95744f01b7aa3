"""Which files may be deleted?

Two questions, both answered from what is written down and never from counters that a crash could
leave wrong. ``retire``: which completed checkpoints are no longer kept? ``collect``: which stored
files belong to nothing that is kept? Mark and sweep: what a kept manifest or a pending checkpoint
refers to is marked, the rest under ``checkpoints/`` and ``shared/`` goes. A crash between any two
deletions leaves garbage, which the next sweep finds, and never a manifest whose files are gone:
manifests go first.

The caller must hand over *every* manifest that is kept. One that exists and cannot be read is a
reason not to collect at all: its files would look like garbage. And it must name what is pending,
or collect while nothing is: a file that is being stored for the next checkpoint is in no manifest
yet.

It does not touch anything else in the job's directory; savepoints belong to the user.

Source: mark and sweep is McCarthy, "Recursive Functions of Symbolic Expressions" (CACM 1960),
section 4.c; that a checkpoint is subsumed by newer ones is Flink's CompletedCheckpointStore.
Deviation: Flink counts references to shared files, and files of checkpoints that timed out leaked
for ever (FLINK-30461).

Example:
    >>> collect([], ["shared/b.sst"], ["shared/a.sst", "shared/b.sst", "job.json"])
    ['shared/a.sst']
    >>> retire([CheckpointId(n) for n in (1, 2, 3, 4)], 2, protected=[CheckpointId(1)])
    [2]
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest, files

CHECKPOINTS = "checkpoints/"
SHARED = "shared/"
MANIFEST = "manifest.json"


def checkpoint_directory(checkpoint_id: CheckpointId) -> str:
    """Return the directory of one checkpoint in the store, with a ``/`` at its end."""
    return f"{CHECKPOINTS}{checkpoint_id:08d}/"


def manifest_path(checkpoint_id: CheckpointId) -> str:
    """Return the path of a checkpoint's manifest in the store."""
    return checkpoint_directory(checkpoint_id) + MANIFEST


def retire(
    completed: Sequence[CheckpointId], retained: int, protected: Collection[CheckpointId]
) -> list[CheckpointId]:
    """Return the completed checkpoints to give up, oldest first: all but the newest ``retained``.

    The newest is never among them, nor one in ``protected``: the one that was restored, while
    nothing newer is complete.
    """
    old = sorted(completed)[: -max(retained, 1)]
    return [checkpoint_id for checkpoint_id in old if checkpoint_id not in protected]


def collect(
    manifests: Sequence[CheckpointManifest], pending_paths: Collection[str], stored: Sequence[str]
) -> list[str]:
    """Return the paths to delete, in this order: manifests, then all that only they listed.

    ``manifests``: of all checkpoints that are kept; each keeps its files and its whole directory.
    ``pending_paths``: what checkpoints under way have stored; a path that ends with ``/`` stands
    for all below it. ``stored``: all paths in the store.
    """
    marked = {handle.path for manifest in manifests for handle in files(manifest)}
    marked.update(pending_paths)
    kept_directories = tuple(
        checkpoint_directory(manifest.checkpoint_id) for manifest in manifests
    ) + tuple(path for path in pending_paths if path.endswith("/"))
    garbage = [
        path
        for path in stored
        if path.startswith((CHECKPOINTS, SHARED))
        and path not in marked
        and not path.startswith(kept_directories)
    ]
    return sorted(garbage, key=lambda path: (not path.endswith("/" + MANIFEST), path))
