"""The whole error tree: whose fault is it, and does a restart from the last checkpoint help?

The class answers the first question, the class attribute ``restartable`` the second. An exception
carries its facts as attributes; its message is one line with the ids in it; what to do next is
added with ``add_note``.
"""

from __future__ import annotations

from typing import ClassVar, Self


class FlowsnapError(Exception):
    """Anything that flowsnap raises on purpose."""

    restartable: ClassVar[bool] = False

    def hint(self, advice: str) -> Self:
        """Add one line that says what to do, and return the error."""
        self.add_note(advice)
        return self


class ConfigError(FlowsnapError, ValueError):
    """The user's settings or pipeline are wrong; raised before anything runs."""


class OperatorError(FlowsnapError):
    """The user's code raised; its exception is ``__cause__``."""

    restartable = True

    def __init__(self, message: str, *, operator: str, subtask: int, record: str = "") -> None:
        super().__init__(message)
        self.operator = operator
        self.subtask = subtask
        self.record = record


class MalformedInput(FlowsnapError, ValueError):
    """A file that a source reads is not what it was said to be, at byte ``offset`` of ``file``.

    Not restartable: the same bytes would be read again.
    """

    def __init__(self, message: str, *, file: str, offset: int) -> None:
        super().__init__(message)
        self.file = file
        self.offset = offset


class ProtocolError(FlowsnapError):
    """A rule of the protocol was broken (abstract: see the two subclasses)."""


class LocalProtocolError(ProtocolError):
    """We broke a rule ourselves: a bug; the job ends and is not restarted."""


class PeerProtocolError(ProtocolError):
    """The other side broke a rule: a corrupt frame, a gap, another version."""

    restartable = True


class CheckpointError(FlowsnapError):
    """One checkpoint failed; the job goes on."""


class CheckpointDeclined(CheckpointError):
    """A task refused to take part in a checkpoint."""


class CheckpointExpired(CheckpointError):
    """A checkpoint was not complete within its timeout."""


class RestoreError(FlowsnapError):
    """No checkpoint can be restored."""


class ManifestCorrupt(RestoreError):
    """A manifest, or a file that it lists, is damaged, foreign or of another version."""


class StateIncompatible(RestoreError):
    """The pipeline no longer fits the state of the checkpoint."""


class StateError(FlowsnapError):
    """The state backend failed."""

    restartable = True


class StorageError(FlowsnapError):
    """The checkpoint store failed; unless ``is_definite``, the call may have taken effect."""

    restartable = True

    def __init__(self, message: str, *, is_definite: bool = True) -> None:
        super().__init__(message)
        self.is_definite = is_definite


class StoreUnavailable(FlowsnapError):
    """A system that a connector writes to or reads from does not answer, or not as yet.

    Whether the last call took effect is unknown.
    """

    restartable = True


class OutputRefused(FlowsnapError):
    """A system that a sink writes to refuses the output, and would refuse it again.

    Not restartable. The checkpoint keeps the output: it is written when the job is started again.
    """


class DataLost(FlowsnapError):
    """Records that a source was still to read are gone.

    Not restartable: they would be missing again.
    """


class ConnectionLost(FlowsnapError):
    """A peer is gone."""

    restartable = True


class JobFailed(FlowsnapError):
    """The job has ended in failure; ``history`` holds one line for each failed attempt."""

    def __init__(self, message: str, *, history: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.history = history
