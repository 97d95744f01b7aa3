"""Which columns has a type fields for, and which values may a row not lack?

A type is what ``typed.py`` takes, as far as a row with named columns can become one.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, NamedTuple

import msgspec

from flowsnap.connectors.typed import check_type, is_model
from flowsnap.errors import ConfigError


class Shape(NamedTuple):
    """What a type takes of a row.

    ``columns``: what it has fields for; None: whatever there is. ``required``: what no row may
    lack. ``filled``: fields in which nobody would see that a value is missing.
    """

    columns: frozenset[str] | None
    required: frozenset[str]
    filled: frozenset[str]


ANYTHING = Shape(None, frozenset(), frozenset())


def shape_of(type_: Any) -> Shape:
    """Return what a type takes of a row.

    Raises:
        ConfigError: no row could become one.
    """
    check_type(type_)
    if type_ is Any:
        return ANYTHING
    shapes = [_shape_of_one(one) for one in _alternatives(type_)]
    if len(shapes) == 1:
        return shapes[0]
    # Which of several it is to be may be told by a column that is no field.
    return ANYTHING._replace(filled=frozenset().union(*(shape.filled for shape in shapes)))


def _alternatives(type_: Any) -> list[Any]:
    origin = typing.get_origin(type_)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(type_)[0])
    if origin in (typing.Union, UnionType):
        given = [one for one in typing.get_args(type_) if one is not NoneType]
        return [found for one in given for found in _alternatives(one)]
    return [type_]


def _shape_of_one(type_: Any) -> Shape:
    base = typing.get_origin(type_) or type_
    if is_model(base):
        return _shape_of_model(base)
    if isinstance(base, type) and issubclass(base, msgspec.Struct):
        config = base.__struct_config__
        if not config.array_like:
            return _shape_of_struct(base, config.tag_field)
    elif dataclasses.is_dataclass(base):
        return _shape_of_dataclass(base)
    elif typing.is_typeddict(base):
        return _shape_of_typed_dict(base)
    elif isinstance(base, type) and issubclass(base, Mapping):
        return ANYTHING
    raise ConfigError(f"type: {type_!r} has no fields").hint(
        "give a msgspec.Struct, a dataclass, a TypedDict or a pydantic model"
    )


def _shape_of_struct(type_: type[msgspec.Struct], tag_field: str | None) -> Shape:
    fields = msgspec.structs.fields(type_)
    names = {field.encode_name for field in fields}
    return Shape(
        frozenset(names | {tag_field} if tag_field else names),
        frozenset(field.encode_name for field in fields if field.required),
        frozenset(field.encode_name for field in fields if field.default is not msgspec.UNSET),
    )


def _shape_of_dataclass(type_: Any) -> Shape:
    fields, missing = dataclasses.fields(type_), dataclasses.MISSING
    required = [f.name for f in fields if f.default is missing and f.default_factory is missing]
    return Shape(
        frozenset(field.name for field in fields),
        frozenset(required),
        frozenset(field.name for field in fields if field.default is not msgspec.UNSET),
    )


def _shape_of_typed_dict(type_: Any) -> Shape:
    hints = typing.get_type_hints(type_, include_extras=True)
    # Where annotations are texts, __required_keys__ has those that are not required as well.
    optional = {name for name, one in hints.items() if typing.get_origin(one) is typing.NotRequired}
    required = frozenset(type_.__required_keys__ - optional)
    return Shape(frozenset(hints), required, required)  # Nothing is filled in for the others.


def _shape_of_model(type_: Any) -> Shape:
    """Return the shape of a pydantic model, of which a validator may make what is required."""
    if getattr(type_, "__pydantic_root_model__", False):
        return ANYTHING
    names = set(type_.model_fields)
    for field in type_.model_fields.values():
        names |= _alias_names(field.alias) | _alias_names(field.validation_alias)
    columns = None if type_.model_config.get("extra") == "allow" else frozenset(names)
    return Shape(columns, frozenset(), frozenset(names))


def _alias_names(alias: Any) -> set[str]:
    """Return the columns of an alias: a name, choices of several, or a path into a value."""
    if alias is None:
        return set()
    if isinstance(alias, str):
        return {alias}
    choices = getattr(alias, "choices", None)
    if choices is None:
        return {alias.path[0]}
    return {name for choice in choices for name in _alias_names(choice)}
