"""The one module that loads pickles.

Edges, keyed state and the user's code are Python objects, so their bytes are pickles, and loading a
pickle runs code. Whoever calls ``load`` or ``load_code`` has checked before where the bytes came
from: a frame of an authenticated peer, a file whose sha256 a verified manifest lists, or the
code blob whose sha256 the job manager announced. Nothing else in flowsnap may unpickle
(``tests/test_architecture.py`` enforces it).
"""

from __future__ import annotations

import hashlib
import pickle
import sys
import types
from collections.abc import Iterable
from typing import Any

import cloudpickle

from flowsnap.errors import ConfigError

PROTOCOL = 5


def dump(value: object) -> bytes:
    """Return ``value`` as pickle bytes, by value where it can't be found by name.

    Raises:
        pickle.PicklingError, TypeError, AttributeError: the value cannot be pickled at all.
    """
    try:
        return pickle.dumps(value, PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError):
        return bytes(cloudpickle.dumps(value, PROTOCOL))


def load(data: bytes | memoryview, buffers: Iterable[Any] = ()) -> Any:
    """Return the value of pickle bytes that come from a verified place (see the module)."""
    return pickle.loads(data, buffers=buffers)


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
        return bytes(cloudpickle.dumps((classes, value), PROTOCOL))
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
