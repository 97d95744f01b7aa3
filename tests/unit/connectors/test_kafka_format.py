"""Formats of Kafka's values: what they make of bytes, and what they refuse."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from flowsnap.connectors.kafka import Bytes, Format, Json, String
from flowsnap.connectors.kafka_format import first_misfit, format_of
from flowsnap.errors import ConfigError
from flowsnap.serialize import dump, load


class Order(msgspec.Struct):
    id: int
    user: str = "nobody"


VALUES: list[tuple[Format, list[Any], list[bytes | None]]] = [
    (Bytes(), [b"", b"\x00\xff", None], [b"", b"\x00\xff", None]),
    (String(), ["", "größer €", None], [b"", "größer €".encode(), None]),
    (String("latin-1"), ["größer"], [b"gr\xf6\xdfer"]),
    (Json(), [1, {"a": [None]}, "x"], [b"1", b'{"a":[null]}', b'"x"']),
    (Json(Order), [Order(1, "ann"), None], [b'{"id":1,"user":"ann"}', None]),
]
MISFITS: list[tuple[Format, bytes]] = [
    (String(), b"\xff"),
    (Json(), b"{"),
    (Json(), b""),
    (Json(), b"[" * 100_000),
    (Json(Order), b'{"id":"one"}'),
    (Json(Order), b'{"id":1}{"id":2}'),
]
UNWRITABLE: list[tuple[Format, Any]] = [
    (Bytes(), "text"),
    (String(), b"bytes"),
    (String("ascii"), "ö"),
    (Json(), object()),
    (Json(), {(1, 2): 3}),
]


@pytest.mark.parametrize(("format", "values", "raw"), VALUES)
def test_values_become_bytes_and_again_the_values(
    format: Format, values: list[Any], raw: list[bytes | None]
) -> None:
    sent: Format = load(dump(format))

    assert sent.encoder("topic")(values) == raw
    assert sent.decoder()(raw) == values


@pytest.mark.parametrize(("format", "raw"), MISFITS)
def test_bytes_that_do_not_fit_are_found_among_others(format: Format, raw: bytes) -> None:
    good = format.encoder("topic")(["x" if isinstance(format, String) else Order(1)])
    decode = format.decoder()

    with pytest.raises(format.errors):
        decode([*good, None, raw, *good])
    assert first_misfit(decode, [*good, None, raw, *good], format.errors) == 2


@pytest.mark.parametrize(("format", "value"), UNWRITABLE)
def test_values_without_a_form_are_refused(format: Format, value: Any) -> None:
    with pytest.raises(format.errors):
        format.encoder("topic")([value])


def test_missing_field_takes_its_default() -> None:
    assert Json(Order).decoder()([b'{"id":1}']) == [Order(1, "nobody")]


@pytest.mark.parametrize("name", ["json", "string", "bytes"])
def test_format_is_known_by_its_name(name: Any) -> None:
    assert type(format_of(name, "format")).__name__.lower() == name


@pytest.mark.parametrize("given", ["avro", "", None, 3, Json])
def test_what_is_no_format_is_refused_with_what_there_is(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"format: .* is not a format") as caught:
        format_of(given, "format")

    assert "Avro(registry)" in caught.value.__notes__[0]


def test_type_that_cannot_be_decoded_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="cannot be decoded"):
        Json(list[int] | tuple[str, ...])


def test_unknown_encoding_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="'klingon' is not known"):
        String("klingon")
