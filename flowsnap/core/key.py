"""Which bytes stand for a key, and to which key group do they belong?

Two keys have the same bytes exactly if Python calls them equal: ``1``, ``1.0`` and ``True`` are one
key, and so are ``0.0`` and ``-0.0``. The bytes depend on nothing but the key: not on the process
(``hash()`` is salted), not on the platform, not on the version of Python or of a pickle. A file
written today is found again by them: a change needs a new ``KEY_FORMAT`` and a reader of the old.

A key is a tag and a payload that says where it ends, so no key's bytes begin another's, and
``key | namespace`` can be taken apart again. Within a type, bytes sort as the values do::

    01                         None
    10 | u32 ~length | ~bytes  int below -2**63
    11 | u64 value + 2**63     int (and bool, and float that is whole)
    12 | u32 length | bytes    int from 2**63
    14 | u64                   float: the sign bit flipped, all bits flipped where it is negative
    20 | utf-8 | 00            str: 00 and 01 are escaped as 01 01 and 01 02
    30 | bytes | 00            bytes: likewise
    40 | element ... | 00      tuple
    50, 51 | u64               aware datetime in us since 1970 UTC, naive datetime; + 2**63
    52 | u32                   date: its ordinal
    53 | u64                   naive time: us since midnight
    54 | u32 u32 u32           timedelta: days + 2**31, seconds, us
    55 | 16 bytes              UUID
    60 | str | str             enum member: class, name
    61 | str | element ... 00  frozen msgspec.Struct or dataclass: class, fields

A named tuple equals a plain tuple, and a member of an IntEnum equals its number, so they have the
bytes of these and ``decode_key`` answers with an object that is equal, though of the plainer type.

Source: the tuple layer of FoundationDB, for the idea of self-delimiting sorted bytes. Deviation:
one tag for equal numbers. Key groups: Flink, ``KeyGroupRangeAssignment``.

>>> encode_key(("a", 1)) == encode_key(("a", True))
True
>>> decode_key(encode_key(("a", 1)))
('a', 1)
>>> key_group(encode_key("a"), 128)
73
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import math
import numbers
import struct
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec

from flowsnap.errors import StateError

KEY_FORMAT = 1
"""The version of the bytes and of the hash; golden vectors in the tests hold it still."""

Encoder = Callable[[Any], bytes]

_OFFSET = 1 << 63
_MASK = (1 << 64) - 1
_SPREAD = 0x9E3779B1
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_pack_word = struct.Struct(">BQ").pack
_pack_length = struct.Struct(">BI").pack
_pack_float = struct.Struct(">d").pack
_unpack_word = struct.Struct(">Q").unpack
_pack_delta = struct.Struct(">BIII").pack


def encode_key(key: Any) -> bytes:
    """Return the canonical bytes of ``key``.

    Raises:
        StateError: the key's type has no bytes that are stable and respect equality, or it is NaN,
            a str with surrogates, or a datetime that its time zone leaves ambiguous.
    """
    try:
        encoder = _ENCODERS[type(key)]
    except KeyError:
        encoder = _ENCODERS[type(key)] = _encoder_of(type(key))
    return encoder(key)


def key_group(encoded: bytes, max_parallelism: int) -> int:
    """Return the key group, in ``[0, max_parallelism)``, of a key's bytes."""
    return ((zlib.crc32(encoded) * _SPREAD & 0xFFFFFFFF) * max_parallelism) >> 32


def encode_keys(keys: Sequence[Any], head: bytes = b"") -> list[bytes]:
    """Return ``head + encode_key(key)`` of each key, many times as fast where all are of a type.

    Raises:
        StateError: as ``encode_key``.
    """
    types = set(map(type, keys))
    encoder = _BULK_ENCODERS.get(types.pop()) if len(types) == 1 else None
    encoded = None if encoder is None else encoder(keys, head)
    return [head + encode_key(key) for key in keys] if encoded is None else encoded


def key_groups(encoded: Sequence[bytes], max_parallelism: int) -> Sequence[int]:
    """Return the key group of each key's bytes: ``key_group`` in a third of the time.

    The hashes are the 64-bit lanes of one large integer, so one multiplication does all of them:
    neither product (32 and 32 bits, 32 and 15 bits) reaches into the next lane.
    """
    layout = struct.Struct(f"<{len(encoded)}Q")
    lows = int.from_bytes(b"\xff\xff\xff\xff\0\0\0\0" * len(encoded), "little")
    hashes = int.from_bytes(layout.pack(*map(zlib.crc32, encoded)), "little")
    groups = (hashes * _SPREAD & lows) * max_parallelism >> 32 & lows
    return layout.unpack(groups.to_bytes(layout.size, "little"))


def is_sorted_as_bytes(keys: Sequence[Any]) -> bool:
    """Return whether sorting these keys is sorting their bytes: they are all str, or all int."""
    return set(map(type, keys)) in ({str}, {int})


def _int(key: int) -> bytes:
    if -_OFFSET <= key < _OFFSET:
        return _pack_word(0x11, key + _OFFSET)
    magnitude = abs(key).to_bytes((key.bit_length() + 7) // 8, "big")
    if key > 0:
        return _pack_length(0x12, len(magnitude)) + magnitude
    return _pack_length(0x10, ~len(magnitude) & 0xFFFFFFFF) + _complement(magnitude)


def _complement(data: bytes) -> bytes:
    return bytes(255 - byte for byte in data)


def _float(key: float) -> bytes:
    if key.is_integer():
        return _int(int(key))
    if math.isnan(key):
        raise _refusal("nan is not a key: it is not equal to itself", "filter it out first")
    bits: int = _unpack_word(_pack_float(key))[0]
    return _pack_word(0x14, bits ^ _MASK if bits >> 63 else bits | _OFFSET)


def _str(key: str) -> bytes:
    try:
        data = key.encode()
    except UnicodeEncodeError as error:
        raise _refusal(
            f"str {key!r} is not a key: it holds surrogates, which have no utf-8",
            "decode the input with errors='replace', or use the bytes as the key",
        ) from error
    if 0 in data or 1 in data:
        data = data.replace(b"\1", b"\1\2").replace(b"\0", b"\1\1")
    return b"\x20" + data + b"\0"


def _bytes(key: bytes) -> bytes:
    data = bytes(key)
    if 0 in data or 1 in data:
        data = data.replace(b"\1", b"\1\2").replace(b"\0", b"\1\1")
    return b"\x30" + data + b"\0"


def _tuple(key: tuple[Any, ...]) -> bytes:
    return b"\x40" + b"".join(map(encode_key, key)) + b"\0"


def _datetime(key: datetime) -> bytes:
    zone = key.tzinfo
    if zone is None:
        return _pack_word(0x51, (key - _EPOCH) // _MICROSECOND + _OFFSET)
    offset = key.utcoffset()
    if type(zone) is not timezone and offset != key.replace(fold=1 - key.fold).utcoffset():
        raise _refusal(
            f"datetime {key!r} is not a key: it falls into a change of the clocks, where Python "
            "calls it equal to no other",
            "convert it with .astimezone(timezone.utc)",
        )
    naive = key.replace(tzinfo=None) - _EPOCH - (offset or timedelta())
    return _pack_word(0x50 if offset is not None else 0x51, naive // _MICROSECOND + _OFFSET)


def _date(key: date) -> bytes:
    return _pack_length(0x52, key.toordinal())


def _time(key: time) -> bytes:
    if key.tzinfo is not None:
        raise _refusal(
            f"time {key!r} is not a key: it has a time zone", "use a datetime, or a naive time"
        )
    seconds = (key.hour * 60 + key.minute) * 60 + key.second
    return _pack_word(0x53, seconds * 1_000_000 + key.microsecond)


def _timedelta(key: timedelta) -> bytes:
    return _pack_delta(0x54, key.days + (1 << 31), key.seconds, key.microseconds)


def _uuid(key: UUID) -> bytes:
    return b"\x55" + key.bytes


_ENCODERS: dict[type, Encoder] = {
    str: _str,
    int: _int,
    bool: _int,
    float: _float,
    bytes: _bytes,
    tuple: _tuple,
    type(None): lambda _: b"\x01",
    datetime: _datetime,
    date: _date,
    time: _time,
    timedelta: _timedelta,
    UUID: _uuid,
}
_BASES: tuple[type, ...] = (int, float, str, bytes, tuple, datetime, date, time, timedelta, UUID)


def _strs(keys: Sequence[str], head: bytes) -> list[bytes] | None:
    """Encode many at a time, as one text; None where one of them needs a closer look."""
    try:
        data = ("\x20" + "\0\1\x20".join(keys) + "\0").encode()
    except UnicodeEncodeError:
        return None
    if data.count(0) != len(keys) or data.count(1) != len(keys) - 1:
        return None
    if 0xFF in head:
        return [head + part for part in data.split(b"\1")]
    return (head + data.replace(b"\1", b"\xff" + head)).split(b"\xff")  # No utf-8 has an ff.


def _ints(keys: Sequence[int], head: bytes) -> list[bytes] | None:
    pack = struct.Struct(f">{len(head)}sBQ").pack
    try:
        return [pack(head, 0x11, key + _OFFSET) for key in keys]
    except struct.error:  # One has more than 64 bits.
        return None


def _tuples(keys: Sequence[tuple[Any, ...]], head: bytes) -> list[bytes] | None:
    """Encode many at a time, column by column; None where they differ in length."""
    if len(set(map(len, keys))) != 1:
        return None
    columns = [encode_keys(column) for column in zip(*keys, strict=True)]
    columns[:0] = [[head + b"\x40"] * len(keys)]
    return list(map(b"".join, zip(*columns, [b"\0"] * len(keys), strict=True)))


_BULK_ENCODERS: dict[type, Callable[[Any, bytes], list[bytes] | None]] = {
    str: _strs,
    int: _ints,
    tuple: _tuples,
}


def _encoder_of(type_: type) -> Encoder:
    """Return how keys of a type that is not in the table are encoded."""
    equality: Any = type_.__eq__
    for base in _BASES:
        if issubclass(type_, base) and equality is base.__eq__:
            return _ENCODERS[base]
    if issubclass(type_, enum.Enum) and equality is enum.Enum.__eq__:
        return _enum_encoder(type_)
    if issubclass(type_, msgspec.Struct):
        config = type_.__struct_config__
        if config.frozen and config.eq:
            return _fields_encoder(type_, type_.__struct_fields__)
    elif dataclasses.is_dataclass(type_) and _is_plain_frozen(type_):
        return _fields_encoder(type_, tuple(field.name for field in dataclasses.fields(type_)))
    elif issubclass(type_, numbers.Integral):  # as numpy's integers are
        return lambda key: _int(int(key))
    return _refuse


def _is_plain_frozen(type_: type) -> bool:
    parameters = getattr(type_, "__dataclass_params__")  # noqa: B009 - unknown to the type
    fields = dataclasses.fields(type_)
    return bool(
        parameters.frozen
        and parameters.eq
        and all(field.compare and field.init for field in fields)
    )


def _enum_encoder(type_: type[enum.Enum]) -> Encoder:
    head = _class_head(b"\x60", type_)
    if issubclass(type_, enum.Flag):  # A combination of flags has no name of its own.
        return lambda key: head + _int(key.value)
    return lambda key: head + _str(key.name)


def _fields_encoder(type_: type, names: tuple[str, ...]) -> Encoder:
    head = _class_head(b"\x61", type_)

    def encode(key: Any) -> bytes:
        return head + b"".join([encode_key(getattr(key, name)) for name in names]) + b"\0"

    return encode


def _refuse(key: Any) -> bytes:
    type_ = type(key)
    raise _refusal(
        f"{type_.__module__}.{type_.__qualname__} is not a type of key",
        "keys are None, bool, int, float, str, bytes, tuples, datetime, date, time, timedelta, "
        "UUID, enum members, frozen msgspec.Structs and frozen dataclasses (all fields in __init__ "
        "and compared); use e.g. a tuple of its fields",
    )


def _refusal(message: str, advice: str) -> StateError:
    return StateError(message).hint(advice)


def _class_head(tag: bytes, type_: type) -> bytes:
    """Return the tag and ``module:qualname``, by which ``decode_key`` finds the class again."""
    if "<locals>" in type_.__qualname__:
        raise _refusal(
            f"{type_.__module__}.{type_.__qualname__} is not a type of key: it has no name to be "
            "found by after a restore",
            "define the class at the top of its module",
        )
    return tag + _str(f"{type_.__module__}:{type_.__qualname__}")


def decode_key(encoded: bytes) -> Any:
    """Return a key equal to the one that ``encoded`` stands for.

    Raises:
        StateError: the bytes are not those of one key, or name a class that is gone.
    """
    key, end = decode_prefix(encoded, 0)
    if end != len(encoded):
        raise StateError(f"{len(encoded) - end} bytes follow the key {key!r}")
    return key


def decode_prefix(data: bytes, start: int) -> tuple[Any, int]:
    """Return the key whose bytes begin at ``start``, and where they end.

    Raises:
        StateError: there are no bytes of a key.
    """
    try:
        return _DECODERS[data[start]](data, start + 1)
    except (LookupError, ValueError, TypeError, ArithmeticError, struct.error) as error:
        raise StateError(f"no key of format {KEY_FORMAT} at byte {start} of {data!r}") from error


def _decode_word(data: bytes, at: int) -> tuple[int, int]:
    return _unpack_word(data[at : at + 8])[0], at + 8


def _decode_int(data: bytes, at: int) -> tuple[Any, int]:
    word, end = _decode_word(data, at)
    return word - _OFFSET, end


def _decode_large(data: bytes, at: int) -> tuple[Any, int]:
    length, at = int.from_bytes(data[at : at + 4], "big"), at + 4
    return int.from_bytes(_exactly(data, at, length), "big"), at + length


def _decode_small(data: bytes, at: int) -> tuple[Any, int]:
    length, at = ~int.from_bytes(data[at : at + 4], "big") & 0xFFFFFFFF, at + 4
    return -int.from_bytes(_complement(_exactly(data, at, length)), "big"), at + length


def _exactly(data: bytes, at: int, length: int) -> bytes:
    part = data[at : at + length]
    if len(part) != length:
        raise IndexError("truncated")
    return part


def _decode_float(data: bytes, at: int) -> tuple[Any, int]:
    word, end = _decode_word(data, at)
    bits = word ^ _OFFSET if word >> 63 else word ^ _MASK
    return struct.unpack(">d", bits.to_bytes(8, "big"))[0], end


def _decode_bytes(data: bytes, at: int) -> tuple[Any, int]:
    end = data.index(b"\0", at)
    return data[at:end].replace(b"\1\1", b"\0").replace(b"\1\2", b"\1"), end + 1


def _decode_str(data: bytes, at: int) -> tuple[Any, int]:
    raw, end = _decode_bytes(data, at)
    return raw.decode(), end


def _decode_tuple(data: bytes, at: int) -> tuple[Any, int]:
    elements = []
    while data[at] != 0:
        element, at = decode_prefix(data, at)
        elements.append(element)
    return tuple(elements), at + 1


def _decode_datetime(data: bytes, at: int) -> tuple[Any, int]:
    word, end = _decode_word(data, at)
    moment = _EPOCH + (word - _OFFSET) * _MICROSECOND
    return (moment.replace(tzinfo=UTC) if data[at - 1] == 0x50 else moment), end


def _decode_date(data: bytes, at: int) -> tuple[Any, int]:
    return date.fromordinal(int.from_bytes(_exactly(data, at, 4), "big")), at + 4


def _decode_time(data: bytes, at: int) -> tuple[Any, int]:
    word, end = _decode_word(data, at)
    return (_EPOCH + word * _MICROSECOND).time(), end


def _decode_timedelta(data: bytes, at: int) -> tuple[Any, int]:
    days, seconds, microseconds = struct.unpack(">III", _exactly(data, at, 12))
    return timedelta(days - (1 << 31), seconds, microseconds), at + 12


def _decode_uuid(data: bytes, at: int) -> tuple[Any, int]:
    return UUID(bytes=_exactly(data, at, 16)), at + 16


def _decode_enum(data: bytes, at: int) -> tuple[Any, int]:
    name, at = decode_prefix(data, at)
    member, end = decode_prefix(data, at)
    class_ = _class_named(name)
    if not (isinstance(class_, type) and issubclass(class_, enum.Enum)):
        raise TypeError(f"{name} is no enum")
    if isinstance(member, int):
        return class_(member), end
    if member not in class_.__members__:
        raise StateError(f"enum {name} has no member {member!r}, which is a key in the state")
    return class_[member], end


def _decode_fields(data: bytes, at: int) -> tuple[Any, int]:
    name, at = decode_prefix(data, at)
    values, end = _decode_tuple(data, at)
    class_ = _class_named(name)
    if issubclass(class_, msgspec.Struct):
        names = class_.__struct_fields__
    else:
        names = tuple(field.name for field in dataclasses.fields(class_))
    if len(names) != len(values):
        raise StateError(f"{name} has {len(names)} fields, and {len(values)} as a key in the state")
    return class_(**dict(zip(names, values, strict=True))), end


def _class_named(name: str) -> Any:
    module, _, qualname = str(name).partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise StateError(f"class {name}, of a key in the state, is gone").hint(
            "keep the class under its module and name, or start from fresh state"
        ) from error
    return found


_DECODERS: dict[int, Callable[[bytes, int], tuple[Any, int]]] = {
    0x01: lambda _, at: (None, at),
    0x10: _decode_small,
    0x11: _decode_int,
    0x12: _decode_large,
    0x14: _decode_float,
    0x20: _decode_str,
    0x30: _decode_bytes,
    0x40: _decode_tuple,
    0x50: _decode_datetime,
    0x51: _decode_datetime,
    0x52: _decode_date,
    0x53: _decode_time,
    0x54: _decode_timedelta,
    0x55: _decode_uuid,
    0x60: _decode_enum,
    0x61: _decode_fields,
}
