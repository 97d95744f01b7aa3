"""Networks end to end, in this process and in others: the examples of the literature."""

from __future__ import annotations

import os
import re
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flowsnap.cli.target import load
from flowsnap.connectors import JsonLinesFiles
from flowsnap.errors import ConfigError, JobFailed
from flowsnap.examples import (
    bank,
    diffusing,
    garbage,
    philosophers,
    token_pair,
    token_ring,
    tokens,
)
from flowsnap.snapshot import Snapshot, check_cut
from flowsnap.snapshot.network import (
    Network,
    NetworkRun,
    NetworkSnapshot,
    Process,
    passes_through,
    reordered,
)
from flowsnap.snapshot.properties import terminated
from tests.integration.jobs import rows

FOREVER = 10**9


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_balances_and_money_in_transit_are_the_total(workers: int) -> None:
    with bank.network(FOREVER).start(workers=workers) as run:
        taken = [run.snapshot(who) for who in (["SF"], ["NY"], ["SF", "NY"], [])]

    assert [bank.total(one) for one in taken] == [1_000] * 4
    assert [one.violations() for one in taken] == [[]] * 4


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_every_snapshot_shows_each_token_once(workers: int) -> None:
    with tokens.network(FOREVER).start(workers=workers) as run:
        taken = [run.snapshot([name]) for name in "pqpq"]

    assert [token_pair.tokens_of(one) for one in taken] == [dict.fromkeys(tokens.COLOURS, 1)] * 4


def test_token_stays_where_it_is_when_all_turns_are_done() -> None:
    with token_pair.network(turns=20).start() as run:
        assert token_pair.place(run.wait(60)) == "in-p"
        assert run.emitted == [{"process": "p", "tokens": ["token"]}]


def test_money_that_appears_is_noticed_by_the_invariant() -> None:
    network = bank.network(FOREVER)
    network._processes["SF"].balance += 1  # type: ignore[attr-defined]

    with pytest.raises(JobFailed, match="'no_money_is_lost' does not hold"):  # noqa: SIM117
        with network.start() as run:
            run.snapshot()


def test_diffusing_computation_is_over_when_its_root_says_so() -> None:
    with diffusing.network(size=4).start() as run:
        taken = [run.snapshot([diffusing.ROOT]) for _ in range(2)]
        last = run.wait(60)

        assert terminated(last, is_active=diffusing.is_active)
        assert run.emitted == [{"process": "P0", "found": "terminated"}]
    for one in taken:
        if terminated(one, is_active=diffusing.is_active):
            assert one.events == last.events


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_philosophers_deadlock_and_the_circle_is_found(workers: int) -> None:
    with philosophers.network(count=3, meals=FOREVER).start(workers=workers) as run:
        found = philosophers.deadlock(run.wait(60))

    assert found is not None
    assert set(found.cycle) == {
        f"{kind}-{seat}" for kind in ("fork", "philosopher") for seat in "012"
    }
    assert str(found).startswith("fork-0 waits for philosopher-")


def test_polite_philosophers_do_not_deadlock() -> None:
    with philosophers.network(count=3, meals=5, polite=True).start() as run:
        last = run.wait(60)

        assert philosophers.deadlock(last) is None
        assert len(run.emitted) == 3


def test_token_of_a_ring_is_lost_and_seen_to_be() -> None:
    with token_ring.network(stations=3, drops_at=40).start() as run:
        first, last = run.snapshot(["S0"]), run.wait(60)

    assert token_ring.is_lost(last)
    assert not token_ring.is_lost(first) or first.events == last.events


def test_what_is_garbage_stays_garbage() -> None:
    found = []
    with garbage.network(steps=400).start() as run:
        found += [garbage.garbage(run.snapshot([name])) for name in "ABC"]
        found.append(garbage.garbage(run.wait(60)))

    assert all(former <= later for former, later in pairwise(found))
    assert found[-1]


class Relay(Process):
    """Passes numbers on to the next until they are great enough; keeps what it has seen."""

    def __init__(self, begin: int = 0) -> None:
        self.begin = begin
        self.seen: list[int] = []

    def on_start(self) -> None:
        if self.begin:
            self.send(self.outputs[0], self.begin)

    def on_message(self, channel: str, message: Any) -> None:
        self.seen.append(message)
        if message % 1_000:
            self.send(self.outputs[0], message + 1)
        else:
            self.emit(message)


def ring(**settings: Any) -> Network:
    made = Network("ring", **settings)
    for name in "PQR":
        made.add(name, Relay(begin=1 if name == "P" else 0))
    for source, target in ("PQ", "QR", "RP"):
        made.connect(source, target, one_way=True)
    return made


def test_recorded_state_is_reached_by_a_permutation_of_what_has_happened() -> None:
    with ring(log=True).start() as run:
        snapshot = run.snapshot(["Q"])
        run.wait(60)
        events = run.events

    assert len(events) == 1_003
    assert passes_through(reordered(events, snapshot), snapshot) is not None


def test_network_goes_on_where_it_was_stopped_and_starts_only_once(tmp_path: Path) -> None:
    with ring().start(state_dir=tmp_path) as run:
        run.snapshot()
        stopped = run.stop()
    with ring().start(state_dir=tmp_path) as run:
        last = run.wait(60)

    seen = [number for state in last.states.values() for number in state["seen"]]
    assert sorted(seen) == list(range(1, 1_001))
    assert last.violations() == stopped.violations() == []


@pytest.mark.slow
def test_no_money_is_lost_when_a_worker_is_killed() -> None:
    with bank.network(FOREVER).start(workers=2) as run:
        before = run.snapshot(["NY"])
        os.kill(run.handle.worker_pids()[0], signal.SIGKILL)
        after = run.snapshot(["SF"])

        assert run.handle.status().attempt == 2
    assert bank.total(before) == bank.total(after) == 1_000
    assert all(after.events[name] >= before.events[name] for name in after.events)
    assert after.violations() == []


def test_snapshot_of_a_network_at_rest_is_its_last(tmp_path: Path) -> None:
    with ring().start(state_dir=tmp_path) as run:
        last = run.wait(60)

        assert run.snapshot(["P"]) == last
        assert run.emitted == [1_000]


def test_snapshot_of_a_network_is_one_of_a_job_as_well(tmp_path: Path) -> None:
    with bank.network(FOREVER).start(state_dir=tmp_path, trace=True) as run:
        taken = run.snapshot(["SF"])
        with Snapshot.open(tmp_path / f"bank/checkpoints/{taken.checkpoint_id:08}") as opened:
            assert check_cut(opened) == []
            assert NetworkSnapshot.of(opened) == taken


class Broken(Process):
    """Does what it must not."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_start(self) -> None:
        if self.what == "raise":
            raise ValueError("no")
        self.send("nobody", 1)

    def on_message(self, channel: str, message: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("what", "message"),
    [("raise", "operator 'P.process'.*ValueError: no"), ("send", "has no channel to 'nobody'")],
)
def test_process_that_fails_fails_the_network(what: str, message: str) -> None:
    network = Network("broken")
    network.add("P", Broken(what))

    with (
        pytest.raises(JobFailed, match=message),
        network.start(restart={"strategy": "none"}) as run,
    ):
        run.wait(60)


def test_snapshot_cannot_begin_at_a_process_that_is_not_there() -> None:
    with (
        bank.network(FOREVER).start() as run,
        pytest.raises(ConfigError, match="cannot begin at 'LA'"),
    ):
        run.snapshot(["LA"])


def test_log_that_is_not_kept_is_refused() -> None:
    with ring().start() as run, pytest.raises(ConfigError, match="the network keeps no log"):
        _ = run.events


def test_what_goes_to_a_sink_is_not_collected(tmp_path: Path) -> None:
    with ring(output=JsonLinesFiles(tmp_path)).start() as run:
        run.wait(60)
        with pytest.raises(ConfigError, match="a sink of your own"):
            _ = run.emitted

    assert rows(tmp_path) == [1_000]


def test_run_that_is_closed_is_closed_again_without_effect() -> None:
    run: NetworkRun = bank.network(FOREVER).start()

    first, second = run.close(), run.close()

    assert first is not None
    assert second is not None
    assert first.state == second.state == "cancelled"


SMALL: dict[str, dict[str, str]] = {
    "token": {"turns": "5"},
    "tokens": {"turns": "5"},
    "bank": {"transfers": "5"},
    "diffusing": {"size": "3"},
    "philosophers": {"count": "3", "meals": "2"},
    "token_ring": {"stations": "3", "drops_at": "5"},
    "garbage": {"steps": "5"},
}


@pytest.mark.parametrize("name", SMALL)
def test_example_runs_as_a_pipeline(name: str, tmp_path: Path) -> None:
    arguments = SMALL[name] | {"output": str(tmp_path / "out")}

    result = load(f"flowsnap.examples.{name}", arguments).run(quiet=True)

    assert result.state == "finished"
    assert rows(tmp_path / "out")


@pytest.mark.parametrize(
    ("example", "said"), [(philosophers, "waits for fork-0"), (token_ring, "the token is lost")]
)
def test_example_shows_what_it_is_about(
    example: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    example.main()

    assert said in capsys.readouterr().out


def test_section_of_the_documentation_holds() -> None:
    page = Path(__file__).parents[2] / "docs" / "snapshots.md"
    section = page.read_text(encoding="utf-8").partition("## Networks of processes")[2]

    blocks = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)

    assert len(blocks) == 2
    exec("\n".join(blocks), {"__name__": "section"})
