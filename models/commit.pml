/*
 * Coordinator, two tasks and a sink that commits in two phases, under crashes, pauses and losses.
 *
 * Question: is each output committed exactly once in the end, never more than once before, and never
 * before a complete checkpoint stands for it, whoever dies or is taken for dead, and whenever?
 *
 * Stands for: CheckpointCoordinator (core/coordinator.py), SinkCommits and CommitRound
 * (core/commit.py), Recovery.begin_attempt (runtime/recovery.py), JobManager._inject,
 * _write_manifest and _notify (runtime/job_manager.py), JobStore.begin_attempt, reserve_checkpoint and
 * write_manifest (storage/job_store.py), OwnerLock (storage/ownership.py), PartWriter
 * (connectors/parts.py).
 *
 * A pause needs no step of its own, for any process may be slow. The job manager may take a task for
 * dead at any moment; it may be so, or the old task goes on beside its successor. For safety a crash
 * of a task, or the loss of a message to it, is therefore nothing but a pause that never ends. For
 * liveness it is something else: with -DCRASHES tasks do die and notifications are lost. A job
 * manager always dies for good, and its successor knows only what is written down.
 * FAULTS counts crashes, false suspicions, losses and failed writes together.
 */
#include "common.h"

/* Situations that must occur: see common.h. */
#define STALE_COMMIT 1 /* a task of an older attempt commits, rightly */
#define COMMIT_REPEATED 2 /* restored output had been committed before the crash */
#define COMMIT_AT_RESTORE 3
#define UNKNOWN_BUT_THERE 4 /* the outcome of the write was unknown, and the manifest is there */
#define SUBSUMED 5 /* a checkpoint commits what an older, aborted one had prepared */
#define REMOVED 6 /* prepared output of an older attempt is removed */
#define LATER_RESTORED 7 /* of two complete checkpoints the later one is restored */

/* Either of two walls keeps older attempts out: the fence (their messages are dropped) and the
 * reservation of ids (no checkpoint has the id of an older one). Each suffices. */
#ifdef BUG_NO_FENCE
#define WITHOUT_FENCE
#define WITHOUT_RESERVATION
#endif

#ifndef RECORDS
#define RECORDS 2
#endif
#ifndef FAULTS
#define FAULTS 2
#endif
#ifndef PERIODIC
#define PERIODIC 2
#endif
#define ATTEMPTS (FAULTS + 1)
#define IDS (PERIODIC + ATTEMPTS) /* every attempt may take a final checkpoint */

/* --- what survives everything: the store, and the world outside ---------------------------------- */

byte attempt; /* the newest that has begun */
byte reserved; /* the highest checkpoint id given away */

mtype = { ABSENT, VISIBLE, DURABLE }; /* a manifest; VISIBLE falls to a loss of power */
typedef Manifest { mtype is = ABSENT; byte position; byte outputs }
Manifest manifest[IDS + 1];

mtype = { FREE, PREPARED, COMMITTED, GONE };
typedef Output { mtype is = FREE; byte records; byte id; byte by }
Output output[IDS]; /* outputs are known by their number; a set of them is a byte of bits */
byte outputs;
byte covered; /* the outputs that some durable manifest lists */
byte promised; /* the highest checkpoint that anybody was told is complete */
byte committed_times[RECORDS];

/* --- what is told -------------------------------------------------------------------------------- */

typedef Told {
    byte trigger; /* the checkpoint that the source is to begin */
    bool is_final;
    byte sent; /* the barriers in the channel from source to sink, one bit for each */
    byte reached[IDS + 1]; /* and up to which record the source had read before each */
    byte acknowledged[2]; /* the newest checkpoint, by source and sink */
    byte position; /* what the source acknowledges */
    byte listed; /* what the sink acknowledges */
    byte complete; /* the newest checkpoint the sink is told of */
    byte committed; /* the newest that the sink says it has committed */
    byte position_restored; byte outputs_restored;
    bool is_broken; /* a message was lost, which sequence numbers or silence bring to light */
}
Told told[ATTEMPTS + 1];
bool is_dead[ATTEMPTS + 1]; /* both tasks of an attempt: one failure ends the other */
#define is_alive (!done && !is_dead[me])

byte faults, periodic;
bool done;
byte lock_owner; /* 0: nobody; else 1 + the job manager that holds the lock */
bool manager_crashed;

inline commit(number) {
    assert(output[number].is != GONE); /* never committed and given up */
#ifndef BUG_COMMIT_AT_ACK
    assert(covered & (1 << number)); /* committed -> complete */
#endif
    if
    :: output[number].is == PREPARED ->
        output[number].is = COMMITTED; output[number].by = 0;
        for (record : 0 .. RECORDS - 1) {
            if
            :: output[number].records & (1 << record) ->
                committed_times[record]++; assert(committed_times[record] <= 1)
            :: else
            fi
        }
        record = 0; output[number].records = 0
    :: else
    fi
}

/* --- the source ---------------------------------------------------------------------------------- */

/* Records between two barriers matter as a set only, and what comes after the last barrier not at
 * all. So a source reads just before a barrier: nothing, or some records, or, at a final one, all. */
proctype Source(byte me) {
    byte position = told[me].position_restored;
end_idle:
    do
    :: atomic { is_alive && told[me].trigger > told[me].acknowledged[0] ->
        if
        :: told[me].is_final -> position = RECORDS
        :: !told[me].is_final
        :: !told[me].is_final && position < RECORDS -> position++
        :: !told[me].is_final && position + 1 < RECORDS -> position = RECORDS
        fi;
        told[me].position = position;
        told[me].acknowledged[0] = told[me].trigger;
        told[me].reached[told[me].trigger] = position;
        told[me].sent = told[me].sent | (1 << told[me].trigger) }
    :: atomic { done || is_dead[me] -> position = 0; break }
    od
}

/* --- the sink ------------------------------------------------------------------------------------ */

proctype Sink(byte me) {
    byte position = told[me].position_restored; /* up to which it has prepared */
    byte pending, number, record, id, target, seen;
    bool is_due;

    /* Sink.recover: what the restored checkpoint lists is committed, then leftovers are removed. */
end_idle_at_restore:
    do
    :: atomic { is_alive ->
        is_due = false;
        for (number : 0 .. IDS - 1) {
            if
            :: (told[me].outputs_restored & (1 << number)) && !is_due ->
                told[me].outputs_restored = told[me].outputs_restored & ~(1 << number);
                if
                :: output[number].is == COMMITTED -> REACHED(COMMIT_REPEATED)
                :: else -> REACHED(COMMIT_AT_RESTORE); is_due = true
                fi;
                commit(number)
            :: else
            fi
        }
        number = 0;
        if
        :: is_due -> is_due = false
        :: else -> break
        fi }
    :: atomic { done || is_dead[me] -> goto stop }
    od;
    atomic {
        for (number : 0 .. IDS - 1) {
            if
            :: output[number].is == PREPARED && output[number].by < me ->
                REACHED(REMOVED); output[number].is = GONE; output[number].records = 0;
                output[number].by = 0
            :: else
            fi
        }
        number = 0
    }

end_idle:
    do
    :: atomic { is_alive && told[me].sent != 0 ->
        seen = told[me].acknowledged[1];
        do /* the next barrier in the channel */
        :: seen++;
            if
            :: told[me].sent & (1 << seen) -> break
            :: else
            fi
        od;
        told[me].sent = told[me].sent & ~(1 << seen);
        if
        :: told[me].reached[seen] > position ->
            output[outputs].is = PREPARED; output[outputs].id = seen; output[outputs].by = me;
            output[outputs].records = ((1 << told[me].reached[seen]) - 1) & ~((1 << position) - 1);
            position = told[me].reached[seen];
#ifdef BUG_LISTS_OWN_OUTPUT_ONLY
            told[me].listed = 1 << outputs;
#else
            told[me].listed = pending | (1 << outputs);
#endif
            pending = pending | (1 << outputs); outputs++
#ifdef BUG_COMMIT_AT_ACK
            ; commit(outputs - 1)
#endif
#ifdef BUG_LISTS_OWN_OUTPUT_ONLY
        :: else -> told[me].listed = 0
#else
        :: else -> told[me].listed = pending
#endif
        fi;
        told[me].reached[seen] = 0; told[me].acknowledged[1] = seen; seen = 0 }
    /* Commits one by one what is due; a crash may come after each. Forgets only when all are done. */
    :: atomic { is_alive && told[me].complete > told[me].committed ->
        target = told[me].complete; is_due = false;
        for (number : 0 .. IDS - 1) {
            if
            :: (pending & (1 << number)) && output[number].id <= target &&
               output[number].is != COMMITTED && !is_due ->
                if
                :: me < attempt -> REACHED(STALE_COMMIT)
                :: else
                fi;
                if
                :: output[number].id < target -> REACHED(SUBSUMED)
                :: else
                fi;
                commit(number); is_due = true
            :: else
            fi
        }
        if
        :: is_due
        :: else ->
            for (number : 0 .. IDS - 1) {
                if
                :: output[number].id <= target -> pending = pending & ~(1 << number)
                :: else
                fi
            }
            told[me].committed = target
        fi;
        number = 0; target = 0; is_due = false }
    :: atomic { done || is_dead[me] -> break }
    od;
stop:
    atomic { position = 0; pending = 0 }
}

/* --- the job manager ----------------------------------------------------------------------------- */

/* Whose acknowledgements does it take? */
#ifdef WITHOUT_FENCE
#define acknowledges(by, task) (told[by].acknowledged[task] == pending)
#else
#define acknowledges(by, task) (by == mine && told[by].acknowledged[task] == pending)
#endif
#define is_acknowledged(task) (acknowledges(mine, task) || acknowledges(1, task))

#define suspects (is_dead[mine] || told[mine].is_broken)
#define is_up (!done && !(manager_crashed && me == 0))

inline make_durable(id) {
    manifest[id].is = DURABLE; covered = covered | manifest[id].outputs;
    promised = (id > promised -> id : promised)
}

inline choose() {
    /* Asked of the store, not of memory. */
    newest = 0;
    for (id : 1 .. IDS) {
        if
        :: manifest[id].is != ABSENT -> newest = id
        :: else
        fi
    }
    id = 0;
    assert(newest >= promised); /* complete(n) && complete(m) && n < m -> restored >= m */
    if
    :: newest > 0 && manifest[newest].is == VISIBLE -> REACHED(UNKNOWN_BUT_THERE)
    :: else
    fi;
    if
    :: newest > 0 ->
        for (id : 1 .. IDS) {
            if
            :: id < newest && manifest[id].is == DURABLE -> REACHED(LATER_RESTORED)
            :: else
            fi
        }
        id = 0;
#ifdef BUG_RESTORE_UNSYNCED
        covered = covered | manifest[newest].outputs;
        promised = newest;
#else
        make_durable(newest);
#endif
        told[mine].position_restored = manifest[newest].position;
        told[mine].outputs_restored = manifest[newest].outputs
    :: else
    fi;
#ifdef WITHOUT_RESERVATION
    reserved = newest;
#endif
    newest = 0
}

inline begin_checkpoint(final) {
    reserved++; pending = reserved; is_final = final;
    told[mine].trigger = pending; told[mine].is_final = final
}

proctype JobManager(byte me) {
    byte mine, pending, newest, id, position, listed;
    bool is_final, is_finishing;

    /* One job manager after the other: the lock falls with the process that holds it. */
    if
#ifdef BUG_NO_LOCK
    :: atomic { me == 0 -> skip }
    :: atomic { me == 1 && !done && faults < FAULTS -> faults++ }
    :: atomic { me == 1 && done -> goto stop }
#else
    :: atomic { lock_owner == 0 && (me == 0 || manager_crashed) -> lock_owner = me + 1 }
    :: atomic { done -> goto stop }
#endif
    :: atomic { me == 1 && manager_crashed && !done -> skip }
    fi;

begin:
    if
    :: atomic { is_up ->
        attempt++; mine = attempt; pending = 0; is_final = false; is_finishing = false;
        position = 0; listed = 0;
        choose();
        run Source(mine); run Sink(mine) }
    :: atomic { !is_up -> goto stop }
    fi;

running:
    do
    :: atomic { is_up && pending == 0 && !is_finishing && periodic < PERIODIC ->
        periodic++; begin_checkpoint(false) }
    :: atomic { is_up && pending == 0 && !is_finishing && reserved < IDS -> begin_checkpoint(true) }
    /* Its time is over: aborted. A final one that fails, fails the attempt. */
    :: atomic { is_up && pending != 0 && !is_final -> pending = 0 }
    :: atomic { is_up && pending != 0 && is_acknowledged(0) && is_acknowledged(1) ->
        if
        :: acknowledges(mine, 0) -> position = told[mine].position
        :: else -> position = told[1].position
        fi;
        if
        :: acknowledges(mine, 1) -> listed = told[mine].listed
        :: else -> listed = told[1].listed
        fi;
        goto writing }
    :: atomic { is_up && is_finishing && told[mine].committed == told[mine].trigger ->
        done = true; goto stop }
    :: atomic { is_up && suspects -> goto begin }
    :: atomic { is_up && faults < FAULTS -> faults++; goto begin } /* a false suspicion */
    :: atomic { !is_up -> goto stop }
    od;

writing: /* the fence is looked at, then the name is taken: two steps */
    if
    :: atomic { is_up && mine == attempt }
    :: atomic { is_up && mine < attempt -> goto stop }
    :: atomic { is_up && faults < FAULTS -> faults++; /* surely not written */
        if
        :: is_final -> goto begin
        :: else -> pending = 0; goto running
        fi }
    :: atomic { !is_up -> goto stop }
    fi;
    if
    :: atomic { is_up ->
        assert(mine == attempt); /* at most one attempt writes */
        assert(manifest[pending].is == ABSENT);
        manifest[pending].is = VISIBLE; manifest[pending].position = position;
        manifest[pending].outputs = listed }
    :: atomic { !is_up -> goto stop }
    fi;
    if
    :: atomic { is_up ->
        make_durable(pending);
        told[mine].complete = pending; is_finishing = is_final; pending = 0;
        position = 0; listed = 0; goto running }
#ifdef CRASHES
    :: atomic { is_up && faults < FAULTS -> faults++; /* the notification is lost */
        make_durable(pending);
        told[mine].is_broken = true; is_finishing = is_final; pending = 0;
        position = 0; listed = 0; goto running }
#endif
    :: atomic { is_up && faults < FAULTS -> faults++; goto begin } /* the outcome stays unknown */
    :: atomic { !is_up -> goto stop }
    fi;
stop:
    atomic {
        mine = 0; pending = 0; position = 0; listed = 0; is_final = false; is_finishing = false
    }
}

/* --- faults -------------------------------------------------------------------------------------- */

#define is_faulty (!done && faults < FAULTS && attempt > 0)

active proctype Faults() {
    byte at;
end_idle:
    do
#ifdef CRASHES
    :: atomic { is_faulty && !is_dead[attempt] -> is_dead[attempt] = true; faults++ }
#endif
    :: atomic { is_faulty && !manager_crashed -> manager_crashed = true; lock_owner = 0; faults++ }
    /* A loss of power takes what was not made durable. */
    :: atomic { is_faulty && !manager_crashed -> manager_crashed = true; lock_owner = 0; faults++;
        for (at : 1 .. IDS) {
            if
            :: manifest[at].is == VISIBLE -> manifest[at].is = ABSENT
            :: else
            fi
        }
        at = 0 }
    :: atomic { done || faults >= FAULTS -> break }
    od
}

init {
    atomic { run JobManager(0); run JobManager(1) };
    done;
    assert(committed_times[0] == 1 && committed_times[RECORDS - 1] == 1)
}

ltl finishes { <> done }
