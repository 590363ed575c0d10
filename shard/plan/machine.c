#include "shard/plan/machine.h"

#include <math.h>
#include <string.h>

#define TYPES(f32_, f16_, bf16_, f8_, q8_, q4_, q5_, q2k_, q3k_, q4k_, q5k_, q6k_)                                                     \
    {                                                                                                                             \
        [PACKED_F32] = (f32_), [PACKED_F16] = (f16_), [PACKED_BF16] = (bf16_), [PACKED_Q8_0] = (q8_), [PACKED_Q4_0] = (q4_),      \
        [PACKED_Q4_1] = (q4_), [PACKED_Q5_0] = (q5_), [PACKED_Q5_1] = (q5_), [PACKED_Q2_K] = (q2k_), [PACKED_Q3_K] = (q3k_),      \
        [PACKED_Q4_K] = (q4k_), [PACKED_Q5_K] = (q5k_), [PACKED_Q6_K] = (q6k_), [PACKED_IQ4_NL] = (q4_), [PACKED_F8] = (f8_)     \
    }
/* Where memory alone limits: bandwidth over the bytes of a weight, scales included. */
#define FROM_MEMORY(bytes)                                                                                                        \
    TYPES((bytes) / 4, (bytes) / 2, (bytes) / 2, (bytes) / 1.03125, (bytes) / 1.0625, (bytes) / 0.5625, (bytes) / 0.6875, (bytes) / 0.328,           \
          (bytes) / 0.445, (bytes) / 0.5781, (bytes) / 0.703, (bytes) / 0.828)
/* Multiply-adds: half of an operations figure. */
#define MACS(f32_, half_, f8_, integer_)                                                                                          \
    TYPES((f32_) / 2, (half_) / 2, (half_) / 2, (f8_) / 2, (integer_) / 2, (integer_) / 2, (integer_) / 2, (integer_) / 2, (integer_) / 2, (integer_) / 2, \
          (integer_) / 2, (integer_) / 2)

/* What of a data sheet's peak is reckoned with.  Assumptions, the same for every GPU, not fitted to any published result of serving: streaming kernels reach 80 to 90 % of a
 * memory's bandwidth; large dense products 60 to 75 % of the tensor cores' peak at the clocks that power allows; attention kernels 50 to 65 % (FlashAttention-2 and -3,
 * arXiv:2307.08691 and 2407.08608); nccl-tests 75 to 85 % of NVLink and 85 to 95 % of InfiniBand. */
#define OF_MEMORY 0.85
#define OF_TENSOR 0.65
#define OF_ATTENTION 0.55
#define OF_NVLINK 0.80
#define OF_NETWORK 0.85
#define OF_CAPACITY 0.95 /* what drivers, contexts and fragments leave */
#define GIB 1073741824.0

/* A node of 8 SXM GPUs on NVSwitch, one InfiniBand port for each.  Operations/s dense, bytes/s, links in one direction.  Integer formats: each group's integer sum is scaled on the
 * CUDA cores, 4 instructions for 32 weights, which limits them to 8 multiply-adds an instruction (BENCHMARKS.md).  starts: a kernel launch inside a recorded step, and a barrier over
 * NVLink, take 1 to 3 us each, a phase has four or five; an exchange through InfiniBand about 20 us (nccl-tests, 2 nodes, small sizes). */
#define GPU(name_, memory_, capacity_, half_, f8_, f32_, link_, network_, phase_, start_, price_)                                 \
    {                                                                                                                             \
        .name = (name_), .devices_per_host = 8, .memory_bytes = (size_t)((capacity_) * OF_CAPACITY), .price_per_hour = (price_),  \
        .device = {                                                                                                               \
            .name = (name_), .overlaps = true,                                                                                    \
            .weights_per_second = FROM_MEMORY((memory_) * OF_MEMORY),                                                             \
            .macs_per_second = MACS((f32_) * OF_TENSOR, (half_) * OF_TENSOR, (f8_) * OF_TENSOR, (f32_) * 8 * OF_TENSOR),          \
            .bytes_per_second = (memory_) * OF_MEMORY,                                                                            \
            .attention_macs_per_second = (half_) / 2 * OF_ATTENTION,                                                              \
            .elements_per_second = (memory_) * OF_MEMORY / 6, /* 4 bytes read, 2 written */                                       \
            .rotated_per_second = (memory_) * OF_MEMORY / 6,                                                                      \
            .phase_seconds = (phase_), .step_seconds = 150e-6,                                                                    \
            .exchange_seconds = (start_), .exchange_bytes_per_second = (link_) * OF_NVLINK,                                       \
            .network_seconds = 20e-6, .network_bytes_per_second = (network_) * OF_NETWORK,                                        \
        },                                                                                                                        \
    }

/* Sources, all of NVIDIA: "A100 Tensor Core GPU" data sheet (June 2021), "H100 Tensor Core GPU" data sheet (2023), "H200 Tensor Core GPU" data sheet (2024), "DGX B200" data sheet
 * (2024; a GPU's share); "DGX A100", "DGX H100" and "DGX H200" data sheets for the networks (8 ports of 200, 400 and 400 Gb/s; B200: 400).  A100 has no fp8: products in 16 bits.
 * Capacities are what the driver reports of these boards (81,920, 81,559, 143,771 and 183,359 MiB).
 * Prices: round figures of what renting one cost in 2025, in US dollars; `trireme plan --price` sets another. */
static const shard_machine machines[] = {
    {
        /* Measured by coord_measure_device with AVX2 kernels on one core of a busy EPYC server (no VNNI). */
        .name = "cpu",
        .devices_per_host = 1,
        .memory_bytes = (size_t)16 << 30,
        .device = {
            .name = "cpu",
            .weights_per_second = TYPES(100e9, 100e9, 100e9, 5e9, 13e9, 30e9, 19e9, 23e9, 34e9, 31e9, 26e9, 38e9),
            .macs_per_second = TYPES(5.1e9, 7.3e9, 7.5e9, 7.5e9, 34e9, 65e9, 50e9, 41e9, 52e9, 74e9, 53e9, 29e9),
            .bytes_per_second = 13e9,
            .attention_macs_per_second = 45e9,
            .attention_head_seconds = 0.1e-6,
            .elements_per_second = 3.5e9,
            .rotated_per_second = 4e9,
            .phase_seconds = 0.6e-6,
            .matrix_seconds = 0.3e-6,
            .step_seconds = 30e-6,
            .exchange_seconds = 2e-6,
            .exchange_bytes_per_second = 5e9,
            .network_seconds = 30e-6,
            .network_bytes_per_second = 1e9,
        },
    },
    GPU("a100", 2.039e12, 80 * GIB, 312e12, 312e12, 19.5e12, 300e9, 25e9, 9e-6, 9e-6, 1.30),
    GPU("h100", 3.35e12, 80 * GIB, 989e12, 1979e12, 67e12, 450e9, 50e9, 7e-6, 7e-6, 2.00),
    GPU("h200", 4.8e12, 140 * GIB, 989e12, 1979e12, 67e12, 450e9, 50e9, 7e-6, 7e-6, 2.60),
    GPU("b200", 8.0e12, 179 * GIB, 2250e12, 4500e12, 75e12, 900e9, 50e9, 6e-6, 6e-6, 4.00),
};

const shard_machine *shard_machine_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(machines); i++) {
        if (strcmp(machines[i].name, name) == 0)
            return &machines[i];
    }
    return NULL;
}

const char *shard_machine_names(void)
{
    return "cpu, a100, h100, h200, b200";
}

const shard_device *shard_device_find(const char *name)
{
    const shard_machine *m = shard_machine_find(name);
    return m == NULL ? NULL : &m->device;
}

const char *shard_device_names(void)
{
    return shard_machine_names();
}

shard_device shard_device_scale(const shard_device *device, double n)
{
    shard_device d = *device;
    d.bytes_per_second *= n;
    for (int t = 0; t < PACKED_TYPES; t++) {
        d.weights_per_second[t] *= n;
        d.macs_per_second[t] *= n;
    }
    d.attention_macs_per_second *= n;
    d.elements_per_second *= n;
    d.rotated_per_second *= n;
    d.attention_head_seconds /= n; /* heads are shared out among the threads */
    return d;
}

/* ---- what ranks say to each other ---- */

double shard_sum_seconds_by(const shard_device *d, shard_algorithm algorithm, int32_t p, double bytes)
{
    if (p < 2)
        return 0;
    double alpha = d->exchange_seconds, beta = d->exchange_bytes_per_second, others = p - 1;
    switch (algorithm) {
    case SHARD_ONE_SHOT:
        return alpha + others * bytes / beta;
    case SHARD_TWO_SHOT:
        return 2 * alpha + 2 * others / p * bytes / beta;
    default:
        return 2 * others * alpha + 2 * others / p * bytes / beta;
    }
}

/* The most ranks that a group of p has on one host. */
static int32_t on_a_host(int32_t p, int32_t hosts)
{
    return (p + hosts - 1) / hosts;
}

double shard_gather_seconds(const shard_device *d, int32_t p, int32_t hosts, double bytes)
{
    if (p < 2)
        return 0;
    int32_t g = on_a_host(p, hosts);
    double seconds = g > 1 ? d->exchange_seconds + (g - 1.0) / g * bytes / d->exchange_bytes_per_second : 0;
    if (hosts > 1) /* each rank fetches its slice's share from its fellows on the other hosts */
        seconds += d->network_seconds + (hosts - 1.0) / hosts * bytes / g / d->network_bytes_per_second;
    return seconds;
}

/* What was measured for as many ranks on as many hosts, drawn between the two sizes around, and beyond the largest through the last two; 0: nothing was, or one size alone. */
static double sum_measured(const shard_device *d, int32_t p, int32_t hosts, double bytes)
{
    const shard_sum *low = NULL, *high = NULL;
    for (int32_t i = 0; i < d->n_sums && (high == NULL || high->bytes < bytes); i++) {
        if (d->sums[i].ranks != p || d->sums[i].hosts != hosts)
            continue;
        low = high;
        high = &d->sums[i];
    }
    if (high == NULL || (low == NULL && high->bytes < bytes))
        return 0;
    if (low == NULL) /* the smallest is all start */
        return high->seconds;
    return fmax(low->seconds + (high->seconds - low->seconds) * (bytes - low->bytes) / (high->bytes - low->bytes), low->seconds);
}

double shard_sum_seconds(const shard_device *d, int32_t p, int32_t hosts, double bytes)
{
    if (p < 2)
        return 0;
    double measured = sum_measured(d, p, hosts, bytes);
    if (measured > 0)
        return measured;
    if (hosts < 2) {
        double best = INFINITY;
        for (int a = 0; a < SHARD_ALGORITHMS; a++)
            best = fmin(best, shard_sum_seconds_by(d, (shard_algorithm)a, p, bytes));
        return best;
    }
    double slice = bytes / on_a_host(p, hosts), alpha = d->network_seconds, beta = d->network_bytes_per_second, others = hosts - 1;
    double one_shot = 2 * shard_gather_seconds(d, on_a_host(p, hosts), 1, bytes) + alpha + others * slice / beta;
    return fmin(one_shot, 2 * shard_gather_seconds(d, p, hosts, bytes));
}

double shard_exchange_seconds(const shard_device *d, double near_bytes, double far_bytes)
{
    double near = d->exchange_seconds + near_bytes / d->exchange_bytes_per_second;
    double far = far_bytes > 0 ? d->network_seconds + far_bytes / d->network_bytes_per_second : 0;
    return fmax(near, far);
}

double shard_send_seconds(const shard_device *d, bool across_hosts, double bytes)
{
    return across_hosts ? d->network_seconds + bytes / d->network_bytes_per_second : d->exchange_seconds + bytes / d->exchange_bytes_per_second;
}
