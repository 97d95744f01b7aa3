"""What the Kafka source and sink share: settings with their secrets, clients, and their errors.

All that knows the client library's exceptions is here or goes through ``translated``. A value that
is secret (``sasl.password``, keys of TLS, tokens) is in no ``repr``, no message and no log of ours.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from flowsnap.errors import ConfigError, FlowsnapError, OutputRefused, StoreUnavailable

try:
    from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
    from confluent_kafka.admin import AdminClient, TopicMetadata
except ImportError as error:
    error.add_note("the Kafka connector needs confluent-kafka: pip install 'flowsnap[kafka]'")
    raise

QUIET_S = 30.0
"""For how long a line of the client's log is not repeated: it says one at every try to connect."""


class Once(logging.Filter):
    """Lets a message pass, and then for a while none that differs in no more than its numbers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a message is new; called by ``logging``, from any thread."""
        text, now_s = re.sub(r"\d+", "", record.getMessage()), self._clock()
        if now_s < self._said_s.get(text, now_s - QUIET_S) + QUIET_S:
            return False
        if len(self._said_s) > 1000:
            self._said_s.clear()
        self._said_s[text] = now_s
        return True


LOG = logging.getLogger("flowsnap.kafka")
LOG.addFilter(Once())
REQUEST_S = 15.0
"""How long a broker may take over a question before it counts as away."""

FIRST_S = 0.1
"""After how long it is looked first whether a broker that has not answered has refused us."""

_SECRET = re.compile(
    r"password|secret|token|credential|\.key\.pem$|oauthbearer\.config|basic\.auth\.user\.info"
)
_MASK = "***"

_DENIED = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
}
_UNANSWERED = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT}
_REFUSED = _DENIED | {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    KafkaError.INVALID_TRANSACTION_TIMEOUT,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_EXCEPTION,
}


class KafkaRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record with what Kafka keeps beside its value.

    A source gives it with ``metadata=True``, and then every field is set. A sink takes it from
    ``message=``: what is None is chosen there (the topic), by the partitioner, or by the broker
    (the timestamp); ``offset`` means nothing to it. ``timestamp_ms`` is since the epoch.
    """

    value: Any
    key: Any = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int | None = None
    partition: int | None = None
    topic: str | None = None
    offset: int | None = None


class ClientSettings:
    """What a client of the library is told; ``settings`` are the library's own names."""

    def __init__(self, servers: str, settings: Mapping[str, Any], fixed: Mapping[str, str]) -> None:
        if not isinstance(servers, str) or not servers.strip():
            raise ConfigError(f"servers: {servers!r} is not an address").hint(
                'write "host:9092", or several parted by commas'
            )
        for name, reason in fixed.items():
            if name in settings:
                raise ConfigError(f"settings: {name} cannot be set: {reason}")
        self.servers = servers
        self._all: dict[str, Any] = {**settings, "bootstrap.servers": servers}

    def __repr__(self) -> str:
        shown = {name: _MASK if _SECRET.search(name) else v for name, v in self._all.items()}
        return f"<ClientSettings {shown}>"

    def number(self, name: str, default: int) -> int:
        """Return a setting that is a number, or else the client's own default.

        Raises:
            ConfigError: it is none.
        """
        try:
            return int(self._all.get(name, default))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"settings: {name} is not a number") from error

    def hide(self, text: str) -> str:
        """Return a text without the secrets that it may quote."""
        for name, value in self._all.items():
            if _SECRET.search(name) and isinstance(value, str) and value:
                text = text.replace(value, _MASK)
        return text

    def consumer(self, defaults: Mapping[str, Any], fixed: Mapping[str, Any]) -> Consumer:
        """Return a consumer; the user's settings stand above ``defaults`` and below ``fixed``."""
        with self._checked():
            return Consumer(self._config(defaults, fixed), logger=LOG)

    def producer(self, defaults: Mapping[str, Any], fixed: Mapping[str, Any]) -> Producer:
        """Return a producer; the user's settings stand above ``defaults`` and below ``fixed``."""
        with self._checked():
            return Producer(self._config(defaults, fixed), logger=LOG)

    def admin(self, **fixed: Any) -> AdminClient:
        """Return a client for questions; what only consumers and producers know is left out."""
        named = re.compile(
            r"bootstrap|security|sasl|ssl|socket|broker|client|reconnect|enable\.ssl|oauth_cb"
        )
        settings = {name: value for name, value in self._all.items() if named.match(name)}
        with self._checked():
            return AdminClient({**settings, **fixed}, logger=LOG)

    def topic(self, name: str, timeout_s: float) -> TopicMetadata:
        """Return what the brokers know of a topic; the first question of a submission.

        The client would try to log in for as long as it is let. Whoever is refused is told at once.

        Raises:
            ConfigError: a broker does not let us in, or is not who it says; or none answers.
        """
        told: list[KafkaError] = []
        admin = self.admin(error_cb=told.append)
        deadline_s, wait_s = time.monotonic() + timeout_s, FIRST_S
        with self.submitting(f"asking for topic {name!r}", told):
            while True:
                left_s = max(deadline_s - time.monotonic(), 0)
                try:
                    return admin.list_topics(name, timeout=min(wait_s, left_s)).topics[name]
                except KafkaException as error:
                    admin.poll(0)  # It says now why there was no answer.
                    inner = cause(error)
                    is_final = inner is None or inner.code() not in _UNANSWERED
                    if is_final or left_s <= wait_s or any(map(_is_hopeless, told)):
                        raise
                wait_s *= 2  # Each asks anew: a broker far away needs the time to answer one.

    def _config(self, defaults: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
        return {**defaults, **self._all, **fixed}

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except (KafkaException, ValueError, TypeError) as error:
            # Its cause is left out: it may quote a secret.
            raise ConfigError(
                f"the Kafka client refuses its settings: {self.hide(said(error))}"
            ).hint("settings are those of librdkafka: see its CONFIGURATION.md") from None

    @contextmanager
    def submitting(self, action: str, told: Sequence[KafkaError] = ()) -> Iterator[None]:
        """Turn what the client raises while a job is submitted into a ConfigError.

        ``told`` is what the client has told meanwhile: of that, the reason for a missing answer.
        """
        try:
            yield
        except KafkaException as error:
            reason = _reason(told) or said(error)
            raise ConfigError(f"{action} at {self.servers} failed: {self.hide(reason)}").hint(
                "is the broker there, and does it let this user in?"
            ) from error


def said(error: BaseException) -> str:
    """Return what an exception of the client says, without its class and numbers."""
    inner = error.args[0] if error.args else None
    return str(inner.str()) if isinstance(inner, KafkaError) else str(error)


def cause(error: BaseException) -> KafkaError | None:
    """Return the library's error that an exception carries, if it does."""
    inner = error.args[0] if error.args else None
    return inner if isinstance(inner, KafkaError) else None


def is_denied(error: KafkaError) -> bool:
    """Return whether the broker does not let us do it, however often we ask."""
    return error.code() in _DENIED


def _is_hopeless(error: KafkaError) -> bool:
    """Return whether who submits a job need not wait any longer: it would be the same answer."""
    is_impostor = error.code() == KafkaError._SSL and "certificate verify failed" in error.str()
    return is_denied(error) or is_impostor


def _reason(told: Sequence[KafkaError]) -> str | None:
    """Return the most telling of some errors of the client: one that is final, or the last.

    Of a handshake that fails it tells twice: what was wrong, and that it was disconnected.
    """
    telling = [error for error in told if error.code() != KafkaError._ALL_BROKERS_DOWN]
    if not telling:
        return None
    handshakes = [error for error in telling if "handshake failed" in error.str()]
    return str(next(filter(_is_hopeless, telling), (handshakes or telling)[-1]).str())


def write_error(action: str, error: KafkaError) -> FlowsnapError:
    """Return our error for one of a producer: worth a repeat, or not."""
    text = f"{action} failed: {error.str()}"
    if error.code() in _REFUSED:
        return OutputRefused(text).hint("look at the topic, its limits and its access rules")
    return StoreUnavailable(text)


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn what a producer raises while ``action`` into StoreUnavailable or OutputRefused."""
    try:
        yield
    except KafkaException as error:
        inner = cause(error)
        if inner is None:
            raise StoreUnavailable(f"{action} failed: {said(error)}") from error
        raise write_error(action, inner) from error
