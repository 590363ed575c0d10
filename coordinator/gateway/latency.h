/* coordinator/gateway/latency.h - times of one kind, kept as a histogram fine enough for percentiles: 16 buckets an octave, so within 5 %.
 *
 * From 1 us to over an hour.  Any thread adds, without locks. */
#ifndef COORDINATOR_GATEWAY_LATENCY_H
#define COORDINATOR_GATEWAY_LATENCY_H

#include <stdatomic.h>
#include <stdint.h>

enum { LATENCY_BUCKETS = 33 * 16 };

typedef struct gateway_latency {
    _Atomic uint64_t counts[LATENCY_BUCKETS];
    _Atomic uint64_t n, max_ns;
} gateway_latency;

void gateway_latency_add(gateway_latency *l, uint64_t ns);
/* Nanoseconds below which that share of all times lies; 0 if there are none. */
double gateway_latency_at(const gateway_latency *l, double share);

#endif
