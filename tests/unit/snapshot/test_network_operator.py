from __future__ import annotations

from typing import Any

import pytest

from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, OperatorId
from flowsnap.core.manifest import OperatorStateValues
from flowsnap.errors import ConfigError, LocalProtocolError
from flowsnap.runtime.context import NoTables, Place, TaskContext
from flowsnap.snapshot.network import Event, Process
from flowsnap.snapshot.network_operator import EVENTS, ProcessOperator


class Echo(Process):
    """Sends back what it hears, and keeps it."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self._cache = "not kept"

    def on_start(self) -> None:
        self.send("Q", self.heard)

    def on_message(self, channel: str, message: Any) -> None:
        self.heard.append(message)
        self.send("Q", message)
        self.emit((channel, message))


class Bench:
    """One operator, and what has left it."""

    def __init__(
        self, process: Process | None = None, restored: tuple[OperatorStateValues, ...] = ()
    ) -> None:
        self.operator = ProcessOperator(
            "P", process or Echo(), inputs=("Q",), outputs=("Q",), is_logged=True
        )
        place = Place("job", 0, 1, AttemptId(1), lambda: 0, restored)
        self.context = TaskContext(NoTables(), OperatorId("P.process"), place)
        self.operator.open(self.context)

    def sent(self) -> list[Any]:
        return list(self.context.side_outputs["to.Q"].values)

    def log(self) -> list[Event]:
        return list(self.context.side_outputs[EVENTS].values)


def test_process_begins_when_it_is_first_called() -> None:
    bench = Bench()
    assert bench.operator.next_processing_time_ms() == 0

    list(bench.operator.on_processing_time(0))

    assert bench.sent() == [("P", 1, [])]
    assert bench.operator.next_processing_time_ms() is None


def test_process_begins_before_its_first_message_and_only_once() -> None:
    bench = Bench()

    bench.operator.process(Batch([("Q", 1, "a"), ("Q", 2, "b")]))
    list(bench.operator.on_processing_time(0))

    assert bench.sent() == [("P", 1, []), ("P", 2, "a"), ("P", 3, "b")]


def test_process_begins_before_its_first_snapshot() -> None:
    bench = Bench()

    list(bench.operator.before_barrier())

    assert bench.sent() == [("P", 1, [])]


def test_what_is_emitted_is_the_output_of_the_operator() -> None:
    output = Bench().operator.process(Batch([("Q", 1, "a")]))

    assert output.values == [("Q", "a")]


def test_message_is_a_copy_of_what_was_sent() -> None:
    bench = Bench()

    bench.operator.process(Batch([("Q", 1, "later")]))

    assert bench.sent()[0] == ("P", 1, [])


def test_restored_process_goes_on_with_its_state_and_its_counts() -> None:
    bench = Bench()
    bench.operator.process(Batch([("Q", 1, "a")]))
    list(bench.operator.before_barrier())

    again = Bench(restored=bench.context.operator_states())
    again.operator.process(Batch([("Q", 2, "b")]))

    assert again.sent() == [("P", 3, "b")]
    assert again.operator._process.heard == ["a", "b"]  # type: ignore[attr-defined]
    assert again.log()[0].number == 3


def test_private_attributes_are_no_state() -> None:
    bench = Bench()
    list(bench.operator.before_barrier())

    (record,) = bench.operator._state.get()

    assert record == {"state": {"heard": []}, "sent": {"Q": 1}, "received": {"Q": 0}, "events": 1}


def test_template_is_left_alone() -> None:
    process = Echo()

    Bench(process).operator.process(Batch([("Q", 1, "a")]))

    assert process.heard == []


def test_log_has_every_event_with_what_was_sent_by_it() -> None:
    bench = Bench()

    bench.operator.process(Batch([("Q", 1, "a")]))

    start, message = bench.log()
    assert (start.kind, start.number, start.sent) == ("start", 1, (("Q", 1, []),))
    assert (message.kind, message.channel, message.message_number) == ("message", "Q", 1)
    assert message.sent == (("Q", 2, "a"),)
    assert message.state == {"heard": ["a"]}
    assert message.at_ns >= start.at_ns


def test_message_out_of_turn_is_an_error() -> None:
    with pytest.raises(LocalProtocolError, match="got message 2 of 'Q' where number 1 was due"):
        Bench().operator.process(Batch([("Q", 2, "b")]))


class Sender(Process):
    """Sends what it is told to whom it is told."""

    def __init__(self, channel: str, message: Any = None) -> None:
        self.channel = channel
        self._message = message

    def on_start(self) -> None:
        self.send(self.channel, self._message)


def test_channel_that_is_not_there_is_refused_where_it_is_used() -> None:
    with pytest.raises(ConfigError, match="process 'P' has no channel to 'R'") as caught:
        list(Bench(Sender("R")).operator.before_barrier())

    assert "it has channels to Q" in caught.value.__notes__[0]


def test_message_that_cannot_be_pickled_is_refused_where_it_is_sent() -> None:
    process = Sender("Q")
    bench = Bench(process)
    bench.operator._process._message = (n for n in "ab")  # type: ignore[attr-defined]

    with pytest.raises(ConfigError, match="message 1 to 'Q' cannot be pickled"):
        list(bench.operator.before_barrier())
    assert bench.sent() == []


def test_process_knows_its_name_and_its_channels() -> None:
    process = Bench().operator._process

    assert (process.name, process.inputs, process.outputs) == ("P", ("Q",), ("Q",))


def test_process_that_takes_no_messages_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"Sender\.on_message"):
        Bench(Sender("Q")).operator.process(Batch([("Q", 1, "a")]))
