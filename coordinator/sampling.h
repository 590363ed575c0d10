/* coordinator/sampling.h - sampling parameters as the wire has them, to those of a step. */
#ifndef COORDINATOR_SAMPLING_H
#define COORDINATOR_SAMPLING_H

#include "comm/step.h"
#include "comm/wire/wire.pb-c.h"

/* All but biases and bad words, whose shapes differ; lists are borrowed from m.  m->n_stop must be at most STEP_MAX_STOP_IDS. */
void coord_sampling_of_wire(const Trireme__Sampling *m, step_sampling *out);

#endif
