"""What the user's invariants are to the job manager: one function of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from flowsnap.core.manifest import CheckpointManifest
from flowsnap.runtime.watcher import InvariantCheck, Verdict
from flowsnap.storage.store import CheckpointStore

if TYPE_CHECKING:
    from flowsnap.snapshot.invariant import Invariant


def invariant_check(invariants: Sequence[Invariant]) -> InvariantCheck | None:
    """Return what checks ``invariants`` on a checkpoint; None: there are none."""
    if not invariants:
        return None

    def check(manifest: CheckpointManifest, store: CheckpointStore) -> Iterator[Verdict]:
        from flowsnap.snapshot.invariant import run_invariants  # noqa: PLC0415 - see Pipeline
        from flowsnap.snapshot.snapshot import Snapshot  # noqa: PLC0415

        with Snapshot.of(manifest, store, trust=True, is_verified=True) as snapshot:
            for violation in run_invariants(invariants, snapshot):
                message = f"invariant {violation.invariant!r} does not hold: {violation.message}"
                yield Verdict(message, violation.is_fatal)

    return check
