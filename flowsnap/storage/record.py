"""The small records of a job directory: a line of JSON that ends with the sha256 of the rest.

The same seal as a manifest's: a truncation or a flipped bit anywhere is found before anything in
the record is believed.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TypeVar

import msgspec

from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.errors import ManifestCorrupt

FORMAT_VERSION = 1

_TAIL = re.compile(rb',"sha256":"([0-9a-f]{64})"}\n')
_TAIL_BYTES = len(',"sha256":""}\n') + 64


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What every record begins with."""

    format_version: int = FORMAT_VERSION


class Identity(Record, frozen=True, kw_only=True):
    """Whose directory it is. ``run_id`` is empty until the first run; times are for people.

    ``lineage``: those of the former runs whose history the current run goes on with; none after a
    fresh start, or after one from the savepoint of another job.
    """

    job: str
    run_id: str
    former_run_ids: tuple[str, ...]
    created_at_ms: int
    lineage: tuple[str, ...] = ()


class AttemptRecord(Record, frozen=True, kw_only=True):
    """An attempt has begun; ``nonce`` tells two job managers apart that begin the same one."""

    attempt: AttemptId
    run_id: str
    pid: int
    host: str
    nonce: str
    begun_at_ms: int


class Reservation(Record, frozen=True, kw_only=True):
    """The id of a checkpoint is taken."""

    checkpoint_id: CheckpointId
    nonce: str
    begun_at_ms: int


class Completion(Record, frozen=True, kw_only=True):
    """What became known of a checkpoint only after its manifest; for people alone.

    ``manifest_ms``: from its trigger until the manifest was durable; ``commit_ms``: from then until
    every sink had committed.
    """

    checkpoint_id: CheckpointId
    manifest_ms: int
    commit_ms: int


class Outcome(Record, frozen=True, kw_only=True):
    """How a run ended: ``state`` is the job's last one."""

    run_id: str
    state: str
    message: str
    ended_at_ms: int


R = TypeVar("R", bound=Record)


def seal(record: Record) -> bytes:
    """Return the bytes of a record; the same record gives the same bytes."""
    head = msgspec.json.encode(record).removesuffix(b"}")
    return head + f',"sha256":"{sha256(head).hexdigest()}"}}\n'.encode()


def unseal(data: bytes, type_: type[R], source: str) -> R:
    """Return the record of ``data``; ``source`` is the path it was read from.

    Raises:
        ManifestCorrupt: it is damaged, of another version, or none.
    """
    head, tail = data[:-_TAIL_BYTES], _TAIL.fullmatch(data[-_TAIL_BYTES:])
    if tail is None:
        raise ManifestCorrupt(f"{source} is no record of flowsnap: it {_describe(data)}").hint(
            "it was not written to its end, or by something else than this version of flowsnap"
        )
    expected, found = tail[1].decode(), sha256(head).hexdigest()
    if found != expected:
        raise ManifestCorrupt(f"{source} is damaged: its sha256 is {found}, expected {expected}")
    try:
        version = msgspec.json.decode(data, type=Record).format_version
        if version != FORMAT_VERSION:
            raise ManifestCorrupt(
                f"{source} has format version {version}, expected {FORMAT_VERSION}"
            ).hint("read it with the version of flowsnap that wrote it")
        return msgspec.json.decode(data, type=type_)
    except msgspec.MsgspecError as error:
        raise ManifestCorrupt(f"{source} is no valid record: {error}") from error


def _describe(data: bytes) -> str:
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"is not JSON ({error})"
    if isinstance(body, dict) and body.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        return f"has format version {body['format_version']}, expected {FORMAT_VERSION}"
    return "does not end with a sha256"
