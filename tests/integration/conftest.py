"""What tests of whole jobs share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.jobs import census


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Return a state directory; afterwards nothing of the job may be left but checkpoints."""
    with census(tmp_path / "state"):
        yield tmp_path / "state"
