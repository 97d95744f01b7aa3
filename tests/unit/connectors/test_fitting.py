from __future__ import annotations

import logging
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from confluent_kafka import KafkaException, Producer

from flowsnap import Pipeline, bounded
from flowsnap.connectors import ByTime, Collect, CsvFiles, DeadLetter, Discard, JsonLinesFiles
from flowsnap.connectors.fitting import raw_of, tried
from flowsnap.connectors.kafka import KafkaRecord, KafkaSink
from flowsnap.connectors.kafka_producer import message_bytes
from flowsnap.connectors.parquet_files import ParquetFiles
from flowsnap.connectors.postgres import Postgres
from flowsnap.connectors.sqlite import SQLite
from flowsnap.core.element import Batch
from flowsnap.core.operator import Sink, SinkContext
from flowsnap.errors import ConfigError
from flowsnap.testing import Harness
from tests.ends import context

SECRET = "hunter2"
BROKER = "127.0.0.1:1"


class Colour(Enum):
    RED = "red"


class Car(msgspec.Struct):
    colour: Colour
    seats: int = 4


def by_country(record: Any) -> Any:
    return record["country"]


def misfits(sink: Sink, *values: Any, times: list[int] | None = None) -> dict[int, str]:
    tell = sink.misfits(context())
    assert tell is not None
    return tell(Batch(list(values), times))


Case = tuple[Callable[[Path], Sink], Any, Any, str]

CASES: dict[str, Case] = {
    "json, no form": (JsonLinesFiles, 1, object(), "cannot be written as JSON: .*object"),
    "json, half a character": (JsonLinesFiles, "a", SECRET + "\ud800", "surrogates not allowed"),
    "json, no field of the type": (
        lambda path: JsonLinesFiles(path, type=Car), Car(Colour.RED), {"seats": SECRET},
        "Expected `int`, got `str`",
    ),
    "json, no value of an enum": (
        lambda path: JsonLinesFiles(path, type=Car), {"colour": "red"}, {"colour": SECRET},
        r"JSON: Invalid enum value - at `\$\[0\]\.colour`$",
    ),
    "json, no directory": (
        lambda path: JsonLinesFiles(path, partition_by="day"), {"day": 1}, {SECRET: 1},
        "a dict has no 'day'",
    ),
    "json, a function that fails": (
        lambda path: JsonLinesFiles(path, partition_by=by_country), {"country": 1}, {SECRET: 1},
        "KeyError in a function of the sink",
    ),
    "json, a time that is none": (
        lambda path: JsonLinesFiles(path, partition_by=ByTime(field="at")), {"at": 1},
        {"at": SECRET}, "a str is no time",
    ),
    "csv, too many fields": (
        lambda path: CsvFiles(path, columns=["a"]), ("x",), (SECRET, "y"), "2 fields where",
    ),
    "csv, no field of a row": (
        lambda path: CsvFiles(path, columns=["a"]), ("x",), ([SECRET],), "a list is no field",
    ),
    "parquet, another type": (
        lambda path: ParquetFiles(path, schema=pa.schema([("n", pa.int64())])), {"n": 1},
        {"n": SECRET}, "a str has no form in column 'n': int64",
    ),
    "parquet, no value": (
        lambda path: ParquetFiles(path, schema=pa.schema([pa.field("n", pa.int64(), False)])),
        {"n": 1}, {"n": None}, "column 'n' has no value, which its schema demands",
    ),
    "sqlite, a missing column": (
        lambda path: SQLite(path / "db", "t", columns=["a", "b"]), (1, 2), {"a": SECRET},
        "has no column 'b'",
    ),
    "sqlite, too large a number": (
        lambda path: SQLite(path / "db", "t", columns=["a"]), 2**63 - 1, 2**63,
        "an integer of more than 64 bits",
    ),
    "sqlite, another type": (
        lambda path: SQLite(path / "db", "t", type=Car), {"colour": Colour.RED, "seats": 1},
        {"colour": "red", "seats": SECRET}, r"Expected `int`, got `str` - at `\$\[0\]\.seats`",
    ),
    "postgres, no form in a column": (
        lambda _: Postgres("host=db", "t", columns=["a"]), {"a": [1]}, {"a": 1j},
        "a complex in column 'a'",
    ),
    "postgres, a number for no epoch": (
        lambda _: Postgres("host=db", "t", columns=["a"]), {"a": 1}, {"a": 2**64}, "2\\*\\*64 - 1",
    ),
    "postgres, a character that no text has": (
        lambda _: Postgres("host=db", "t", columns=["a"]), {"a": "x"}, {"a": SECRET + "\0"},
        "has a NUL in a text",
    ),
    "kafka, no form": (lambda _: KafkaSink(BROKER, "t"), 1, object(), "written in the format"),
    "kafka, no key": (
        lambda _: KafkaSink(BROKER, "t", key=by_country), {"country": "de"}, {SECRET: 1},
        "KeyError in a function of the sink",
    ),
    "kafka, no text as the key": (
        lambda _: KafkaSink(BROKER, "t", key=by_country), {"country": "de"}, {"country": 7},
        "the key of it cannot be written in the format: a int is not a string",
    ),
    "kafka, no message": (
        lambda _: KafkaSink(BROKER, "t", message=lambda one: one), KafkaRecord(value=1), SECRET,
        "became a str by message=, not a KafkaRecord",
    ),
    "kafka, too large": (
        lambda _: KafkaSink(BROKER, "t", settings={"message.max.bytes": 1100}), "x", "x" * 1100,
        "has 1138 bytes, and message.max.bytes is 1100",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_misfit_is_told_with_the_reason_and_without_the_value(name: str, tmp_path: Path) -> None:
    make, good, bad, reason = CASES[name]
    sink = make(tmp_path)

    found = misfits(sink, good, bad, good)

    assert list(found) == [1]
    assert re.search(reason, found[1])
    assert SECRET not in found[1]
    assert misfits(sink, good, good) == {}


def test_message_is_as_large_as_the_client_takes_it_for() -> None:
    producer = Producer({"bootstrap.servers": BROKER}, logger=logging.getLogger("silent"))
    headers = (("name", b"x" * 70), ("none", None))
    for key, more in ((None, None), (b"key", headers)):
        room = 1_000_000 - message_bytes((b"", key, None, more, None, None))

        producer.produce("t", b"x" * room, key, headers=more and list(more))
        with pytest.raises(KafkaException, match="too large"):
            producer.produce("t", b"x" * (room + 1), key, headers=more and list(more))
    producer.purge()
    producer.poll(0)


def test_misfits_in_directories_by_event_time_are_told_by_their_own_times(tmp_path: Path) -> None:
    sink = JsonLinesFiles(tmp_path, partition_by=ByTime("%Y"))

    assert list(misfits(sink, 1, 2, 3, times=[0, 10**17, 0])) == [1]


def test_what_fails_together_and_not_alone_is_left_to_the_sink() -> None:
    def attempt(batch: Batch) -> None:
        if len(batch) > 1:
            raise ValueError("too many")

    assert tried(attempt)(Batch([1, 2])) == {}


def test_mistake_of_the_pipeline_is_no_misfit(tmp_path: Path) -> None:
    sink = JsonLinesFiles(tmp_path, partition_by=ByTime("%Y"))

    with pytest.raises(ConfigError, match="no event time to choose a directory by"):
        misfits(sink, 1)


def test_limit_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"message\.max\.bytes is not a number"):
        misfits(KafkaSink(BROKER, "t", settings={"message.max.bytes": SECRET}))


def test_raw_text_is_json_or_else_what_the_record_says_of_itself() -> None:
    assert raw_of({"a": [1, None]}) == '{"a":[1,null]}'
    assert raw_of(1j) == "1j"
    assert raw_of("\ud800") == r"'\ud800'"
    assert raw_of((10**5000, 1)) == "a tuple"


# --- in a pipeline ----------------------------------------------------------------------------


def pipeline(**settings: Any) -> Pipeline:
    drawn = Pipeline("letters")
    settings = {"name": "out", "dead_letters": Collect(), **settings}
    drawn.source(JsonLinesFiles("in"), name="in").sink(SQLite("db", "t", columns=["n"]), **settings)
    return drawn


def letter(raw: str, offset: int, source: str = "out/0") -> DeadLetter:
    return DeadLetter(raw, "has 2 values for 1 columns", source, offset)


def test_dead_letters_have_their_place_and_event_time() -> None:
    def timed(letters: Any) -> None:
        letters.process(lambda one, context: [(one, context.timestamp)]).sink(
            Collect(), name="timed"
        )

    drawn = Pipeline("letters")
    source = drawn.source(JsonLinesFiles("in"), watermark=bounded("0s"), name="in")
    source.sink(SQLite("db", "t", columns=["n"]), name="out", dead_letters=timed)
    with Harness(drawn) as harness:
        harness.push("in", 1, (1, 2), 3, timestamp=5)
        harness.push("in", (3, 4), timestamp=9)

        assert harness.output("out") == [1, 3]
        assert harness.output("timed") == [(letter("[1,2]", 1), 5), (letter("[3,4]", 3), 9)]


def test_dead_letters_belong_to_the_checkpoint_of_the_records_beside_them() -> None:
    with Harness(pipeline()) as harness:
        harness.push("in", 1, (1, 2))
        harness.checkpoint()
        harness.push("in", (3, 4), 5)
        committed = harness.output("out-letters").committed
        harness.crash()
        harness.restore()

        assert committed == [letter("[1,2]", 1)]
        assert harness.output("out-letters") == [letter("[1,2]", 1), letter("[3,4]", 2)]
        assert harness.output("out") == [1, 5]


def test_no_two_dead_letters_have_one_place_with_another_parallelism() -> None:
    with Harness(pipeline(), parallelism=2, partitions=2) as harness:
        for partition in (0, 0, 1):
            harness.push("in", 0, (1, 2), partition=partition)
        harness.rescale(3)
        harness.rescale(2)
        for partition in (0, 1):
            harness.push("in", 0, (3, 4), partition=partition)
        letters = list(harness.output("out-letters"))

        assert len({(one.source, one.offset) for one in letters}) == len(letters) == 5


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dead_letters": 3}, "dead_letters: 3 is not a sink"),
        ({"dead_letters": lambda letters: None}, "nothing reads the dead letters of 'out-fit'"),
        ({"name": "no name"}, "'no name' is not a name"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        pipeline(**settings).definition()


def test_sink_that_cannot_tell_what_it_takes_is_refused() -> None:
    stream = Pipeline("letters").from_iterable([1])

    with pytest.raises(ConfigError, match="Discard does not tell which records it can take"):
        stream.sink(Discard(), dead_letters=Collect())


class Unsure(SQLite):
    def misfits(self, context: SinkContext) -> None:
        """Tell nothing."""


def test_sink_that_tells_nothing_after_all_fails_the_job() -> None:
    drawn = Pipeline("letters")
    drawn.from_iterable([1]).sink(Unsure("db", "t"), name="out", dead_letters=Collect())

    with pytest.raises(ConfigError, match="sink 'out' does not tell which records it can take"):
        Harness(drawn)


def test_option_of_sources_is_refused_at_a_sink() -> None:
    drawn = Pipeline("letters")
    drawn.from_iterable([1]).sink(JsonLinesFiles("out", on_error="dead-letter"), name="out")

    with pytest.raises(
        ConfigError, match=r"'out' \(drawn at .*\) has on_error, which is for sourc"
    ):
        drawn.definition()


def test_names_are_made_for_sinks_of_any_name() -> None:
    drawn, long = Pipeline("letters"), "x" * 64
    stream = drawn.from_iterable([1], name="in")
    for name in (None, long):
        stream.sink(SQLite("db", "t"), name=name, dead_letters=Collect(), parallelism=3)
    widths = {one.name: one.parallelism for one in drawn.definition(2).graph.operators[1:]}

    assert list(widths) == [
        "sqlite-1-fit", "sqlite-1", "sqlite-1-letters",
        "x" * 60 + "-fit", long, "x" * 56 + "-letters",
    ]  # fmt: skip
    assert set(widths.values()) == {3}
