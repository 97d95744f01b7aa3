"""Kafka over TLS, with and without a password: it works, and the password is shown nowhere."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")

from flowsnap.connectors import kafka_topics
from flowsnap.connectors.kafka import Json, KafkaSink, KafkaSource
from flowsnap.connectors.kafka_client import REQUEST_S, ClientSettings
from flowsnap.errors import ConfigError, FlowsnapError, OutputRefused
from tests.connectors.kafka_reading import gather, numbers, opened, rest
from tests.connectors.sinks import committed, submitted
from tests.servers.kafka.broker import broker
from tests.servers.kafka.security import PASSWORD, PLAIN, SCRAM, secured

pytestmark = pytest.mark.slow

WRONG = "not-the-canary"


@pytest.fixture
def topic() -> str:
    return broker().topic(2)


def way_in(login: str, password: str = PASSWORD) -> tuple[str, dict[str, Any]]:
    """Return an address, and the settings that are asked for there."""
    if login == "TLS":
        return secured().tls, secured().tls_settings()
    return secured().sasl, secured().sasl_settings(login, password)


def source_of(topic: str, login: str, password: str = PASSWORD, **more: Any) -> KafkaSource:
    address, settings = way_in(login, password)
    return KafkaSource(address, topic, format=Json(int), settings=settings, **more)


def sink_of(topic: str, login: str, password: str = PASSWORD, **more: Any) -> KafkaSink:
    address, settings = way_in(login, password)
    names = {"marker_topic": f"{topic}-markers", "transaction_prefix": topic}
    return KafkaSink(address, topic, settings=settings, **{**names, **more})


def error_of(action: Callable[[], object]) -> FlowsnapError:
    with pytest.raises(FlowsnapError) as caught:
        action()
    return caught.value


@pytest.mark.parametrize("login", ["TLS", PLAIN, SCRAM])
def test_epochs_are_written_and_read_through_a_secured_listener(
    topic: str, tmp_path: Path, login: str
) -> None:
    committed(submitted(sink_of(topic, login), tmp_path), [1, 2], [3])
    reading = source_of(topic, login, until="latest")

    found = [value for split in reading.splits(1) for value in rest(reading, split)]

    assert sorted(found) == [1, 2, 3]


def test_records_are_sent_at_once_through_a_secured_listener(topic: str, tmp_path: Path) -> None:
    committed(submitted(sink_of(topic, SCRAM, guarantee="at-least-once"), tmp_path), [1, 2])

    assert sorted(int(message.value()) for message in broker().read(topic)) == [1, 2]


def refusal_at_submission(action: Callable[[], object]) -> ConfigError:
    """Return why a submission was refused, which took much less than a broker is waited for."""
    begun_s = time.monotonic()
    error = error_of(action)
    assert time.monotonic() - begun_s < REQUEST_S / 2
    assert isinstance(error, ConfigError)
    return error


@pytest.mark.parametrize("mechanism", [PLAIN, SCRAM])
def test_source_with_a_wrong_password_is_refused_at_once_and_does_not_show_it(
    topic: str, caplog: pytest.LogCaptureFixture, mechanism: str
) -> None:
    reading = source_of(topic, mechanism, WRONG)

    error = refusal_at_submission(lambda: reading.splits(1))

    told = [*traceback.format_exception(error), repr(reading), repr(reading.settings), caplog.text]
    assert "Authentication failed" in str(error)
    assert WRONG not in "".join(told)


@pytest.mark.parametrize("guarantee", ["exactly-once", "at-least-once"])
def test_sink_with_a_wrong_password_is_refused_at_once_and_does_not_show_it(
    topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, guarantee: str
) -> None:
    sink = sink_of(topic, SCRAM, WRONG, guarantee=guarantee)

    error = refusal_at_submission(lambda: submitted(sink, tmp_path))

    told = [*traceback.format_exception(error), repr(sink), repr(sink.settings), caplog.text]
    assert "Authentication failed" in str(error)
    assert WRONG not in "".join(told)


def test_mechanism_that_the_broker_does_not_know_is_refused_at_once(topic: str) -> None:
    error = refusal_at_submission(lambda: source_of(topic, "SCRAM-SHA-256").splits(1))

    assert "supported mechanisms: PLAIN,SCRAM-SHA-512" in str(error)


@pytest.mark.parametrize("mechanism", [PLAIN, SCRAM])
def test_source_whose_password_has_become_wrong_fails_and_does_not_show_it(
    topic: str, caplog: pytest.LogCaptureFixture, mechanism: str
) -> None:
    broker().write(topic, numbers(1))
    splits = source_of(topic, mechanism).splits(1)

    with opened(source_of(topic, mechanism, WRONG), splits) as readers:
        error = error_of(lambda: gather(readers, 1))

    assert isinstance(error, ConfigError)
    assert WRONG not in "".join([*traceback.format_exception(error), caplog.text])


def test_sink_whose_password_has_become_wrong_fails_and_does_not_show_it(
    topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = submitted(sink_of(topic, SCRAM, retry_timeout="0s"), tmp_path)
    sink.settings = sink_of(topic, SCRAM, WRONG).settings

    error = error_of(lambda: committed(sink, [1]))

    told = [*traceback.format_exception(error), repr(sink), repr(sink.settings), caplog.text]
    assert isinstance(error, OutputRefused)
    assert WRONG not in "".join(told)


def test_server_whose_certificate_nobody_vouches_for_is_refused_at_once(topic: str) -> None:
    reading = KafkaSource(secured().tls, topic, settings={"security.protocol": "SSL"})

    error = refusal_at_submission(lambda: reading.splits(1))

    assert "certificate verify failed" in str(error)


def test_broker_that_does_not_speak_tls_fails_the_submission_with_the_reason(
    topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_topics, "REQUEST_S", 0.5)
    reading = KafkaSource(broker().servers, topic, settings=secured().tls_settings())

    error = error_of(lambda: reading.splits(1))

    assert isinstance(error, ConfigError)
    assert "in state SSL_HANDSHAKE" in str(error)  # The client says it in two ways.


def test_function_that_gives_a_token_is_asked_for_one_by_the_client_that_only_asks() -> None:
    asked: list[str] = []

    def token(config: str) -> tuple[str, float]:
        asked.append(config)
        return "token", time.time() + 60

    login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER"}
    ClientSettings("127.0.0.1:1", {**login, "oauth_cb": token}, {}).admin()

    assert asked
