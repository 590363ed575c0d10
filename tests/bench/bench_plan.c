/* tests/bench/bench_plan.c - how long every split of a checkpoint over many devices takes to predict.
 *
 *     build/release/bench/bench_plan CONFIG.json [DEVICES] */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/log.h"
#include "shard/arch.h"
#include "shard/plan/predict.h"

int main(int argc, char **argv)
{
    json_t *v;
    static shard_arch arch;
    int32_t n = argc > 2 ? atoi(argv[2]) : 1024;
    if (argc < 2 || n < 1 || json_parse_file(argv[1], 1 << 20, &v) != ST_OK || shard_arch_to_plan(argv[1], v, &arch) != ST_OK) {
        fprintf(stderr, "usage: bench_plan CONFIG.json [DEVICES]\n");
        return 2;
    }
    json_decref(v);
    shard_serving s = {.machine = shard_machine_find("h100"), .types = {PACKED_F8, NULL}, .kv_type = SHARD_KV_F16, .overlap_rows = 512};
    shard_sweep_options o = {.n_devices = n, .prompt = 4000, .output = 1000};
    shard_sweep *sweep;
    double began = log_thread_clock();
    if (shard_sweep_create(&arch, &s, &o, true, &sweep) != ST_OK)
        return 1;
    printf("%lld splits over %d devices, %lld fit, %lld predictions, %d on the front: %.3f s of one core\n", (long long)sweep->n_splits, n, (long long)sweep->n_fit,
           (long long)sweep->n_points, sweep->n_front, log_thread_clock() - began);
    shard_sweep_destroy(&sweep);
    return 0;
}
