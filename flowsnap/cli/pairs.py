"""``key=value`` on the command line, and the settings of a job among them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from flowsnap.api.settings import SETTINGS
from flowsnap.config import JobConfig, Restart, duration_ms
from flowsnap.errors import ConfigError

_TYPES = {field.name: field.type for field in msgspec.structs.fields(JobConfig)}
_RESTART = {field.name.replace("_ms", ""): field for field in msgspec.structs.fields(Restart)}


def parse_pairs(pairs: Iterable[str], option: str) -> dict[str, str]:
    """Return the values by key; ``option`` is named in the error.

    Raises:
        ConfigError: one of them is not ``key=value``, or a key occurs twice.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise ConfigError(f"{option}: {key!r} is not key=value")
        if key in values:
            raise ConfigError(f"{option}: {key!r} is given twice")
        values[key] = value
    return values


def parse_settings(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return settings for ``Pipeline.start`` from text: ``{"state_memory": "64MB"}``.

    Those of the restart strategy go by ``restart.<name>``; ``restart=none`` is short for
    ``restart.strategy=none``. A name that does not exist is left to ``Pipeline.start`` to refuse.

    Raises:
        ConfigError: a value cannot be read.
    """
    values: dict[str, Any] = {}
    restart: dict[str, Any] = {}
    for key, text in texts.items():
        group, _, name = key.partition(".")
        if group == "restart":
            field = _restart_field(name or "strategy")
            is_time = "_ms" in field.name
            restart[field.name] = (
                duration_ms(text, key) if is_time else _read(text, field.type, key)
            )
        else:
            values[key] = _value(key, text)
    if restart:
        values["restart"] = Restart(**restart)
    return values


def _restart_field(name: str) -> msgspec.structs.FieldInfo:
    if name in _RESTART:
        return _RESTART[name]
    near = difflib.get_close_matches(name, _RESTART, n=1)
    known = ", ".join(f"restart.{name}" for name in _RESTART)
    raise ConfigError(f"there is no setting 'restart.{name}'").hint(
        f"did you mean 'restart.{near[0]}'?" if near else f"there are {known}"
    )


def _value(key: str, text: str) -> Any:
    field = SETTINGS.get(key, "")
    if field.endswith("_bytes") and text.isdecimal():
        return int(text)
    if not field or "_ms" in field or field.endswith("_bytes"):
        return text
    return _read(text, _TYPES[field], key)


def _read(text: str, kind: Any, key: str) -> Any:
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{key}: {text!r} does not fit: {error}") from error
