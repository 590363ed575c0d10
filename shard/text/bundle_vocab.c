/* shard/text/bundle_vocab.c - a vocabulary as bytes and back: the layout is in bundle.h. */
#include <stdlib.h>
#include <string.h>

#include "shard/text/bundle.h"

static const char magic[] = "TRVOCAB"; /* and one byte of version */
enum { VERSION = '1', HAS_PRE = 1, HAS_SCORES = 2, HAS_TYPES = 4, N_IDS = 7, N_SETTINGS = 4 };

/* ---- writing ---- */

static void put_u32(mem_str *out, uint32_t v)
{
    const uint8_t b[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    mem_str_append(out, b, sizeof(b));
}

static void put_string(mem_str *out, const char *s, size_t len)
{
    size_t n = len;
    for (; n >= 0x80; n >>= 7)
        mem_str_putc(out, (char)(uint8_t)(n | 0x80));
    mem_str_putc(out, (char)(uint8_t)n);
    mem_str_append(out, s, len);
}

static void put_float(mem_str *out, float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    put_u32(out, bits);
}

status shard_vocab_encode(const shard_vocab *v, mem_str *out)
{
    const int32_t ids[N_IDS] = {v->bos, v->eos, v->unk, v->sep, v->cls, v->pad, v->mask};
    const int8_t settings[N_SETTINGS] = {v->add_bos, v->add_eos, v->add_space_prefix, v->remove_extra_whitespaces};
    if (v->charsmap_len > UINT32_MAX)
        return FAIL(ST_LIMIT, "vocabulary: a character map of %zu bytes", v->charsmap_len);
    mem_str_puts(out, magic);
    mem_str_putc(out, VERSION);
    put_u32(out, (v->pre != NULL ? HAS_PRE : 0) | (v->scores != NULL ? HAS_SCORES : 0) | (v->types != NULL ? HAS_TYPES : 0));
    put_u32(out, (uint32_t)v->n_tokens);
    put_u32(out, (uint32_t)v->n_merges);
    put_u32(out, (uint32_t)v->charsmap_len);
    for (int i = 0; i < N_IDS; i++)
        put_u32(out, (uint32_t)ids[i]);
    mem_str_append(out, settings, sizeof(settings));
    put_string(out, v->model, strlen(v->model));
    if (v->pre != NULL)
        put_string(out, v->pre, strlen(v->pre));
    for (int32_t i = 0; i < v->n_tokens; i++)
        put_string(out, v->tokens[i], v->token_lens[i]);
    for (int32_t i = 0; v->scores != NULL && i < v->n_tokens; i++)
        put_float(out, v->scores[i]);
    for (int32_t i = 0; v->types != NULL && i < v->n_tokens; i++)
        mem_str_putc(out, (char)(uint8_t)(v->types[i] >= 0 && v->types[i] <= UINT8_MAX ? v->types[i] : 0));
    for (int32_t i = 0; i < v->n_merges; i++)
        put_string(out, v->merges[i], v->merge_lens[i]);
    mem_str_append(out, v->precompiled_charsmap, v->charsmap_len);
    return out->failed ? FAIL(ST_NO_MEMORY, "no memory for a vocabulary's bytes") : ST_OK;
}

/* ---- reading ---- */

typedef struct reader {
    const char *where;
    const uint8_t *at, *end;
    bool failed; /* ran out of bytes, or a length makes no sense */
} reader;

static const void *take(reader *r, size_t n)
{
    const void *at = r->at;
    if (r->failed || n > (size_t)(r->end - r->at)) {
        r->failed = true;
        return NULL;
    }
    r->at += n;
    return at;
}

static uint32_t get_u32(reader *r)
{
    const uint8_t *b = take(r, 4);
    return b == NULL ? 0 : (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static const char *get_string(reader *r, size_t *len)
{
    uint64_t n = 0;
    for (unsigned shift = 0;; shift += 7) {
        const uint8_t *b = take(r, 1);
        if (b == NULL || shift > 28) {
            r->failed = true;
            *len = 0;
            return "";
        }
        n |= (uint64_t)(*b & 0x7f) << shift;
        if ((*b & 0x80) == 0)
            break;
    }
    const char *s = take(r, (size_t)n);
    *len = s == NULL ? 0 : (size_t)n;
    return s == NULL ? "" : s;
}

/* Everything that a vocabulary needs besides its bytes, in one block. */
typedef struct arrays {
    const char **tokens, **merges;
    size_t *token_lens, *merge_lens;
    float *scores;
    int32_t *types;
    char *model, *pre; /* NUL-terminated copies */
} arrays;

enum { MAX_NAME = 255 };

static status allocate(const char *where, size_t n_tokens, size_t n_merges, arrays *a, void **memory)
{
    size_t bytes = (n_tokens + n_merges) * (sizeof(char *) + sizeof(size_t)) + n_tokens * (sizeof(float) + sizeof(int32_t)) + 2 * (MAX_NAME + 1);
    char *at;
    TRY(mem_calloc(bytes, 1, where, &at));
    *memory = at;
    a->tokens = (const char **)(void *)at;
    a->merges = a->tokens + n_tokens;
    a->token_lens = (size_t *)(a->merges + n_merges);
    a->merge_lens = a->token_lens + n_tokens;
    a->scores = (float *)(a->merge_lens + n_merges);
    a->types = (int32_t *)(a->scores + n_tokens);
    a->model = (char *)(a->types + n_tokens);
    a->pre = a->model + MAX_NAME + 1;
    return ST_OK;
}

static void get_name(reader *r, char *out)
{
    size_t n;
    const char *s = get_string(r, &n);
    if (n > MAX_NAME || memchr(s, '\0', n) != NULL)
        r->failed = true;
    else
        memcpy(out, s, n);
}

static void get_arrays(reader *r, uint32_t flags, shard_vocab *v, const arrays *a)
{
    get_name(r, a->model);
    if (flags & HAS_PRE)
        get_name(r, a->pre);
    for (int32_t i = 0; i < v->n_tokens && !r->failed; i++)
        a->tokens[i] = get_string(r, &a->token_lens[i]);
    for (int32_t i = 0; (flags & HAS_SCORES) && i < v->n_tokens && !r->failed; i++) {
        uint32_t bits = get_u32(r);
        memcpy(&a->scores[i], &bits, sizeof(bits));
    }
    const uint8_t *types = flags & HAS_TYPES ? take(r, (size_t)v->n_tokens) : NULL;
    for (int32_t i = 0; types != NULL && i < v->n_tokens; i++)
        a->types[i] = types[i];
    for (int32_t i = 0; i < v->n_merges && !r->failed; i++)
        a->merges[i] = get_string(r, &a->merge_lens[i]);
    v->precompiled_charsmap = v->charsmap_len > 0 ? take(r, v->charsmap_len) : NULL;
    v->model = a->model;
    v->pre = flags & HAS_PRE ? a->pre : NULL;
    v->tokens = a->tokens;
    v->token_lens = a->token_lens;
    v->merges = a->merges;
    v->merge_lens = a->merge_lens;
    v->scores = flags & HAS_SCORES ? a->scores : NULL;
    v->types = flags & HAS_TYPES ? a->types : NULL;
}

static status check_magic(reader *r)
{
    const char *m = take(r, sizeof(magic)); /* 7 letters and the version */
    if (m == NULL || memcmp(m, magic, sizeof(magic) - 1) != 0)
        return FAIL(ST_FORMAT, "%s: is no vocabulary", r->where);
    if (m[sizeof(magic) - 1] != VERSION)
        return FAIL(ST_UNSUPPORTED, "%s: a vocabulary of version '%c'; this program reads '%c': update it", r->where,
                    m[sizeof(magic) - 1] >= ' ' && m[sizeof(magic) - 1] < 0x7f ? m[sizeof(magic) - 1] : '?', VERSION);
    return ST_OK;
}

status shard_vocab_decode(const char *where, const void *data, size_t len, shard_vocab *out, void **memory)
{
    reader r = {where, data, (const uint8_t *)data + len, false};
    shard_vocab v = {0};
    arrays a;
    TRY(check_magic(&r));
    uint32_t flags = get_u32(&r), tokens = get_u32(&r), merges = get_u32(&r);
    v.charsmap_len = get_u32(&r);
    int32_t *const ids[N_IDS] = {&v.bos, &v.eos, &v.unk, &v.sep, &v.cls, &v.pad, &v.mask};
    for (int i = 0; i < N_IDS; i++)
        *ids[i] = (int32_t)get_u32(&r);
    const int8_t *settings = take(&r, N_SETTINGS);
    /* Each string takes at least a byte: what is allocated is bounded by what is there. */
    if (settings == NULL || (flags & ~(uint32_t)(HAS_PRE | HAS_SCORES | HAS_TYPES)) != 0 || (uint64_t)tokens + merges > (uint64_t)(r.end - r.at) ||
        tokens > INT32_MAX || merges > INT32_MAX)
        return FAIL(ST_FORMAT, "%s: a vocabulary cut short", where);
    v.add_bos = settings[0];
    v.add_eos = settings[1];
    v.add_space_prefix = settings[2];
    v.remove_extra_whitespaces = settings[3];
    v.n_tokens = (int32_t)tokens;
    v.n_merges = (int32_t)merges;
    TRY(allocate(where, tokens, merges, &a, memory));
    get_arrays(&r, flags, &v, &a);
    if (r.failed || r.at != r.end) {
        free(*memory);
        *memory = NULL;
        return FAIL(ST_FORMAT, "%s: a vocabulary cut short, or with bytes to spare", where);
    }
    *out = v;
    return ST_OK;
}
