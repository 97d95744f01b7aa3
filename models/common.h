/*
 * REACHED(SITUATION) marks a situation that some property speaks of. A run with -DREACH=SITUATION
 * claims that it never occurs, and must be refuted: otherwise the property holds of nothing.
 */
#ifdef REACH
bool reached;
#define REACHED(situation) \
    if \
    :: situation == REACH -> reached = true; assert(!reached) \
    :: else \
    fi
#else
#define REACHED(situation) skip
#endif
