"""What a Kafka source and sink can be told, what is refused, and what nobody gets to see."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")

from confluent_kafka import KafkaError

from flowsnap.connectors.kafka import KafkaSink, KafkaSource
from flowsnap.connectors.kafka_client import QUIET_S, ClientSettings, Once, write_error
from flowsnap.errors import ConfigError, OutputRefused, StoreUnavailable
from flowsnap.serialize import dump, load

SERVERS = "127.0.0.1:1"
SECRETS = {
    "sasl.password": "word-1",
    "ssl.key.password": "word-2",
    "ssl.key.pem": "word-3",
    "sasl.oauthbearer.client.secret": "word-4",
    "sasl.oauthbearer.config": "word-5",
    "ssl.keystore.password": "word-6",
}

WRONG_SOURCE: list[tuple[dict[str, Any], str]] = [
    ({"topics": ""}, "topics: '' is not a topic"),
    ({"topics": []}, "is not a topic"),
    ({"topics": ["a", "a"]}, "names a topic twice"),
    ({"servers": " "}, "servers: ' ' is not an address"),
    ({"format": "xml"}, "format: 'xml' is not a format"),
    ({"key_format": "xml"}, "key_format: 'xml' is not a format"),
    ({"start": "beginning"}, "start: 'beginning' is not known"),
    ({"until": "earliest"}, "until: 'earliest' is not known"),
    ({"start": datetime(2024, 1, 1)}, "has no time zone"),
    ({"start": {0: -1}}, "0: -1 is not partition: offset"),
    ({"start": {"0": 1}}, "'0': 1 is not partition: offset"),
    ({"start": {0: 1}, "topics": ["a", "b"]}, "for one topic, not 2"),
    ({"start": "committed"}, "give group="),
    ({"isolation": "serializable"}, "isolation: 'serializable' is not one of"),
    ({"on_data_loss": "ignore"}, "on_data_loss: 'ignore' is not one of"),
    ({"discover_every": "0s"}, "discover_every: '0s' is shorter"),
    ({"broker_timeout": "soon"}, "broker_timeout: 'soon' is not a duration"),
    ({"offsets": 3}, "no option 'offsets'"),
    ({"settings": {"enable.auto.commit": True}}, "enable.auto.commit cannot be set"),
    ({"settings": {"group.id": "x"}}, "group.id cannot be set: name it with group="),
]
WRONG_SINK: list[tuple[dict[str, Any], str]] = [
    ({"topic": ""}, "topic: '' is not the name of a topic"),
    ({"guarantee": "exactly once"}, "guarantee: 'exactly once' is not known"),
    ({"format": None}, "format: None is not a format"),
    ({"key": str, "message": str}, "key and message are both given"),
    ({"partitioner": str}, "no option 'partitioner'"),
    ({"settings": {"transactional.id": "x"}}, "transactional.id cannot be set"),
    ({"settings": {"acks": 0}}, "acks cannot be set"),
    ({"retry_timeout": "-1s"}, "retry_timeout: '-1s' is not a duration"),
]


@pytest.mark.parametrize(("given", "said"), WRONG_SOURCE, ids=str)
def test_source_refuses_what_it_cannot_do_at_once(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KafkaSource(**{"servers": SERVERS, "topics": "orders", **given})

    assert said in str(caught.value)


@pytest.mark.parametrize(("given", "said"), WRONG_SINK, ids=str)
def test_sink_refuses_what_it_cannot_do_at_once(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KafkaSink(**{"servers": SERVERS, "topic": "orders", **given})

    assert said in str(caught.value)


def test_secrets_are_in_no_representation() -> None:
    settings = ClientSettings(SERVERS, {**SECRETS, "client.id": "shown"}, {})
    texts = [
        repr(settings),
        repr(KafkaSource(SERVERS, "orders", settings=SECRETS)),
        repr(KafkaSink(SERVERS, "orders", settings=SECRETS)),
    ]

    assert "shown" in texts[0]
    assert "word-" not in "".join(texts)


def test_secrets_are_in_no_error_of_the_client() -> None:
    wrong = {"sasl.password": "word-1", "security.protocol": "word-1"}

    with pytest.raises(ConfigError, match="refuses its settings") as caught:
        KafkaSource(SERVERS, "orders", settings=wrong).splits(1)

    assert "***" in str(caught.value)
    assert "word-1" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_templates_travel_to_the_workers_with_their_settings() -> None:
    for template in (
        KafkaSource(SERVERS, "orders", settings=SECRETS),
        KafkaSink(SERVERS, "orders", settings=SECRETS),
    ):
        sent: Any = load(dump(template))
        assert sent.settings.hide("word-1") == "***"


def test_line_of_the_log_that_differs_in_its_numbers_only_is_said_once_in_a_while() -> None:
    now_s = [0.0]
    once = Once(lambda: now_s[0])

    def passes(text: str) -> bool:
        return once.filter(logging.LogRecord("flowsnap.kafka", 30, "", 0, text, None, None))

    said = [passes(text) for text in ("down after 1 ms", "down after 22 ms", "up after 3 ms")]
    now_s[0] = QUIET_S

    assert said == [True, False, True]
    assert passes("down after 4 ms")


def test_source_is_bounded_where_it_knows_an_end() -> None:
    assert not KafkaSource(SERVERS, "orders").bounded
    assert KafkaSource(SERVERS, "orders", until="latest").bounded


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, OutputRefused),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, OutputRefused),
        (KafkaError._TRANSPORT, StoreUnavailable),
        (KafkaError._FENCED, StoreUnavailable),
        (KafkaError._MSG_TIMED_OUT, StoreUnavailable),
    ],
)
def test_error_of_a_producer_says_whether_another_try_helps(code: int, kind: type) -> None:
    assert type(write_error("writing", KafkaError(code))) is kind
