"""One subtask of one operator on a real state backend: enough to run it on batches."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from flowsnap.core.ids import AttemptId, OperatorId
from flowsnap.runtime.context import Place, TaskContext
from flowsnap.state.backend import StateBackend

GROUPS = 128


class TwinContext(TaskContext):
    """A context whose keyed state begins empty; ``freeze`` does what a barrier does."""

    def __init__(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="flowsnap-twin-"))
        self.backend = StateBackend(
            directory / "state",
            key_groups=(0, GROUPS),
            max_parallelism=GROUPS,
            memory_bytes=1 << 24,
        )
        place = Place("job", 0, 1, AttemptId(1), wall_ms=lambda: 0)
        super().__init__(self.backend, OperatorId("operator"), place)
        weakref.finalize(self, _release, self.backend, directory)

    def freeze(self) -> None:
        """Freeze all tables, and make that durable."""
        persist = self.backend.freeze()
        while not persist.step():
            pass
        persist.release()


def _release(backend: StateBackend, directory: Path) -> None:
    backend.close()
    shutil.rmtree(directory, ignore_errors=True)
