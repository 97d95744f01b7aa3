"""How the bytes of a Kafka record become a value, and back: JSON, text, bytes.

Avro has a file of its own, because of what it needs. A format is a template, as a source or sink
is: what it makes runs in a task. Its functions take a batch at a time, so that a record costs what
the decoder costs. A missing value (a tombstone, which deletes its key in a compacted topic) is None
on both sides, whatever the format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any, ClassVar, Literal

import msgspec

from flowsnap.connectors.typed import (
    UNENCODABLE,
    check_type,
    checker,
    encode_hook,
    json_decoder,
)
from flowsnap.errors import ConfigError

Raw = bytes | None
Decode = Callable[[Sequence[Raw]], list[Any]]
Encode = Callable[[Sequence[Any]], list[Raw]]


class Format:
    """A form of values; ``errors`` are what its functions raise about one that does not fit."""

    errors: ClassVar[tuple[type[Exception], ...]] = (TypeError, ValueError)

    def decoder(self) -> Decode:
        """Return a new function from bytes to values; called in the task."""
        raise NotImplementedError(f"{type(self).__name__}.decoder")

    def encoder(self, topic: str, *, is_key: bool = False) -> Encode:
        """Return a new function from values to bytes for a topic; called in the task."""
        raise NotImplementedError(f"{type(self).__name__}.encoder")


class Bytes(Format):
    """Values as they are: bytes."""

    def decoder(self) -> Decode:
        return list

    def encoder(self, topic: str, *, is_key: bool = False) -> Encode:
        return _bytes


class String(Format):
    """Text, in UTF-8 or another ``encoding``.

    Raises:
        ConfigError: the encoding is not known.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        try:
            "".encode(encoding)
        except LookupError as error:
            raise ConfigError(f"encoding: {encoding!r} is not known") from error
        self.encoding = encoding

    def decoder(self) -> Decode:
        encoding = self.encoding
        return each(lambda data: data.decode(encoding))

    def encoder(self, topic: str, *, is_key: bool = False) -> Encode:
        encoding = self.encoding
        return each(lambda text: _text(text).encode(encoding))


class Json(Format):
    """JSON, checked against ``type`` where one is given, on both sides.

    ``type``: a ``msgspec.Struct``, a dataclass, a pydantic model, anything msgspec decodes.

    Raises:
        ConfigError: msgspec does not decode the type.
    """

    errors = (*UNENCODABLE, msgspec.MsgspecError)

    def __init__(self, type: Any = Any) -> None:
        check_type(type)
        self.type = type

    def decoder(self) -> Decode:
        return each(json_decoder(self.type))

    def encoder(self, topic: str, *, is_key: bool = False) -> Encode:
        encode = each(msgspec.json.Encoder(enc_hook=encode_hook).encode)
        if self.type is Any:
            return encode
        check = checker(self.type)

        def checked(values: Sequence[Any]) -> list[Raw]:
            check([value for value in values if value is not None])
            return encode(values)

        return checked


FormatName = Literal["json", "string", "bytes"]
_NAMED: dict[str, type[Format]] = {"json": Json, "string": String, "bytes": Bytes}


def format_of(given: Format | FormatName, what: str) -> Format:
    """Return a format given by itself or by its name.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(given, Format):
        return given
    if isinstance(given, str) and given in _NAMED:
        return _NAMED[given]()
    raise ConfigError(f"{what}: {given!r} is not a format").hint(
        'write "json", "string" or "bytes", or give Json(type), String(encoding), Avro(registry)'
    )


def each(one: Callable[[Any], Any]) -> Callable[[Sequence[Any]], list[Any]]:
    """Return a function that applies ``one`` to each value of a batch but None."""

    def every(values: Sequence[Any]) -> list[Any]:
        if None in values:
            return [None if value is None else one(value) for value in values]
        return list(map(one, values))

    return every


def first_misfit(
    change: Callable[[Sequence[Any]], Any],
    values: Sequence[Any],
    errors: tuple[type[Exception], ...],
) -> int:
    """Return the index of the first value that a format's function raises about."""
    for index, value in enumerate(values):
        try:
            change([value])
        except errors:
            return index
    return 0


def _bytes(values: Sequence[Any]) -> list[Raw]:
    for kind in set(map(type, values)):
        if not issubclass(kind, (bytes, NoneType)):
            raise TypeError(f"a {kind.__name__} is not bytes")
    return list(values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} is not a string")
    return value
