#include "shard/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "GGUF and safetensors numbers are little endian and read as they lie"
#endif

enum { MAX_KEYS = 65536, MAX_KEY_BYTES = 65535, MAX_GGUF_DIMS = 4, MAX_ARRAY_DEPTH = 4, MAX_NUMBERS = 1 << 24 };
#define MAX_HEADER ((uint64_t)1 << 30)

static const uint8_t kind_bytes[SHARD_GGUF_KINDS] = {
    [SHARD_GGUF_U8] = 1, [SHARD_GGUF_I8] = 1, [SHARD_GGUF_U16] = 2, [SHARD_GGUF_I16] = 2, [SHARD_GGUF_U32] = 4, [SHARD_GGUF_I32] = 4,
    [SHARD_GGUF_F32] = 4, [SHARD_GGUF_BOOL] = 1, [SHARD_GGUF_U64] = 8, [SHARD_GGUF_I64] = 8, [SHARD_GGUF_F64] = 8,
};

/* ggml's type numbers.  Those without a dtype are known by name only, so that the refusal can say what the file holds. */
static const struct {
    const char *name;
    shard_dtype dtype;
} ggml_types[] = {
    [0] = {"F32", SHARD_F32},       [1] = {"F16", SHARD_F16},        [2] = {"Q4_0", SHARD_Q4_0},     [3] = {"Q4_1", SHARD_Q4_1},
    [6] = {"Q5_0", SHARD_Q5_0},     [7] = {"Q5_1", SHARD_Q5_1},      [8] = {"Q8_0", SHARD_Q8_0},     [9] = {"Q8_1", SHARD_DTYPES},
    [10] = {"Q2_K", SHARD_Q2_K},    [11] = {"Q3_K", SHARD_Q3_K},     [12] = {"Q4_K", SHARD_Q4_K},    [13] = {"Q5_K", SHARD_Q5_K},
    [14] = {"Q6_K", SHARD_Q6_K},    [15] = {"Q8_K", SHARD_DTYPES},   [16] = {"IQ2_XXS", SHARD_DTYPES}, [17] = {"IQ2_XS", SHARD_DTYPES},
    [18] = {"IQ3_XXS", SHARD_DTYPES}, [19] = {"IQ1_S", SHARD_DTYPES}, [20] = {"IQ4_NL", SHARD_IQ4_NL}, [21] = {"IQ3_S", SHARD_DTYPES},
    [22] = {"IQ2_S", SHARD_DTYPES}, [23] = {"IQ4_XS", SHARD_DTYPES}, [24] = {"I8", SHARD_I8},        [25] = {"I16", SHARD_I16},
    [26] = {"I32", SHARD_I32},      [27] = {"I64", SHARD_I64},       [28] = {"F64", SHARD_F64},      [29] = {"IQ1_M", SHARD_DTYPES},
    [30] = {"BF16", SHARD_BF16},    [34] = {"TQ1_0", SHARD_DTYPES},  [35] = {"TQ2_0", SHARD_DTYPES}, [39] = {"MXFP4", SHARD_DTYPES},
    [40] = {"NVFP4", SHARD_DTYPES},
};

/* A cursor over the prefix.  Running past it is the caller's cue to bring more, unless the file itself ends there. */
typedef struct cursor {
    const char *where;
    const uint8_t *data;
    size_t at, len;
    uint64_t file_bytes;
    bool need_more;
} cursor;

static status take(cursor *c, uint64_t n, const char *what, const uint8_t **out)
{
    if (n > c->file_bytes - c->at)
        return FAIL(ST_FORMAT,
                    "%s: the file ends inside %s at byte %zu (%" PRIu64 " bytes wanted, the file has %" PRIu64 "): it is truncated or damaged; fetch it again",
                    c->where, what, c->at, n, c->file_bytes);
    if (n > c->len - c->at) {
        c->need_more = true;
        return ST_LIMIT; /* not an error: shard_gguf_parse turns it into *need_more */
    }
    *out = c->data + c->at;
    c->at += (size_t)n;
    return ST_OK;
}

static status take_u32(cursor *c, const char *what, uint32_t *out)
{
    const uint8_t *p = NULL;
    TRY(take(c, 4, what, &p));
    memcpy(out, p, 4);
    return ST_OK;
}

static status take_u64(cursor *c, const char *what, uint64_t *out)
{
    const uint8_t *p = NULL;
    TRY(take(c, 8, what, &p));
    memcpy(out, p, 8);
    return ST_OK;
}

static status take_string(cursor *c, const char *what, const char **out, uint64_t *len)
{
    const uint8_t *p = NULL;
    TRY(take_u64(c, what, len));
    TRY(take(c, *len, what, &p));
    *out = (const char *)p;
    return ST_OK;
}

static status skip_elements(cursor *c, const char *key, uint32_t kind, uint64_t n, int depth);

static status skip_array(cursor *c, const char *key, uint32_t *kind, uint64_t *n, int depth)
{
    if (depth > MAX_ARRAY_DEPTH)
        return FAIL(ST_LIMIT, "%s: key %s: arrays nested deeper than %d", c->where, key, MAX_ARRAY_DEPTH);
    TRY(take_u32(c, key, kind));
    TRY(take_u64(c, key, n));
    return ST_OK;
}

static status skip_elements(cursor *c, const char *key, uint32_t kind, uint64_t n, int depth)
{
    const uint8_t *ignored;
    if (kind >= SHARD_GGUF_KINDS)
        return FAIL(ST_FORMAT, "%s: key %s: unknown kind of value %u", c->where, key, kind);
    if (kind_bytes[kind] > 0) {
        uint64_t bytes;
        if (__builtin_mul_overflow(n, (uint64_t)kind_bytes[kind], &bytes))
            return FAIL(ST_FORMAT, "%s: key %s: an array of %" PRIu64 " elements overflows", c->where, key, n);
        return take(c, bytes, key, &ignored);
    }
    for (uint64_t i = 0; i < n; i++) { /* each takes at least 8 bytes of the file, which bounds the loop */
        if (kind == SHARD_GGUF_STRING) {
            const char *s;
            uint64_t len;
            TRY(take_string(c, key, &s, &len));
        } else {
            uint32_t inner_kind = 0;
            uint64_t inner_n = 0;
            TRY(skip_array(c, key, &inner_kind, &inner_n, depth + 1));
            TRY(skip_elements(c, key, inner_kind, inner_n, depth + 1));
        }
    }
    return ST_OK;
}

static status parse_key(cursor *c, mem_arena *arena, const char **out)
{
    const char *s;
    uint64_t len;
    TRY(take_string(c, "a metadata key", &s, &len));
    if (len == 0 || len > MAX_KEY_BYTES)
        return FAIL(ST_FORMAT, "%s: a metadata key has %" PRIu64 " bytes, must be from 1 to %d", c->where, len, MAX_KEY_BYTES);
    for (uint64_t i = 0; i < len; i++) {
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return FAIL(ST_FORMAT, "%s: a metadata key holds a control character", c->where);
    }
    *out = mem_arena_strndup(arena, s, (size_t)len);
    return *out == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", c->where) : ST_OK;
}

static status parse_value(cursor *c, mem_arena *arena, shard_gguf_value *v)
{
    uint32_t kind;
    TRY(parse_key(c, arena, &v->key));
    TRY(take_u32(c, v->key, &kind));
    v->n = 1;
    if (kind == SHARD_GGUF_STRING) {
        const char *s;
        TRY(take_string(c, v->key, &s, &v->n));
        v->kind = SHARD_GGUF_STRING;
        v->data = (const uint8_t *)s;
        /* A terminated copy: strings are read by code that expects one. */
        v->converted = mem_arena_strndup(arena, s, (size_t)v->n);
        return v->converted == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", c->where) : ST_OK;
    }
    if (kind == SHARD_GGUF_ARRAY) {
        v->array = true;
        TRY(skip_array(c, v->key, &kind, &v->n, 1));
    }
    size_t begin = c->at;
    TRY(skip_elements(c, v->key, kind, v->n, 1));
    v->kind = (shard_gguf_kind)kind;
    v->data = c->data + begin;
    return ST_OK;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const shard_gguf_value *)a)->key, ((const shard_gguf_value *)b)->key);
}

static status parse_values(cursor *c, uint64_t n, shard_gguf *g)
{
    if (n > MAX_KEYS)
        return FAIL(ST_LIMIT, "%s: %" PRIu64 " metadata keys, more than the %d allowed", c->where, n, MAX_KEYS);
    g->values = mem_arena_alloc(g->arena, (size_t)(n + 1) * sizeof(*g->values));
    if (g->values == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", c->where);
    g->kv_begin = c->at;
    for (uint64_t i = 0; i < n; i++)
        TRY(parse_value(c, g->arena, &g->values[i]));
    g->kv_end = c->at;
    g->n_values = (size_t)n;
    qsort(g->values, g->n_values, sizeof(*g->values), by_key);
    for (size_t i = 1; i < g->n_values; i++) {
        if (strcmp(g->values[i - 1].key, g->values[i].key) == 0)
            return FAIL(ST_FORMAT, "%s: metadata key %s is there twice", c->where, g->values[i].key);
    }
    return ST_OK;
}

static status parse_type(const char *where, const char *name, uint32_t type, shard_dtype *out)
{
    if (type == 4 || type == 5)
        return FAIL(ST_UNSUPPORTED, "%s: tensor %s has the type Q4_%u, which no longer exists: convert the model again", where, name, type - 2);
    if (type >= ARRAY_LEN(ggml_types) || ggml_types[type].name == NULL)
        return FAIL(ST_UNSUPPORTED, "%s: tensor %s has the unknown type %u", where, name, type);
    if (ggml_types[type].dtype == SHARD_DTYPES)
        return FAIL(ST_UNSUPPORTED,
                    "%s: tensor %s is stored as %s, which is not supported; use a file quantised as Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K or IQ4_NL",
                    where, name, ggml_types[type].name);
    *out = ggml_types[type].dtype;
    return ST_OK;
}

static status parse_tensor(cursor *c, int32_t file, shard_tensors *tensors)
{
    shard_tensor e = {.file = file};
    const char *name;
    uint64_t name_len, dims[MAX_GGUF_DIMS];
    uint32_t n_dims, type;
    char label[SHARD_MAX_NAME + 1];
    TRY(take_string(c, "a tensor's name", &name, &name_len));
    if (name_len > SHARD_MAX_NAME || memchr(name, '\0', (size_t)name_len) != NULL)
        return FAIL(ST_FORMAT, "%s: a tensor's name has %" PRIu64 " bytes or holds a NUL", c->where, name_len);
    snprintf(label, sizeof(label), "%.*s", (int)name_len, name);
    TRY(take_u32(c, label, &n_dims));
    if (n_dims > MAX_GGUF_DIMS)
        return FAIL(ST_FORMAT, "%s: tensor %s has %u dimensions, more than %d", c->where, label, n_dims, MAX_GGUF_DIMS);
    for (uint32_t i = 0; i < n_dims; i++) {
        TRY(take_u64(c, label, &dims[i]));
        if (dims[i] > INT64_MAX)
            return FAIL(ST_FORMAT, "%s: tensor %s: a dimension of %" PRIu64 " is too large", c->where, label, dims[i]);
    }
    e.n_dims = (int32_t)n_dims;
    for (uint32_t i = 0; i < n_dims; i++)
        e.dims[i] = (int64_t)dims[n_dims - 1 - i];
    TRY(take_u32(c, label, &type));
    TRY(take_u64(c, label, &e.offset));
    TRY(parse_type(c->where, label, type, &e.dtype));
    return shard_tensors_add(tensors, c->where, name, (size_t)name_len, &e);
}

/* Offsets are relative to the data, which begins at the next multiple of the alignment after the header. */
static status place_tensors(cursor *c, size_t first, int32_t file, shard_gguf *g, shard_tensors *tensors)
{
    int64_t alignment = 32;
    if (shard_gguf_find(g, "general.alignment") != NULL &&
        (!shard_gguf_int(g, "general.alignment", &alignment) || alignment < 1 || alignment > 1 << 20 || (alignment & (alignment - 1)) != 0))
        return FAIL(ST_FORMAT, "%s: general.alignment must be a power of two", c->where);
    g->header_bytes = c->at;
    g->data_begin = mem_align(c->at, (size_t)alignment);
    if (first < tensors->n && g->data_begin > c->file_bytes)
        return FAIL(ST_FORMAT, "%s: the file ends after its header; it is truncated: fetch it again", c->where);
    for (size_t i = first; i < tensors->n; i++) {
        shard_tensor *e = &tensors->list[i];
        if (e->offset % (uint64_t)alignment != 0)
            return FAIL(ST_FORMAT, "%s: tensor %s: its offset %" PRIu64 " is not a multiple of the alignment %lld", c->where, e->name, e->offset,
                        (long long)alignment);
        if (__builtin_add_overflow(e->offset, g->data_begin, &e->offset))
            return FAIL(ST_FORMAT, "%s: tensor %s: its offset overflows", c->where, e->name);
    }
    uint64_t end = c->file_bytes > g->data_begin ? c->file_bytes : g->data_begin;
    return shard_tensors_check_layout(tensors, c->where, file, g->data_begin, end, false);
}

static status parse_head(cursor *c, uint32_t *version, uint64_t *n_tensors, uint64_t *n_values)
{
    const uint8_t *magic = NULL;
    TRY(take(c, 4, "the magic", &magic));
    if (memcmp(magic, "GGUF", 4) != 0)
        return FAIL(ST_FORMAT, "%s: does not begin with GGUF: not a GGUF file", c->where);
    TRY(take_u32(c, "the version", version));
    if (*version == 0x02000000 || *version == 0x03000000)
        return FAIL(ST_UNSUPPORTED, "%s: a big-endian GGUF file: convert it to little endian", c->where);
    if (*version != 2 && *version != 3)
        return FAIL(ST_UNSUPPORTED, "%s: GGUF version %u; versions 2 and 3 are read: %s", c->where, *version,
                    *version > 3 ? "a newer trireme is needed" : "convert the model again");
    TRY(take_u64(c, "the tensor count", n_tensors));
    TRY(take_u64(c, "the key count", n_values));
    if (*n_tensors > SHARD_MAX_TENSORS)
        return FAIL(ST_LIMIT, "%s: %" PRIu64 " tensors, more than the %d allowed", c->where, *n_tensors, SHARD_MAX_TENSORS);
    return ST_OK;
}

static status parse_all(cursor *c, int32_t file, shard_gguf *g, shard_tensors *staged)
{
    uint64_t n_tensors, n_values;
    TRY(parse_head(c, &g->version, &n_tensors, &n_values));
    TRY(parse_values(c, n_values, g));
    for (uint64_t i = 0; i < n_tensors; i++)
        TRY(parse_tensor(c, file, staged));
    return place_tensors(c, 0, file, g, staged);
}

status shard_gguf_parse(const char *where, uint8_t *bytes, size_t len, uint64_t file_bytes, int32_t file, shard_tensors *tensors, bool *need_more,
                        shard_gguf **out)
{
    shard_gguf *g;
    shard_tensors staged;
    cursor c = {.where = where, .data = bytes, .len = len, .file_bytes = file_bytes};
    *need_more = false;
    TRY(mem_calloc(1, sizeof(*g), where, &g));
    status st = shard_tensors_init(&staged);
    g->arena = mem_arena_create(0);
    g->where = strdup(where);
    if (st == ST_OK && (g->arena == NULL || g->where == NULL))
        st = FAIL(ST_NO_MEMORY, "%s: out of memory", where);
    if (st == ST_OK)
        st = parse_all(&c, file, g, &staged);
    for (size_t i = 0; st == ST_OK && i < staged.n; i++)
        st = shard_tensors_add(tensors, where, staged.list[i].name, strlen(staged.list[i].name), &staged.list[i]);
    shard_tensors_free(&staged);
    if (st != ST_OK) {
        shard_gguf_destroy(&g);
        if (c.need_more) {
            *need_more = true;
            return ST_OK;
        }
        return st;
    }
    g->bytes = bytes;
    *out = g;
    return ST_OK;
}

status shard_gguf_read(const char *where, int fd, uint64_t file_bytes, int32_t file, shard_tensors *tensors, shard_gguf **out)
{
    uint64_t want = (uint64_t)4 << 20;
    for (;;) {
        uint8_t *bytes;
        bool need_more;
        size_t len = (size_t)(want < file_bytes ? want : file_bytes);
        TRY(mem_calloc(len + 1, 1, where, &bytes));
        status st = file_read_at(fd, where, 0, bytes, len);
        if (st == ST_OK)
            st = shard_gguf_parse(where, bytes, len, file_bytes, file, tensors, &need_more, out);
        if (st == ST_OK && !need_more)
            return ST_OK;
        free(bytes);
        TRY(st);
        if (want >= MAX_HEADER)
            return FAIL(ST_LIMIT, "%s: its header is larger than %" PRIu64 " bytes", where, MAX_HEADER);
        want *= 4;
    }
}

void shard_gguf_destroy(shard_gguf **g)
{
    if (*g == NULL)
        return;
    mem_arena_destroy(&(*g)->arena);
    free((*g)->where);
    free((*g)->bytes);
    free(*g);
    *g = NULL;
}

const shard_gguf_value *shard_gguf_find(const shard_gguf *g, const char *key)
{
    shard_gguf_value probe = {.key = key};
    return g->n_values == 0 ? NULL : bsearch(&probe, g->values, g->n_values, sizeof(probe), by_key);
}

/* Element i of a numeric value as an integer / a double; false if it is of no such kind or does not fit. */
static bool element_int(const shard_gguf_value *v, uint64_t i, int64_t *out)
{
    const uint8_t *p = v->data + i * kind_bytes[v->kind];
#define AS(type)               \
    {                          \
        type x;                \
        memcpy(&x, p, sizeof(x)); \
        *out = (int64_t)x;     \
        return true;           \
    }
    switch (v->kind) {
    case SHARD_GGUF_U8: AS(uint8_t)
    case SHARD_GGUF_I8: AS(int8_t)
    case SHARD_GGUF_U16: AS(uint16_t)
    case SHARD_GGUF_I16: AS(int16_t)
    case SHARD_GGUF_U32: AS(uint32_t)
    case SHARD_GGUF_I32: AS(int32_t)
    case SHARD_GGUF_I64: AS(int64_t)
    case SHARD_GGUF_BOOL: *out = *p != 0; return true;
    case SHARD_GGUF_U64: {
        uint64_t x;
        memcpy(&x, p, sizeof(x));
        *out = (int64_t)x;
        return x <= INT64_MAX;
    }
    default: return false;
    }
#undef AS
}

static bool element_f64(const shard_gguf_value *v, uint64_t i, double *out)
{
    const uint8_t *p = v->data + i * kind_bytes[v->kind];
    int64_t n;
    if (v->kind == SHARD_GGUF_F32) {
        float f;
        memcpy(&f, p, 4);
        *out = f;
        return true;
    }
    if (v->kind == SHARD_GGUF_F64) {
        memcpy(out, p, 8);
        return true;
    }
    if (!element_int(v, i, &n))
        return false;
    *out = (double)n;
    return true;
}

bool shard_gguf_int(const shard_gguf *g, const char *key, int64_t *out)
{
    const shard_gguf_value *v = shard_gguf_find(g, key);
    return v != NULL && !v->array && v->kind != SHARD_GGUF_BOOL && element_int(v, 0, out);
}

bool shard_gguf_f64(const shard_gguf *g, const char *key, double *out)
{
    const shard_gguf_value *v = shard_gguf_find(g, key);
    return v != NULL && !v->array && v->kind != SHARD_GGUF_BOOL && element_f64(v, 0, out);
}

bool shard_gguf_bool(const shard_gguf *g, const char *key, bool *out)
{
    const shard_gguf_value *v = shard_gguf_find(g, key);
    if (v == NULL || v->array || v->kind != SHARD_GGUF_BOOL)
        return false;
    *out = v->data[0] != 0;
    return true;
}

const char *shard_gguf_str(const shard_gguf *g, const char *key)
{
    const shard_gguf_value *v = shard_gguf_find(g, key);
    if (v == NULL || v->array || v->kind != SHARD_GGUF_STRING || strlen(v->converted) != v->n)
        return NULL;
    return v->converted;
}

/* The array `key` of numbers with room for its conversion, NULL if there is none; *fresh: it is still to be filled. */
static shard_gguf_value *number_array(shard_gguf *g, const char *key, bool *fresh)
{
    shard_gguf_value *v = (shard_gguf_value *)shard_gguf_find(g, key);
    if (v == NULL || !v->array || kind_bytes[v->kind] == 0)
        return NULL;
    *fresh = v->converted == NULL;
    if (*fresh && v->n <= MAX_NUMBERS)
        v->converted = mem_arena_alloc(g->arena, (size_t)v->n * 8 + 8);
    return v->converted == NULL ? NULL : v;
}

/* An array is asked for as one kind throughout: a float array as doubles, any other as integers. */
int64_t shard_gguf_int_array(shard_gguf *g, const char *key, const int64_t **out)
{
    bool fresh;
    const shard_gguf_value *have = shard_gguf_find(g, key);
    if (have == NULL || have->kind == SHARD_GGUF_F32 || have->kind == SHARD_GGUF_F64)
        return -1;
    shard_gguf_value *v = number_array(g, key, &fresh);
    if (v == NULL)
        return -1;
    int64_t *list = (int64_t *)v->converted;
    for (uint64_t i = 0; fresh && i < v->n; i++) {
        if (!element_int(v, i, &list[i]))
            list[i] = INT64_MAX; /* an unsigned value beyond it: no consumer accepts either */
    }
    *out = list;
    return (int64_t)v->n;
}

int64_t shard_gguf_f64_array(shard_gguf *g, const char *key, const double **out)
{
    bool fresh;
    const shard_gguf_value *have = shard_gguf_find(g, key);
    if (have == NULL || (have->kind != SHARD_GGUF_F32 && have->kind != SHARD_GGUF_F64))
        return -1;
    shard_gguf_value *v = number_array(g, key, &fresh);
    if (v == NULL)
        return -1;
    double *list = (double *)v->converted;
    for (uint64_t i = 0; fresh && i < v->n; i++)
        element_f64(v, i, &list[i]);
    *out = list;
    return (int64_t)v->n;
}

int64_t shard_gguf_str_array(shard_gguf *g, const char *key, const char *const **out, const size_t **lens)
{
    shard_gguf_value *v = (shard_gguf_value *)shard_gguf_find(g, key);
    if (v == NULL || !v->array || v->kind != SHARD_GGUF_STRING)
        return -1;
    if (v->converted == NULL) {
        size_t n = (size_t)v->n; /* each took 8 bytes of the header: no overflow */
        const char **strings = mem_arena_alloc(g->arena, n * (sizeof(char *) + sizeof(size_t)) + 16);
        if (strings == NULL)
            return -1;
        size_t *lengths = (size_t *)(strings + n);
        const uint8_t *p = v->data;
        for (size_t i = 0; i < n; i++) {
            uint64_t len;
            memcpy(&len, p, 8);
            strings[i] = (const char *)p + 8;
            lengths[i] = (size_t)len;
            p += 8 + len;
        }
        v->converted = strings;
    }
    *out = (const char *const *)v->converted;
    *lens = (const size_t *)((const char *const *)v->converted + v->n);
    return (int64_t)v->n;
}
