"""What a process of a network is: plain Python that reacts to messages."""

from __future__ import annotations

from typing import Any, Protocol

from flowsnap.errors import ConfigError


class Port(Protocol):
    """What a running process sends through."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def send(self, channel: str, message: Any) -> None:
        """Send a message to the process ``channel``."""
        ...

    def emit(self, value: Any) -> None:
        """Hand a value to whoever watches the network."""
        ...


class Process:
    """A process of a network; subclass it.

    Its public attributes are its state, and part of every snapshot: plain values at best, which are
    read without the class, or anything that can be pickled. What begins with ``_`` is not kept. A
    running process is a copy of the one that was added. It does one thing after the other, and
    shares no memory with others: a message is a copy. A channel is called by the process at its
    other end::

        class Account(Process):
            def __init__(self, balance):
                self.balance = balance

            def on_message(self, channel, amount):
                self.balance += amount
    """

    _port: Port | None = None

    def on_start(self) -> None:
        """Begin; called once in the life of the network, before the first message."""

    def on_message(self, channel: str, message: Any) -> None:
        """Take the next message of the process ``channel``; those of one come in order."""
        raise NotImplementedError(f"{type(self).__name__}.on_message")

    def send(self, channel: str, message: Any) -> None:
        """Send ``message``, as it is now, to the process ``channel``.

        Raises:
            ConfigError: there is no such channel, or the message cannot be pickled.
        """
        self._running().send(channel, message)

    def emit(self, value: Any) -> None:
        """Hand ``value`` to whoever watches the network: it goes to the network's output."""
        self._running().emit(value)

    @property
    def name(self) -> str:
        """What the process is called in its network."""
        return self._running().name

    @property
    def inputs(self) -> tuple[str, ...]:
        """The processes that it hears from."""
        return self._running().inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """The processes that it can send to."""
        return self._running().outputs

    def _running(self) -> Port:
        if self._port is None:
            raise ConfigError(f"a {type(self).__name__} is in no network that runs").hint(
                "send and emit in on_start and on_message"
            )
        return self._port


def state_of(process: Process) -> dict[str, Any]:
    """Return the state of a process: its public attributes, by name."""
    return {name: value for name, value in vars(process).items() if not name.startswith("_")}
