/* tests/shard_files/fuzz_safetensors.c - any bytes as a safetensors file, as a bare header, and as an index. */
#include <stdlib.h>
#include <string.h>

#include "shard/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was accepted must hold what the table promises. */
static void check(const shard_tensors *t, uint64_t file_bytes)
{
    for (size_t i = 0; i < t->n; i++) {
        const shard_tensor *e = &t->list[i];
        if (shard_tensors_find(t, e->name) != e || e->offset > file_bytes || e->bytes > file_bytes - e->offset || e->elements < 0)
            abort();
    }
}

static void parse(const char *json, size_t len, uint64_t file_bytes)
{
    shard_tensors t;
    if (shard_tensors_init(&t) == ST_OK && shard_safetensors_parse("fuzz", json, len, file_bytes, 0, &t) == ST_OK)
        check(&t, file_bytes);
    shard_tensors_free(&t);
}

static void parse_index(const char *json, size_t len)
{
    json_t *index = json_loadb(json, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    const char **names;
    size_t n;
    shard_tensors t;
    if (index != NULL && shard_tensors_init(&t) == ST_OK) {
        if (shard_safetensors_index_files("fuzz", index, &names, &n) == ST_OK) {
            (void)shard_safetensors_index_check("fuzz", index, &t, names);
            free(names);
        }
        shard_tensors_free(&t);
    }
    json_decref(index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t header;
    status_mute();
    if (size >= 8 && shard_safetensors_header_bytes("fuzz", data, size, &header) == ST_OK)
        parse((const char *)data + 8, (size_t)header, size);
    parse((const char *)data, size, 8 + (uint64_t)size + 64);
    parse_index((const char *)data, size);
    status_unmute();
    return 0;
}
