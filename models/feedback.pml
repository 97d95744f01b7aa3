/*
 * A ring of two tasks with a feedback log: source, head, body, and the edge back from body to head.
 *
 * Question: do the snapshots and the log together hold every token exactly once, also after a crash
 * and a restore, and can the ring never lock up, with one credit on each forward channel?
 *
 * Stands for loops (Carbone et al. 2015, section 4.3; flowsnap/api/looped.py). The feedback edge
 * never blocks alignment: the head takes its snapshot at the barrier from the source, forwards it, and
 * logs what comes on the feedback edge until the barrier has gone round. Restoring puts the log back
 * at the head of the feedback edge. The feedback channel spills, so it needs no credit. The body
 * absorbs a token, or sends it round again, at most LAPS times.
 */
#include "common.h"

/* Situations that must occur: see common.h. */
#define LOGGED 1 /* a complete checkpoint has a log */
#define REPLAYED 2 /* a log is replayed after a crash */
#define BARRIER_BEFORE_REPLAY 3 /* after a crash a barrier comes while the edge still holds records */
#define OVERTAKEN 4 /* a newer checkpoint ends the logging of an older one */
#define SPILLS 5 /* the feedback edge holds more than a credit would allow */

#ifndef TOKENS
#define TOKENS 3
#endif
#ifndef CHECKPOINTS
#define CHECKPOINTS 2
#endif
#define LAPS 2
#define CREDIT 1
#define SPILL (TOKENS + CHECKPOINTS)

mtype = { RECORD, BARRIER };

chan input = [CREDIT + CHECKPOINTS] of { mtype, byte, byte }; /* source to head */
chan forward = [CREDIT + CHECKPOINTS] of { mtype, byte, byte }; /* head to body */
chan feedback = [SPILL] of { mtype, byte, byte }; /* body to head: token and lap, or checkpoint */
byte held_input, held_forward, held_feedback;
byte trigger, abort_head;

#ifdef BUG_NO_SPILL
#define feedback_has_room (held_feedback < CREDIT)
#else
#define feedback_has_room true
#endif

/* The whole state of the tasks, so that a crash can take it back. */
byte position, absorbed, logging;
byte in_log[TOKENS]; /* of the checkpoint being logged: 1 + the lap of a token, or 0 */

/* Parts: bit 0 the source, 1 the head, 2 the body. */
byte acknowledged, pending, triggered;
byte cut_position, cut_absorbed; /* of the pending checkpoint */
byte kept_position, kept_absorbed, kept_log[TOKENS]; /* of the newest complete one */
bool crashed, done;

#define ALL ((1 << TOKENS) - 1)

inline acknowledge(id, part) {
    if
    :: id == pending -> acknowledged = acknowledged | (1 << part)
    :: else
    fi
}

active proctype Source() {
end_idle:
    do
    :: atomic { position < TOKENS && held_input < CREDIT ->
        input!RECORD,position,0; held_input++; position++ }
    :: atomic { trigger != 0 ->
        if
        :: trigger == pending -> cut_position = position
        :: else
        fi;
        acknowledge(trigger, 0); input!BARRIER,trigger,0; trigger = 0 }
    od
}

inline clear_log() {
    for (at : 0 .. TOKENS - 1) { in_log[at] = 0 }
    at = 0
}

active proctype Head() {
    mtype kind;
    byte id, lap, at;
end_idle:
    do
    :: atomic { held_forward < CREDIT && nempty(input) ->
        input?kind,id,lap;
        if
        :: kind == RECORD -> held_input--; forward!RECORD,id,lap; held_forward++
        :: kind == BARRIER ->
            if
            :: logging != 0 -> REACHED(OVERTAKEN)
            :: else
            fi;
            if
            :: crashed && held_feedback > 0 -> REACHED(BARRIER_BEFORE_REPLAY)
            :: else
            fi;
            clear_log(); logging = id; forward!BARRIER,id,0
        fi;
        kind = 0; id = 0; lap = 0 }
    :: atomic { held_forward < CREDIT && nempty(feedback) ->
        feedback?kind,id,lap;
        if
        :: kind == RECORD ->
            held_feedback--; forward!RECORD,id,lap; held_forward++;
#ifndef BUG_NOT_LOGGED
            if
            :: logging != 0 -> assert(in_log[id] == 0); in_log[id] = lap + 1
            :: else
            fi
#endif
        :: kind == BARRIER && id == logging -> logging = 0; acknowledge(id, 1)
        :: kind == BARRIER && id != logging -> skip /* of one that was overtaken or aborted */
        fi;
        kind = 0; id = 0; lap = 0 }
    :: atomic { abort_head != 0 ->
        if
        :: abort_head == logging -> logging = 0; clear_log()
        :: else /* too late, or too early: then it is logged in vain */
        fi;
        abort_head = 0 }
    od
}

active proctype Body() {
    mtype kind;
    byte id, lap;
end_idle:
    do
    :: atomic { nempty(forward) && feedback_has_room ->
        forward?kind,id,lap;
        if
        :: kind == RECORD ->
            held_forward--;
            assert(!(absorbed & (1 << id))); /* a token is there once */
            if
            :: absorbed = absorbed | (1 << id)
            :: lap < LAPS ->
                feedback!RECORD,id,lap + 1; held_feedback++;
                if
                :: held_feedback > CREDIT -> REACHED(SPILLS)
                :: else
                fi
            fi
        :: kind == BARRIER ->
            if
            :: id == pending -> cut_absorbed = absorbed
            :: else
            fi;
            acknowledge(id, 2);
#ifdef BUG_BARRIER_NOT_ROUND
            acknowledge(id, 1);
#endif
            feedback!BARRIER,id,0
        fi;
        kind = 0; id = 0; lap = 0 }
    od
}

inline check_tokens() {
    /* Unread, in the log, or absorbed: each token in one place, and none in two. */
    for (at : 0 .. TOKENS - 1) {
        assert((at >= cut_position) + (in_log[at] != 0) + ((cut_absorbed >> at) & 1) == 1);
        if
        :: in_log[at] != 0 -> REACHED(LOGGED)
        :: else
        fi
    }
    at = 0
}

inline keep() {
    kept_position = cut_position; kept_absorbed = cut_absorbed;
    for (at : 0 .. TOKENS - 1) { kept_log[at] = in_log[at]; in_log[at] = 0 }
    at = 0
}

inline forget() { pending = 0; acknowledged = 0; cut_position = 0; cut_absorbed = 0 }

inline drain(where) {
    do
    :: nempty(where) -> where?_,_,_
    :: empty(where) -> break
    od
}

inline restore() {
    forget(); trigger = 0; abort_head = 0; logging = 0;
    drain(input); drain(forward); drain(feedback);
    held_input = 0; held_forward = 0; held_feedback = 0;
    position = kept_position; absorbed = kept_absorbed;
    for (at : 0 .. TOKENS - 1) {
        in_log[at] = 0;
        if
        :: kept_log[at] != 0 ->
            REACHED(REPLAYED); feedback!RECORD,at,kept_log[at] - 1; held_feedback++
        :: else
        fi
    }
    at = 0
}

active proctype Coordinator() {
    byte at;
    do
    :: atomic { pending == 0 && triggered < CHECKPOINTS && trigger == 0 ->
        triggered++; pending = triggered; trigger = pending }
    :: atomic { pending != 0 && acknowledged == 7 -> check_tokens(); keep(); forget() }
#ifndef NO_ABORT
    :: atomic { pending != 0 ->
        if
        :: trigger == pending -> trigger = 0
        :: true
        fi;
        abort_head = pending; forget() }
    :: atomic { !crashed -> crashed = true; restore() }
#endif
    :: atomic { pending == 0 && triggered == CHECKPOINTS && absorbed == ALL -> done = true; break }
    od
}

ltl finishes { <> done }
ltl decides { [] (pending != 0 -> <> (pending == 0)) }
