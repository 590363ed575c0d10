/* comm/step.c - the step message's bytes.
 *
 *   u8 version, u8 kind (1 step, 2 result), then the fields of the struct in the order of step.h.
 *   Counts and ids are LEB128 varints (7 bits a byte, low first, at most 64 bits, never longer than needed); numbers that may be -1 are
 *   sent + 1; floats and hashes are 4 and 8 bytes, little-endian.  A decoding sequence takes about nine bytes.
 *
 * Every value has exactly one encoding and decode refuses all others, so bytes -> struct -> bytes is the identity (the fuzzer's
 * claim).  Decode allocates once, an amount bounded by the message's own length: every count is checked against the bytes left. */
#include "comm/step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { KIND_STEP = 1, KIND_RESULT = 2 };
enum { FLAG_STOP = 1, FLAG_LENT = 2 };              /* step */
enum { FLAG_WANT_HASH = 1 };   /* sampling */
enum { FLAG_NORMALIZE = 4, POOLING_BITS = 3 }; /* admission: two bits of step_pooling */
enum { ADMIT_BYTES = 59, SPAN_BYTES = 6, ROW_BYTES = 19 }; /* the least that one takes in a message */
enum { SEEN_RETIRE = 1, SEEN_ADMIT = 2, SEEN_SPAN = 4 };

bool step_penalised(const step_sampling *s)
{
    return s->repetition_penalty != 1.0f || s->presence_penalty != 0.0f || s->frequency_penalty != 0.0f;
}

int32_t step_prefix_told(const step_admit *a)
{
    int32_t generated = a->n_prefix > a->n_prompt ? a->n_prefix - a->n_prompt : 0;
    return step_penalised(&a->sampling) ? a->n_prefix : generated;
}

/* ---- writing: runs on past the end of buf, so that the need is known ---- */

typedef struct writer {
    uint8_t *buf;
    size_t cap, len;
} writer;

static void put_u8(writer *w, uint8_t v)
{
    if (w->len < w->cap)
        w->buf[w->len] = v;
    w->len++;
}

static void put_uint(writer *w, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        put_u8(w, (uint8_t)(v | 0x80));
    put_u8(w, (uint8_t)v);
}

static void put_i32(writer *w, int32_t v) /* >= 0 */
{
    put_uint(w, (uint32_t)v);
}

static void put_i32_or_none(writer *w, int32_t v) /* >= -1 */
{
    put_uint(w, (uint64_t)((int64_t)v + 1));
}

static void put_fixed(writer *w, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        put_u8(w, (uint8_t)(v >> (8 * i)));
}

static void put_f32(writer *w, float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    put_fixed(w, u, 4);
}

static status writer_end(const writer *w, size_t *len)
{
    *len = w->len;
    return w->len <= w->cap ? ST_OK : ST_LIMIT; /* a question for the size is no error to log */
}

static void put_tokens(writer *w, const step_tokens *t)
{
    put_i32(w, t->n);
    for (int32_t i = 0; i < t->n; i++)
        put_i32(w, t->tokens[i]);
}

static void put_bytes(writer *w, const void *data, size_t n)
{
    if (n > 0 && w->len < w->cap)
        memcpy(w->buf + w->len, data, n < w->cap - w->len ? n : w->cap - w->len);
    w->len += n;
}

static void put_sampling(writer *w, const step_sampling *p)
{
    put_f32(w, p->temperature);
    put_i32(w, p->top_k);
    put_f32(w, p->top_p);
    put_f32(w, p->min_p);
    put_f32(w, p->repetition_penalty);
    put_f32(w, p->presence_penalty);
    put_f32(w, p->frequency_penalty);
    put_fixed(w, p->seed, 8);
    put_uint(w, p->choice);
    put_i32_or_none(w, p->n_logprobs);
    put_i32_or_none(w, p->n_prompt_logprobs);
    put_i32(w, p->min_tokens);
    put_i32(w, p->max_tokens);
    put_u8(w, p->want_hash ? FLAG_WANT_HASH : 0);
    put_i32(w, p->n_stop);
    for (int32_t i = 0; i < p->n_stop; i++)
        put_i32(w, p->stop[i]);
    put_i32(w, p->n_bias);
    for (int32_t i = 0; i < p->n_bias; i++) {
        put_i32(w, p->bias[i].token);
        put_f32(w, p->bias[i].bias);
    }
    put_tokens(w, &p->allowed);
    put_i32(w, p->n_bad_words);
    for (int32_t i = 0; i < p->n_bad_words; i++)
        put_tokens(w, &p->bad_words[i]);
    put_tokens(w, &p->logprob_tokens);
    put_uint(w, p->n_grammar);
    put_bytes(w, p->grammar, p->n_grammar);
}

static void put_span(writer *w, const step_span *sp, int32_t n_kv_groups)
{
    put_i32(w, sp->slot);
    put_i32(w, sp->position);
    put_u8(w, (uint8_t)sp->flags);
    put_i32(w, sp->n_tokens);
    for (int32_t i = 0; i < sp->n_tokens; i++)
        put_i32_or_none(w, sp->tokens[i]);
    put_i32_or_none(w, sp->next_token);
    for (int32_t g = 0; g < n_kv_groups; g++) {
        put_i32(w, sp->n_new_blocks[g]);
        for (int32_t i = 0; i < sp->n_new_blocks[g]; i++)
            put_i32(w, sp->new_blocks[g][i]);
    }
}

status step_encode(const step *s, void *buf, size_t cap, size_t *len)
{
    writer w = {.buf = buf, .cap = cap};
    put_u8(&w, STEP_VERSION);
    put_u8(&w, KIND_STEP);
    put_uint(&w, s->number);
    put_u8(&w, (uint8_t)((s->stop ? FLAG_STOP : 0) | (s->lent ? FLAG_LENT : 0)));
    put_i32(&w, s->n_kv_groups);
    put_i32(&w, s->n_retire);
    put_i32(&w, s->n_admit);
    put_i32(&w, s->n_copies);
    put_i32(&w, s->n_spans);
    for (int32_t i = 0; i < s->n_retire; i++)
        put_i32(&w, s->retire[i]);
    for (int32_t i = 0; i < s->n_admit; i++) {
        const step_admit *a = &s->admit[i];
        put_i32(&w, a->slot);
        put_i32(&w, a->rope_set);
        put_i32(&w, a->n_prompt);
        put_i32(&w, a->n_generated);
        put_fixed(&w, a->hash, 8);
        put_i32(&w, a->n_prefix);
        put_u8(&w, (uint8_t)((unsigned)a->pooling | (a->normalize ? FLAG_NORMALIZE : 0)));
        put_sampling(&w, &a->sampling);
        for (int32_t t = 0; t < step_prefix_told(a); t++)
            put_i32(&w, a->prefix[t]);
    }
    for (int32_t i = 0; i < s->n_copies; i++) {
        put_i32(&w, s->copies[i].group);
        put_i32(&w, s->copies[i].from);
        put_i32(&w, s->copies[i].to);
    }
    for (int32_t i = 0; i < s->n_spans; i++)
        put_span(&w, &s->spans[i], s->n_kv_groups);
    return writer_end(&w, len);
}

/* ---- reading: the first fault is kept, later reads give 0 ---- */

typedef struct reader {
    const uint8_t *at, *end;
    const char *fault; /* what was wrong first */
    const uint8_t *start;
    char *free;        /* next free byte of the arena */
} reader;

static void reader_fault(reader *r, const char *what)
{
    if (r->fault == NULL)
        r->fault = what;
    r->at = r->end;
}

static size_t reader_left(const reader *r)
{
    return (size_t)(r->end - r->at);
}

static uint8_t get_u8(reader *r)
{
    if (r->at == r->end) {
        reader_fault(r, "it ends early");
        return 0;
    }
    return *r->at++;
}

static uint64_t get_uint(reader *r, uint64_t max, const char *what)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        uint8_t b = get_u8(r);
        if (r->fault != NULL)
            return 0;
        if ((b == 0 && shift > 0) || (shift == 63 && b > 1)) {
            reader_fault(r, "a number is not in its shortest form");
            return 0;
        }
        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            if (v <= max)
                return v;
            break;
        }
    }
    reader_fault(r, what);
    return 0;
}

/* 0 .. max */
static int32_t get_i32(reader *r, int32_t max, const char *what)
{
    return (int32_t)get_uint(r, max < 0 ? 0 : (uint64_t)max, what);
}

/* -1 .. max */
static int32_t get_i32_or_none(reader *r, int32_t max, const char *what)
{
    return (int32_t)((int64_t)get_uint(r, (uint64_t)((int64_t)max + 1), what) - 1);
}

/* A count of things that take at least `each` bytes in the message. */
static int32_t get_count(reader *r, size_t each, int32_t max, const char *what)
{
    int32_t n = get_i32(r, max, what);
    if ((size_t)n > reader_left(r) / each) {
        reader_fault(r, "it ends early");
        return 0;
    }
    return n;
}

static uint64_t get_fixed(reader *r, int bytes)
{
    if (reader_left(r) < (size_t)bytes) {
        reader_fault(r, "it ends early");
        return 0;
    }
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)*r->at++ << (8 * i);
    return v;
}

static float get_any_f32(reader *r)
{
    uint32_t u = (uint32_t)get_fixed(r, 4);
    float v;
    memcpy(&v, &u, 4);
    return v;
}

static float get_f32(reader *r, float min, float max, const char *what)
{
    float v = get_any_f32(r);
    if (r->fault == NULL && !(v >= min && v <= max)) /* NaN too */
        reader_fault(r, what);
    return v;
}

static uint8_t get_flags(reader *r, uint8_t known, const char *what)
{
    uint8_t v = get_u8(r);
    if ((v & ~known) != 0)
        reader_fault(r, what);
    return v;
}

static status arena_reserve(step_arena *arena, size_t bytes)
{
    if (arena->size >= bytes && arena->data != NULL)
        return ST_OK;
    size_t size = bytes + bytes / 2;
    void *data = malloc(size);
    if (data == NULL)
        return FAIL(ST_NO_MEMORY, "step: %zu bytes to decode a message into", size);
    free(arena->data);
    arena->data = data;
    arena->size = size;
    return ST_OK;
}

void step_arena_free(step_arena *arena)
{
    free(arena->data);
    *arena = (step_arena){0};
}

/* 16-byte aligned part of the arena: reserved beforehand, see arena_need. */
static void *take(reader *r, size_t n, size_t size)
{
    void *p = r->free;
    r->free += (n * size + 15) & ~(size_t)15;
    return p;
}

static status reader_end(const reader *r, const char *name)
{
    if (r->fault != NULL)
        return FAIL(ST_FORMAT, "%s message of %zu bytes: %s", name, (size_t)(r->end - r->start), r->fault);
    if (r->at != r->end)
        return FAIL(ST_FORMAT, "%s message of %zu bytes: %zu bytes too many at its end", name, (size_t)(r->end - r->start),
                    reader_left(r));
    return ST_OK;
}

static void get_head(reader *r, uint8_t kind)
{
    if (get_u8(r) != STEP_VERSION)
        reader_fault(r, "it has another version: every rank must run the same build");
    if (get_u8(r) != kind)
        reader_fault(r, "it is of another kind");
}

static void see_slot(reader *r, uint8_t *seen, int32_t slot, uint8_t as, const char *what)
{
    if (r->fault != NULL)
        return;
    if ((seen[slot] & as) != 0)
        reader_fault(r, what);
    seen[slot] |= as;
}

static void get_tokens(reader *r, const step_limits *lim, step_tokens *t)
{
    t->n = get_count(r, 1, lim->max_bias, "a list of tokens is longer than allowed");
    int32_t *tokens = take(r, (size_t)t->n, sizeof(int32_t));
    for (int32_t i = 0; i < t->n; i++)
        tokens[i] = get_i32(r, lim->vocab - 1, "a listed token is outside the vocabulary");
    t->tokens = tokens;
}

static void get_bytes(reader *r, const void **data, size_t *n)
{
    *n = (size_t)get_uint(r, STEP_MAX_GRAMMAR, "a grammar is longer than allowed");
    if (*n > reader_left(r)) {
        reader_fault(r, "it ends early");
        *n = 0;
    }
    char *to = take(r, *n, 1);
    if (*n > 0)
        memcpy(to, r->at, *n);
    r->at += *n;
    *data = to;
}

static void get_sampling(reader *r, const step_limits *lim, step_sampling *p)
{
    const float most = 3.4028235e38f;
    p->temperature = get_f32(r, 0, most, "a temperature is out of range");
    p->top_k = get_i32(r, INT32_MAX, "top_k is out of range");
    p->top_p = get_f32(r, 0, 1, "top_p is out of range");
    p->min_p = get_f32(r, 0, 1, "min_p is out of range");
    p->repetition_penalty = get_f32(r, 0, most, "a repetition penalty is out of range");
    p->presence_penalty = get_f32(r, -most, most, "a presence penalty is out of range");
    p->frequency_penalty = get_f32(r, -most, most, "a frequency penalty is out of range");
    p->seed = get_fixed(r, 8);
    p->choice = (uint32_t)get_uint(r, UINT32_MAX, "a choice is out of range");
    p->n_logprobs = get_i32_or_none(r, lim->vocab, "more log-probabilities are asked for than the vocabulary has tokens");
    p->n_prompt_logprobs = get_i32_or_none(r, lim->vocab, "more log-probabilities are asked for than the vocabulary has tokens");
    p->min_tokens = get_i32(r, INT32_MAX, "min_tokens is out of range");
    p->max_tokens = get_i32(r, INT32_MAX, "max_tokens is out of range");
    uint8_t flags = get_flags(r, FLAG_WANT_HASH, "unknown sampling flags");
    p->want_hash = (flags & FLAG_WANT_HASH) != 0;
    p->n_stop = get_count(r, 1, STEP_MAX_STOP_IDS, "too many end tokens");
    for (int32_t i = 0; i < p->n_stop; i++)
        p->stop[i] = get_i32(r, lim->vocab - 1, "an end token is outside the vocabulary");
    p->n_bias = get_count(r, 5, lim->max_bias, "more biases than allowed");
    step_bias *bias = take(r, (size_t)p->n_bias, sizeof(*bias));
    for (int32_t i = 0; i < p->n_bias; i++) {
        bias[i].token = get_i32(r, lim->vocab - 1, "a biased token is outside the vocabulary");
        bias[i].bias = get_f32(r, -INFINITY, most, "a bias is out of range");
    }
    p->bias = bias;
    get_tokens(r, lim, &p->allowed);
    p->n_bad_words = get_count(r, 2, lim->max_bias, "more bad words than allowed");
    step_tokens *words = take(r, (size_t)p->n_bad_words, sizeof(*words));
    for (int32_t i = 0; i < p->n_bad_words; i++) {
        get_tokens(r, lim, &words[i]);
        if (words[i].n == 0)
            reader_fault(r, "a bad word has no tokens");
    }
    p->bad_words = words;
    get_tokens(r, lim, &p->logprob_tokens);
    get_bytes(r, &p->grammar, &p->n_grammar);
}

static void get_prefix(reader *r, const step_limits *lim, step_admit *a)
{
    int32_t n = step_prefix_told(a);
    if ((size_t)n > reader_left(r)) {
        reader_fault(r, "it ends early");
        n = a->n_prefix = 0;
    }
    int32_t *prefix = take(r, (size_t)n, sizeof(int32_t));
    for (int32_t i = 0; i < n; i++)
        prefix[i] = get_i32(r, lim->vocab - 1, "a token is outside the vocabulary");
    a->prefix = prefix;
}

static void get_admit(reader *r, const step_limits *lim, uint8_t *seen, step_admit *a)
{
    a->slot = get_i32(r, lim->max_seqs - 1, "an admitted slot does not exist");
    see_slot(r, seen, a->slot, SEEN_ADMIT, "a slot is admitted twice");
    a->rope_set = get_i32(r, INT32_MAX, "a rope set is negative");
    a->n_prompt = get_i32(r, INT32_MAX, "a prompt's length is out of range");
    a->n_generated = get_i32(r, INT32_MAX - a->n_prompt, "a sequence's length is out of range");
    a->hash = get_fixed(r, 8);
    int32_t known = a->n_prompt + a->n_generated, most = lim->max_prefix < known - 1 ? lim->max_prefix : known - 1;
    a->n_prefix = get_i32(r, most, "a cached prefix leaves nothing to compute, or is longer than a sequence may be");
    uint8_t flags = get_flags(r, FLAG_NORMALIZE | POOLING_BITS, "unknown admission flags");
    if ((flags & POOLING_BITS) > STEP_POOL_MEAN)
        reader_fault(r, "an unknown kind of pooling");
    a->pooling = (step_pooling)(flags & POOLING_BITS);
    a->normalize = (flags & FLAG_NORMALIZE) != 0;
    get_sampling(r, lim, &a->sampling);
    get_prefix(r, lim, a);
}

static void get_span(reader *r, const step_limits *lim, uint8_t *seen, int32_t *tokens_left, step_span *sp)
{
    sp->slot = get_i32(r, lim->max_seqs - 1, "a span's slot does not exist");
    see_slot(r, seen, sp->slot, SEEN_SPAN, "a slot has two spans");
    sp->position = get_i32(r, INT32_MAX, "a span's position is out of range");
    sp->flags = get_flags(r, STEP_SPAN_SAMPLE | STEP_SPAN_PROMPT_LOGPROBS, "unknown span flags");
    sp->n_tokens = get_count(r, 1, *tokens_left, "more tokens than a step may have");
    if (sp->n_tokens == 0 || sp->n_tokens > INT32_MAX - sp->position) {
        reader_fault(r, "a span's tokens are none, or end beyond all positions");
        sp->n_tokens = 0;
    }
    *tokens_left -= sp->n_tokens;
    int32_t *tokens = take(r, (size_t)sp->n_tokens, sizeof(int32_t));
    for (int32_t i = 0; i < sp->n_tokens; i++)
        tokens[i] = get_i32_or_none(r, lim->vocab - 1, "a token is outside the vocabulary");
    sp->tokens = tokens;
    sp->next_token = get_i32_or_none(r, lim->vocab - 1, "a token is outside the vocabulary");
    for (int32_t g = 0; g < lim->n_kv_groups; g++) {
        sp->n_new_blocks[g] = get_count(r, 1, lim->max_blocks_per_span, "more blocks than a span may bring");
        int32_t *blocks = take(r, (size_t)sp->n_new_blocks[g], sizeof(int32_t));
        for (int32_t i = 0; i < sp->n_new_blocks[g]; i++)
            blocks[i] = get_i32(r, lim->max_blocks - 1, "a block does not exist");
        sp->new_blocks[g] = blocks;
    }
}

/* The most that a step of `len` bytes with these counts unpacks to: the numbers of lists take at least one byte each in the message and
 * four in memory (a bias five and eight, a grammar's bytes one and one), and each list may round up by 15.  A bad word takes at least two bytes, and
 * in memory, beside its tokens, a step_tokens and the rounding: sixteen a byte hold all of that. */
static size_t arena_need(const step *s, size_t len, const step_limits *lim)
{
    size_t lists = 5 + (size_t)s->n_admit * 6 + (size_t)s->n_spans * (1 + (size_t)lim->n_kv_groups);
    return (size_t)s->n_retire * sizeof(int32_t) + (size_t)s->n_admit * sizeof(step_admit) + (size_t)s->n_copies * sizeof(step_copy) +
           (size_t)s->n_spans * sizeof(step_span) + (size_t)lim->max_seqs + len * 16 + lists * 16;
}

status step_decode(const void *buf, size_t len, const step_limits *lim, step_arena *arena, step *out)
{
    reader r = {.start = buf, .at = buf, .end = (const uint8_t *)buf + len};
    if (lim->max_seqs < 1 || lim->vocab < 1 || lim->max_blocks < 1 || lim->n_kv_groups < 0 || lim->n_kv_groups > STEP_MAX_KV_GROUPS)
        return FAIL(ST_INVALID, "step: limits of nothing (%d sequences, vocabulary %d, %d blocks, %d KV groups)", lim->max_seqs, lim->vocab,
                    lim->max_blocks, lim->n_kv_groups);
    *out = (step){0};
    get_head(&r, KIND_STEP);
    out->number = get_uint(&r, UINT64_MAX, "the step's number is out of range");
    uint8_t flags = get_flags(&r, FLAG_STOP | FLAG_LENT, "unknown flags");
    out->stop = (flags & FLAG_STOP) != 0;
    out->lent = (flags & FLAG_LENT) != 0;
    out->n_kv_groups = get_i32(&r, STEP_MAX_KV_GROUPS, "too many KV groups");
    out->n_retire = get_count(&r, 1, lim->max_seqs, "more retired slots than there are");
    out->n_admit = get_count(&r, ADMIT_BYTES, lim->max_seqs, "more admissions than slots");
    out->n_copies = get_count(&r, 3, lim->max_blocks, "more block copies than blocks");
    out->n_spans = get_count(&r, SPAN_BYTES, lim->max_seqs, "more spans than slots");
    if (out->number == 0)
        reader_fault(&r, "steps are numbered from 1");
    if (out->n_kv_groups != lim->n_kv_groups)
        reader_fault(&r, "it has another number of KV groups than the checkpoint");
    if (r.fault != NULL)
        return reader_end(&r, "step");

    TRY(arena_reserve(arena, arena_need(out, len, lim)));
    r.free = arena->data;
    step_admit *admit = take(&r, (size_t)out->n_admit, sizeof(*admit));
    step_span *spans = take(&r, (size_t)out->n_spans, sizeof(*spans));
    step_copy *copies = take(&r, (size_t)out->n_copies, sizeof(*copies));
    int32_t *retire = take(&r, (size_t)out->n_retire, sizeof(*retire));
    uint8_t *seen = take(&r, (size_t)lim->max_seqs, 1);
    memset(admit, 0, (size_t)out->n_admit * sizeof(*admit));
    memset(spans, 0, (size_t)out->n_spans * sizeof(*spans));
    memset(seen, 0, (size_t)lim->max_seqs);
    for (int32_t i = 0; i < out->n_retire; i++) {
        retire[i] = get_i32(&r, lim->max_seqs - 1, "a retired slot does not exist");
        see_slot(&r, seen, retire[i], SEEN_RETIRE, "a slot is retired twice");
    }
    for (int32_t i = 0; i < out->n_admit && r.fault == NULL; i++)
        get_admit(&r, lim, seen, &admit[i]);
    for (int32_t i = 0; i < out->n_copies; i++) {
        copies[i].group = get_i32(&r, lim->n_kv_groups - 1, "a copy's KV group does not exist");
        copies[i].from = get_i32(&r, lim->max_blocks - 1, "a block does not exist");
        copies[i].to = get_i32(&r, lim->max_blocks - 1, "a block does not exist");
    }
    int32_t tokens_left = lim->max_tokens;
    for (int32_t i = 0; i < out->n_spans && r.fault == NULL; i++)
        get_span(&r, lim, seen, &tokens_left, &spans[i]);
    out->retire = retire;
    out->admit = admit;
    out->copies = copies;
    out->spans = spans;
    return reader_end(&r, "step");
}

/* ---- copies ---- */

static const int32_t *tokens_copy(char **at, const int32_t *tokens, int32_t n)
{
    int32_t *to = (int32_t *)(void *)*at;
    if (n > 0)
        memcpy(to, tokens, (size_t)n * sizeof(*to));
    *at += (size_t)n * sizeof(*to);
    return to;
}

status step_sampling_copy(const step_sampling *from, step_sampling *out, void **memory)
{
    /* Lists by alignment: pointers, then words of four bytes, then bytes. */
    size_t words = (size_t)from->n_bad_words * sizeof(step_tokens), n = (size_t)from->allowed.n + (size_t)from->logprob_tokens.n;
    for (int32_t i = 0; i < from->n_bad_words; i++)
        n += (size_t)from->bad_words[i].n;
    size_t bytes = words + (size_t)from->n_bias * sizeof(step_bias) + n * sizeof(int32_t) + from->n_grammar;
    *out = *from;
    *memory = NULL;
    if (bytes == 0)
        return ST_OK;
    char *at = *memory = malloc(bytes);
    if (at == NULL)
        return FAIL(ST_NO_MEMORY, "step: %zu bytes for the lists of a request", bytes);
    step_tokens *bad = (step_tokens *)(void *)at;
    step_bias *bias = (step_bias *)(void *)(at + words);
    if (from->n_bias > 0)
        memcpy(bias, from->bias, (size_t)from->n_bias * sizeof(*bias));
    at += words + (size_t)from->n_bias * sizeof(*bias);
    out->bias = bias;
    for (int32_t i = 0; i < from->n_bad_words; i++)
        bad[i] = (step_tokens){from->bad_words[i].n, tokens_copy(&at, from->bad_words[i].tokens, from->bad_words[i].n)};
    out->bad_words = bad;
    out->allowed.tokens = tokens_copy(&at, from->allowed.tokens, from->allowed.n);
    out->logprob_tokens.tokens = tokens_copy(&at, from->logprob_tokens.tokens, from->logprob_tokens.n);
    if (from->n_grammar > 0)
        memcpy(at, from->grammar, from->n_grammar);
    out->grammar = at;
    return ST_OK;
}

/* ---- results ---- */

status step_result_encode(const step_result *res, void *buf, size_t cap, size_t *len)
{
    writer w = {.buf = buf, .cap = cap};
    put_u8(&w, STEP_VERSION);
    put_u8(&w, KIND_RESULT);
    put_uint(&w, res->number);
    put_i32(&w, res->n_rows);
    for (int32_t i = 0; i < res->n_rows; i++) {
        const step_result_row *row = &res->rows[i];
        put_i32(&w, row->slot);
        put_i32(&w, row->position);
        put_i32_or_none(&w, row->token);
        put_u8(&w, row->finish);
        put_fixed(&w, row->hash, 8);
        put_f32(&w, row->logprob);
        put_i32(&w, row->rank);
        put_i32(&w, row->n_top);
        for (int32_t j = 0; j < row->n_top; j++) {
            put_i32(&w, row->top[j].token);
            put_f32(&w, row->top[j].logprob);
            put_i32(&w, row->top[j].rank);
        }
        put_i32(&w, row->n_embedding);
        for (int32_t j = 0; j < row->n_embedding; j++)
            put_f32(&w, row->embedding[j]);
    }
    return writer_end(&w, len);
}

static void get_row(reader *r, const step_result_limits *lim, step_result_row *row)
{
    row->slot = get_i32(r, INT32_MAX, "a slot is out of range");
    row->position = get_i32(r, INT32_MAX, "a position is out of range");
    row->token = get_i32_or_none(r, lim->vocab - 1, "a token is outside the vocabulary");
    row->finish = get_u8(r);
    if (row->finish >= STEP_FINISHES)
        reader_fault(r, "an unknown finish reason");
    row->hash = get_fixed(r, 8);
    row->logprob = get_any_f32(r);
    row->rank = get_i32(r, lim->vocab, "a rank is beyond the vocabulary");
    row->n_top = get_count(r, 6, lim->max_top, "more log-probabilities than were asked for");
    step_logprob *top = take(r, (size_t)row->n_top, sizeof(*top));
    for (int32_t j = 0; j < row->n_top; j++) {
        top[j].token = get_i32(r, lim->vocab - 1, "a token is outside the vocabulary");
        top[j].logprob = get_any_f32(r);
        top[j].rank = get_i32(r, lim->vocab, "a rank is beyond the vocabulary");
    }
    row->top = top;
    row->n_embedding = get_count(r, 4, lim->max_embedding, "a vector longer than the hidden state");
    float *v = take(r, (size_t)row->n_embedding, sizeof(*v));
    for (int32_t j = 0; j < row->n_embedding; j++)
        v[j] = get_any_f32(r);
    row->embedding = v;
}

status step_result_decode(const void *buf, size_t len, const step_result_limits *lim, step_arena *arena, step_result *out)
{
    reader r = {.start = buf, .at = buf, .end = (const uint8_t *)buf + len};
    *out = (step_result){0};
    get_head(&r, KIND_RESULT);
    out->number = get_uint(&r, UINT64_MAX, "the step's number is out of range");
    out->n_rows = get_count(&r, ROW_BYTES, lim->max_rows, "more rows than the step has");
    if (r.fault != NULL)
        return reader_end(&r, "step result");
    TRY(arena_reserve(arena, (size_t)out->n_rows * (sizeof(step_result_row) + 32) + 16 + len * 2));
    r.free = arena->data;
    step_result_row *rows = take(&r, (size_t)out->n_rows, sizeof(*rows));
    for (int32_t i = 0; i < out->n_rows && r.fault == NULL; i++)
        get_row(&r, lim, &rows[i]);
    out->rows = rows;
    return reader_end(&r, "step result");
}
