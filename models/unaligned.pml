/*
 * Unaligned barriers: two sources, a join, a sink. The snapshot at the first barrier, barriers ahead of
 * queued output, and the messages in transit recorded (Chandy and Lamport 1985).
 *
 * Question: is the recorded state of every channel exactly what was sent before the sender's cut and
 * not received before the receiver's, in order, so that no token is lost or there twice?
 *
 * Stands for flowsnap/core/aligner.py and flowsnap/runtime/channel_state.py, unaligned. A channel is a
 * queue at the sender, which a barrier overtakes, and a wire, which it cannot overtake. The sender
 * records what is in its queue, the receiver what still arrives before the barrier. Each source has
 * RECORDS tokens, the join hands every token on. The end of input is not here: see aligned.pml.
 */
#include "common.h"

/* Situations that must occur: see common.h. */
#define OVERTAKES 1 /* a barrier overtakes queued output */
#define RECORDS_ARRIVAL 2 /* a record arrives between the first barrier and its own */
#define COMPLETE_WITH_BOTH 3 /* a complete checkpoint holds records of a queue and of a wire */
#define OVERTAKEN 4 /* a newer checkpoint ends the recording of an older one */
#define ABORT_WHILE_RECORDING 5

#ifndef RECORDS
#define RECORDS 2
#endif
#ifndef CHECKPOINTS
#define CHECKPOINTS 2
#endif
#define CREDIT 1 /* records on a wire */
#define QUEUE 2 /* records that wait for credit */

mtype = { RECORD, BARRIER };

/* Channels: 0 and 1 from the sources to the join, 2 to the sink. Records are numbered per channel. */
chan wire[3] = [CREDIT + CHECKPOINTS] of { mtype, byte };
byte held[3]; /* records on the wire */
byte sent[3], flushed[3], received[3]; /* by the task; onto the wire; by the receiver */
chan trigger[2] = [CHECKPOINTS] of { byte };
chan abort_join = [CHECKPOINTS] of { byte };

/* Tasks: 0 and 1 are the sources, 2 is the join, 3 the sink. */
byte acknowledged; /* the pending checkpoint, one bit for each task */
byte pending, triggered;
bool done;

/* Of the pending checkpoint: what each channel's sender had sent and receiver had received at their cuts; and the
 * last that was on the wire before the barrier. */
typedef Cut { byte sent[3]; byte received[3]; byte last[3] }
Cut cut;

/* How many records the channel state of the pending checkpoint holds: recorded by the receiver, from
 * the wire, and by the sender, from its queue. Both see them in order. */
byte from_wire[3], from_queue[3];

inline record(id, how_many) {
    if
    :: id == pending -> how_many++
    :: else /* nobody waits for it any more */
    fi
}

inline acknowledge(id, task) {
    if
    :: id == pending -> acknowledged = acknowledged | (1 << task)
    :: else /* late */
    fi
}

inline cut_join(id) {
    if
    :: id == pending -> cut.received[0] = received[0]; cut.received[1] = received[1]
    :: else
    fi
}

inline cut_sender(id, to) {
    if
    :: id == pending -> cut.sent[to] = sent[to]; cut.last[to] = flushed[to]
    :: else
    fi;
    if
    :: sent[to] > flushed[to] -> REACHED(OVERTAKES)
    :: else
    fi;
#ifndef BUG_QUEUE_NOT_RECORDED
    for (number : flushed[to] + 1 .. sent[to]) { record(id, from_queue[to]) }
    number = 0;
#endif
    wire[to]!BARRIER,id
}

#define has_room(to) (sent[to] - flushed[to] < QUEUE)

active [2] proctype Source() {
    byte me = _pid;
    byte id, number;
end_idle:
    do
    :: atomic { sent[me] < RECORDS && has_room(me) -> sent[me]++ }
    :: atomic { trigger[me]?id ->
        cut_sender(id, me); acknowledge(id, me); id = 0 }
    od
}

active proctype Network() {
end_idle:
    do
    :: atomic { sent[0] > flushed[0] && held[0] < CREDIT -> flushed[0]++; held[0]++;
        wire[0]!RECORD,flushed[0] }
    :: atomic { sent[1] > flushed[1] && held[1] < CREDIT -> flushed[1]++; held[1]++;
        wire[1]!RECORD,flushed[1] }
    :: atomic { sent[2] > flushed[2] && held[2] < CREDIT -> flushed[2]++; held[2]++;
        wire[2]!RECORD,flushed[2] }
    od
}

byte newest, current, arrived, given_up;

inline take(from) {
    wire[from]?kind,id;
    if
    :: kind == RECORD ->
        held[from]--; received[from]++; assert(id == received[from]);
#ifdef BUG_RECORDS_PAST_BARRIER
        if
        :: current != 0 ->
#else
        if
        :: current != 0 && !(arrived & (1 << from)) ->
#endif
            REACHED(RECORDS_ARRIVAL); record(current, from_wire[from])
        :: else
        fi;
        sent[2]++
    :: kind == BARRIER -> receive_barrier(from)
    fi;
    kind = 0; id = 0
}

inline receive_barrier(from) {
    if
    :: id > newest ->
        if
        :: current != 0 -> REACHED(OVERTAKEN)
        :: else
        fi;
        newest = id; current = 0; arrived = 0;
        if
        :: given_up & (1 << id)
        :: else ->
            current = id;
#ifdef BUG_FORWARD_BEFORE_SNAPSHOT
            cut_sender(id, 2)
#else
            cut_join(id);
            cut_sender(id, 2)
#endif
        fi
    :: else
    fi;
    if
    :: id == current ->
        arrived = arrived | (1 << from);
        if
        :: arrived == 3 ->
#ifdef BUG_FORWARD_BEFORE_SNAPSHOT
            cut_join(id);
#endif
            acknowledge(id, 2); current = 0; arrived = 0
        :: else
        fi
    :: else
    fi
}

active proctype Join() {
    mtype kind;
    byte id, number;
end_idle:
    do
    :: atomic { has_room(2) && nempty(wire[0]) -> take(0) }
    :: atomic { has_room(2) && nempty(wire[1]) -> take(1) }
    :: atomic { abort_join?id ->
        if
        :: id == current -> REACHED(ABORT_WHILE_RECORDING); current = 0; arrived = 0
        :: id != current && id > newest -> given_up = given_up | (1 << id)
        :: else
        fi;
        id = 0 }
    od
}

active proctype Sink() {
    mtype kind;
    byte id;
end_idle:
    do
    :: atomic { wire[2]?kind,id ->
        if
        :: kind == RECORD -> held[2]--; received[2]++; assert(id == received[2])
        :: kind == BARRIER ->
            if
            :: id == pending -> cut.received[2] = received[2]
            :: else
            fi;
            acknowledge(id, 3)
        fi;
        kind = 0; id = 0 }
    od
}

inline check_channel(id, at) {
    /* The channel state: the wire's part first, then the queue's, with no gap and nothing twice. */
    assert(cut.received[at] + from_wire[at] == cut.last[at]);
    assert(cut.last[at] + from_queue[at] == cut.sent[at])
}

inline forget() {
    acknowledged = 0;
    for (at : 0 .. 2) { cut.sent[at] = 0; cut.received[at] = 0; cut.last[at] = 0 }
    at = 0;
    from_wire[0] = 0; from_wire[1] = 0; from_wire[2] = 0;
    from_queue[0] = 0; from_queue[1] = 0; from_queue[2] = 0
}

#define in_transit(at) (from_wire[at] + from_queue[at])

inline check_cut(id) {
    check_channel(id, 0); check_channel(id, 1); check_channel(id, 2);
    /* Tokens: unread, in transit to the join, in transit to the sink, arrived. */
    assert(2 * RECORDS - cut.sent[0] - cut.sent[1] + in_transit(0) + in_transit(1)
        + in_transit(2) + cut.received[2] == 2 * RECORDS);
    if
    :: from_wire[0] + from_wire[1] > 0 && from_queue[0] + from_queue[1] + from_queue[2] > 0 ->
        REACHED(COMPLETE_WITH_BOTH)
    :: else
    fi
}

inline withdraw(task, id) { /* the abort finds the trigger still waiting, or it comes too late */
    if
    :: trigger[task]??[eval(id)] -> trigger[task]??eval(id)
    :: true
    fi
}

active proctype Coordinator() {
    byte id, at;
    do
    :: atomic { pending == 0 && triggered < CHECKPOINTS ->
        triggered++; pending = triggered; trigger[0]!pending; trigger[1]!pending }
    :: atomic { pending != 0 && acknowledged == 15 ->
        check_cut(pending); forget(); pending = 0 }
#ifndef NO_ABORT
    :: atomic { pending != 0 ->
        id = pending; pending = 0; forget(); withdraw(0, id); withdraw(1, id);
        abort_join!id; id = 0 }
#endif
    :: atomic { pending == 0 && triggered == CHECKPOINTS && received[2] == 2 * RECORDS ->
        done = true; break }
    od
}

ltl finishes { <> done }
ltl decides { [] (pending != 0 -> <> (pending == 0)) }
