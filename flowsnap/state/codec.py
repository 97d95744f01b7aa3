"""How values and rows become bytes, and which values can be shared instead of copied.

A value is MessagePack where that gives back the very same thing: a number, str, bytes, None, or a
flat tuple of them. MessagePack's unused byte ``c1`` goes before a flat list, which would be read as
a tuple; all else is a pickle, whose first byte ``80`` is an empty map in MessagePack, which is
never written. A row is ``key group: u16 be | state id: u16 be | key | namespace``; the namespace is
a map's entry.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import msgspec

from flowsnap import serialize
from flowsnap.errors import StateError

PREFIX_BYTES = 4
"""The length of a row's key group and state id."""

_LIST = b"\xc1"
_LIST_BYTE, _PICKLE_BYTE = _LIST[0], 0x80
_PLAIN_TYPES = frozenset({int, float, str, bytes, bool, type(None)})
_TUPLES = {tuple}
_encode_plain = msgspec.msgpack.Encoder().encode
_decode_plain = msgspec.msgpack.Decoder().decode
_decode_list = msgspec.msgpack.Decoder(list[Any]).decode

row_prefix: Callable[[int, int], bytes] = struct.Struct(">HH").pack
"""Return the first bytes of the rows of a key group and a state id."""


def encode_value(value: Any) -> bytes:
    """Return the bytes of a value.

    Raises:
        StateError: the value cannot be pickled.
    """
    type_ = type(value)
    try:
        if type_ in _PLAIN_TYPES:
            return _encode_plain(value)
        if type_ is tuple and _PLAIN_TYPES.issuperset(map(type, value)):
            return _encode_plain(value)
        if type_ is list and _PLAIN_TYPES.issuperset(map(type, value)):
            return _LIST + _encode_plain(value)
    except (OverflowError, UnicodeEncodeError):
        pass  # An int beyond 64 bits, a str with surrogates: a pickle takes them.
    try:
        return serialize.dump(value)
    except Exception as error:  # What a user's __reduce__ raises is anybody's guess.
        raise StateError(f"a value of type {type_.__qualname__} cannot be pickled: {error}").hint(
            "keep plain data in state; make locks, files and connections in open()"
        ) from error


def encode_plain_values(values: Sequence[Any]) -> list[bytes] | None:
    """Return ``encode_value`` of each value, many times as fast, if all are plain; else None.

    Plain are numbers, str, bytes and None, or flat tuples of them: so they are immutable too.
    """
    types = set(map(type, values))
    if types == _TUPLES:
        types = set(map(type, chain.from_iterable(values)))
    if not types <= _PLAIN_TYPES:
        return None
    try:
        return list(map(_encode_plain, values))
    except (OverflowError, UnicodeEncodeError):
        return None


def decode_value(data: bytes) -> Any:
    """Return the value of ``encode_value``'s bytes, which come from a verified file.

    Raises:
        StateError: the bytes are no value, or need a class that is gone.
    """
    try:
        kind = data[0]
        if kind == _PICKLE_BYTE:
            return serialize.load(data)
        if kind == _LIST_BYTE:
            return _decode_list(memoryview(data)[1:])
        value = _decode_plain(data)
        return tuple(value) if type(value) is list else value
    except Exception as error:  # What a pickle of the user's class raises is anybody's guess.
        raise StateError(f"a value of {len(data)} bytes cannot be read: {error}").hint(
            "keep the classes of values in state under their modules and names"
        ) from error


def copied(value: Any) -> Any:
    """Return ``value`` itself if it cannot change, and else a copy, as storing it would make."""
    return value if is_immutable(value) else decode_value(encode_value(value))


def is_immutable(value: Any) -> bool:
    """Return whether nobody can change ``value`` in place."""
    type_ = type(value)
    if type_ in IMMUTABLE_TYPES:
        return True
    if type_ is tuple and IMMUTABLE_TYPES.issuperset(map(type, value)):
        return True
    try:
        judge = _JUDGES[type_]
    except KeyError:
        judge = _JUDGES[type_] = _judge_of(type_)
    return judge(value)


IMMUTABLE_TYPES: set[type] = {
    int, float, str, bytes, bool, complex, type(None), datetime, date, time, timedelta, Decimal,
    Fraction, UUID, range, PurePosixPath,
}  # fmt: skip
"""The types of which nothing can be changed, whatever they hold; enums are added as they come."""


def _all_immutable(values: Any) -> bool:
    return IMMUTABLE_TYPES.issuperset(map(type, values)) or all(map(is_immutable, values))


def _is_never(_: Any) -> bool:
    return False


_JUDGES: dict[type, Callable[[Any], bool]] = {
    tuple: _all_immutable,
    frozenset: _all_immutable,
    list: _is_never,
    dict: _is_never,
    set: _is_never,
}


def _judge_of(type_: type) -> Callable[[Any], bool]:
    if issubclass(type_, enum.Enum):
        IMMUTABLE_TYPES.add(type_)
        return lambda _: True
    if issubclass(type_, msgspec.Struct) and type_.__struct_config__.frozen:
        return _judge_of_fields(type_.__struct_fields__)
    if dataclasses.is_dataclass(type_) and getattr(type_, "__dataclass_params__").frozen:  # noqa: B009
        return _judge_of_fields(tuple(field.name for field in dataclasses.fields(type_)))
    if issubclass(type_, tuple) and hasattr(type_, "_fields") and type_.__dictoffset__ == 0:
        return _all_immutable
    return _is_never


def _judge_of_fields(names: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: all(is_immutable(getattr(value, name, None)) for name in names)
