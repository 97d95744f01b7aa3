"""What has happened in a simulated world, and which of the named situations have occurred.

The trace is the proof of determinism: the same seed gives the same list, and so the same hash. It
holds nothing that a clock, a process id or a random name of the real machine has a part in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256

SITUATIONS: dict[str, str] = {
    "abort overtakes its barrier": "a worker hears of the abort before the barrier comes",
    "late barrier after an abort": "a task reads the barrier of a checkpoint given up",
    "late acknowledgement": "a task acknowledges a checkpoint that is not pending any more",
    "a killed worker is still heard": "its last words come after its death",
    "a replaced worker is not heard": "the last words of a process come after its successor's",
    "checkpoint expired": "not all tasks have acknowledged in time",
    "checkpoint declined": "a task could not make its part",
    "checkpoint with reused files": "a manifest lists files that an older checkpoint stored",
    "checkpoint while a task has ended": "finished and running tasks in one checkpoint",
    "end of input during alignment": "a channel ends while another one is blocked",
    "barrier behind the end of input": "a barrier comes in a channel that has ended",
    "alignment blocks a channel with data": "a blocked channel holds a batch at the snapshot",
    "barrier overtakes batches": "an unaligned barrier leaves ahead of what waits for credit",
    "checkpoint with channel state": "something was in transit, and was recorded",
    "restore of channel state": "what was in transit is processed after the restart",
    "rescale of channel state": "and the job goes on in another layout",
    "feedback beyond the capacity of a channel": "more is fed back than a channel may hold",
    "feedback on disk": "and more than is kept in memory",
    "barrier inside a loop": "a snapshot holds what goes round",
    "crash while a loop drains": "all sources have ended, and records still go round",
    "another round is made": "the loops were not at rest yet",
    "restore of a loop": "what went round goes on",
    "record in transit restored at another parallelism": "its receiver has other subtasks now",
    "a task waits for credit": "an output has a backlog",
    "crash before the manifest is visible": "between reservation and manifest",
    "crash between manifest and directory sync": "the manifest may or may not be there",
    "crash before sinks are told": "the manifest is durable, and nobody knows",
    "crash during a commit": "some of the output is visible",
    "crash during restore": "while tasks are being built",
    "a torn file after a crash": "content was not synced, the name was there",
    "a name lost in a crash": "a directory was not synced",
    "sink: prepare refused": "prepare raises and has done nothing",
    "sink: prepare of unknown outcome": "prepare raises and has taken effect",
    "sink: prepare that is applied later": "and nobody will ever ask for it",
    "sink: commit refused": "commit raises and has done nothing",
    "sink: commit of unknown outcome": "commit raises and has taken effect",
    "sink: commit that takes its time": "the sink is asked again until it is done",
    "sink: commit that is applied later": "nobody had an answer, and it takes effect all the same",
    "sink: late commit finds its work done": "it was repeated meanwhile",
    "restore of a pending commit": "output of the restored checkpoint was not visible yet",
    "restore of a commit that was done": "output of the restored checkpoint was visible",
    "event time goes on from a checkpoint": "a task begins with the watermark it had reached",
    "restore with a pending timer": "a timer was set before the cut and fires after it",
    "restore with requests under way": "an asynchronous step asks again",
    "restore without a checkpoint": "a failure before the first checkpoint",
    "restore of an ended task": "a task had processed the end of its input",
    "rescale on restore": "the restored checkpoint has another parallelism",
    "settings are changed at a restart": "how barriers wait, and how much is retained",
    "another number of workers on restore": "the job goes on elsewhere",
    "stopped and resumed": "a stop with a last checkpoint, and a rerun",
    "ended behind the cut of a stop": "all tasks end, and the last checkpoint holds no end",
    "cancelled and resumed": "an end at once, and a rerun",
    "an older checkpoint is restored": "as its user wants it, and newer ones are given up",
    "committed output is taken back": "which came after the checkpoint that is restored",
    "finished job is run again": "a rerun finds nothing left to do",
    "worker killed": "kill -9 of a worker",
    "job manager killed": "kill -9 of the job manager",
    "everything killed": "kill -9 of all, and the power",
    "silent worker is given up": "paused for longer than the heartbeat timeout",
    "zombie worker goes on": "a worker whose job manager has died still works",
    "short pause": "a worker is paused and resumed before anybody gives it up",
    "job manager paused": "the job manager is paused, and finds its workers waiting",
    "a second job manager is refused": "the first one holds the directory",
    "connection lost": "two workers lose each other",
    "gap detected": "a dropped frame is noticed by the next one",
    "lost tail detected": "a dropped last frame is noticed by a position",
    "control connection lost": "a worker loses its job manager",
    "one way between two workers is blocked": "and the other is open",
    "one way to a worker is blocked": "it goes on, and hears nothing",
    "one way from a worker is blocked": "it hears the job manager, and is not heard",
    "worker behind a partition is given up": "its heartbeats were on the way for too long",
    "full disk": "a call fails with ENOSPC",
    "used up space": "there is no room for more until something is deleted",
    "space comes back": "what was deleted has made room",
    "failed sync": "an fsync fails",
    "failed sync drops what was written": "the next one would return without an error",
    "a file rots": "one bit of a durable file is another",
    "rotten file is found and put back": "before anything in it was believed",
    "manifest of unknown outcome": "nobody knows whether the manifest is durable",
    "stale file refused": "a store refuses a file of an older attempt",
    "user function raised": "an operator fails once",
    "two checkpoints under way": "a barrier is sent before the one ahead of it is done with",
    "checkpoint begun inside": "an operator that is no source has begun it by itself",
    "savepoint made": "its files have a directory of their own",
    "drained": "the input was ended where it was",
    "final checkpoint given up": "the attempt fails, and the end is tried again",
    "crash after the end": "the job manager dies when the outcome is decided",
    "wall clock jumped": "the wall clock goes back or ahead",
}  # fmt: skip


class Trace:
    """The list of all that has happened: (time in us, who, what)."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, str, str]] = []
        self.situations: Counter[str] = Counter()

    def note(self, at_us: int, who: str, what: str) -> None:
        """Append one entry."""
        self.entries.append((at_us, who, what))

    def reached(self, situation: str) -> None:
        """Count a named situation, which must be in ``SITUATIONS``."""
        assert situation in SITUATIONS, f"{situation!r} is no named situation"
        self.situations[situation] += 1

    def digest(self) -> str:
        """Return the hex sha256 of the trace."""
        return sha256(repr(self.entries).encode()).hexdigest()

    def lines(self) -> Iterator[str]:
        """Yield the trace for people, a line for each entry."""
        for at_us, who, what in self.entries:
            yield f"{at_us / 1000:10.3f} ms  {who:<12} {what}"
