/* tests/shard_files/fuzz_gguf.c - any bytes as a GGUF file, and as the beginning of a longer one. */
#include <stdlib.h>
#include <string.h>

#include "shard/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every value, as every kind: the getters answer or decline, and what they give can be read. */
static uint64_t touch(shard_gguf *g)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < g->n_values; i++) {
        const char *key = g->values[i].key, *const *strings;
        const size_t *lens;
        const int64_t *ints;
        const double *doubles;
        int64_t n;
        double d;
        bool b;
        const char *s = shard_gguf_str(g, key);
        sum += s == NULL ? 0 : strlen(s);
        sum += shard_gguf_int(g, key, &n) ? (uint64_t)n : 0;
        sum += shard_gguf_bool(g, key, &b) && b;
        sum += shard_gguf_f64(g, key, &d) && d > 0;
        n = shard_gguf_int_array(g, key, &ints);
        for (int64_t k = 0; k < n; k++)
            sum += (uint64_t)ints[k];
        n = shard_gguf_f64_array(g, key, &doubles);
        for (int64_t k = 0; k < n; k++)
            sum += doubles[k] > 0;
        n = shard_gguf_str_array(g, key, &strings, &lens);
        for (int64_t k = 0; k < n; k++)
            sum += lens[k] > 0 ? (unsigned char)strings[k][lens[k] - 1] : 0;
        if (shard_gguf_find(g, key) != &g->values[i])
            abort();
    }
    return sum;
}

static uint64_t parse(const uint8_t *data, size_t size, uint64_t file_bytes)
{
    shard_tensors t;
    shard_gguf *g = NULL;
    bool need_more = false;
    uint64_t sum = 0;
    uint8_t *copy = malloc(size == 0 ? 1 : size);
    if (copy == NULL || shard_tensors_init(&t) != ST_OK)
        abort();
    memcpy(copy, data, size);
    status st = shard_gguf_parse("fuzz", copy, size, file_bytes, 0, &t, &need_more, &g);
    if (st != ST_OK || need_more)
        free(copy);
    if (st == ST_OK && need_more && (size == file_bytes || t.n != 0))
        abort();
    for (size_t i = 0; i < t.n; i++) {
        if (st != ST_OK || t.list[i].offset > file_bytes || t.list[i].bytes > file_bytes - t.list[i].offset)
            abort();
    }
    if (g != NULL)
        sum = touch(g);
    shard_gguf_destroy(&g);
    shard_tensors_free(&t);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static volatile uint64_t kept; /* so that nothing read is optimised away */
    status_mute();
    kept = parse(data, size, size);
    kept = kept + parse(data, size, (uint64_t)size + 4096);
    (void)kept;
    status_unmute();
    return 0;
}
