#include "shard/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

status shard_tensors_init(shard_tensors *t)
{
    *t = (shard_tensors){.arena = mem_arena_create(0)};
    return t->arena == NULL ? FAIL(ST_NO_MEMORY, "tensor table: out of memory") : ST_OK;
}

void shard_tensors_free(shard_tensors *t)
{
    mem_arena_destroy(&t->arena);
    free(t->list);
    free(t->slots);
    *t = (shard_tensors){0};
}

/* The slot that holds name, or the free one where it would go.  There is always a free one. */
static size_t slot_of(const shard_tensors *t, const char *name, size_t len)
{
    size_t mask = t->n_slots - 1, i = hash_fast(name, len, 0) & mask;
    while (t->slots[i] != 0) {
        const char *have = t->list[t->slots[i] - 1].name;
        if (strlen(have) == len && memcmp(have, name, len) == 0)
            break;
        i = (i + 1) & mask;
    }
    return i;
}

static status grow(shard_tensors *t)
{
    TRY(mem_grow(&t->list, &t->cap, t->n + 1, sizeof(*t->list), "tensor table"));
    if ((t->n + 1) * 2 > t->n_slots) {
        size_t n_slots = t->n_slots == 0 ? 512 : t->n_slots * 2;
        uint32_t *slots;
        TRY(mem_calloc(n_slots, sizeof(*slots), "tensor table", &slots));
        free(t->slots);
        t->slots = slots;
        t->n_slots = n_slots;
        for (size_t i = 0; i < t->n; i++)
            slots[slot_of(t, t->list[i].name, strlen(t->list[i].name))] = (uint32_t)i + 1;
    }
    return ST_OK;
}

/* Names go into messages and JSON: printable, bounded. */
static status check_name(const char *where, const char *name, size_t len)
{
    if (len == 0 || len > SHARD_MAX_NAME)
        return FAIL(ST_FORMAT, "%s: a tensor's name has %zu bytes, must be from 1 to %d", where, len, SHARD_MAX_NAME);
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return FAIL(ST_FORMAT, "%s: a tensor's name holds the control character 0x%02x at byte %zu", where, (unsigned char)name[i], i);
    }
    return ST_OK;
}

static status compute_size(const char *where, shard_tensor *e)
{
    int64_t elements = 1;
    for (int i = 0; i < e->n_dims; i++) {
        if (e->dims[i] < 0 || __builtin_mul_overflow(elements, e->dims[i], &elements))
            return FAIL(ST_FORMAT, "%s: tensor %s: shape is negative or its element count overflows", where, e->name);
    }
    int32_t block = shard_dtype_block(e->dtype);
    int64_t inner = e->n_dims > 0 ? e->dims[e->n_dims - 1] : 1, bytes;
    if (inner % block != 0)
        return FAIL(ST_FORMAT, "%s: tensor %s: rows of %lld elements are not whole %s blocks of %d", where, e->name, (long long)inner,
                    shard_dtype_name(e->dtype), block);
    if (__builtin_mul_overflow(elements / block, (int64_t)shard_dtype_block_bytes(e->dtype), &bytes))
        return FAIL(ST_FORMAT, "%s: tensor %s: its size in bytes overflows", where, e->name);
    e->elements = elements;
    e->bytes = (uint64_t)bytes;
    return ST_OK;
}

status shard_tensors_add(shard_tensors *t, const char *where, const char *name, size_t name_len, const shard_tensor *entry)
{
    TRY(check_name(where, name, name_len));
    if (t->n >= SHARD_MAX_TENSORS)
        return FAIL(ST_LIMIT, "%s: more than %d tensors", where, SHARD_MAX_TENSORS);
    TRY(grow(t));
    size_t slot = slot_of(t, name, name_len);
    if (t->slots[slot] != 0)
        return FAIL(ST_FORMAT, "%s: tensor %.*s is there twice", where, (int)name_len, name);
    shard_tensor e = *entry;
    e.name = mem_arena_strndup(t->arena, name, name_len);
    if (e.name == NULL)
        return FAIL(ST_NO_MEMORY, "tensor table: out of memory");
    TRY(compute_size(where, &e));
    t->list[t->n++] = e;
    t->slots[slot] = (uint32_t)t->n;
    return ST_OK;
}

const shard_tensor *shard_tensors_find(const shard_tensors *t, const char *name)
{
    if (t->n_slots == 0)
        return NULL;
    uint32_t i = t->slots[slot_of(t, name, strlen(name))];
    return i == 0 ? NULL : &t->list[i - 1];
}

static int by_offset(const void *a, const void *b)
{
    const shard_tensor *x = *(const shard_tensor *const *)a, *y = *(const shard_tensor *const *)b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static status check_sorted(const char *where, const shard_tensor **list, size_t n, uint64_t begin, uint64_t end, bool dense)
{
    uint64_t at = begin;
    const char *before = NULL;
    for (size_t i = 0; i < n; i++) {
        const shard_tensor *e = list[i];
        if (e->offset < begin || e->offset > end || e->bytes > end - e->offset)
            return FAIL(ST_FORMAT,
                        "%s: tensor %s: its %llu bytes at %llu reach outside the file's data (%llu to %llu); the file is truncated or "
                        "damaged: fetch it again",
                        where, e->name, (unsigned long long)e->bytes, (unsigned long long)e->offset, (unsigned long long)begin,
                        (unsigned long long)end);
        if (e->offset < at)
            return FAIL(ST_FORMAT, "%s: tensors %s and %s overlap", where, before == NULL ? "(header)" : before, e->name);
        if (dense && e->offset != at)
            return FAIL(ST_FORMAT, "%s: %llu bytes before tensor %s belong to no tensor", where, (unsigned long long)(e->offset - at), e->name);
        at = e->offset + e->bytes;
        before = e->name;
    }
    if (dense && at != end)
        return FAIL(ST_FORMAT, "%s: %llu bytes after the last tensor belong to none", where, (unsigned long long)(end - at));
    return ST_OK;
}

status shard_tensors_check_layout(const shard_tensors *t, const char *where, int32_t file, uint64_t begin, uint64_t end, bool dense)
{
    const shard_tensor **sorted;
    size_t n = 0;
    TRY(mem_calloc(t->n + 1, sizeof(*sorted), "tensor table", &sorted));
    for (size_t i = 0; i < t->n; i++) {
        if (t->list[i].file == file)
            sorted[n++] = &t->list[i];
    }
    qsort(sorted, n, sizeof(*sorted), by_offset);
    status st = check_sorted(where, sorted, n, begin, end, dense);
    free(sorted);
    return st;
}

const char *shard_tensor_shape_text(const shard_tensor *tensor, char out[160])
{
    int n = snprintf(out, 160, "[");
    for (int i = 0; i < tensor->n_dims; i++)
        n += snprintf(out + n, 160 - (size_t)n, "%s%lld", i > 0 ? ", " : "", (long long)tensor->dims[i]);
    snprintf(out + n, 160 - (size_t)n, "]");
    return out;
}
