"""Avro values with a schema registry, in Confluent's wire format.

A value is ``0x00 | schema id: u32 BE | Avro binary``. The schema it was written with is asked for
by its id, once in each task; a schema of ours, where one is given, is what it is read as, by Avro's
rules of resolution (fields with defaults may be missing, additional ones are dropped). A writer
registers its schema under the subject ``<topic>-value`` or ``<topic>-key``; the registry refuses
one that breaks the compatibility of its subject, before a record is written.

Source: Confluent, "Formats, serializers, and deserializers" (wire format); Avro 1.12, "Schema
Resolution". Deviation: other formats of the registry (Protobuf, JSON Schema) are not read.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flowsnap.connectors.kafka_format import Decode, Encode, Format, each
from flowsnap.connectors.rows import describe
from flowsnap.errors import ConfigError, StoreUnavailable

try:
    import fastavro
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError
except ImportError as error:
    error.add_note("Avro needs fastavro and a registry's client: pip install 'flowsnap[avro]'")
    raise

# What the registry's client speaks HTTP with: one or the other, by its version.
_NO_ANSWER: tuple[type[Exception], ...] = (
    OSError,
    *(
        importlib.import_module(name).HTTPError
        for name in ("httpx2", "httpx")
        if importlib.util.find_spec(name) is not None
    ),
)
_HEAD = struct.Struct(">bI")
_MAGIC = 0

_FIELD = re.compile(r" on field [A-Za-z_][A-Za-z0-9_.]*\Z")
"""What fastavro says last of all; before it there may be the value, which may read like it."""


class Avro(Format):
    """Avro binary whose schemas are in a registry.

    ``registry``: its URL. ``schema``: a dict, or a string of JSON; what values are written as, and
    read as. Without it, what is read comes as it was written, and what is written takes the newest
    schema of its subject. ``subject``: in place of ``<topic>-value``. ``register``: False, where
    the schema must be in the registry already. ``settings``: of the registry's client, such as
    ``{"basic.auth.user.info": "user:password"}``.

    Raises:
        ConfigError: the schema is no Avro schema.
    """

    errors = (TypeError, ValueError, EOFError, IndexError, KeyError, AttributeError, OverflowError)

    def __init__(
        self,
        registry: str,
        schema: Mapping[str, Any] | str | None = None,
        *,
        subject: str | None = None,
        register: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.registry = registry
        self.schema = None if schema is None else _text(schema)
        self.subject = subject
        self.register = register
        self._settings = dict(settings or {})
        if self.schema is not None:
            parsed(self.schema, {})

    def __repr__(self) -> str:
        return f"<Avro by {self.registry}>"  # without the settings, which may hold a password

    def decoder(self) -> Decode:
        registry = Registry(self.registry, self._settings)
        as_ = None if self.schema is None else parsed(self.schema, {})
        schemas: dict[int, Any] = {}
        read = fastavro.schemaless_reader

        def decode(data: bytes) -> Any:
            magic, id_ = _HEAD.unpack_from(data)
            if magic != _MAGIC:
                raise ValueError(f"it begins with the byte {magic}, not with 0 and a schema's id")
            schema = schemas.get(id_)
            if schema is None:
                schema = schemas[id_] = registry.schema(id_)
            stream = io.BytesIO(data)
            stream.seek(_HEAD.size)
            return read(stream, schema, as_)

        return each(_translating(decode))

    def encoder(self, topic: str, *, is_key: bool = False) -> Encode:
        registry = Registry(self.registry, self._settings)
        subject = self.subject or f"{topic}-{'key' if is_key else 'value'}"
        id_, schema = registry.writer(subject, self.schema, register=self.register)
        head, write = _HEAD.pack(_MAGIC, id_), fastavro.schemaless_writer

        def encode(value: Any) -> bytes:
            stream = io.BytesIO()
            stream.write(head)
            try:
                write(stream, schema, value)
            except (*self.errors, struct.error) as error:
                field = _FIELD.search(str(error))
                text = f"{describe(value)} does not match the schema{field[0] if field else ''}"
                raise ValueError(text) from None
            return stream.getvalue()

        return each(encode)


class Registry:
    """The schemas of a registry, parsed; what a schema refers to is asked for with it."""

    def __init__(self, url: str, settings: Mapping[str, Any]) -> None:
        self._url = url
        try:
            self._client = SchemaRegistryClient({"url": url, **settings})
        except (ValueError, TypeError) as error:
            raise ConfigError(f"the registry's client refuses its settings: {error}") from None

    def schema(self, id_: int) -> Any:
        """Return the schema of an id.

        Raises:
            ConfigError: the registry does not have it, or it is no Avro schema.
            StoreUnavailable: the registry does not answer.
        """
        with self._asked(f"schema {id_}"):
            found = self._client.get_schema(id_)
            return self._parsed(found)

    def writer(self, subject: str, text: str | None, *, register: bool) -> tuple[int, Any]:
        """Return the id and the schema to write a subject with; None: the newest there is.

        Raises:
            ConfigError: the registry refuses the schema, or has none for the subject.
            StoreUnavailable: the registry does not answer.
        """
        with self._asked(f"subject {subject!r}"):
            if text is None:
                newest = self._client.get_latest_version(subject)
                assert newest.schema is not None
                assert newest.schema_id is not None
                return newest.schema_id, self._parsed(newest.schema)
            schema = Schema(text, "AVRO")
            if register:
                return self._client.register_schema(subject, schema), parsed(text, {})
            known = self._client.lookup_schema(subject, schema)
            assert known.schema_id is not None
            return known.schema_id, parsed(text, {})

    def _parsed(self, schema: Schema) -> Any:
        named: dict[str, Any] = {}
        self._name_references(schema, named)
        return parsed(_avro(schema), named)

    def _name_references(self, schema: Schema, named: dict[str, Any]) -> None:
        for reference in schema.references or ():
            if reference.name in named:
                continue
            assert reference.subject is not None
            assert reference.version is not None
            found = self._client.get_version(reference.subject, reference.version)
            assert found.schema is not None
            self._name_references(found.schema, named)
            parsed(_avro(found.schema), named)

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        try:
            yield
        except SchemaRegistryError as error:
            if error.http_status_code >= 500:
                raise StoreUnavailable(
                    f"the schema registry at {self._url} did not give {what}: {error}"
                ) from error
            raise ConfigError(f"the schema registry at {self._url} refuses {what}: {error}").hint(
                "is the schema registered there, and compatible with its subject?"
            ) from error
        except _NO_ANSWER as error:
            raise StoreUnavailable(
                f"the schema registry at {self._url} does not answer: {error}"
            ).hint("is the address right, and the registry up?") from error


def parsed(text: str, named: dict[str, Any]) -> Any:
    """Return a schema made ready; the types it defines are added to ``named``.

    Raises:
        ConfigError: it is no Avro schema.
    """
    try:
        return fastavro.parse_schema(json.loads(text), named_schemas=named)
    except (ValueError, TypeError, KeyError, fastavro.schema.SchemaParseException) as error:
        raise ConfigError(f"this is no Avro schema: {error!r}").hint(
            "give a dict, or a string of JSON"
        ) from error


def _avro(schema: Schema) -> str:
    if (schema.schema_type or "AVRO") != "AVRO" or schema.schema_str is None:
        raise ConfigError(f"the schema is of the type {schema.schema_type}, not AVRO")
    return schema.schema_str


def _text(schema: Mapping[str, Any] | str) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema)


def _translating(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def translated(data: bytes) -> Any:
        try:
            return decode(data)
        except struct.error:
            raise ValueError(f"{len(data)} bytes are too few for a schema's id") from None
        except fastavro.read.SchemaResolutionError as error:
            raise ValueError(f"it cannot be read as the schema given: {error}") from error

    return translated
