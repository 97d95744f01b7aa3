"""Which values must never be shown."""

from __future__ import annotations

import re

_SECRET = re.compile(r"password|passwd|secret|token|key|credential", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Return whether the value of an argument or setting of this name must not be printed."""
    return _SECRET.search(name) is not None


def shown(name: str, value: object) -> str:
    """Return how the value of an argument or setting may be printed: secrets are masked by name."""
    return "***" if is_secret(name) else repr(value)
