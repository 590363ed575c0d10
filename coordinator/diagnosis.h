/* coordinator/diagnosis.h - what every rank found, as a table that stays readable, and what of it is to be mended.
 *
 * A pure function of a report, the JSON object that `trireme doctor --json` prints:
 *
 *   ranks     [n] objects of facts.h, each with "rank", "place" (a line), "cores_shared", "gpu_far", "nic", "clock_offset_seconds", "clock_error_seconds"
 *   hosts     [n] each rank's host, by number
 *   links     [{"ranks": [a, b], "seconds", "bytes_per_second"}]
 *   sums      [{"what": "stage 0", "ranks": [...], "bytes", "seconds"}]
 *   need      {"rank_bytes": [n] what the plan needs of each} or null
 *
 * and what is found is added to it as findings [{"must": bool, "ranks": [...], "what", "do"}]. */
#ifndef COORDINATOR_DIAGNOSIS_H
#define COORDINATOR_DIAGNOSIS_H

#include <stdbool.h>
#include <stdio.h>

#include "base/json.h"

/* Adds "findings"; *must: how many of them keep the job from working, or from working well, until they are mended. */
status diagnosis_find(json_t *report, int *must);
/* The pairs of a report inside hosts, or (across) between them: how many, and the medians. */
typedef struct diagnosis_ways {
    int n;
    double seconds, bytes_per_second;
} diagnosis_ways;
diagnosis_ways diagnosis_ways_of(const json_t *report, bool across);

void diagnosis_print(const json_t *report, FILE *out);

#endif
