"""The one module that loads pickles.

Edges, keyed state and the user's code are Python objects, so their bytes are pickles, and loading a
pickle runs code. Whoever calls ``load`` or ``load_code`` has checked before where the bytes came
from: a frame of an authenticated peer, a file whose sha256 a verified manifest lists, or the
code blob whose sha256 the job manager announced. Nothing else in flowsnap may unpickle
(``tests/test_architecture.py`` enforces it).

``load_plain`` runs no code of anybody: it takes any bytes, knows a fixed list of plain types, and
puts an ``Opaque`` in the place of everything else.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import hashlib
import inspect
import io
import ipaddress
import pathlib
import pickle
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable, Iterable
from functools import lru_cache
from reprlib import recursive_repr
from typing import Any, ClassVar, NoReturn
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import cloudpickle
import msgspec

from flowsnap.errors import ConfigError, StateError

PROTOCOL = 5


def dump(value: object) -> bytes:
    """Return ``value`` as pickle bytes, by value where it can't be found by name.

    Raises:
        pickle.PicklingError, TypeError, AttributeError: the value cannot be pickled at all.
    """
    try:
        return pickle.dumps(value, PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError):
        return _by_value(value)


def _by_value(value: object) -> bytes:
    file = io.BytesIO()
    _CodePickler(file, PROTOCOL).dump(value)
    return file.getvalue()


class _CodePickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Pickles the class of a msgspec.Struct whole, where it travels by value.

    cloudpickle makes an empty class and gives it its attributes afterwards; a Struct made so would
    have no fields, and lose those of every record without a word.
    """

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented or not isinstance(obj, type):
            return reduced
        if not isinstance(obj, type(msgspec.Struct)):
            if len(reduced) > 2:  # What msgspec has found out of a dataclass.
                reduced[2][0].pop("__msgspec_cache__", None)
            return reduced
        annotations = inspect.get_annotations(obj)
        own = [field for field in msgspec.structs.fields(obj) if field.name in annotations]
        fields = [(field.name, *_default_of(field)) for field in own]
        config = {name: getattr(obj.__struct_config__, name) for name in _STRUCT_CONFIG}
        config["kw_only"] = bool(own) and own[0].name not in obj.__match_args__
        config["rename"] = {field.name: field.encode_name for field in own}
        made = (obj.__name__, obj.__qualname__, obj.__module__, obj.__bases__, fields, config)
        names = [field.name for field in own]
        hidden = {"__annotations__", "__slots__", "__dict__", "__weakref__", *names}
        state = {
            name: attribute
            for name, attribute in vars(obj).items()
            if name not in hidden and not name.startswith(("__struct_", "__match_"))
        }
        # After the class has been made: types and methods may refer to it.
        types_ = {field.name: field.type for field in own}
        has_hook = "__post_init__" in state
        arguments = (_identity_of(obj), *made, has_hook)
        return _made_struct, arguments, (types_, state), None, None, _complete_struct


_STRUCT_IDS: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_STRUCTS: WeakValueDictionary[str, type] = WeakValueDictionary()
_UNFINISHED: WeakSet[type] = WeakSet()
"""Classes that travel by value, known by an identity of their own: in one process each is one."""


def _identity_of(class_: type) -> str:
    identity = _STRUCT_IDS.setdefault(class_, uuid.uuid4().hex)
    _STRUCTS[identity] = class_
    return identity


def _default_of(field: msgspec.structs.FieldInfo) -> tuple[str, Any]:
    if field.default is not msgspec.NODEFAULT:
        return "default", field.default
    if field.default_factory is not msgspec.NODEFAULT:
        return "default_factory", field.default_factory
    return "", None


def _made_struct(*parts: Any) -> Any:
    identity, name, qualname, module, bases, fields, config, has_hook = parts
    if identity in _STRUCTS:
        return _STRUCTS[identity]
    # msgspec looks for the hook when a class is made.
    hooks = {"__post_init__": lambda self: self._flowsnap_post_init()} if has_hook else {}
    made: Any = msgspec.defstruct(
        name,
        [
            (field, Any, msgspec.field(**{kind: default})) if kind else (field, Any)
            for field, kind, default in fields
        ],
        bases=bases,
        module=module,
        namespace=hooks,
        **config,
    )
    made.__qualname__ = qualname
    _STRUCT_IDS[made], _STRUCTS[identity] = identity, made
    _UNFINISHED.add(made)
    return made


def _complete_struct(made: Any, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    if made not in _UNFINISHED:
        return  # It has been here before, or is the very class that was pickled.
    _UNFINISHED.discard(made)
    annotations, attributes = state
    made.__annotations__ = annotations
    for name, attribute in attributes.items():
        setattr(made, "_flowsnap_post_init" if name == "__post_init__" else name, attribute)


_STRUCT_CONFIG = (
    "frozen", "eq", "order", "array_like", "gc", "repr_omit_defaults", "omit_defaults",
    "forbid_unknown_fields", "weakref", "dict", "cache_hash", "tag", "tag_field",
)  # fmt: skip


def load(data: bytes | memoryview, buffers: Iterable[Any] = ()) -> Any:
    """Return the value of pickle bytes that come from a verified place (see the module)."""
    return pickle.loads(data, buffers=buffers)


def load_plain(data: bytes | memoryview) -> Any:
    """Return the value of pickle bytes from anywhere, without importing or calling what they name.

    Values of a fixed list of plain types come back as they were; an ``Opaque`` stands for an
    object of any other.

    Raises:
        StateError: the bytes are no pickle, or one that needs its classes to be put together.
    """
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # What a forged pickle makes of plain types is anybody's guess.
        raise StateError(f"{len(data)} bytes are no plain value: {error}").hint(
            "read it with the classes of the job: trust=True"
        ) from error


class Opaque:
    """An object whose class is not loaded: the name of its type, and what it was made of."""

    __slots__ = ("_arguments", "_items", "_names", "_state")

    type_name: ClassVar[str] = "object"
    """``module.qualname`` of its class."""

    _arguments: tuple[Any, ...]
    _names: dict[str, Any]
    _state: Any
    _items: list[Any]

    def __new__(cls, *arguments: Any, **names: Any) -> Opaque:
        made = object.__new__(cls)
        made._arguments, made._names, made._state, made._items = arguments, names, None, []
        return made

    @property
    def fields(self) -> dict[str, Any]:
        """What it was made of, by name; by number where names are not in the bytes."""
        found = {str(number): value for number, value in enumerate(self._arguments)} | self._names
        state = self._state
        is_pair = isinstance(state, tuple) and len(state) == 2
        # As ``object`` hands it over: the instance's dict, and what is in its slots.
        if not (is_pair and all(part is None or isinstance(part, dict) for part in state)):
            state = (state,)
        for part in state:
            if isinstance(part, dict):
                found |= {str(name): value for name, value in part.items()}
            elif isinstance(part, (list, tuple)):
                found |= {str(number): value for number, value in enumerate(part)}
            elif part is not None:
                found["state"] = part
        if self._items:
            found["items"] = self._items
        return found

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def append(self, item: Any) -> None:
        """Take an item, as a list would."""
        self._items.append(item)

    def extend(self, items: Iterable[Any]) -> None:
        """Take items, as a list would."""
        self._items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._items.append((key, value))

    def __call__(self, *arguments: Any) -> Opaque:
        return Opaque(self, *arguments)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"it stands for a {self.type_name}, whose class was not loaded")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Opaque) or self.type_name != other.type_name:
            return False
        return self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.type_name)  # What it is made of may be mutable, or still to come.

    @recursive_repr()
    def __repr__(self) -> str:
        inside = ", ".join(
            repr(value) if name.isdigit() else f"{name}={value!r}"
            for name, value in self.fields.items()
        )
        return f"{self.type_name.rpartition('.')[2]}({inside})"


@lru_cache(maxsize=1024)
def opaque_type(type_name: str) -> type[Opaque]:
    """Return the class of the placeholders for objects of a type."""
    return type("Opaque", (Opaque,), {"__slots__": (), "type_name": type_name})


class _Plain:
    """A plain type that a pickle may call and nothing else: it cannot be changed through it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any, **names: Any) -> Any:
        return self._make(*arguments, **names)

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("a type cannot be changed")

    def __repr__(self) -> str:
        return f"<{getattr(self._make, '__qualname__', self._make)}>"


def _from_fields(class_: Callable[..., Any], fields: dict[str, Any]) -> Any:
    return class_(**fields)  # How a msgspec.Struct of named fields is pickled.


def _attribute(owner: Any, name: Any) -> Any:
    """Answer ``getattr`` in a pickle: how a time zone, and in some versions an enum, is found."""
    if owner is _ZONE and name == "_unpickle":
        return _Plain(lambda key, _: zoneinfo.ZoneInfo(key))
    if isinstance(owner, type) and issubclass(owner, Opaque):
        return owner(name)  # A member of an enum.
    return opaque_type("builtins.getattr")(owner, name)


_ZONE = _Plain(zoneinfo.ZoneInfo)
_PLAIN_TYPES: dict[str, Any] = {
    f"{type_.__module__}.{type_.__qualname__}": type_
    for type_ in (
        bool, bytearray, bytes, complex, dict, float, frozenset, int, list, range, set, slice, str,
        tuple, collections.Counter, collections.OrderedDict, collections.defaultdict,
        collections.deque, datetime.date, datetime.datetime, datetime.time, datetime.timedelta,
        datetime.timezone, decimal.Decimal, fractions.Fraction, ipaddress.IPv4Address,
        ipaddress.IPv6Address, pathlib.PurePosixPath,
    )
} | {
    "pathlib.PurePosixPath": pathlib.PurePosixPath,
    "pathlib.PosixPath": pathlib.PurePosixPath,
    "pathlib._local.PurePosixPath": pathlib.PurePosixPath,
    "pathlib._local.PosixPath": pathlib.PurePosixPath,
    "builtins.getattr": _attribute,
    "msgspec._core.rebuild": _from_fields,
    "msgspec._utils.rebuild": _from_fields,
}  # fmt: skip


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full == "uuid.UUID":
            return uuid.UUID  # Its pickle makes it by __new__; its own __setstate__ guards it.
        if full == "zoneinfo.ZoneInfo":
            return _ZONE
        plain = _PLAIN_TYPES.get(full)
        return opaque_type(full) if plain is None else _Plain(plain)


def dump_code(value: object, by_value: Iterable[str] = ()) -> bytes:
    """Return the user's code as one blob.

    ``by_value`` names modules that a worker cannot import (the script itself, a file given on
    the command line): their functions and classes travel inside the blob, and their classes are
    put back under the module's name by ``load_code``, so that instances pickle by reference.

    Raises:
        ConfigError: something in the pipeline cannot be pickled.
    """
    names = [name for name in by_value if name in sys.modules]
    registered = [sys.modules[name] for name in names if name != "__main__"]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        classes = {name: _own_classes(sys.modules[name]) for name in names}
        return _by_value((classes, value))
    except Exception as error:
        raise ConfigError(f"the pipeline cannot be pickled: {error}").hint(
            "a lock, an open file or a connection cannot travel to a worker: open it in the "
            "operator's open() method, or make it where it is used"
        ) from error
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def load_code(blob: bytes, sha256: str) -> Any:
    """Return the user's code from its blob, once its hash is what was announced.

    Raises:
        ConfigError: the blob is not the announced one.
    """
    if code_sha256(blob) != sha256:
        raise ConfigError("the code blob does not have the announced sha256")
    classes, value = cloudpickle.loads(blob)
    for name, found in classes.items():
        module = sys.modules.setdefault(name, types.ModuleType(name))
        for attribute, class_ in found.items():
            setattr(module, attribute, class_)
    return value


def code_sha256(blob: bytes) -> str:
    """Return the hex sha256 of a code blob."""
    return hashlib.sha256(blob).hexdigest()


def _own_classes(module: types.ModuleType) -> dict[str, type]:
    found = {}
    for name, value in vars(module).items():
        if isinstance(value, type) and value.__module__ == module.__name__:
            try:
                cloudpickle.dumps(value, PROTOCOL)
            except Exception:
                continue
            found[name] = value
    return found
