"""Who may write to a job in object storage: one job manager at a time, by a lease.

::

    lock/00000007.json      the seventh job manager: who it is, and how often it has renewed

Where a directory has ``flock``, object storage has only the conditional put. To take possession is
to create the record of the next number; whoever finds a higher number than its own has lost. The
owner renews its record every third of ``LEASE_MS``, and stops writing by itself where it could not,
by its own clock; it goes on when it has got the next number as any newcomer would. Nobody compares
clocks: a newcomer watches the record, and takes over when it has not changed for a whole lease and
the longest time that a request can be under way. An owner that is known to be dead, on this very
host, is not waited for, and one that let go neither.

A lease keeps two honest job managers apart. One that was paused between its last look and its
write is stopped by what it writes: attempts and checkpoint ids are conditional puts themselves, and
a manifest can be barred (``object_directory.py``).

Source: C. Gray and D. Cheriton, "Leases: An Efficient Fault-Tolerant Mechanism for Distributed File
Cache Consistency" (SOSP 1989). Deviation: a lease is watched, never read off a clock of another
host.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from flowsnap.errors import ConfigError, ManifestCorrupt, StorageError
from flowsnap.storage import layout
from flowsnap.storage.publish import create_surely
from flowsnap.storage.record import Record, seal, unseal
from flowsnap.storage.store import CheckpointStore

LEASE_MS = 30_000
REQUEST_TIMEOUT_MS = 20_000
RENEWAL_TIMEOUT_MS = 5_000  # With its repetitions it takes less than the longest request.
RENEWAL_MS_MAX = 10_000
LOOK_MS = 1_000

_NUMBERED = re.compile(rf"{layout.LOCK}/(\d{{8,}})\.json")


class OwnerRecord(Record, frozen=True, kw_only=True):
    """A job manager; ``process`` tells processes of one host apart, and is empty where none can."""

    number: int
    pid: int
    host: str
    process: str
    nonce: str
    since: str
    renewals: int = 0
    is_released: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """The outside world of a lease: clock, sleep, and what is known of another process."""

    now_ms: Callable[[], int]
    sleep_ms: Callable[[int], None]
    is_dead: Callable[[OwnerRecord], bool]
    is_alive: Callable[[OwnerRecord], bool]


class Lease:
    """The right to write to a job, for as long as it is renewed; made by ``acquire``."""

    def __init__(self, store: CheckpointStore, record: OwnerRecord, waiting: Waiting) -> None:
        self._store = store
        self._record = record
        self._waiting = waiting
        self._until_ms = waiting.now_ms() + LEASE_MS
        self._lost = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def acquire(cls, store: CheckpointStore, place: str, waiting: Waiting | None = None) -> Self:
        """Take possession of the job at ``place``; waits for a lease that may have run out.

        Raises:
            ConfigError: another job manager is at work.
            StorageError: the store failed.
        """
        waiting = waiting or system()
        newest = _newest(store)
        if newest is not None:
            _await_end(store, newest, place, waiting)
        record = OwnerRecord(
            number=1 if newest is None else newest.number + 1,
            pid=os.getpid(),
            host=socket.gethostname(),
            process=_process(os.getpid()),
            nonce=secrets.token_hex(8),
            since=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        )
        lease = cls(store, record, waiting)
        if not create_surely(store, _path(record.number), seal(record)):
            raise _in_use(place, _newest(store) or record)
        with suppress(StorageError):
            for file in store.list(f"{layout.LOCK}/"):
                if file.name < _path(record.number):
                    store.delete(file.name, is_durable=False)
        return lease

    def start(self) -> None:
        """Renew from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="flowsnap-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Return if we may write.

        Raises:
            StorageError: another job manager may be at work by now; nothing was written.
        """
        reason = self._lost
        if not reason and self._waiting.now_ms() >= self._until_ms:
            reason = "it could not be renewed in time"
        if reason:
            raise StorageError(f"the lease of job manager {self._record.number} is lost: {reason}")

    def renew(self) -> None:
        """Renew once; who has lost the lease notices at ``check``.

        Raises:
            StorageError: the store failed; the lease may still be renewed before it ends.
        """
        begun_ms = self._waiting.now_ms()
        newest = _newest(self._store)
        if newest is None or newest.nonce != self._record.nonce:
            self._lost = "another job manager has taken over"
            return
        if begun_ms < self._until_ms:
            record = msgspec.structs.replace(self._record, renewals=self._record.renewals + 1)
            self._store.put(_path(record.number), seal(record))
        else:  # Somebody may be about to take over: the next number goes to one of us.
            record = msgspec.structs.replace(self._record, number=self._record.number + 1)
            if not create_surely(self._store, _path(record.number), seal(record)):
                self._lost = "another job manager has taken over"
                return
        self._record, self._until_ms = record, begun_ms + LEASE_MS

    def release(self) -> None:
        """Let go, so that nobody has to wait; a second time does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.check()
            record = msgspec.structs.replace(self._record, is_released=True)
            self._store.put(_path(record.number), seal(record))
        except StorageError:
            pass  # It runs out by itself.
        self._lost = self._lost or "it was released"

    def _run(self) -> None:
        while not self._stop.wait(LEASE_MS / 3000) and not self._lost:
            try:
                self.renew()
            except (StorageError, ManifestCorrupt):
                continue  # Until it has run out, which ``check`` notices.


def system() -> Waiting:
    """Return the world as it is."""
    return Waiting(_now_ms, lambda ms: time.sleep(ms / 1000), _is_dead, _is_alive)


def _await_end(store: CheckpointStore, seen: OwnerRecord, place: str, waiting: Waiting) -> None:
    """Return when an owner is gone for good, or raise as soon as it shows that it is not."""
    if waiting.is_alive(seen) and not seen.is_released:
        raise _in_use(place, seen)
    until_ms = waiting.now_ms() + LEASE_MS + REQUEST_TIMEOUT_MS
    while not (seen.is_released or waiting.is_dead(seen)) and waiting.now_ms() < until_ms:
        waiting.sleep_ms(LOOK_MS)
        found = _newest(store)
        if found is None or (found != seen and not found.is_released):
            raise _in_use(place, found or seen)
        seen = found


def _newest(store: CheckpointStore) -> OwnerRecord | None:
    numbers = [_NUMBERED.fullmatch(file.name) for file in store.list(f"{layout.LOCK}/")]
    newest = max((int(match[1]) for match in numbers if match is not None), default=None)
    if newest is None:
        return None
    return unseal(store.get(_path(newest)), OwnerRecord, _path(newest))


def _path(number: int) -> str:
    return f"{layout.LOCK}/{number:08d}.json"


def _in_use(place: str, owner: OwnerRecord) -> ConfigError:
    return ConfigError(
        f"{place} is in use by process {owner.pid} on {owner.host} since {owner.since}"
    ).hint("stop that job first, or choose another job name")


# --- what is known of processes --------------------------------------------------------------


def _now_ms() -> int:
    # Linux has a clock that goes on while the machine sleeps; on macOS the usual one does.
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1_000_000


def _process(pid: int) -> str:
    """Return what a process is called for as long as this machine runs, where that is known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = os.readlink("/proc/self/ns/pid")
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{boot} {space} {'gone' if fields[0] in 'ZX' else fields[19]}"


def _is_dead(owner: OwnerRecord) -> bool:
    """Return whether a process was one of this system, and surely is no more."""
    own = _process(os.getpid())
    is_here = bool(own) and own.rpartition(" ")[0] == owner.process.rpartition(" ")[0]
    return is_here and _process(owner.pid) != owner.process


def _is_alive(owner: OwnerRecord) -> bool:
    """Return whether a process is one of this system, and surely still is."""
    return bool(owner.process) and _process(owner.pid) == owner.process
