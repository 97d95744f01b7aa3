"""Which types may records have, and how do the bytes of a file become one of them?

A type is a ``msgspec.Struct``, a dataclass, a TypedDict, whatever else msgspec decodes, or a
pydantic model, which is known by its methods: pydantic is never imported here. What a pydantic
model refuses is told without the value that it refused, which may be a secret.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any
from uuid import UUID

import msgspec

from flowsnap.errors import ConfigError

MISFITS: tuple[type[Exception], ...] = (
    msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError,
)  # fmt: skip
"""What is raised for a value that is not of the type; pydantic's ValidationError is a ValueError,
as a number is that is too large for its type."""

UNENCODABLE: tuple[type[Exception], ...] = (*MISFITS, TypeError, NotImplementedError, OverflowError)
"""What is raised by an encoder for a record that has no form in its format."""

KEPT = (datetime, date, time, timedelta, Decimal, UUID, bytes)
"""Types that stay what they are where a record is taken apart."""


_QUOTING = re.compile(
    r"(Invalid (?:enum )?value) .*?(?= - at `[^`]*`(?: in `[^`]*`)?\Z|\Z)", re.DOTALL
)
"""What msgspec says of a value that is none of an enum, or no tag of a union: with the value."""

_PLAIN = (str, int, float, *KEPT)
_ROWS = {list, tuple}


def check_type(type_: Any) -> None:
    """Check that values can be decoded as ``type_``.

    Raises:
        ConfigError: they cannot.
    """
    if is_model(type_):
        return
    try:
        msgspec.json.Decoder(type_)
    except TypeError as error:
        raise ConfigError(f"type: {type_!r} cannot be decoded: {error}").hint(
            "give a msgspec.Struct, a dataclass, a TypedDict, a pydantic model or a builtin type"
        ) from error


def is_model(type_: object) -> bool:
    """Return whether a type is a pydantic model."""
    return isinstance(type_, type) and hasattr(type_, "model_validate_json")


def _is_record(type_: object) -> bool:
    """Return whether a type is a class of records, and no description of one."""
    return isinstance(type_, type) and (
        issubclass(type_, msgspec.Struct) or dataclasses.is_dataclass(type_) or is_model(type_)
    )


def json_decoder(type_: Any) -> Callable[[bytes], Any]:
    """Return a function from JSON to a value of a type; it raises one of MISFITS."""
    if is_model(type_):
        decode: Callable[[bytes], Any] = type_.model_validate_json
        return decode
    return msgspec.json.Decoder(type_).decode


def converter(type_: Any) -> Callable[[list[dict[str, Any]]], list[Any]]:
    """Return a function from rows to values of a type; it raises one of MISFITS.

    Texts become numbers, booleans and times where the type wants them.
    """
    if is_model(type_):
        validate = type_.model_validate
        return lambda rows: list(map(validate, rows))
    many = list[type_]
    return lambda rows: msgspec.convert(rows, many, strict=False)


def checker(type_: Any) -> Callable[[list[Any]], object]:
    """Return a function that raises one of MISFITS where a value is none of a type.

    An instance is taken as it is; of anything else it is looked at whether it could become one.
    """
    if type_ is Any:
        return len
    check = type_.model_validate if is_model(type_) else None
    many = list[type_]
    # msgspec takes no instance of a subclass.
    known = type_ if _is_record(type_) else ()

    def check_all(values: list[Any]) -> None:
        if set(map(type, values)) == {type_}:
            return
        strange = [value for value in values if not isinstance(value, known)]
        if check is None:
            msgspec.convert(strange, many)
            return
        for value in strange:
            check(value)

    return check_all


def reason_of(error: Exception) -> str:
    """Return why a value is not of its type, without the value."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return _QUOTING.sub(r"\1", str(error))
    found = errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{one['msg']} - at `{'.'.join(map(str, one['loc']))}`" for one in found)


def cause_of(error: Exception) -> Exception | None:
    """Return what may stand as the cause below a message: an error that does not show the value."""
    return error if reason_of(error) == str(error) else None


def encode_hook(value: Any) -> Any:
    """Return what a pydantic model is made of, for msgspec.

    Raises:
        NotImplementedError: it is none.
    """
    if is_model(type(value)):
        return value.model_dump(mode="json")
    raise NotImplementedError(f"objects of type {type(value).__name__} are not supported")


def columns_of(type_: Any) -> dict[str, Any]:
    """Return the names of a record's fields, as they are written, with their types; {}: none."""
    if is_model(type_):
        return {name: field.annotation for name, field in type_.model_fields.items()}
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return {field.encode_name: field.type for field in msgspec.structs.fields(type_)}
    if dataclasses.is_dataclass(type_) or typing.is_typeddict(type_):
        return typing.get_type_hints(type_)
    return {}


def rows_of(values: Sequence[Any], columns: Sequence[str]) -> list[Sequence[Any]]:
    """Return records as rows of their columns; a key that a dict does not have is None.

    A list or a tuple is a row already, and of one column any plain value is one.

    Raises:
        TypeError: a record has no fields.
        ValueError: it has a field that is no column, or not as many as there are columns.
    """
    count = len(columns)
    if set(map(type, values)) <= _ROWS:
        if set(map(len, values)) - {count}:
            wrong = next(len(value) for value in values if len(value) != count)
            raise ValueError(f"{wrong} fields where there are {count} columns")
        return list(values)
    known = frozenset(columns)
    return [_row_of(value, columns, known) for value in values]


def _row_of(value: Any, columns: Sequence[str], known: frozenset[str]) -> Sequence[Any]:
    if type(value) in _ROWS:
        return rows_of([value], columns)[0]
    if len(columns) == 1 and (value is None or isinstance(value, _PLAIN)):
        return [value]
    fields = value._asdict() if hasattr(value, "_asdict") else fields_of(value)
    if not fields.keys() <= known:
        strays = ", ".join(sorted(map(str, fields.keys() - known)))
        raise ValueError(f"there is no column for {strays}")
    return [fields.get(name) for name in columns]


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of a record by name; those that are records are taken apart as well.

    Raises:
        TypeError: it has none.
    """
    if is_model(type(value)):
        dumped: dict[str, Any] = value.model_dump()
        return dumped
    fields = msgspec.to_builtins(value, builtin_types=KEPT, enc_hook=encode_hook)
    if not isinstance(fields, dict):
        raise TypeError(f"a {type(value).__name__} has no fields")
    return fields


def takes_text(annotation: Any) -> bool:
    """Return whether an empty text is a value of a field."""
    if annotation in (Any, str, object):
        return True
    if typing.get_origin(annotation) in (typing.Union, UnionType, typing.Annotated):
        return any(takes_text(one) for one in typing.get_args(annotation) if one is not NoneType)
    return typing.get_origin(annotation) is typing.Literal and "" in typing.get_args(annotation)
