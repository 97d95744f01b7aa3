"""What is asked of each model, and what spin must answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """One question to spin.

    ``ltl`` names a formula of the model, checked under weak fairness; empty: assertions and invalid
    end states. ``refuted_by`` is empty where the property must hold. Else it must fail, and this is
    a piece of what spin says then.
    """

    model: str
    asks: str
    defines: tuple[str, ...] = ()
    ltl: str = ""
    refuted_by: str = ""


def _holds(model: str, asks: str, *defines: str) -> Run:
    return Run(model, asks, defines)


def _lives(model: str, ltl: str, asks: str, *defines: str) -> Run:
    return Run(model, asks, defines, ltl=ltl)


def _occur(model: str, situations: str, *defines: str) -> list[Run]:
    return [
        Run(model, f"never {name}", (*defines, f"REACH={name}"), refuted_by="!(reached)")
        for name in situations.split()
    ]


def _broken(model: str, bug: str, refuted_by: str, *defines: str) -> Run:
    return Run(model, f"broken: {bug}", (*defines, bug), refuted_by=refuted_by)


def _stuck(model: str, bug: str, ltl: str) -> Run:
    asks = f"broken: {bug}, as seen by {ltl}"
    return Run(model, asks, (bug,), ltl=ltl, refuted_by="acceptance cycle")


_ALIGNED = [
    _holds("aligned", "every complete checkpoint is a consistent cut", "PERIODIC=2"),
    _holds("aligned", "none waits for ever when none is aborted", "PERIODIC=2", "NO_ABORT"),
    _lives("aligned", "finishes", "the job ends, all output with it", "PERIODIC=1"),
    _lives("aligned", "decides", "every checkpoint is completed or aborted", "PERIODIC=1"),
    *_occur(
        "aligned",
        "OVERTAKEN ABORT_BEFORE_BARRIER ABORT_IN_ALIGNMENT LATE_BARRIER END_IN_ALIGNMENT"
        " COMPLETE_WHILE_ENDING COMPLETE_AFTER_ABORT",
    ),
    _broken("aligned", "BUG_FORWARD_BEFORE_SNAPSHOT", "cut[pending].sunk[0]==cut[pending].joined"),
    _broken("aligned", "BUG_EOI_NOT_ALIGNED", "cut[pending].ended"),
    _broken("aligned", "BUG_NOT_BLOCKED", "assertion violated"),
]

_UNALIGNED = [
    _holds("unaligned", "channel state is exact, tokens are conserved"),
    _holds("unaligned", "none waits for ever when none is aborted", "NO_ABORT"),
    _lives("unaligned", "finishes", "every token arrives", "RECORDS=1"),
    _lives("unaligned", "decides", "every checkpoint is completed or aborted", "RECORDS=1"),
    *_occur(
        "unaligned",
        "OVERTAKES RECORDS_ARRIVAL COMPLETE_WITH_BOTH OVERTAKEN ABORT_WHILE_RECORDING",
    ),
    _broken("unaligned", "BUG_QUEUE_NOT_RECORDED", "from_queue[0])==cut.sent[0]"),
    _broken("unaligned", "BUG_RECORDS_PAST_BARRIER", "from_wire[0])==cut.last[0]"),
    _broken("unaligned", "BUG_FORWARD_BEFORE_SNAPSHOT", "assertion violated"),
]

_FEEDBACK = [
    _holds("feedback", "snapshots and log hold every token once, also after a crash"),
    _holds("feedback", "none waits for ever when none is aborted", "NO_ABORT"),
    _lives("feedback", "finishes", "every token leaves the ring"),
    _lives("feedback", "decides", "every checkpoint is completed or aborted"),
    *_occur("feedback", "LOGGED REPLAYED BARRIER_BEFORE_REPLAY OVERTAKEN SPILLS"),
    _broken("feedback", "BUG_NO_SPILL", "invalid end state"),
    _stuck("feedback", "BUG_NO_SPILL", "finishes"),
    _broken("feedback", "BUG_NOT_LOGGED", "in_log[at]"),
    _broken("feedback", "BUG_BARRIER_NOT_ROUND", "in_log[at]"),
]

_ONE_FAULT = ("RECORDS=2", "FAULTS=1", "PERIODIC=1")
_TWO_ABORTS = ("RECORDS=1", "FAULTS=1", "PERIODIC=2")
_TWO_FAULTS = ("RECORDS=1", "FAULTS=2", "PERIODIC=0")

_COMMIT = [
    _holds("commit", "output is committed once: 1 fault, 2 records", *_ONE_FAULT),
    _holds("commit", "output is committed once: 1 fault, 3 checkpoints", *_TWO_ABORTS),
    _holds("commit", "output is committed once: 2 faults", *_TWO_FAULTS),
    _holds("commit", "ids that come once suffice without a fence", *_TWO_FAULTS, "WITHOUT_FENCE"),
    _holds("commit", "a fence suffices when ids come twice", *_TWO_FAULTS, "WITHOUT_RESERVATION"),
    _holds("commit", "the same where tasks die and messages are lost", *_ONE_FAULT, "CRASHES"),
    _lives("commit", "finishes", "after the last fault all is committed", *_ONE_FAULT, "CRASHES"),
    *_occur(
        "commit",
        "STALE_COMMIT COMMIT_REPEATED COMMIT_AT_RESTORE UNKNOWN_BUT_THERE SUBSUMED REMOVED"
        " LATER_RESTORED",
        *_ONE_FAULT,
    ),
    _broken("commit", "BUG_COMMIT_AT_ACK", "committed_times[record]<=1", *_ONE_FAULT),
    _broken("commit", "BUG_LISTS_OWN_OUTPUT_ONLY", "covered&", *_ONE_FAULT),
    _broken("commit", "BUG_NO_FENCE", "covered&", *_ONE_FAULT),
    _broken("commit", "BUG_NO_LOCK", "mine==attempt", *_ONE_FAULT),
    _broken("commit", "BUG_RESTORE_UNSYNCED", "newest>=promised", *_TWO_FAULTS),
]

_FILES = [
    _holds("files", "no file of a kept checkpoint is ever deleted"),
    _holds("files", "the same with two crashes", "CHECKPOINTS=3", "CRASHES=2"),
    _lives("files", "finishes", "no checkpoint stays undecided", "CHECKPOINTS=3"),
    *_occur(
        "files",
        "REUSED NOT_SURE_TO_STAY COLLECTED CRASH_IN_COLLECTION UNKNOWN_BUT_THERE NEWS_IN_STORING",
    ),
    _broken("files", "BUG_NEWEST_COMMITTED_ONLY", "listed.object[at]"),
    _broken("files", "BUG_FILES_BEFORE_MANIFESTS", "is_complete[id]"),
    _broken("files", "BUG_COLLECTS_WHILE_PENDING", "listed.object[at]"),
]

RUNS: tuple[Run, ...] = (*_ALIGNED, *_UNALIGNED, *_FEEDBACK, *_COMMIT, *_FILES)
