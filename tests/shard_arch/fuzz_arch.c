/* tests/shard_arch/fuzz_arch.c - any bytes as a config.json, or as GGUF metadata written in JSON: refused or
 * understood; what is understood has finite facts and answers every question. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "arch_fixture.h"
#include "base/json.h"
#include "base/status.h"
#include "shard/arch.h"
#include "shard/plan/predict.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Answers that depend on the name alone, so that both branches of every look-up are met. */
static bool sometimes(void *arg, const char *name)
{
    unsigned sum = *(const unsigned *)arg;
    for (; *name != '\0'; name++)
        sum = sum * 31 + (unsigned char)*name;
    return sum % 3 != 0;
}

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void ask_everything(const shard_arch *a, unsigned salt)
{
    check(a->n_layers >= 1 && a->n_layers <= SHARD_MAX_LAYERS && a->n_heads % a->n_kv_heads == 0 && a->head_dim % 2 == 0);
    check(isfinite(a->norm_eps) && isfinite(a->attention_scale) && isfinite(a->embed_multiplier) && isfinite(a->logit_multiplier));
    for (int32_t i = 0; i < a->n_ropes; i++) {
        for (int32_t k = 0; k < a->ropes[i].dims / 2; k++)
            check(isfinite(a->ropes[i].inv_freq[0][k]) && isfinite(a->ropes[i].inv_freq[1][k]));
    }
    for (int32_t i = 0; i < a->n_layers; i++)
        check(a->layers[i].rope < a->n_ropes && a->layers[i].kv_group < a->n_kv_groups);
    for (int role = 0; role < SHARD_ROLES; role++) {
        for (int gguf = 0; gguf < 2; gguf++) {
            shard_stored s;
            char name[192];
            int64_t rows, cols;
            if (shard_role_shape(a, role, &rows, &cols))
                check(rows > 0 && cols > 0 && rows <= INT64_MAX / cols);
            if (shard_arch_stored(a, gguf, role, a->n_layers - 1, sometimes, &salt, &s))
                shard_stored_piece(&s, 0, name);
        }
    }
    (void)shard_arch_alibi_slope(a, a->n_heads - 1);
}

/* What can be planned but not run: counts and predictions are finite, for a split of one. */
static void predict(const shard_arch *a)
{
    double total, active;
    shard_prediction p;
    shard_serving s = {.machine = shard_machine_find("h100"), .types = {PACKED_F8, NULL}, .kv_type = SHARD_KV_F16, .chunk = 64};
    shard_split one = {1, 1, 1, 1};
    shard_arch_weights(a, &total, &active);
    check(isfinite(total) && isfinite(active) && total > 0 && active > 0);
    check(shard_split_check(a, &s, &one) == ST_OK);
    shard_predict(a, &s, &one, &(shard_load){100, 10, 3}, &p);
    check(isfinite(p.tpot) && p.tpot > 0 && isfinite(p.ttft) && p.ttft > 0);
    for (int32_t l = 0; l < a->n_layers; l++)
        check(!a->layers[l].moe || (a->n_experts > 0 && a->n_experts_used > 0 && a->n_experts_used <= a->n_experts && a->expert_intermediate > 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static shard_arch a;
    json_t *config;
    unsigned salt = (unsigned)size;
    status_mute();
    if (size < 1 << 16 && json_parse("config.json", (const char *)data, size, &config) == ST_OK) {
        if (shard_arch_from_config("config.json", config, NULL, NULL, &a) == ST_OK)
            ask_everything(&a, salt);
        if (shard_arch_from_config("config.json", config, sometimes, &salt, &a) == ST_OK)
            ask_everything(&a, salt);
        if (shard_arch_to_plan("config.json", config, &a) == ST_OK)
            predict(&a);
        if (json_object_get(config, "kv") != NULL && fixture_parse_gguf(config, &a) == ST_OK)
            ask_everything(&a, salt);
        json_decref(config);
    }
    status_unmute();
    return 0;
}
