"""What tests of whole jobs share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.integration.jobs import census


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Return a state directory; afterwards nothing of the job may be left but checkpoints."""
    with census(tmp_path / "state"):
        yield tmp_path / "state"


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory for sockets: its path is short, and nobody else may look into it."""
    with tempfile.TemporaryDirectory(prefix="fs-") as directory:
        yield Path(directory)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """Return a context that is gone when the test is over."""
    with zmq.Context() as context:
        yield context
