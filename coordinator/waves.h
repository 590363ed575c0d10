/* coordinator/waves.h - among how many steps in flight the decoding sequences are divided, where stages share a memory.
 *
 * Stages on devices of their own are all busy if as many steps are in flight as there are stages, each with its share of the sequences (a wave).  Stages on one host's CPUs share its
 * memory, and every wave reads all weights anew: few large waves read less and leave stages idle (unless those lend
 * their cores: step.lent), many small ones the other way round.  Which gives more tokens a second depends on the
 * format, the processor, the number of sequences, and on who else uses the memory.  So it is measured, for each power of two of sequences apart, over stretches in which nothing but
 * decoding went on: half or twice the waves are tried now and then, and kept if they were faster; the longer a number has lasted, the rarer.  No token depends on it.
 *
 * A state machine without a clock of its own. */
#ifndef COORDINATOR_WAVES_H
#define COORDINATOR_WAVES_H

#include <stdbool.h>
#include <stdint.h>

enum { COORD_WAVES_CLASSES = 32 };

typedef struct coord_waves_class { /* of 2^i to 2^(i + 1) - 1 sequences */
    int32_t waves;          /* the best so far; 0: none was measured yet */
    double rate;            /* tokens a second with it, of late */
    int32_t interval, left; /* stretches from one trial to the next; until the next */
    bool fewer;             /* what the next trial is of */
} coord_waves_class;

typedef struct coord_waves {
    int32_t most;      /* stages; 1: there is nothing to choose */
    int32_t first;     /* where nothing was measured: if fewer than most there was a reason, and trials have time */
    coord_waves_class of[COORD_WAVES_CLASSES];
    int32_t at, waves; /* the class, and what is used now: its best or a trial, */
    bool won;          /* which was faster for a stretch, and is kept if it is for another */
    int32_t unsettled; /* steps until the stretch begins */
    int32_t steps;     /* of it, */
    int64_t tokens;    /* theirs, */
    double began;      /* and when it began */
} coord_waves;

void coord_waves_init(coord_waves *w, int32_t most, int32_t first);
/* How many to use now. */
int32_t coord_waves_now(const coord_waves *w);
/* A step begins at `clock`, of `decodes` sequences out of `running`, and perhaps of prompts. */
void coord_waves_step(coord_waves *w, double clock, int32_t decodes, int32_t running, bool prompts);

#endif
