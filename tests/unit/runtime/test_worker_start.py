"""What a worker process loads before it can work."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"asyncio", "click", "multiprocessing", "numpy", "obstore", "polars", "pydantic", "rich"}


def test_a_worker_starts_without_what_only_others_need() -> None:
    """It is started anew after every failure; a fifth of its start was asyncio once."""
    script = f"import sys, flowsnap.runtime.worker_process; print({HEAVY!r} & set(sys.modules))"
    command = [sys.executable, "-c", script]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
