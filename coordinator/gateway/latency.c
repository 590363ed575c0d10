#include "coordinator/gateway/latency.h"

static int bucket_of(uint64_t ns)
{
    uint64_t us = ns / 1000 + 1;
    int octave = 63 - __builtin_clzll(us);
    int part = octave >= 4 ? (int)(us >> (octave - 4)) & 15 : (int)(us << (4 - octave)) & 15;
    int at = octave * 16 + part;
    return at < LATENCY_BUCKETS ? at : LATENCY_BUCKETS - 1;
}

/* The upper end of a bucket, in nanoseconds. */
static double end_of(int bucket)
{
    int octave = bucket / 16, part = bucket % 16;
    return ((double)(1ull << octave) * (1 + (part + 1) / 16.0) - 1) * 1000;
}

void gateway_latency_add(gateway_latency *l, uint64_t ns)
{
    atomic_fetch_add_explicit(&l->counts[bucket_of(ns)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&l->n, 1, memory_order_relaxed);
    uint64_t max = atomic_load_explicit(&l->max_ns, memory_order_relaxed);
    while (ns > max && !atomic_compare_exchange_weak_explicit(&l->max_ns, &max, ns, memory_order_relaxed, memory_order_relaxed))
        continue;
}

double gateway_latency_at(const gateway_latency *l, double share)
{
    uint64_t n = atomic_load(&l->n), seen = 0;
    for (int i = 0; i < LATENCY_BUCKETS; i++) {
        seen += atomic_load_explicit(&l->counts[i], memory_order_relaxed);
        if (seen > 0 && (double)seen >= share * (double)n) {
            double max = (double)atomic_load(&l->max_ns), end = end_of(i);
            return end < max ? end : max;
        }
    }
    return 0;
}
