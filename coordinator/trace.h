/* coordinator/trace.h - what every rank was at in some steps, as a file that Perfetto (ui.perfetto.dev) and Chrome's about:tracing show.
 *
 * A rank is a process of its own there; a step is a bar, and what it consists of lies below it: batch, embedding, attention, MLP, waiting for the ranks of the stage, for another stage,
 * output head, sampling.  All times are rank 0's: each rank's clock was compared with rank 0's when it started, and is again at the end, so that a clock that runs fast is set right
 * in between.  Format: "Trace Event Format" of the Chromium project, complete events ("X"), microseconds. */
#ifndef COORDINATOR_TRACE_H
#define COORDINATOR_TRACE_H

#include "base/status.h"
#include "comm/comm.h"
#include "worker/worker.h"

typedef struct trace_clock {
    double at, offset, error; /* this rank's log_clock, and what to add to it for rank 0's */
} trace_clock;
/* Collective over the world. */
status trace_clock_read(comm_world *w, int timeout_ms, trace_clock *out);

/* Collective over the world, whose ranks are those of `everyone`; rank 0 writes the file. */
status trace_write(comm_world *w, comm_group *everyone, int timeout_ms, const trace_clock *begin, int32_t stage, const worker_event *events, size_t n, const char *path);

#endif
