/* tests/shard_files/fuzz_machine.c - any bytes as a machine; one that is taken predicts finite, positive figures. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "shard/machine_json.h"
#include "shard/plan/predict.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static shard_arch a = {.n_layers = 3, .hidden = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .intermediate = 96, .vocab = 128, .mlp = SHARD_MLP_GATED, .norm_weight = true,
                           .n_experts = 8, .n_experts_used = 2, .expert_intermediate = 32, .n_kv_groups = 1, .layers = {[1].moe = true}};
    shard_machine m;
    shard_sweep *sweep;
    status_mute();
    if (shard_machine_parse("machine.json", (const char *)data, size, &m) == ST_OK) {
        must(m.devices_per_host > 0 && m.memory_bytes > 0);
        for (int t = 0; t < PACKED_TYPES; t++) {
            shard_serving s = {.machine = &m, .types = {(packed_type)t, NULL}, .kv_type = SHARD_KV_Q8};
            shard_sweep_options o = {.n_devices = 12, .prompt = 100, .output = 10};
            if (shard_sweep_create(&a, &s, &o, false, &sweep) != ST_OK)
                continue;
            for (int32_t i = 0; i < sweep->n_front; i++)
                must(isfinite(sweep->front[i].p.tpot) && sweep->front[i].p.tpot > 0 && sweep->front[i].p.per_device > 0);
            shard_sweep_destroy(&sweep);
        }
    }
    status_unmute();
    return 0;
}
