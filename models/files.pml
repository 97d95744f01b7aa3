/*
 * Incremental checkpoints and the collection of files.
 *
 * Question: is every file that a kept manifest lists there, at every step, and is no checkpoint ever
 * refused because a file that it lists is gone?
 *
 * Stands for: SharedFiles (core/registry.py), retire and collect (core/retention.py), Snapshotter._store
 * (runtime/snapshot.py), JobStore.write_manifest, _check_files, retire, _collect and clean_leftovers
 * (storage/job_store.py), JobManager._notify (runtime/job_manager.py). One checkpoint is kept.
 *
 * One task. Between two checkpoints it makes one local file, named as the checkpoint that comes, and
 * may drop any older one (compaction). Files are stored one by one, as objects with identities that
 * never come twice. News of completion and abort may come late or never, barriers do not wait for
 * them. A crash or an unknown outcome ends the attempt: the task begins anew with the files of the
 * newest manifest.
 */
#include "common.h"

/* Situations that must occur: see common.h. */
#define REUSED 1 /* a complete checkpoint lists an object that an older one stored */
#define NOT_SURE_TO_STAY 2 /* a committed object is not used again, since a younger one lacks it */
#define COLLECTED 3 /* garbage is deleted */
#define CRASH_IN_COLLECTION 4
#define UNKNOWN_BUT_THERE 5 /* restored from a manifest whose outcome was unknown */
#define NEWS_IN_STORING 6 /* a completion is heard of while the next snapshot is being stored */

#ifndef CHECKPOINTS
#define CHECKPOINTS 4
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#define OBJECTS (CHECKPOINTS * (CHECKPOINTS + 1) / 2) /* each checkpoint stores each file at most once */

/* The store. */
short exists; /* objects, one bit each */
byte objects; /* the last identity given away */
typedef Files { byte object[CHECKPOINTS + 1] } /* the object of each local file; 0: not listed */
Files manifest[CHECKPOINTS + 1];
bool is_complete[CHECKPOINTS + 1];

/* What the job manager knows, and what it tells. */
byte pending, triggered;
chan news = [CHECKPOINTS] of { byte, bool }; /* checkpoint; is it complete, or aborted */
bool may_retire;
short garbage; /* listed for deletion */
byte crashes;
bool done;

/* The task, and what it acknowledges. */
byte live; /* local files, one bit each */
byte storing; /* the checkpoint whose files are being stored */
byte left; /* local files of it that are still to be stored */
byte acknowledged;
Files listed; /* the snapshot under way, then acknowledged */
byte taken; /* the newest barrier that has come */

/* SharedFiles. */
Files committed;
Files used[CHECKPOINTS + 1];
bool is_used[CHECKPOINTS + 1];
byte newest_complete, forgotten; /* forgotten: the aborted ones, one bit each */

#define is_over(id) (id <= newest_complete || (forgotten & (1 << id)))

inline clear(files) {
    for (at : 1 .. CHECKPOINTS) { files.object[at] = 0 }
    at = 0
}

inline copy(source, target) {
    for (at : 1 .. CHECKPOINTS) { target.object[at] = source.object[at] }
    at = 0
}

/* What holds at every step: the claim of the model. */
inline check_complete() {
    for (id : 1 .. CHECKPOINTS) {
        for (at : 1 .. CHECKPOINTS) {
            assert(!is_complete[id] || manifest[id].object[at] == 0 ||
                (exists & (1 << manifest[id].object[at])))
        }
    }
    id = 0; at = 0
}

/* --- the task ------------------------------------------------------------------------------------ */

inline store_next(file) {
    found = committed.object[file];
#ifndef BUG_NEWEST_COMMITTED_ONLY
    for (id : 1 .. CHECKPOINTS) {
        if
        :: is_used[id] && used[id].object[file] != committed.object[file] ->
            if
            :: committed.object[file] != 0 -> REACHED(NOT_SURE_TO_STAY)
            :: else
            fi;
            found = 0
        :: else
        fi
    }
    id = 0;
#endif
    if
    :: found == 0 -> objects++; assert(objects <= OBJECTS); found = objects; exists = exists | (1 << found)
    :: else
    fi;
    listed.object[file] = found; left = left & ~(1 << file); found = 0
}

inline hear(id, complete) {
    if
    :: complete && is_used[id] ->
        if
        :: storing > id -> REACHED(NEWS_IN_STORING)
        :: else
        fi;
        copy(used[id], committed); newest_complete = id;
        for (other : 1 .. CHECKPOINTS) {
            if
            :: other <= id -> is_used[other] = false; clear(used[other]); forgotten = forgotten & ~(1 << other)
            :: else
            fi
        }
        other = 0
    :: !complete && !is_over(id) ->
        forgotten = forgotten | (1 << id); is_used[id] = false; clear(used[id]);
        if
        :: storing == id -> storing = 0; left = 0; clear(listed)
        :: else
        fi
    :: else
    fi
}

active proctype Task() {
    byte id, at, found, other, file;
    bool complete;
end_idle:
    do
    :: atomic { triggered > taken && storing == 0 ->
        taken = triggered; storing = taken; clear(listed);
        live = live | (1 << taken); /* a new file */
        file = 1;
        do /* compaction drops some, or none */
        :: file < taken && (live & (1 << file)) -> live = live & ~(1 << file); file++
        :: file < taken -> file++
        :: file >= taken -> break
        od;
        left = live; file = 0; acknowledged = 0 }
    :: atomic { storing != 0 && left != 0 ->
        file = 1;
        do
        :: left & (1 << file) -> break
        :: else -> file++
        od;
        store_next(file); file = 0 }
    :: atomic { storing != 0 && left == 0 ->
        if
        :: !is_over(storing) -> is_used[storing] = true; copy(listed, used[storing])
        :: else
        fi;
        acknowledged = storing; storing = 0 }
    :: atomic { news?id,complete -> hear(id, complete); id = 0; complete = false }
    od
}

/* --- the job manager ----------------------------------------------------------------------------- */

inline tell(id, complete) { /* or the news is lost */
    if
    :: news!id,complete
    :: true
    fi
}

inline newest() {
    for (id : 1 .. CHECKPOINTS) {
        if
        :: is_complete[id] -> last = id
        :: else
        fi
    }
    id = 0
}

inline retire() {
    newest();
    for (id : 1 .. CHECKPOINTS) {
        if
        :: is_complete[id] && id != last -> is_complete[id] = false; clear(manifest[id])
        :: else
        fi
    }
    id = 0
}

inline collect() { /* mark and sweep, from the manifests alone */
    garbage = exists;
    for (id : 1 .. CHECKPOINTS) {
        for (at : 1 .. CHECKPOINTS) {
            if
            :: is_complete[id] -> garbage = garbage & ~(1 << manifest[id].object[at])
            :: else
            fi
        }
    }
    id = 0; at = 0;
    if
    :: garbage != 0 -> REACHED(COLLECTED)
    :: else
    fi
}

inline restart() {
    pending = 0; storing = 0; left = 0; acknowledged = 0; taken = triggered; garbage = 0;
    may_retire = false; clear(listed);
    do
    :: news?_,_
    :: empty(news) -> break
    od;
    for (id : 1 .. CHECKPOINTS) { is_used[id] = false; clear(used[id]) }
    id = 0; forgotten = 0; newest_complete = 0; live = 0; last = 0;
    newest();
    clear(committed);
    if
    :: last != 0 ->
        copy(manifest[last], committed);
        for (at : 1 .. CHECKPOINTS) {
            live = live | (manifest[last].object[at] != 0 -> 1 << at : 0)
        }
        at = 0
    :: else
    fi;
    last = 0
}

active proctype JobManager() {
    byte id, at, last;
    do
    :: atomic { pending == 0 && garbage == 0 && !may_retire && triggered < CHECKPOINTS ->
        triggered++; pending = triggered }
    :: atomic { pending != 0 -> tell(pending, false); pending = 0 } /* aborted */
    :: atomic { pending != 0 && acknowledged == pending ->
        for (at : 1 .. CHECKPOINTS) { /* _check_files never has to refuse */
            assert(listed.object[at] == 0 || (exists & (1 << listed.object[at])));
            if
            :: listed.object[at] != 0 && committed.object[at] == listed.object[at] -> REACHED(REUSED)
            :: else
            fi
        }
        at = 0;
        if
        :: true -> /* written */
            copy(listed, manifest[pending]); is_complete[pending] = true;
            tell(pending, true); pending = 0; may_retire = true
        :: true -> tell(pending, false); pending = 0 /* surely not written */
        :: crashes < CRASHES -> crashes++; restart() /* unknown, and it is not there */
        :: crashes < CRASHES -> crashes++; /* unknown, and it is there */
            REACHED(UNKNOWN_BUT_THERE);
            copy(listed, manifest[pending]); is_complete[pending] = true; restart()
        fi }
#ifdef BUG_FILES_BEFORE_MANIFESTS
    :: atomic { may_retire ->
        may_retire = false; newest(); collect();
        for (id : 1 .. CHECKPOINTS) { /* what only the older ones list goes first */
            for (at : 1 .. CHECKPOINTS) {
                if
                :: is_complete[id] && id != last && manifest[id].object[at] != 0 ->
                    garbage = garbage | (1 << manifest[id].object[at])
                :: else
                fi
            }
        }
        for (at : 1 .. CHECKPOINTS) { garbage = garbage & ~(1 << manifest[last].object[at]) }
        id = 0; at = 0; last = 0 }
#else
    :: atomic { may_retire -> may_retire = false; retire(); last = 0; collect() }
#endif
#ifdef BUG_COLLECTS_WHILE_PENDING
    :: atomic { pending != 0 && garbage == 0 && crashes < CRASHES -> crashes++; collect() }
#endif
    :: atomic { garbage != 0 ->
        id = 1;
        do
        :: garbage & (1 << id) -> break
        :: else -> id++
        od;
        garbage = garbage & ~(1 << id); exists = exists & ~(1 << id); id = 0; check_complete() }
    :: atomic { crashes < CRASHES ->
        if
        :: garbage != 0 -> REACHED(CRASH_IN_COLLECTION)
        :: else
        fi;
        crashes++; restart() }
    :: atomic { pending == 0 && triggered == CHECKPOINTS && !may_retire && garbage == 0 ->
        check_complete(); done = true; break }
    od
}

ltl finishes { <> done }
