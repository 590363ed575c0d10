/* shard/plan/machine.h - a cluster as the planner sees it: one kind of device, so many to a host, a link inside the host and one between hosts.
 *
 * Built-in figures for nodes of A100, H100, H200 and B200 come from data sheets; coordinator/measure.h and `trireme doctor` measure the machine at hand;
 * shard/machine_json.h reads and writes the same as a file.
 *
 * What ranks say to each other is reckoned as alpha + bytes / beta (Hockney 1994; the collectives after Thakur, Rabenseifner and Gropp 2005), p ranks on h hosts, n bytes:
 *
 *   one shot        every rank reads all others' n                          alpha + (p-1) n / beta
 *   two shots       every rank adds a slice, then reads the others' slices  2 alpha + 2 (p-1)/p n / beta
 *   ring            the same bytes in 2 (p-1) messages to one neighbour     2 (p-1) alpha + 2 (p-1)/p n / beta
 *   gather, scatter one half of two shots; n is the whole result            alpha + (p-1)/p n / beta
 *   all to all      n is what each rank sends, evenly to all                alpha + (p-1)/p n / beta
 *   send            alpha + n / beta
 *
 * Sums that were measured are taken instead, where ranks and hosts are as many: a network is rarely one start and one bandwidth for all sizes.
 * Between hosts the ranks of a host first add slices of n / g among themselves (g of them), slices cross in one exchange or two, and are gathered again. */
#ifndef SHARD_PLAN_MACHINE_H
#define SHARD_PLAN_MACHINE_H

#include <stddef.h>
#include <stdint.h>

#include "shard/plan/plan.h"

typedef struct shard_machine {
    char name[64];
    int32_t devices_per_host;
    size_t memory_bytes;      /* of a device, that its rank may use */
    double price_per_hour;    /* of a device; 0 = not known */
    shard_device device;      /* its rates, and the two links as one device sees them */
} shard_machine;

/* "a100" "h100" "h200" "b200", and "cpu" (one core of an ordinary server); NULL if unknown.  The list of names, for --help. */
const shard_machine *shard_machine_find(const char *name);
const char *shard_machine_names(void);

typedef enum shard_algorithm { SHARD_ONE_SHOT, SHARD_TWO_SHOT, SHARD_RING, SHARD_ALGORITHMS } shard_algorithm;

/* Seconds of a sum of `bytes` over p ranks of one host, the way `algorithm` does it. */
double shard_sum_seconds_by(const shard_device *d, shard_algorithm algorithm, int32_t p, double bytes);
/* What was measured for so many ranks and hosts, if anything; else the fastest way, over p ranks on `hosts` hosts (1: all on one). */
double shard_sum_seconds(const shard_device *d, int32_t p, int32_t hosts, double bytes);
/* A gather whose result is `bytes`; the first half of a sum takes as long. */
double shard_gather_seconds(const shard_device *d, int32_t p, int32_t hosts, double bytes);
/* Every rank sends `near_bytes` to others of its host and `far_bytes` to other hosts. */
double shard_exchange_seconds(const shard_device *d, double near_bytes, double far_bytes);
double shard_send_seconds(const shard_device *d, bool across_hosts, double bytes);

#endif
