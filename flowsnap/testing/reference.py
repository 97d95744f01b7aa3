"""What must come out: the plan of a job as a pure function of its input.

This is the oracle, and shares nothing with the engine: no batch, no state, no parallelism, no
watermark, no operator. A stream is a dict from origin to the list of its items, in order; where no
order is promised, the lists are bags. An item is ``(number, at_ms)``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from flowsnap.testing.plan import Node

Record = tuple[str, int, int]
Item = tuple[int, int]
Streams = dict[str, list[Item]]

SLOT_MS = 50
"""How long tumbling windows are, and the slots of timers."""
GAP_MS = 45
"""What parts two sessions; odd, since event times are even: none are exactly so far apart."""
NEAR_MS = 25
"""How far the partners of an interval join may be apart."""


def mapped(record: Record) -> Record:
    """Replace the number by another one."""
    return record[0], (record[1] * 3 + 1) % 1009, record[2]


def is_kept(record: Record) -> bool:
    """Whether a filter lets a record pass."""
    return record[1] % 4 != 0


def flattened(record: Record) -> list[Record]:
    """Return one record or two."""
    if record[1] % 3:
        return [record]
    return [record, (record[0], (record[1] + 7) % 1009, record[2])]


def chained(hashed: int, number: int) -> int:
    """Return the next value of an order-sensitive hash."""
    return (hashed * 31 + number + 1) % 1_000_003


def paired(left: int, right: int) -> int:
    """Return the number of a pair."""
    return (left * 31 + right) % 1_000_003


def spins(number: int) -> int:
    """Return how many times a record goes round, one after the other."""
    return 1 + number % 3


def laps(node: Node, number: int) -> int:
    """Return how many times it comes back to the outer loop."""
    return number % 3 if node.kind == "nested" else 0


def trail(number: int, left: int, laps_left: int) -> tuple[list[int], int]:
    """Return the numbers that a record in a loop still has at its hops, and that it leaves with."""
    passed = []
    while left or laps_left:
        if not left:
            left, laps_left = spins(number), laps_left - 1
        passed.append(number)
        number, left = mapped(("", number, 0))[1], left - 1
    return passed, number


def evaluate(
    nodes: Sequence[Node], inputs: Mapping[str, Mapping[str, Sequence[Item]]], *, is_ended: bool
) -> list[Streams]:
    """Return what has come out of every node; ``inputs``: by source and split, what was read.

    ``is_ended``: the end of input has been processed as well. Without it, only that of prompt
    nodes is known, and nothing comes out of the others.
    """
    streams: list[Streams] = []
    for node in nodes:
        above = [streams[index] for index in node.inputs]
        if node.kind == "source":
            streams.append({origin: list(items) for origin, items in inputs[node.name].items()})
        elif not is_ended and not node.is_prompt:
            streams.append({})
        else:
            streams.append(_STEPS[node.kind](node, above))
    return streams


def bag(stream: Streams) -> Counter[Record]:
    """Return the records of a stream, without their order."""
    return Counter((origin, *item) for origin, items in stream.items() for item in items)


def counted(node: Node, streams: Sequence[Streams]) -> Counter[int]:
    """Return how many records of each key a counting node has been given."""
    return Counter(number % node.number for number, _ in _items(streams[node.inputs[0]]))


def passed(node: Node, streams: Sequence[Streams]) -> Counter[int]:
    """Return how many hops each key of a loop sees, until all of its records have left."""
    trails = (
        trail(number, spins(number), laps(node, number))[0]
        for number, _ in _items(streams[node.inputs[0]])
    )
    return Counter(number % node.number for one in trails for number in one)


Step = Callable[[Node, list[Streams]], Streams]


def _same(node: Node, above: list[Streams]) -> Streams:
    return above[0]


def _union(node: Node, above: list[Streams]) -> Streams:
    merged: Streams = defaultdict(list)
    for stream in above:
        for origin, items in stream.items():
            merged[origin] += items
    return merged


def _each(fn: Callable[[Record], Iterable[Record]]) -> Step:
    def step(node: Node, above: list[Streams]) -> Streams:
        return {
            origin: [record[1:] for item in items for record in fn((origin, *item))]
            for origin, items in above[0].items()
        }

    return step


def _tag(node: Node, above: list[Streams]) -> Streams:
    return {f"{origin}/{node.number}": items for origin, items in above[0].items()}


def _chain(node: Node, above: list[Streams]) -> Streams:
    found: Streams = defaultdict(list)
    for origin, items in above[0].items():
        hashes: dict[int, int] = {}
        for number, at_ms in items:
            key = number % node.number
            hashes[key] = chained(hashes.get(key, 0), number)
            found[f"{origin}|{key}"].append((hashes[key], at_ms))
    return found


def _broadcast(node: Node, above: list[Streams]) -> Streams:
    """The records as they are, and for each rule what all of its origin so far amount to."""
    found = dict(above[0])
    for origin, items in above[1].items():
        so_far, values = 0, []
        for number, at_ms in items:
            so_far = chained(so_far, number) if node.is_ordered else so_far + 1
            values.append((so_far, at_ms if node.is_ordered else 0))
        found[f"{node.name}|{origin}"] = values
    return found


def _count(node: Node, above: list[Streams]) -> Streams:
    counts = Counter(number % node.number for number, _ in _items(above[0]))
    every = [(key * 1000 + n, 0) for key, count in counts.items() for n in range(1, count + 1)]
    return {node.name: every}


def _looped(node: Node, above: list[Streams]) -> Streams:
    return {
        origin: [
            (trail(number, spins(number), laps(node, number))[1], at_ms) for number, at_ms in items
        ]
        for origin, items in above[0].items()
    }


def _total(node: Node, above: list[Streams]) -> Streams:
    totals: Counter[int] = Counter()
    for number, _ in _items(above[0]):
        totals[number % node.number] += number
    return {node.name: [(key * 1000 + total % 1000, 0) for key, total in totals.items()]}


def _slots(node: Node, above: list[Streams]) -> Streams:
    """How many records of a key each slot of event time has: windows, and timers."""
    counts = Counter((number % node.number, at // SLOT_MS) for number, at in _items(above[0]))
    return {node.name: [(key * 1000 + n, slot * SLOT_MS) for (key, slot), n in counts.items()]}


def _late(node: Node, above: list[Streams]) -> Streams:
    """Every record comes out once, with its window, whether that was in time for it or not."""
    items = [(number, at_ms // SLOT_MS * SLOT_MS) for number, at_ms in _items(above[0])]
    return {node.name: items}


def _session(node: Node, above: list[Streams]) -> Streams:
    found: list[Item] = []
    for key in range(node.number):
        own = sorted((at, number) for number, at in _items(above[0]) if number % node.number == key)
        sessions: list[list[Item]] = []
        for index, (at_ms, number) in enumerate(own):
            if index == 0 or at_ms > own[index - 1][0] + GAP_MS:
                sessions.append([])
            sessions[-1].append((at_ms, number))
        for session in sessions:
            total = sum(number for _, number in session)
            found.append((key * 1000 + total % 1000, session[0][0]))
    return {node.name: found}


def _interval(node: Node, above: list[Streams]) -> Streams:
    found = [
        (paired(left, right), max(at_left, at_right))
        for left, at_left in _items(above[0])
        for right, at_right in _items(above[1])
        if left % node.number == right % node.number and abs(at_left - at_right) <= NEAR_MS
    ]
    return {node.name: found}


def _items(stream: Streams) -> list[Item]:
    return [item for items in stream.values() for item in items]


_STEPS: dict[str, Step] = {
    "union": _union,
    "tag": _tag,
    "map": _each(lambda record: [mapped(record)]),
    "async": _each(lambda record: [mapped(record)]),
    "async_any": _each(lambda record: [mapped(record)]),
    "filter": _each(lambda record: [record] if is_kept(record) else []),
    "flat_map": _each(flattened),
    "rebalance": _same,
    "sink": _same,
    "chain": _chain,
    "broadcast": _broadcast,
    "count": _count,
    "total": _total,
    "loop": _looped,
    "mover": _looped,
    "nested": _looped,
    "tumbling": _slots,
    "timer": _slots,
    "late": _late,
    "session": _session,
    "interval": _interval,
}
