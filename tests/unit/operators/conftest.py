"""The context that an operator is opened with."""

from __future__ import annotations

import pytest

from tests.unit.operators.twin import TwinContext


@pytest.fixture
def context() -> TwinContext:
    return TwinContext()
