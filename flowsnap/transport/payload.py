"""The payload of a batch: a pickle stream, and large buffers beside it.

A batch travels as the tuple ``(values, timestamps, keys)``, pickled by protocol 5; behind these
come the numbers of its vector clock, in a job that is traced. Buffers that the records offer out of
band (NumPy arrays do) become parts of their own and are not copied into the stream; so do large
``bytes``, in a batch of nothing else. A batch larger than a frame may be is split in halves by
records until each piece fits; the receiver joins the pieces, so that one batch stays one batch and
costs one credit.

Only the payload of a frame that ``session.py`` has accepted may be decoded: that runs code.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from flowsnap import serialize
from flowsnap.core.element import Batch
from flowsnap.errors import PeerProtocolError
from flowsnap.transport.frame import PARTS_MAX

BUFFER_BYTES_MIN = 16_384  # below, one more part costs more than the copy it saves
BUFFERS_MAX = PARTS_MAX - 1  # one part is the pickle stream's

_NOT_PICKLABLE = (pickle.PicklingError, TypeError, AttributeError, RecursionError)
_NOT_LOADABLE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class Payload(NamedTuple):
    """``records`` records, encoded: the pickle ``stream`` and the ``buffers`` that it refers to.

    ``size_bytes`` counts both. ``is_opaque``: each buffer is to become a ``bytes`` again, and not
    a view of memory.
    """

    records: int
    size_bytes: int
    stream: bytes
    buffers: list[memoryview]
    is_opaque: bool = False


def encode_batch(batch: Batch, payload_bytes_max: int) -> Iterator[Payload]:
    """Yield a batch as one payload, or as several that each fit ``payload_bytes_max``, in order.

    A buffer is not copied: its memory belongs to the record.

    Raises:
        TypeError: a record cannot be pickled, or is too large by itself.
    """
    payload = _encode(batch)
    if payload.size_bytes <= payload_bytes_max:
        yield payload
        return
    count = len(batch)
    if count == 1:
        raise TypeError(
            f"a record of type {_name(batch.values[0])} takes {payload.size_bytes} bytes, more "
            f"than the {payload_bytes_max} that can travel to another worker"
        )
    del payload  # twice the size of a large batch is enough
    middle = count // 2
    yield from encode_batch(batch.part(0, middle), payload_bytes_max)
    yield from encode_batch(batch.part(middle, count), payload_bytes_max)


def decode_batch(records: int, stream: memoryview, buffers: Sequence[memoryview | bytes]) -> Batch:
    """Return the batch of a payload; the values may keep the memory of ``buffers`` in use.

    Raises:
        PeerProtocolError: the payload is not a batch of ``records`` records.
    """
    try:
        values, timestamps, keys, *stamp = serialize.load(stream, buffers)
    except _NOT_LOADABLE as error:
        raise PeerProtocolError(f"a batch that cannot be loaded: {error!r}") from error
    columns = [values, *(column for column in (timestamps, keys) if column is not None)]
    if any(type(column) is not list or len(column) != records for column in columns):
        raise PeerProtocolError(f"a batch that does not hold the {records} records it announced")
    batch = Batch(values, timestamps, keys)
    if stamp:
        batch.stamp = tuple(stamp)
    return batch


def join(pieces: list[Batch]) -> Batch:
    """Return the batch that was split into ``pieces``."""
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    whole = Batch(
        _flatten([piece.values for piece in pieces]),
        None if first.timestamps is None else _flatten([piece.timestamps for piece in pieces]),
        None if first.keys is None else _flatten([piece.keys for piece in pieces]),
    )
    whole.stamp = first.stamp
    return whole


def _encode(batch: Batch) -> Payload:
    buffers: list[memoryview] = []

    def keep_in_stream(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < BUFFER_BYTES_MIN or len(buffers) == BUFFERS_MAX:
            return True
        buffers.append(raw)
        return False

    values, is_opaque = batch.values, _is_opaque(batch.values)
    if is_opaque:
        values = [
            value if len(value) < BUFFER_BYTES_MIN else pickle.PickleBuffer(value)
            for value in values
        ]
    columns = (values, batch.timestamps, batch.keys, *(batch.stamp or ()))
    try:
        stream = pickle.dumps(columns, serialize.PROTOCOL, buffer_callback=keep_in_stream)
    except _NOT_PICKLABLE:
        # By value, where a class or function can't be found by name: as keyed state does it.
        stream = _dump_by_value(batch)
        return Payload(len(values), len(stream), stream, [])
    size_bytes = len(stream)
    for buffer in buffers:
        size_bytes += buffer.nbytes
    return Payload(len(values), size_bytes, stream, buffers, is_opaque)


def _is_opaque(values: list[Any]) -> bool:
    """Whether large ``bytes`` are all there is; the first value answers for most batches."""
    return (
        bool(values)
        and type(values[0]) is bytes
        and len(values[0]) >= BUFFER_BYTES_MIN
        and all(type(value) is bytes for value in values)
    )


def _dump_by_value(batch: Batch) -> bytes:
    try:
        return serialize.dump((batch.values, batch.timestamps, batch.keys, *(batch.stamp or ())))
    except _NOT_PICKLABLE as error:
        failing, reason = _first_failing(batch, error)
        raise TypeError(
            f"a record of type {failing} cannot travel to another worker: {reason}"
        ) from error


def _first_failing(batch: Batch, error: Exception) -> tuple[str, Exception]:
    for value in [*batch.values, *(batch.keys or ())]:
        try:
            serialize.dump(value)
        except _NOT_PICKLABLE as reason:
            return _name(value), reason
    return "unknown", error


def _flatten(columns: list[Any]) -> list[Any]:
    return [item for column in columns if column is not None for item in column]


def _name(value: object) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
