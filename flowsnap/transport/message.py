"""Control messages as bytes: MessagePack with a schema and a limit, and never a pickle."""

from __future__ import annotations

from typing import Any

import msgspec

from flowsnap.core.message import MESSAGE_BYTES_MAX, FromWorker, ToWorker
from flowsnap.errors import LocalProtocolError, PeerProtocolError

_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError, ValueError)


def encode_message(message: FromWorker | ToWorker) -> bytes:
    """Return a message as bytes.

    Raises:
        LocalProtocolError: it is larger than ``MESSAGE_BYTES_MAX``, or holds a value that
            MessagePack has no type for (a source's position, a sink's committable).
    """
    kind = type(message).__name__
    try:
        data = _encoder.encode(message)
    except (TypeError, OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"{kind} cannot be encoded: {error}").hint(
            "positions and committables are made of None, bool, int, float, str, bytes, list, dict"
        ) from error
    if len(data) > MESSAGE_BYTES_MAX:
        raise LocalProtocolError(
            f"{kind} has {len(data)} bytes, more than the {MESSAGE_BYTES_MAX} allowed"
        )
    return data


def decode_from_worker(data: bytes | memoryview) -> FromWorker:
    """Return the message of a worker.

    Raises:
        PeerProtocolError: it is too large, or none of ``FromWorker``.
    """
    message: FromWorker = _decode(_from_worker, data)
    return message


def decode_to_worker(data: bytes | memoryview) -> ToWorker:
    """Return the message of a job manager.

    Raises:
        PeerProtocolError: it is too large, or none of ``ToWorker``.
    """
    message: ToWorker = _decode(_to_worker, data)
    return message


def _decode(decoder: msgspec.msgpack.Decoder[Any], data: bytes | memoryview) -> Any:
    if len(data) > MESSAGE_BYTES_MAX:
        raise PeerProtocolError(
            f"a message of {len(data)} bytes, more than the {MESSAGE_BYTES_MAX} allowed"
        )
    try:
        return decoder.decode(data)
    except _MALFORMED as error:
        raise PeerProtocolError(f"a message that does not parse: {error}") from error


_encoder = msgspec.msgpack.Encoder()
_from_worker: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(FromWorker)
_to_worker: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ToWorker)
