"""Any value as JSON: what a program or a column of text gets of it."""

from __future__ import annotations

import base64
import dataclasses
import enum
import math
from collections.abc import Mapping, Set
from datetime import date, datetime, time, timedelta
from typing import Any

import msgspec

from flowsnap.serialize import Opaque

DEPTH_MAX = 50
_LARGE = 1 << 63
_WITH_TEXT = {"decimal", "uuid", "fractions", "ipaddress", "pathlib", "zoneinfo"}


def to_plain(value: Any, depth: int = DEPTH_MAX) -> Any:
    """Return a value that is made of None, bool, int, float, str, list and dict.

    An object becomes a dict of its fields; bytes are base64; what has no form of its own is its
    ``repr``.
    """
    if depth == 0:
        return "..."
    inner = depth - 1
    found = fields_of(value)
    if found is not None:
        plain: Any = {name: to_plain(item, inner) for name, item in found.items()}
    elif isinstance(value, Mapping):
        plain = {_text(key): to_plain(item, inner) for key, item in value.items()}
    elif isinstance(value, Set):
        plain = sorted((to_plain(item, inner) for item in value), key=repr)
    elif isinstance(value, (list, tuple)):
        plain = [to_plain(item, inner) for item in value]
    elif isinstance(value, enum.Enum):
        plain = to_plain(value.value, inner)
    else:
        plain = _scalar(value)
    return plain


def to_text(value: Any) -> str:
    """Return a value as text: a str as it is, all else as JSON."""
    return value if isinstance(value, str) else to_json(value)


def to_json(value: Any) -> str:
    """Return a value as JSON in one line."""
    return msgspec.json.encode(to_plain(value)).decode()


def fields_of(value: Any) -> dict[str, Any] | None:
    """Return the fields of an object by name, or None where it has none.

    An object has fields if it is a ``msgspec.Struct``, a dataclass, a named tuple, an ``Opaque``,
    or a dict with names for keys.
    """
    if isinstance(value, Opaque):
        return value.fields
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return value
    return None


def _scalar(value: Any) -> Any:
    match value:
        case None | bool():
            plain: Any = value
        case str():
            plain = str(value)
        case int():
            plain = int(value) if -_LARGE <= value < 2 * _LARGE else str(int(value))
        case float():
            plain = float(value) if math.isfinite(value) else str(value)
        case bytes() | bytearray():
            plain = base64.b64encode(value).decode()
        case datetime() | date() | time():
            plain = value.isoformat()
        case timedelta():
            plain = value.total_seconds()
        case _:
            plain = str(value) if _has_own_text(value) else repr(value)
    return plain


def _has_own_text(value: Any) -> bool:
    """Return whether ``str`` says what a value is and nothing else, as that of a UUID does."""
    return type(value).__module__.partition(".")[0] in _WITH_TEXT


def _text(key: Any) -> str:
    plain = to_plain(key)
    return plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()
