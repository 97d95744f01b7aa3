/*
 * Aligned barriers: two sources, a join, a sink, and the coordinator.
 *
 * Question: is every complete checkpoint a consistent cut without channel state, whatever the order
 * in which records, barriers, ends of input and aborts arrive?
 *
 * Stands for: Aligner (core/aligner.py), InputEnds (core/task.py), TaskRunner._take, _end, _drain and
 * _snapshot (runtime/task.py), OutputChannel (runtime/output.py: records need credit, control
 * elements do not), and CheckpointCoordinator (core/coordinator.py) with one pending checkpoint.
 *
 * Checkpoints 1 to PERIODIC are triggered at any moment, and aborted at any moment before they are
 * complete. The final one is triggered when all tasks have ended, and never aborted.
 * Acknowledgements are a set of bits which the coordinator may read late; aborts travel to the join
 * and the sink in queues of their own, so that they overtake barriers or come after them.
 */
#include "common.h"

#ifndef RECORDS
#define RECORDS 2
#endif
#ifndef PERIODIC
#define PERIODIC 2
#endif
/* Situations that must occur: see common.h. */
#define OVERTAKEN 1
#define ABORT_BEFORE_BARRIER 2
#define ABORT_IN_ALIGNMENT 3
#define LATE_BARRIER 4
#define END_IN_ALIGNMENT 5
#define COMPLETE_WHILE_ENDING 6
#define COMPLETE_AFTER_ABORT 7

#define FINAL (PERIODIC + 1)
#define CREDIT 2
#define CONTROL (FINAL + 1) /* the barriers and the end of input */

mtype = { RECORD, BARRIER, END };

chan channel[3] = [CREDIT + CONTROL] of { mtype, byte }; /* 0, 1: source to join; 2: join to sink */
byte held[3]; /* records in each channel: they hold credit */
chan trigger[2] = [FINAL] of { byte };
chan abort_join = [PERIODIC] of { byte };
chan abort_sink = [PERIODIC] of { byte };

/* Tasks: 0 and 1 are the sources, 2 is the join, 3 the sink. */
byte acknowledged[FINAL + 1]; /* one bit for each task */
byte ended; /* one bit for each task */
byte pending, triggered, aborted;
bool done;

/* What each task has processed of each source, and what its snapshot of the pending checkpoint says;
 * the join's last output, which leaves at the end of its input, counts as a third source. */
byte sent[2], joined[2], sunk[3];
typedef Cut { byte sent[2]; byte joined[2]; byte sunk[3]; byte ended; }
Cut cut[FINAL + 1];

inline acknowledge(id, task) {
    acknowledged[id] = acknowledged[id] | (1 << task);
    cut[id].ended = cut[id].ended | (ended & (1 << task))
}

/* --- a source ------------------------------------------------------------------------------------ */

active [2] proctype Source() {
    byte me = _pid;
    byte id;
end_idle:
    do
    :: atomic { sent[me] < RECORDS && held[me] < CREDIT ->
        channel[me]!RECORD,me; held[me]++; sent[me]++ }
    :: atomic { sent[me] == RECORDS && !(ended & (1 << me)) ->
        channel[me]!END,0; ended = ended | (1 << me) }
    :: atomic { trigger[me]?id ->
        cut[id].sent[me] = sent[me]; acknowledge(id, me);
        channel[me]!BARRIER,id; id = 0 }
    od
}

/* --- the join: its aligner, in the words of core/aligner.py -------------------------------------- */

byte latest[2], newest, current, arrived, blocked;
byte given_up; /* aborted before the first barrier; one bit for each checkpoint */

inline end_alignment() { current = 0; arrived = 0; blocked = 0 }

inline snapshot_join(id) {
    cut[id].joined[0] = joined[0]; cut[id].joined[1] = joined[1];
    acknowledge(id, 2);
#ifndef BUG_FORWARD_BEFORE_SNAPSHOT
    channel[2]!BARRIER,id;
#endif
    end_alignment()
}

inline receive_barrier(from, id) {
    assert(!(blocked & (1 << from)));
    assert(id > latest[from]);
    latest[from] = id;
    if
    :: id > newest ->
        if
        :: current != 0 -> REACHED(OVERTAKEN); end_alignment() /* declined: overtaken */
        :: else
        fi;
        newest = id;
        if
        :: given_up & (1 << id) -> REACHED(ABORT_BEFORE_BARRIER); given_up = given_up & ~(1 << id)
        :: else -> current = id;
#ifdef BUG_FORWARD_BEFORE_SNAPSHOT
            channel[2]!BARRIER,id
#endif
        fi
    :: else
    fi;
    if
    :: id == current ->
        arrived = arrived | (1 << from);
        if
        :: arrived == 3 -> snapshot_join(id)
        :: else ->
#ifndef BUG_NOT_BLOCKED
            blocked = blocked | (1 << from)
#endif
        fi
    :: else -> REACHED(LATE_BARRIER)
    fi
}

inline receive_abort(id) {
    if
    :: id == current -> REACHED(ABORT_IN_ALIGNMENT); end_alignment()
    :: id != current && id > newest -> given_up = given_up | (1 << id)
    :: else
    fi
}

byte ends; /* the channels on which the input of the join has ended */

inline receive_end(from) {
    assert(!(ends & (1 << from)));
    if
    :: current != 0 -> REACHED(END_IN_ALIGNMENT)
    :: else
    fi;
    ends = ends | (1 << from);
    if
    :: ends == 3 ->
        channel[2]!RECORD,2; held[2]++; /* the last output */
        channel[2]!END,0; ended = ended | 4
    :: else
    fi
}

inline take(from) {
    channel[from]?kind,id;
    if
    :: kind == RECORD -> held[from]--; joined[from]++; channel[2]!RECORD,from; held[2]++
    :: kind == BARRIER -> receive_barrier(from, id)
    :: kind == END -> receive_end(from)
    fi;
    kind = 0; id = 0
}

#ifdef BUG_EOI_NOT_ALIGNED
#define readable(from) ((!(blocked & (1 << from)) && nempty(channel[from])) || channel[from]?[END,_])
#else
#define readable(from) (!(blocked & (1 << from)) && nempty(channel[from]))
#endif

active proctype Join() {
    mtype kind;
    byte id;
end_idle:
    do
    :: atomic { held[2] < CREDIT && readable(0) -> take(0) }
    :: atomic { held[2] < CREDIT && readable(1) -> take(1) }
    :: atomic { abort_join?id -> receive_abort(id); id = 0 }
    od
}

/* --- the sink: one channel, so every barrier is the last ----------------------------------------- */

byte newest_at_sink, given_up_at_sink;

active proctype Sink() {
    mtype kind;
    byte id;
end_idle:
    do
    :: atomic { channel[2]?kind,id ->
        if
        :: kind == RECORD -> held[2]--; sunk[id]++
        :: kind == END -> ended = ended | 8
        :: kind == BARRIER ->
            assert(id > newest_at_sink);
            newest_at_sink = id;
            if
            :: given_up_at_sink & (1 << id)
            :: else ->
                cut[id].sunk[0] = sunk[0]; cut[id].sunk[1] = sunk[1]; cut[id].sunk[2] = sunk[2];
                acknowledge(id, 3)
            fi
        fi;
        kind = 0; id = 0 }
    :: atomic { abort_sink?id ->
        if
        :: id > newest_at_sink -> given_up_at_sink = given_up_at_sink | (1 << id)
        :: else
        fi;
        id = 0 }
    od
}

/* --- the coordinator ----------------------------------------------------------------------------- */

inline check_cut(id) {
    assert(cut[id].joined[0] == cut[id].sent[0] && cut[id].joined[1] == cut[id].sent[1]);
    assert(cut[id].sunk[0] == cut[id].joined[0] && cut[id].sunk[1] == cut[id].joined[1]);
    /* A task has ended at the cut if, and only if, all that send to it had ended at the cut. */
    assert(((cut[id].ended & 3) == 3) == ((cut[id].ended & 4) != 0));
    assert(((cut[id].ended & 4) != 0) == ((cut[id].ended & 8) != 0));
    assert(cut[id].sunk[2] == ((cut[id].ended & 4) != 0))
}

inline withdraw(task, id) { /* the abort finds the trigger still waiting, or it comes too late */
    if
    :: trigger[task]??[eval(id)] -> trigger[task]??eval(id)
    :: true
    fi
}

active proctype Coordinator() {
    byte id;
    do
    :: atomic { pending == 0 && triggered < PERIODIC ->
        triggered++; pending = triggered; trigger[0]!pending; trigger[1]!pending }
    :: atomic { pending == 0 && triggered < FINAL && ended == 15 ->
        triggered = FINAL; pending = FINAL; trigger[0]!pending; trigger[1]!pending }
    :: atomic { pending != 0 && acknowledged[pending] == 15 ->
        check_cut(pending);
        if
        :: pending < FINAL && cut[pending].ended != 0 && cut[pending].ended != 15 ->
            REACHED(COMPLETE_WHILE_ENDING)
        :: else
        fi;
        if
        :: pending == PERIODIC && aborted != 0 -> REACHED(COMPLETE_AFTER_ABORT)
        :: else
        fi;
        if
        :: pending == FINAL -> done = true; break
        :: else -> pending = 0
        fi }
#ifndef NO_ABORT
    :: atomic { pending != 0 && pending < FINAL ->
        id = pending; pending = 0; aborted++;
        withdraw(0, id); withdraw(1, id);
        abort_join!id; abort_sink!id; id = 0 }
#endif
    od;
    assert(sunk[0] == RECORDS && sunk[1] == RECORDS && sunk[2] == 1)
}

ltl finishes { <> done }
ltl decides { [] (pending != 0 -> <> (pending == 0 || done)) }
