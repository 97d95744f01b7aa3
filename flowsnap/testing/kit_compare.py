"""Are two outputs the same? As bags, or in order for each key, whatever the records are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

SHOWN_MAX = 4
Project = Callable[[Any], Any]


def frozen(value: Any) -> Hashable:
    """Return something hashable that is equal for equal values, and for those alone.

    Mappings, lists and sets are taken apart, and so are dataclasses and structs that are not
    hashable; of anything else that is not, its ``repr`` counts.
    """
    match value:
        case Mapping():
            pairs = [(frozen(key), frozen(one)) for key, one in value.items()]
            return ("mapping", frozenset(pairs))
        case list():
            return ("list", tuple(map(frozen, value)))
        case tuple():
            return (type(value).__name__, tuple(map(frozen, value)))
        case set() | frozenset():
            return ("set", frozenset(map(frozen, value)))
        case msgspec.Struct():
            names = value.__struct_fields__
            return (type(value).__name__, tuple(frozen(getattr(value, one)) for one in names))
        case _:
            return _frozen_object(value)


def difference(found: Iterable[Any], expected: Iterable[Any]) -> str:
    """Return in one line which records are lost and which too many; empty: none."""
    shown: dict[Hashable, Any] = {}
    bags = []
    for records in (found, expected):
        keys = [frozen(record) for record in records]
        shown |= dict(zip(keys, records, strict=True))
        bags.append(Counter(keys))
    lost, surplus = bags[1] - bags[0], bags[0] - bags[1]
    if not lost and not surplus:
        return ""
    return ", ".join(
        f"{_records(bag.total())} {what}: {_examples(shown[one] for one in bag)}"
        for bag, what in ((lost, "lost"), (surplus, "too many"))
        if bag
    )


def disorder(found: Iterable[Any], expected: Iterable[Any], key: Project) -> str:
    """Return in one line for which key the records come in another order; empty: for none."""
    ours, theirs = _by_key(found, key), _by_key(expected, key)
    for one, records in theirs.items():
        if ours.get(one) != records:
            return f"the records of key {one!r} come in another order"
    return ""


def _by_key(records: Iterable[Any], key: Project) -> dict[Hashable, list[Hashable]]:
    found: dict[Hashable, list[Hashable]] = defaultdict(list)
    for record in records:
        found[key(record)].append(frozen(record))
    return found


def _frozen_object(value: Any) -> Hashable:
    if is_dataclass(value) and not isinstance(value, type):
        parts = tuple(frozen(getattr(value, field.name)) for field in fields(value))
        return (type(value).__name__, parts)
    try:
        hash(value)
    except TypeError:
        return (type(value).__name__, repr(value))
    kept: Hashable = value
    return kept


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"


def _examples(records: Iterable[Any]) -> str:
    shown = [repr(record) for record in records]
    more = f" and {len(shown) - SHOWN_MAX} more kinds" if len(shown) > SHOWN_MAX else ""
    return ", ".join(shown[:SHOWN_MAX]) + more
