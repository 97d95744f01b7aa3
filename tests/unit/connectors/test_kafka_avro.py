"""Avro values, against a registry that is served over HTTP."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from flowsnap.errors import ConfigError, StoreUnavailable
from flowsnap.serialize import dump, load

pytest.importorskip("fastavro", reason="pip install 'flowsnap[avro]'")

from flowsnap.connectors.kafka_avro import Avro
from tests.servers.schema_registry import Schemas, serving

ORDER: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "fields": [{"name": "id", "type": "long"}, {"name": "user", "type": "string"}],
}
WIDER = {**ORDER, "fields": [*ORDER["fields"], {"name": "n", "type": "int", "default": 7}]}
OTHER = {**ORDER, "fields": [*ORDER["fields"], {"name": "n", "type": "int"}]}
ONE = {"id": 1, "user": "ann"}


@pytest.fixture
def schemas() -> Schemas:
    return Schemas()


@pytest.fixture
def url(schemas: Schemas) -> Iterator[str]:
    with serving(schemas) as url:
        yield url


def test_values_travel_with_the_id_of_their_schema(url: str, schemas: Schemas) -> None:
    sent: Avro = load(dump(Avro(url, ORDER)))

    (raw,) = sent.encoder("orders")([ONE])

    assert raw is not None
    assert (raw[0], int.from_bytes(raw[1:5], "big")) == (0, 1)
    assert schemas.subjects == {"orders-value": [1]}
    assert Avro(url).decoder()([raw, None, raw]) == [ONE, None, ONE]


def test_schema_is_asked_for_once_by_each_task(url: str, schemas: Schemas) -> None:
    raw = Avro(url, ORDER).encoder("orders")([ONE] * 5)
    schemas.asked.clear()
    decode = Avro(url).decoder()

    decode(raw)
    decode(raw)

    assert [line.split()[1] for line in schemas.asked] == ["/schemas/ids/1"]


def test_key_has_a_subject_of_its_own(url: str, schemas: Schemas) -> None:
    Avro(url, {"type": "string"}).encoder("orders", is_key=True)

    assert list(schemas.subjects) == ["orders-key"]


def test_older_value_is_read_as_the_schema_given(url: str) -> None:
    raw = Avro(url, ORDER).encoder("orders")([ONE])

    assert Avro(url, WIDER).decoder()(raw) == [{**ONE, "n": 7}]


def test_values_of_several_schemas_may_be_mixed(url: str) -> None:
    raw = Avro(url, ORDER).encoder("orders")([ONE])
    raw += Avro(url, WIDER).encoder("orders")([{**ONE, "n": 1}])

    assert Avro(url).decoder()(raw) == [ONE, {**ONE, "n": 1}]


def test_schema_that_breaks_its_subject_is_refused_before_a_record_is_written(url: str) -> None:
    Avro(url, ORDER).encoder("orders")

    with pytest.raises(ConfigError, match=r"refuses subject 'orders-value': .*incompatible"):
        Avro(url, OTHER).encoder("orders")


def test_without_a_schema_the_newest_of_the_subject_is_written(url: str) -> None:
    Avro(url, WIDER, subject="all").encoder("orders")

    raw = Avro(url, subject="all").encoder("orders")([ONE])

    assert Avro(url).decoder()(raw) == [{**ONE, "n": 7}]


def test_schema_is_not_registered_where_it_must_be_there(url: str, schemas: Schemas) -> None:
    with pytest.raises(ConfigError, match="not found"):
        Avro(url, ORDER, register=False).encoder("orders")
    assert schemas.by_id == {}

    Avro(url, ORDER).encoder("orders")
    raw = Avro(url, ORDER, register=False).encoder("orders")([ONE])

    assert Avro(url).decoder()(raw) == [ONE]


def test_what_a_schema_refers_to_is_asked_for_with_it(url: str, schemas: Schemas) -> None:
    user = {"type": "record", "name": "User", "fields": [{"name": "name", "type": "string"}]}
    order = {**ORDER, "fields": [{"name": "user", "type": "User"}]}
    schemas.register("users", {"schema": json.dumps(user), "references": []})
    reference = {"name": "User", "subject": "users", "version": 1}
    given = {"schema": json.dumps(order), "references": [reference]}
    schemas.register("orders-value", given)

    raw = Avro(url).encoder("orders")([{"user": {"name": "ann"}}])

    assert Avro(url).decoder()(raw) == [{"user": {"name": "ann"}}]


@pytest.mark.parametrize(
    "raw", [b"", b"\x00\x00", b"{}", b"\x01\x00\x00\x00\x01", b"\x00\x00\x00\x00\x01\x02"]
)
def test_bytes_that_are_not_of_the_wire_format_do_not_fit(url: str, raw: bytes) -> None:
    Avro(url, ORDER).encoder("orders")

    with pytest.raises(Avro.errors):
        Avro(url).decoder()([raw])


def test_value_that_cannot_be_read_as_the_schema_given_does_not_fit(url: str) -> None:
    raw = Avro(url, ORDER).encoder("orders")([ONE])

    with pytest.raises(ValueError, match="cannot be read as the schema given"):
        Avro(url, OTHER).decoder()(raw)


def test_value_without_a_field_of_the_schema_cannot_be_written(url: str) -> None:
    with pytest.raises(Avro.errors):
        Avro(url, ORDER).encoder("orders")([{"id": 1}])


def test_value_that_is_not_of_the_schema_is_told_by_its_field_and_not_shown(url: str) -> None:
    fields = [{"name": "n", "type": ["null", "int"]}]
    encode = Avro(url, {"type": "record", "name": "r", "fields": fields}).encoder("orders")

    with pytest.raises(ValueError, match=r"^a dict does not match the schema on field n$"):
        encode([{"n": "hunter2"}])


@pytest.mark.parametrize("value", ["hunter2 on field hunter2", "a on field hunter2 (b)"])
def test_value_that_reads_like_a_field_is_not_shown(url: str, value: str) -> None:
    fields = [{"name": "n", "type": ["null", "int"]}]
    encode = Avro(url, {"type": "record", "name": "r", "fields": fields}).encoder("orders")

    with pytest.raises(ValueError, match=r"^a dict does not match the schema on field n$"):
        encode([{"n": value}])
    with pytest.raises(ValueError, match=r"^a str does not match the schema$"):
        Avro(url, '["null", "int"]').encoder("plain")([value])


def test_id_that_the_registry_does_not_know_is_an_error_of_the_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="refuses schema 99"):
        Avro(url).decoder()([struct.pack(">bI", 0, 99)])


def test_registry_lets_in_who_knows_the_password_and_nobody_sees_it(
    url: str, schemas: Schemas
) -> None:
    schemas.user = "ann:secret-word"
    settings = {"basic.auth.user.info": "ann:secret-word"}

    assert Avro(url, ORDER, settings=settings).encoder("orders")([ONE])
    assert "secret-word" not in repr(Avro(url, ORDER, settings=settings))
    with pytest.raises(ConfigError, match="Unauthorized") as caught:
        Avro(url, ORDER, settings={"basic.auth.user.info": "ann:wrong-word"}).encoder("orders")
    assert "wrong-word" not in str(caught.value)


def test_registry_that_is_away_is_worth_another_try(schemas: Schemas) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

        with pytest.raises(StoreUnavailable, match="does not answer") as caught:
            Avro(url, ORDER, settings={"max.retries": 0}).encoder("orders")

    assert caught.value.restartable


def test_registry_in_trouble_is_worth_another_try(url: str, schemas: Schemas) -> None:
    schemas.status = 500

    with pytest.raises(StoreUnavailable, match="backend data store"):
        Avro(url, ORDER, settings={"max.retries": 0}).encoder("orders")


@pytest.mark.parametrize("schema", ["{", '{"type": "wrong"}', {"type": "record"}, "[1]"])
def test_what_is_no_avro_schema_is_refused_at_once(schema: Any) -> None:
    with pytest.raises(ConfigError, match="no Avro schema"):
        Avro("http://127.0.0.1", schema)
