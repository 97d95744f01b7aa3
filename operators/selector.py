"""Selectors: how an operator is told which part of a record it works on.

A selector is a function, the name or index of a field, a tuple of selectors (which selects a
tuple), or None, which selects the record itself. A name means the item of a mapping and the
attribute of any other object; an index means the item. The first record of a batch decides, for
the whole batch, so that the loop over the records stays in C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

from flowsnap.errors import ConfigError

Getter = Callable[[Any], Any]
Selector = Getter | str | int | tuple[Any, ...] | None


def check_selector(selector: object, what: str) -> None:
    """Check a selector when the pipeline is drawn; ``what`` names its place in the error.

    Raises:
        ConfigError: it is no selector.
    """
    if isinstance(selector, tuple) and selector:
        for part in selector:
            check_selector(part, what)
    elif isinstance(selector, bool) or not (
        selector is None or isinstance(selector, str | int) or callable(selector)
    ):
        raise ConfigError(f"{what}: {selector!r} does not select anything").hint(
            "pass a function, a field name, an index, or a tuple of those"
        )


def selected(selector: Selector, values: list[Any], cursor: Iterator[Any]) -> Iterator[Any]:
    """Return what is selected from each record of ``values``, which ``cursor`` walks."""
    if selector is None or not values:
        return cursor
    return map(resolve(selector, values[0]), cursor)


def resolve(selector: Selector, sample: Any) -> Getter:
    """Return the function that selects from records such as ``sample``.

    Raises:
        TypeError: the sample has no such field.
    """
    if selector is None:
        return _itself
    if callable(selector):
        return selector
    if not isinstance(selector, tuple):
        return itemgetter(selector) if _is_item(selector, sample) else attrgetter(str(selector))
    if len(selector) > 1 and all(isinstance(part, str | int) for part in selector):
        kinds = [_is_item(part, sample) for part in selector]
        if all(kinds):
            return itemgetter(*selector)
        if not any(kinds):
            return attrgetter(*selector)
    getters = [resolve(part, sample) for part in selector]
    return lambda record: tuple([getter(record) for getter in getters])


def _is_item(field: str | int, sample: Any) -> bool:
    """Return whether ``field`` is an item of ``sample``, rather than an attribute."""
    if isinstance(field, int) or isinstance(sample, Mapping):
        return True
    if hasattr(sample, field):
        return False
    if isinstance(sample, Sequence) or not hasattr(sample, "__getitem__"):
        raise TypeError(f"a record of type {type(sample).__name__} has no field {field!r}")
    return True


def _itself(record: Any) -> Any:
    return record
