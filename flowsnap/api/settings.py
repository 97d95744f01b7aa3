"""The settings of a run as users write them: durations and sizes, not ms and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import msgspec

from flowsnap.config import JobConfig, duration_ms, size_bytes
from flowsnap.errors import ConfigError

_FIELDS = {field.name: field for field in msgspec.structs.fields(JobConfig)}

SETTINGS: dict[str, str] = {name.replace("_ms", "").replace("_bytes", ""): name for name in _FIELDS}
"""The name of each setting, and that of its field in ``JobConfig``, which has the unit in it."""


def job_config(settings: Mapping[str, Any]) -> JobConfig:
    """Return the checked configuration; what ``settings`` leaves out has its default.

    Raises:
        ConfigError: a setting is unknown, has the wrong type, or is out of bounds.
    """
    return JobConfig(**{_field(name): _parsed(name, value) for name, value in settings.items()})


def _field(name: str) -> str:
    if name in SETTINGS:
        return SETTINGS[name]
    near = get_close_matches(name, SETTINGS, n=1)
    error = ConfigError(f"there is no setting {name!r}")
    if near:
        raise error.hint(f"did you mean {near[0]!r}?")
    raise error.hint(f"the settings are {', '.join(sorted(SETTINGS))}")


def _parsed(name: str, value: Any) -> Any:
    field = SETTINGS[name]
    if "_ms" in field:
        return duration_ms(value, name)
    if field.endswith("_bytes"):
        return size_bytes(value, name)
    try:
        return msgspec.convert(value, _FIELDS[field].type)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {value!r} does not fit: {error}") from error
