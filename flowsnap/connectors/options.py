"""Options by name: those that a connector has, and those of them that are for one of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowsnap.errors import ConfigError


def check_options(connector: str, options: Mapping[str, Any], known: Any) -> None:
    """Check that a connector has all of the options; ``known`` is a TypedDict.

    Raises:
        ConfigError: it does not have one.
    """
    unknown = sorted(options.keys() - known.__annotations__.keys())
    if unknown:
        raise ConfigError(f"{connector} has no option {unknown[0]!r}").hint(
            f"it has {', '.join(sorted(known.__annotations__))}"
        )


def chosen(options: Mapping[str, Any], known: Any) -> Any:
    """Return those options that a TypedDict has."""
    return {name: value for name, value in options.items() if name in known.__annotations__}
