"""Two job managers and one lease: who may write, and who finds that it may not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowsnap.errors import ConfigError, StorageError
from flowsnap.storage.lease import (
    LEASE_MS,
    REQUEST_TIMEOUT_MS,
    Lease,
    OwnerRecord,
    Waiting,
    system,
)
from flowsnap.storage.memory import MemoryStore

PLACE = "s3://bucket/state/job"


class Hosts:
    """Several hosts, on which nobody knows of the processes of another; only sleeping takes time.

    ``meanwhile`` is what happens elsewhere whenever somebody sleeps.
    """

    def __init__(self) -> None:
        self.now_ms = 0
        self.meanwhile: Callable[[], object] = lambda: None
        self.dead: set[int] = set()
        self.alive: set[int] = set()
        self.store = MemoryStore()

    def acquire(self) -> Lease:
        waiting = Waiting(
            lambda: self.now_ms,
            self._pass,
            lambda owner: owner.number in self.dead,
            lambda owner: owner.number in self.alive,
        )
        return Lease.acquire(self.store, PLACE, waiting)

    def _pass(self, pause_ms: int) -> None:
        self.now_ms += pause_ms
        self.meanwhile()


@pytest.fixture
def hosts() -> Hosts:
    return Hosts()


def test_the_first_may_write_at_once(hosts: Hosts) -> None:
    hosts.acquire().check()

    assert hosts.now_ms == 0


def test_while_the_first_renews_a_second_is_refused(hosts: Hosts) -> None:
    first = hosts.acquire()
    hosts.meanwhile = first.renew

    with pytest.raises(ConfigError, match="is in use by process"):
        hosts.acquire()
    first.check()


def test_one_that_is_known_to_be_alive_is_not_waited_for(hosts: Hosts) -> None:
    hosts.acquire()
    hosts.alive = {1}

    with pytest.raises(ConfigError, match="is in use"):
        hosts.acquire()
    assert hosts.now_ms == 0


@pytest.mark.parametrize("is_released", [True, False])
def test_one_that_let_go_or_is_known_to_be_dead_is_not_waited_for(
    hosts: Hosts, is_released: bool
) -> None:
    first = hosts.acquire()
    if is_released:
        first.release()
    else:
        hosts.dead = {1}

    hosts.acquire().check()

    assert hosts.now_ms == 0


def test_a_silent_one_is_succeeded_after_its_lease_and_its_longest_request(hosts: Hosts) -> None:
    first = hosts.acquire()

    second = hosts.acquire()

    second.check()
    assert hosts.now_ms >= LEASE_MS + REQUEST_TIMEOUT_MS
    with pytest.raises(StorageError, match="could not be renewed in time") as raised:
        first.check()
    assert raised.value.is_definite


def test_one_that_was_succeeded_never_renews_again(hosts: Hosts) -> None:
    first, second = hosts.acquire(), hosts.acquire()

    first.renew()

    with pytest.raises(StorageError, match="another job manager has taken over"):
        first.check()
    first.release()
    second.renew()
    second.check()


def test_a_renewed_lease_lasts_longer(hosts: Hosts) -> None:
    lease = hosts.acquire()
    for _ in range(5):
        hosts.now_ms += LEASE_MS - 1
        lease.check()
        lease.renew()

    hosts.now_ms += LEASE_MS
    with pytest.raises(StorageError, match="is lost"):
        lease.check()


def test_one_that_nobody_succeeded_gets_its_lease_anew(hosts: Hosts) -> None:
    lease = hosts.acquire()
    hosts.now_ms += LEASE_MS
    with pytest.raises(StorageError, match="could not be renewed in time"):
        lease.check()

    lease.renew()

    lease.check()
    assert [file.name for file in hosts.store.list()][-1] == "lock/00000002.json"


def test_a_late_renewal_and_a_newcomer_never_both_succeed(hosts: Hosts) -> None:
    late = hosts.acquire()
    hosts.now_ms += LEASE_MS
    newcomer = hosts.acquire()

    late.renew()

    newcomer.check()
    with pytest.raises(StorageError, match="another job manager has taken over"):
        late.check()


def test_a_released_lease_allows_nothing(hosts: Hosts) -> None:
    lease = hosts.acquire()
    lease.release()
    lease.release()

    with pytest.raises(StorageError, match="it was released"):
        lease.check()


def test_of_two_that_found_it_free_one_gets_it(hosts: Hosts) -> None:
    hosts.acquire().release()
    hosts.dead = {1}

    class Race(MemoryStore):
        def create(self, name: str, data: bytes, **settings: object) -> bool:
            hosts.store = original
            hosts.acquire()
            return original.create(name, data)

    original, race = hosts.store, Race()
    race._files = original._files
    hosts.store = race
    with pytest.raises(ConfigError, match="is in use"):
        hosts.acquire()


def test_a_process_of_this_host_is_known_to_be_alive_or_dead() -> None:
    record = Lease.acquire(MemoryStore(), PLACE)._record
    if not record.process:
        pytest.skip("this system does not tell processes apart")
    gone = OwnerRecord(
        number=1, pid=2**22 + 1, host="h", process=record.process, nonce="", since=""
    )

    assert system().is_alive(record)
    assert not system().is_dead(record)
    assert system().is_dead(gone)


def test_a_started_lease_renews_itself_until_it_is_released() -> None:
    store = MemoryStore()
    lease = Lease.acquire(store, PLACE)

    lease.start()
    lease.release()

    with pytest.raises(StorageError):
        lease.check()
    Lease.acquire(store, PLACE).check()
