"""How the keys and values of a snapshot become objects: as plain data, or with the job's classes.

Plain decoding runs no code of anybody, so it is the default, and the only one for a snapshot from
elsewhere. What needs a class comes back as an ``Opaque`` that shows the type's name and its fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flowsnap import serialize
from flowsnap.core.key import decode_prefix
from flowsnap.errors import StateError
from flowsnap.serialize import Opaque, opaque_type
from flowsnap.state.codec import decode_value

_TUPLE, _ENUM, _FIELDS = b"\x40", b"\x60", b"\x61"
_NAMED = frozenset({_TUPLE, _ENUM, _FIELDS})
"""The tags of keys that name a class, or may have one in them."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """Makes objects of bytes.

    ``key(data, start)`` answers a key and where its bytes end, ``value`` takes the bytes of a
    state's value, ``pickled`` those of a pickle.
    """

    key: Callable[[bytes, int], tuple[Any, int]]
    value: Callable[[bytes], Any]
    pickled: Callable[[bytes], Any]


def plain_key(data: bytes, start: int) -> tuple[Any, int]:
    """Return the key that begins at ``start`` and where it ends, importing nothing.

    Raises:
        StateError: there are no bytes of a key.
    """
    tag = data[start : start + 1]
    if tag not in _NAMED:
        return decode_prefix(data, start)
    try:
        if tag == _TUPLE:
            elements, end = _elements(data, start + 1)
            return tuple(elements), end
        name, at = decode_prefix(data, start + 1)
        if tag == _ENUM:
            member, end = plain_key(data, at)
            return opaque_type(_dotted(name))(member), end
        elements, end = _elements(data, at)
        return opaque_type(_dotted(name))(*elements), end
    except (LookupError, RecursionError) as error:
        raise StateError(f"no key at byte {start} of {data[:100]!r}") from error


def plain_value(data: bytes) -> Any:
    """Return the value of a state's bytes; one that needs its class to be read is an ``Opaque``.

    Raises:
        StateError: the bytes are no value.
    """
    if data[:1] != b"\x80":
        return decode_value(data)
    return plain_pickled(data)


def plain_pickled(data: bytes) -> Any:
    """Return the value of a pickle, an ``Opaque`` where only its class could read it."""
    try:
        return serialize.load_plain(data)
    except StateError as error:
        return opaque_type("unreadable")(str(error.__cause__))


def _elements(data: bytes, at: int) -> tuple[list[Any], int]:
    elements = []
    while data[at] != 0:
        element, at = plain_key(data, at)
        elements.append(element)
    return elements, at + 1


def _dotted(name: Any) -> str:
    return str(name).replace(":", ".")


PLAIN = Decoder(plain_key, plain_value, plain_pickled)
"""Nothing is imported and nothing is called; see ``serialize.load_plain``."""

TRUSTED = Decoder(decode_prefix, decode_value, serialize.load)
"""With the job's classes, whose code runs: for snapshots of one's own."""

__all__ = ["PLAIN", "TRUSTED", "Decoder", "Opaque", "plain_key", "plain_pickled", "plain_value"]
