"""What a test does whose server is not on the machine: it is skipped, or fails where all is due.

``FLOWSNAP_REQUIRE_SERVERS=1`` says that all is due: then no test of a connector goes missing in
silence.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

VARIABLE = "FLOWSNAP_REQUIRE_SERVERS"


def is_required() -> bool:
    """Return whether a missing server is a failure."""
    return os.environ.get(VARIABLE, "") not in {"", "0"}


def unavailable(why: str) -> NoReturn:
    """Skip the test and say why; fail it where servers are required."""
    if is_required():
        pytest.fail(f"{why} ({VARIABLE} is set)", pytrace=False)
    pytest.skip(why)
