"""What must come out: the plan of a job as a pure function of its input.

This is the oracle, and shares nothing with the engine: no batch, no state, no parallelism, no
operator. A stream is a dict from origin to the list of its numbers, in order; where no order is
promised, the lists are bags.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from flowsnap.testing.plan import Node

Record = tuple[str, int]
Streams = dict[str, list[int]]


def mapped(record: Record) -> Record:
    """Replace the number by another one."""
    return record[0], (record[1] * 3 + 1) % 1009


def is_kept(record: Record) -> bool:
    """Whether a filter lets a record pass."""
    return record[1] % 4 != 0


def flattened(record: Record) -> list[Record]:
    """Return one record or two."""
    if record[1] % 3:
        return [record]
    return [record, (record[0], (record[1] + 7) % 1009)]


def chained(hashed: int, number: int) -> int:
    """Return the next value of an order-sensitive hash."""
    return (hashed * 31 + number + 1) % 1_000_003


def evaluate(
    nodes: Sequence[Node], inputs: Mapping[str, Mapping[str, Sequence[int]]], *, is_ended: bool
) -> dict[str, Counter[Record]]:
    """Return what every sink must have got; ``inputs``: by source and split, what was read.

    ``is_ended``: the end of input has been processed as well.
    """
    streams: list[Streams] = []
    for node in nodes:
        streams.append(_apply(node, [streams[index] for index in node.inputs], inputs, is_ended))
    return {
        node.name: Counter(
            (origin, number) for origin, numbers in found.items() for number in numbers
        )
        for node, found in zip(nodes, streams, strict=True)
        if node.kind == "sink"
    }


def _apply(
    node: Node,
    above: list[Streams],
    inputs: Mapping[str, Mapping[str, Sequence[int]]],
    is_ended: bool,
) -> Streams:
    match node.kind:
        case "source":
            return {origin: list(numbers) for origin, numbers in inputs[node.name].items()}
        case "union":
            return _union(above)
        case "chain":
            return _chain(node, above[0])
        case "count" | "total":
            return _aggregate(node, above[0], is_ended=is_ended)
        case _:
            return _stateless(node, above[0])


def _union(above: list[Streams]) -> Streams:
    merged: Streams = defaultdict(list)
    for stream in above:
        for origin, numbers in stream.items():
            merged[origin] += numbers
    return merged


def _stateless(node: Node, stream: Streams) -> Streams:
    match node.kind:
        case "tag":
            return {f"{origin}/{node.number}": some for origin, some in stream.items()}
        case "map":
            return {o: [mapped((o, n))[1] for n in some] for o, some in stream.items()}
        case "filter":
            return {o: [n for n in some if is_kept((o, n))] for o, some in stream.items()}
        case "flat_map":
            return {
                o: [m for n in some for _, m in flattened((o, n))] for o, some in stream.items()
            }
        case _:  # rebalance, sink
            return stream


def _chain(node: Node, stream: Streams) -> Streams:
    found: Streams = defaultdict(list)
    for origin, numbers in stream.items():
        hashes: dict[int, int] = {}
        for number in numbers:
            key = number % node.number
            hashes[key] = chained(hashes.get(key, 0), number)
            found[f"{origin}|{key}"].append(hashes[key])
    return found


def _aggregate(node: Node, stream: Streams, *, is_ended: bool) -> Streams:
    numbers = [number for some in stream.values() for number in some]
    if node.kind == "count":
        counts = Counter(number % node.number for number in numbers)
        every = [key * 1000 + n for key, count in counts.items() for n in range(1, count + 1)]
        return {node.name: every}
    totals: Counter[int] = Counter()
    for number in numbers if is_ended else []:
        totals[number % node.number] += number
    return {node.name: [key * 1000 + total % 1000 for key, total in totals.items()]}
