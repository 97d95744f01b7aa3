"""The public test kit: a harness, sources for tests, and worlds of faults for your own pipeline.

See ``docs/testing.md``. The names below are imported when they are first used, so that importing
this package costs next to nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowsnap.testing.capture import Output as Output
    from flowsnap.testing.harness import Harness as Harness
    from flowsnap.testing.kit_faults import Faults as Faults
    from flowsnap.testing.kit_simulation import Run as Run
    from flowsnap.testing.kit_simulation import Simulation as Simulation
    from flowsnap.testing.kit_simulation import simulate as simulate
    from flowsnap.testing.probe import Timer as Timer
    from flowsnap.testing.sources import ABORT as ABORT
    from flowsnap.testing.sources import END as END
    from flowsnap.testing.sources import PAUSE as PAUSE
    from flowsnap.testing.sources import Aborted as Aborted
    from flowsnap.testing.sources import TestSource as TestSource
    from flowsnap.testing.sources import at as at

_HOMES = {
    "Harness": "harness",
    "Output": "capture",
    "Timer": "probe",
    "simulate": "kit_simulation",
    "Simulation": "kit_simulation",
    "Run": "kit_simulation",
    "Faults": "kit_faults",
    "TestSource": "sources",
    "END": "sources",
    "ABORT": "sources",
    "PAUSE": "sources",
    "Aborted": "sources",
    "at": "sources",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Package(ModuleType):
    """This package: its ``simulate`` is the function, although a module of it has that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds every submodule to its package.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
