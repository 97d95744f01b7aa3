"""One adapter for each folder of scripts: it speaks the folder's commands to a machine.

An adapter is called once per script and returns a function from a command line to the lines of the
answer. Every command of the machines here begins with the time in ms; the answer to it ends with
the machine's next deadline, where that has changed.
"""

from __future__ import annotations

from collections.abc import Callable

from flowsnap.config import Restart
from flowsnap.core import aligner as a
from flowsnap.core import coordinator as c
from flowsnap.core import job as j
from flowsnap.core.ids import ChannelId, CheckpointId, OperatorId, TaskId, WorkerId
from flowsnap.core.manifest import TaskSnapshot
from flowsnap.core.restart import RestartPolicy
from flowsnap.errors import LocalProtocolError
from tests.scenarios.script import Answer


def settings(words: list[str]) -> dict[str, str]:
    """Return the settings that are written as ``name=value``."""
    return dict(word.split("=", 1) for word in words)


class Deadline:
    """Says a deadline when it has changed."""

    def __init__(self) -> None:
        self._shown: int | None = None

    def say(self, deadline_ms: int | None) -> list[str]:
        if deadline_ms == self._shown:
            return []
        self._shown = deadline_ms
        return ["no deadline" if deadline_ms is None else f"deadline {deadline_ms}"]


# --- coordinator: new, "<now> start | time | request | ack | decline | written | unwritten" ------


def coordinator_session() -> Answer:
    machines: list[c.CheckpointCoordinator] = []
    deadline = Deadline()

    def answer(command: str) -> list[str]:
        first, *words = command.split()
        if first == "new":
            machines.append(new_coordinator(settings(words)))
            return []
        try:
            actions = machines[-1].handle(coordinator_event(words), int(first))
        except LocalProtocolError as error:
            return [f"error: {error}"]
        finally:
            machines[-1].check()
        lines = [coordinator_action(action) for action in actions]
        return lines + deadline.say(machines[-1].next_deadline_ms())

    return answer


def new_coordinator(given: dict[str, str]) -> c.CheckpointCoordinator:
    return c.CheckpointCoordinator(
        [TaskId(task) for task in given.get("tasks", "a,b").split(",")],
        next_id=CheckpointId(int(given.get("next_id", "1"))),
        interval_ms=int(given.get("interval", "1000")),
        timeout_ms=int(given.get("timeout", "400")),
        pause_ms_min=int(given.get("pause", "0")),
        failures_max=int(given.get("failures", "1")),
        concurrent_max=int(given.get("concurrent", "1")),
    )


_PLAIN_COORDINATOR_EVENTS: dict[str, c.Event] = {
    "start": c.Started(),
    "time": c.TimePassed(),
    "request": c.TriggerRequested(c.Wish()),
    "request savepoint": c.TriggerRequested(c.Wish("savepoint")),
    "request final": c.TriggerRequested(c.Wish("final")),
    "drain": c.DrainRequested(),
}


def coordinator_event(words: list[str]) -> c.Event:
    match words:
        case _ if " ".join(words) in _PLAIN_COORDINATOR_EVENTS:
            return _PLAIN_COORDINATOR_EVENTS[" ".join(words)]
        case ["ack", number, task]:
            snapshot = TaskSnapshot(TaskId(task), (OperatorId(task),), 0)
            return c.TaskAcknowledged(CheckpointId(int(number)), snapshot)
        case ["decline", number, task, *reason]:
            return c.TaskDeclined(CheckpointId(int(number)), TaskId(task), " ".join(reason))
        case ["written", number]:
            return c.ManifestWritten(CheckpointId(int(number)))
        case ["unwritten", number, *message]:
            return c.ManifestFailed(CheckpointId(int(number)), " ".join(message))
        case _:
            raise ValueError(words)


def shown_kind(kind: str) -> str:
    return "" if kind == "checkpoint" else f" {kind}"


def coordinator_action(action: c.Action) -> str:
    match action:
        case c.InjectBarriers(checkpoint_id, wish):
            return f"inject {checkpoint_id}{shown_kind(wish.kind)}"
        case c.DrainSources():
            return "drain sources"
        case c.WriteManifest(checkpoint_id, kind, triggered_at_ms, duration_ms, snapshots):
            tasks = " ".join(snapshot.task for snapshot in snapshots)
            when = f"{triggered_at_ms} +{duration_ms}"
            return f"write {checkpoint_id}{shown_kind(kind)} of {tasks}: {when}"
        case c.NotifyComplete(checkpoint_id, kind):
            return f"notify {checkpoint_id}{shown_kind(kind)}"
        case c.Abort(checkpoint_id, reason):
            return f"abort {checkpoint_id}: {reason}"
        case c.FailAttempt(reason):
            return f"fail attempt: {reason}"


# --- job: new, "<now> submit | up | deployed | end | committed | fail | fatal | lost | ..." ------


def job_session() -> Answer:
    machines: list[j.JobMachine] = []
    deadline = Deadline()

    def answer(command: str) -> list[str]:
        first, *words = command.split()
        if first == "new":
            machines.append(new_job(settings(words)))
            return []
        machine, before = machines[-1], machines[-1].state
        try:
            actions = machine.handle(job_event(words), int(first))
        except LocalProtocolError as error:
            return [f"error: {error}"]
        finally:
            machine.check()
        moved = [] if machine.state is before else [f"-> {machine.state}"]
        lines = [job_action(action) for action in actions]
        return moved + lines + deadline.say(machine.next_deadline_ms())

    return answer


def new_job(given: dict[str, str]) -> j.JobMachine:
    restart = Restart(strategy="fixed", delay_ms=50, attempts_max=int(given.get("restarts", "5")))
    return j.JobMachine(
        int(given.get("workers", "2")),
        [TaskId(task) for task in given.get("tasks", "a,b").split(",")],
        RestartPolicy(restart),
        start_timeout_ms=int(given.get("start_timeout", "1000")),
        cancel_timeout_ms=int(given.get("cancel_timeout", "200")),
    )


_PLAIN_JOB_EVENTS: dict[str, Callable[[], j.Event]] = {
    "submit": j.Submitted,
    "committed": j.FinalCommitted,
    "stop": j.StopRequested,
    "cancel": j.CancelRequested,
    "time": j.TimePassed,
}

_WORKER_EVENTS: dict[str, Callable[[WorkerId], j.Event]] = {
    "up": j.WorkerUp,
    "deployed": j.WorkerDeployed,
    "cancelled": j.WorkerCancelled,
}


def job_event(words: list[str]) -> j.Event:
    match words:
        case [plain] if plain in _PLAIN_JOB_EVENTS:
            return _PLAIN_JOB_EVENTS[plain]()
        case [verb, worker] if verb in _WORKER_EVENTS:
            return _WORKER_EVENTS[verb](WorkerId(int(worker)))
        case ["end", task]:
            return j.TaskReachedEnd(TaskId(task))
        case ["lost", worker, *message]:
            return j.WorkerLost(WorkerId(int(worker)), " ".join(message))
        case [("fail" | "fatal") as verb, who, *message]:
            speaker = None if who == "manager" else WorkerId(int(who))
            return j.AttemptFailed(" ".join(message), verb == "fail", speaker)
        case _:
            raise ValueError(words)


_JOB_ACTIONS: dict[type[j.Action], str] = {
    j.LaunchWorkers: "launch",
    j.CancelTasks: "cancel",
    j.KillWorkers: "kill",
    j.BeginAttempt: "begin attempt",
    j.StartTasks: "start tasks",
    j.TakeFinalCheckpoint: "take final checkpoint",
}


def job_action(action: j.Action) -> str:
    match action:
        case j.LaunchWorkers(workers) | j.CancelTasks(workers) | j.KillWorkers(workers):
            return f"{_JOB_ACTIONS[type(action)]} {' '.join(map(str, workers))}"
        case j.End(state, message):
            return f"end {state}: {message}"
        case _:
            return _JOB_ACTIONS[type(action)]


# --- aligner: new, then "<now> barrier <channel> <id> | abort <id> | ended <channel>" ---------


def aligner_session() -> Answer:
    machines: list[a.Aligner] = []
    names: list[str] = []

    def answer(command: str) -> list[str]:
        first, *words = command.split()
        if first == "new":
            given = settings(words)
            names[:] = given["channels"].split(",")
            machines.append(new_aligner(len(names), given))
            return []
        machine, before = machines[-1], set(machines[-1].blocked)
        try:
            actions = aligned(machine, names, words, int(first))
        except LocalProtocolError as error:
            return [f"error: {error}"]
        finally:
            machine.check()
        lines = [aligner_action(action, names) for action in actions]
        remaining = set() if "unblock" in lines else before
        return lines + [f"block {names[channel]}" for channel in machine.blocked - remaining]

    return answer


def new_aligner(channels: int, given: dict[str, str]) -> a.Aligner:
    numbers = [ChannelId(number) for number in range(channels)]
    names = given["channels"].split(",")
    kinds = {
        kind: [numbers[names.index(name)] for name in given.get(kind, "").split(",") if name]
        for kind in ("feedback", "broadcast")
    }
    mode: a.Mode = "at-least-once" if given.get("mode") == "at-least-once" else "exactly-once"
    return a.Aligner(numbers, mode=mode, **kinds)


def aligned(machine: a.Aligner, names: list[str], words: list[str], now_ms: int) -> list[a.Action]:
    match words:
        case ["barrier" | "arrived" as what, name, number, *rest]:
            channel = ChannelId(names.index(name) if name in names else len(names))
            take = machine.receive_barrier if what == "barrier" else machine.announce
            return take(channel, CheckpointId(int(number)), now_ms, timeout(rest))
        case ["initiate", number, *rest]:
            return machine.initiate(CheckpointId(int(number)), now_ms, timeout(rest))
        case ["time"]:
            return machine.time_passed(now_ms)
        case ["abort", number]:
            return machine.abort(CheckpointId(int(number)))
        case ["ended", _]:
            return []  # The aligner is not told: barriers keep coming in the channel.
        case _:
            raise ValueError(words)


def timeout(words: list[str]) -> int | None:
    """Return what ``unaligned``, ``timeout=30`` or nothing say."""
    if words == ["unaligned"]:
        return 0
    return int(settings(words)["timeout"]) if words else None


def aligner_action(action: a.Action, names: list[str]) -> str:
    match action:
        case a.Snapshot(checkpoint_id, alignment_ms, _, recording):
            channels = "".join(f" {names[channel]}" for channel in recording)
            shown = f", recording{channels}" if channels else ""
            return f"snapshot {checkpoint_id} after {alignment_ms}{shown}"
        case a.Recorded(checkpoint_id):
            return f"recorded {checkpoint_id}"
        case a.Unblock():
            return "unblock"
        case a.Decline(checkpoint_id, reason):
            return f"decline {checkpoint_id}: {reason}"


ADAPTERS: dict[str, Callable[[], Answer]] = {
    "aligner": aligner_session,
    "coordinator": coordinator_session,
    "job": job_session,
}
