"""Kafka topics, as a source and as a sink; needs the extra ``kafka``, and for Avro ``avro``."""

from __future__ import annotations

from flowsnap.connectors.kafka_client import KafkaRecord
from flowsnap.connectors.kafka_format import Bytes, Format, Json, String
from flowsnap.connectors.kafka_sink import KafkaSink
from flowsnap.connectors.kafka_source import KafkaSource

__all__ = ["KafkaSource", "KafkaSink", "KafkaRecord", "Format", "Json", "String", "Bytes"]
