"""A real Kafka broker for the tests: Apache Kafka in KRaft mode, shared by all who test at once.

``broker()`` gives its address, and starts it where it does not run. Maven resolves the jars, once;
java runs them, under a process of ours that ends the broker when nobody holds ``users.lock`` any
more. The kernel lets go of a lock when its process dies, however it dies: no broker is left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
START_S = 120
DECIDED_S = 30
TOOLS = ("java", "keytool", "mvn")
HOW = "apt-get install openjdk-17-jre-headless maven, or brew install openjdk maven"
JAVA = ("java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp")
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": 1,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.num.partitions": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,
    "group.initial.rebalance.delay.ms": 0,
    "log.cleaner.dedupe.buffer.size": 2 << 20,
    "log.retention.ms": -1,  # Records of 1970 would be deleted, at the next look every 5 minutes.
}


@dataclass(frozen=True)
class Broker:
    """A running broker; ``servers`` is what clients are told."""

    servers: str

    def topic(self, partitions: int = 1, **settings: Any) -> str:
        """Make a topic that nobody else has, and return its name."""
        from confluent_kafka.admin import NewTopic

        name = f"t-{uuid.uuid4().hex[:12]}"
        config = {key.replace("_", "."): str(value) for key, value in settings.items()}
        new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config)
        self.admin().create_topics([new])[name].result(30)
        self._await(name, partitions)
        return name

    def grow(self, topic: str, partitions: int) -> None:
        """Add partitions to a topic until it has so many."""
        from confluent_kafka.admin import NewPartitions

        self.admin().create_partitions([NewPartitions(topic, partitions)])[topic].result(30)
        self._await(topic, partitions)

    def _await(self, topic: str, partitions: int) -> None:
        """Wait until the broker has heard of what its controller has made."""
        pause = threading.Event()
        for _ in range(3000):
            found = self.admin().list_topics(topic, 30).topics[topic]
            if found.error is None and len(found.partitions) == partitions:
                return
            pause.wait(0.01)
        raise TimeoutError(f"{topic} has not got {partitions} partitions")

    def forget(self, topic: str, partition: int, before: int) -> None:
        """Delete the records of a partition below an offset, as retention does."""
        from confluent_kafka import TopicPartition

        wanted = TopicPartition(topic, partition, before)
        for future in self.admin().delete_records([wanted]).values():
            future.result(30)

    def remove(self, topic: str) -> None:
        """Delete a topic."""
        self.admin().delete_topics([topic])[topic].result(30)

    def write(self, topic: str, values: Sequence[bytes | None], partition: int = 0) -> None:
        """Append records to a partition; they are there when this returns."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 0})
        for value in values:
            producer.produce(topic, value, partition=partition)
        assert producer.flush(30) == 0

    def read(self, topic: str, *, isolation: str = "read_committed") -> list[Any]:
        """Return the messages that are in a topic, partition after partition.

        The broker has told of a commit before every partition has heard of it: what is undecided is
        waited for. ``"decided"`` is ``"read_committed"`` without that, where one is left open.
        """
        return [
            message for _, messages in self._partitions(topic, isolation) for message in messages
        ]

    def _partitions(self, topic: str, isolation: str) -> Iterator[tuple[int, list[Any]]]:
        from confluent_kafka import TopicPartition

        level = "read_committed" if isolation == "decided" else isolation
        with (
            contextlib.closing(self._consumer(level)) as consumer,
            contextlib.closing(self._consumer("read_uncommitted")) as asking,
        ):
            count = len(consumer.list_topics(topic, 30).topics[topic].partitions)
            for partition in range(count):
                place = TopicPartition(topic, partition, 0)
                _, end = asking.get_watermark_offsets(place, timeout=30)
                consumer.assign([place])
                yield partition, _read_up_to(consumer, 0 if isolation == "decided" else end)

    def _consumer(self, isolation: str) -> Any:
        from confluent_kafka import Consumer

        return Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": "tests",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "isolation.level": isolation,
                "fetch.wait.max.ms": 20,
            }
        )

    def admin(self) -> Any:
        """Return a client for what only an administrator does; it stays until ``close``."""
        from confluent_kafka.admin import AdminClient

        if self.servers not in _ADMINS:
            _ADMINS[self.servers] = AdminClient({"bootstrap.servers": self.servers})
        return _ADMINS[self.servers]

    def close(self) -> None:
        """Let go of that client, which says on stderr when its broker is away."""
        _ADMINS.pop(self.servers, None)


def _read_up_to(consumer: Any, end: int) -> list[Any]:
    """Return the messages of a partition, once it can be read up to an offset."""
    from confluent_kafka import KafkaError

    found: list[Any] = []
    deadline_s = time.monotonic() + DECIDED_S
    while time.monotonic() < deadline_s:
        message = consumer.poll(1)
        if message is None:
            continue
        error = message.error()
        if error is None:
            found.append(message)
            continue
        assert error.code() == KafkaError._PARTITION_EOF, error
        if message.offset() >= end:
            return found
    raise TimeoutError(f"a transaction is open below offset {end}, after {len(found)} messages")


@cache
def broker() -> Broker:
    """Return the broker of this machine; the test is skipped where there can be none."""
    skip_without_tools()
    directory = home()
    with _locked(directory / "start.lock", fcntl.LOCK_EX):
        # Held, and never let go of, until this process ends.
        _HELD.append(_lock(directory / "users.lock", fcntl.LOCK_SH))
        if not _is_supervised(directory):
            skip_without_jars()
            _start(directory)
        return Broker((directory / "address").read_text())


def skip_without_tools() -> None:
    """Skip the test where no broker can be run, and say what is missing; or fail it."""
    from tests.servers.required import unavailable  # not there where this file is a program

    if importlib.util.find_spec("confluent_kafka") is None:
        unavailable("no Kafka client: pip install 'flowsnap[kafka]'")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        unavailable(f"no Kafka broker without {' and '.join(missing)}: {HOW}")


def skip_without_jars() -> None:
    """Skip the test, or fail it, where the jars of a broker are not here and cannot be had."""
    from tests.servers.required import unavailable

    try:
        download()
    except subprocess.CalledProcessError as error:
        unavailable(
            f"no Kafka broker: Maven cannot download its jars (exit code {error.returncode}); "
            "try python -m tests.servers.prepare"
        )


def download() -> int:
    """Have Maven download the jars of a broker, unless they are here; return how many they are."""
    return len(_classpath().split(":"))


_HELD: list[int] = []
_ADMINS: dict[str, Any] = {}


def _is_supervised(directory: Path) -> bool:
    try:
        os.close(_lock(directory / "supervisor.lock", fcntl.LOCK_SH | fcntl.LOCK_NB))
    except BlockingIOError:
        return (directory / "address").exists()
    return False


def _start(directory: Path) -> None:
    from tests.servers.kafka.security import prepare

    prepare(directory, _addresses(2))
    address, failed = directory / "address", directory / "failed"
    for former in (address, failed):
        former.unlink(missing_ok=True)
    # By way of a shell, so that it is no child of ours: tests look whether theirs are gone.
    script = '"$0" "$@" > "$LOG" 2>&1 < /dev/null &'
    command = ["sh", "-c", script, sys.executable, __file__, str(directory)]
    subprocess.run(command, check=True, env={**os.environ, "LOG": str(directory / "log")})
    pause = threading.Event()
    for _ in range(START_S * 10):
        if address.exists():
            return
        if failed.exists():
            break
        pause.wait(0.1)
    said = (directory / "log").read_text()[-3000:]
    raise RuntimeError(f"the Kafka broker did not start; {directory} has its log: {said}")


# --- the process that the broker runs under -------------------------------------------------------


class BrokerProcess:
    """A broker of one's own, with its data in ``directory``; it may be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self._log = open(directory / "broker.log", "w")  # noqa: SIM115 - closed by close()
        self._data = Path(tempfile.mkdtemp(prefix="data-", dir=directory))
        self.address, self._properties = _configure(self._data, directory / "listeners.json")
        self._java = [*JAVA, _classpath()]
        format_ = ["format", "-t", "Zmxvd3NuYXAtdGVzdHMtMQ", "-c", str(self._properties)]
        command = [*self._java, "kafka.tools.StorageTool", *format_]
        subprocess.run(command, check=True, stdout=self._log, stderr=self._log)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.process = subprocess.Popen(
            [*self._java, "kafka.Kafka", str(self._properties)], stdout=self._log, stderr=self._log
        )
        host, _, port = self.address.partition(":")
        pause = threading.Event()
        while self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection((host, int(port)), 1).close()
                return
            pause.wait(0.1)
        raise RuntimeError(f"the broker ended with exit code {self.process.returncode}")

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it for good, and remove its data."""
        self.kill()
        self._log.close()
        shutil.rmtree(self._data, ignore_errors=True)


def supervise(directory: Path) -> None:
    """Run a broker until nobody uses it any more."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(directory / "supervisor.lock", fcntl.LOCK_EX))
        running = stack.enter_context(contextlib.closing(BrokerProcess(directory)))
        stack.callback((directory / "address").unlink, missing_ok=True)
        partial = directory / "address.tmp"
        partial.write_text(running.address)
        partial.rename(directory / "address")
        _await_the_last(directory, running.process)


def _await_the_last(directory: Path, process: subprocess.Popen[bytes]) -> None:
    pause = threading.Event()
    while process.poll() is None:
        last = _locked(directory / "users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(BlockingIOError), last:
            (directory / "address").unlink()  # Whoever comes from now on starts another.
            return
        pause.wait(0.5)


def _classpath() -> str:
    """Return the jars of a broker; resolved once for a pom, as Maven takes its time."""
    pom = HERE / "pom.xml"
    known = home() / f"classpath-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    if known.exists() and all(Path(jar).exists() for jar in known.read_text().split(":")):
        return known.read_text()
    with tempfile.NamedTemporaryFile("r", dir=home()) as file:
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:build-classpath"
        maven = ["mvn", "-q", "-B", "-f", str(pom), goal, f"-Dmdep.outputFile={file.name}"]
        subprocess.run(maven, check=True, stdout=sys.stderr)
        found = Path(file.name).read_text().strip()
    partial = known.with_suffix(f".{os.getpid()}")
    partial.write_text(found)
    partial.rename(known)
    return found


def home() -> Path:
    """Return the directory in which all processes that test find the broker."""
    directory = Path(tempfile.gettempdir()) / f"flowsnap-tests-{os.getuid()}" / "kafka"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def _configure(data: Path, more: Path) -> tuple[str, Path]:
    address, controller = _addresses(2)
    given = json.loads(more.read_text()) if more.exists() else {"listeners": [], "settings": {}}
    open_to = [f"PLAINTEXT://{address}", *given["listeners"]]
    settings = {
        **SETTINGS,
        **given["settings"],
        "listeners": ",".join([*open_to, f"CONTROLLER://{controller}"]),
        "advertised.listeners": ",".join(open_to),
        "controller.quorum.voters": f"1@{controller}",
        "log.dirs": data,
    }
    properties = data / "server.properties"
    properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    return address, properties


def _addresses(count: int) -> list[str]:
    """Return addresses at which nobody listens now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def _lock(path: Path, how: int) -> int:
    """Return a descriptor that holds the lock for as long as it is open."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    descriptor = _lock(path, how)
    try:
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    os.setsid()  # What ends the tests is not to end it before it has tidied up.
    place = Path(sys.argv[1])
    try:
        supervise(place)
    except BaseException:
        (place / "failed").touch()
        raise
