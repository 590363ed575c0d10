/* tests/fuzz/fuzz_step.c - the step codec on hostile bytes: what decodes encodes to the same bytes again.
 * The first byte picks step or result. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "comm/step.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const step_limits limits = {
    .max_seqs = 64, .max_tokens = 512, .max_blocks = 1000, .max_blocks_per_span = 64, .max_bias = 8, .max_prefix = 256, .vocab = 32000, .n_kv_groups = 2};
static const step_result_limits result_limits = {.max_rows = 64, .max_top = 20, .max_embedding = 64, .vocab = 32000};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 1 << 16)
        return 0;
    step_arena arena = {0};
    size_t len = 0, n = size - 1;
    uint8_t *again = malloc(size);
    if (again == NULL)
        return 0;
    status_mute();
    if (data[0] & 1) {
        step s;
        if (step_decode(data + 1, n, &limits, &arena, &s) == ST_OK &&
            (step_encode(&s, again, n, &len) != ST_OK || len != n || memcmp(again, data + 1, n) != 0))
            abort();
    } else {
        step_result r;
        if (step_result_decode(data + 1, n, &result_limits, &arena, &r) == ST_OK &&
            (step_result_encode(&r, again, n, &len) != ST_OK || len != n || memcmp(again, data + 1, n) != 0))
            abort();
    }
    status_unmute();
    step_arena_free(&arena);
    free(again);
    return 0;
}
