/* coordinator/results.h - what benchmarks measured, as lines of JSON that say where and with what.
 *
 * A row is an object: "test" names what was measured, further members are figures and what they depend on, and "environment" is
 *
 *   time        when the command began, UTC                     version, commit, build   of this program; build is type and compiler
 *   command     its arguments, keys and tokens left out         host, system, cpu, isa   the machine; isa names what matters of its instruction sets
 *   cores, memory_bytes   granted to this process               load                     of the machine when the command began, other programs' included
 *
 * and, where a checkpoint was run, "replica":
 *   model, digest, tp, pp, compute, kv_type                     ranks                    of each: stage, host, backend (device or instruction set), threads
 *
 * Lines of several commands may stand in one file.  Readers take what they know and ignore the rest; a line without "test" is refused.  A file that is a trace of steps
 * (coordinator/trace.h) is read as one row, {"test": "trace", "traceEvents": [...]}. */
#ifndef COORDINATOR_RESULTS_H
#define COORDINATOR_RESULTS_H

#include "base/json.h"
#include "coordinator/replica.h"

/* The environment of this process and its command line, once per command; NULL: no memory.  Caller json_decref()s. */
json_t *results_environment(int argc, char **argv);

/* Adds "replica"; reports: [n_ranks], as coord_replica_report gives them. */
status results_add_replica(json_t *environment, coord_replica *r, const coord_replica_options *options, const coord_rank_report *reports, int n_ranks);

/* The row with its environment as one line on standard output, to path's end, or both (path NULL: nowhere; print false: not there).  row is taken, environment
 * borrowed; NULL, as jansson gives when there is no memory, fails. */
status results_put(json_t *row, json_t *environment, bool print, const char *path);

/* The rows of a file ("-": standard input), in order: an array; caller json_decref()s.  ST_FORMAT names the line that is no row. */
status results_read(const char *path, json_t **out);
/* Pure: the same for text in memory. */
status results_parse(const char *where, const char *text, size_t len, json_t **out);

#endif
