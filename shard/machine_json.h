/* shard/machine_json.h - a machine (shard/plan/machine.h) as a file that people and `trireme doctor` write.
 *
 *   {
 *     "machine": "cluster-1",              a name, for tables
 *     "base": "h100",                      optional: a built-in machine whose figures hold where this file gives none
 *     "devices_per_host": 8,
 *     "memory_bytes": 79e9,                of a device, that its rank may use
 *     "price_per_hour": 2.5,               of a device
 *     "in_host":       {"start_seconds": 7e-6, "bytes_per_second": 360e9},     as one device sees them, in one direction
 *     "between_hosts": {"start_seconds": 2e-5, "bytes_per_second": 42e9},
 *     "sums": [{"ranks": 16, "hosts": 2, "bytes": 65536, "seconds": 9e-5}, ...],  optional: what sums over so many ranks took, of two sizes or more
 *     "device": {                          what a device does in a second (shard_device in shard/plan/plan.h)
 *       "weights_per_second": {"bf16": 1.4e12, "q4_k": 4.9e12},               by packed type: read and unpacked
 *       "macs_per_second":    {"bf16": 3.2e14, "q4_k": 1.7e14},               ... multiplied with one activation each
 *       "cache_bytes_per_second": 2.8e12, "attention_macs_per_second": 2.7e14, "attention_head_seconds": 0,
 *       "elements_per_second": 4.7e11, "rotated_per_second": 4.7e11,
 *       "phase_seconds": 7e-6, "matrix_seconds": 0, "step_seconds": 1.5e-4,
 *       "overlaps": true                   reading and computing go on at once
 *     },
 *     "measured": {...}                    anything: how, where and when; not read
 *   }
 *
 * Without a base everything must be there but the price (0: not known), the starts (0), overlaps (false) and packed types that no checkpoint to be planned has. */
#ifndef SHARD_MACHINE_JSON_H
#define SHARD_MACHINE_JSON_H

#include <jansson.h>

#include "shard/plan/machine.h"

/* ST_FORMAT with `where`, the key and what is wrong with it: unknown keys, wrong types, figures that no machine has, missing ones. */
status shard_machine_parse(const char *where, const char *text, size_t len, shard_machine *out);
/* A built-in machine's name, or a file. */
status shard_machine_read(const char *name_or_path, shard_machine *out);
/* As above, with every figure that is not 0; caller json_decref()s; NULL: out of memory. */
json_t *shard_machine_json(const shard_machine *machine);

#endif
