/* tests/bench/bench_grammar.c - what structured output costs: compiling, loading, masks.
 *
 *   bench_grammar MODEL|TOKENIZER.json [WALKS] [--check]
 *
 * Random walks (the end, and what closes a string or list, somewhat likelier than chance) over grammars of several kinds.  "first": masks
 * that had to be found; "all": what a token costs on average, kept ones included, and the taking of the token.  --check: at random
 * states each token is also tried byte by byte. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "base/log.h"
#include "shard/checkpoint.h"
#include "shard/text/grammar.h"

/* Of this thread: what else runs on the machine counts less. */
static double cpu_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static const struct { const char *name; shard_grammar_kind kind; const char *source; } grammars[] = {
    {"any object", SHARD_GRAMMAR_JSON_OBJECT, ""},
    {"person", SHARD_GRAMMAR_JSON_SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":150},\"email\":{\"type\":\"string\",\"format\":\"email\"},"
     "\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":40},\"maxItems\":20},\"address\":{\"type\":\"object\",\"properties\":{\"street\":{\"type\":\"string\"},"
     "\"city\":{\"enum\":[\"Paris\",\"Rome\",\"Oslo\"]},\"zip\":{\"type\":\"string\",\"pattern\":\"^[0-9]{5}$\"}},\"required\":[\"street\",\"city\"]}},\"required\":[\"name\",\"age\",\"tags\"]}"},
    {"recursive", SHARD_GRAMMAR_JSON_SCHEMA,
     "{\"$ref\":\"#/$defs/node\",\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"number\"},\"l\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/node\"}}},\"required\":[\"v\",\"l\"]}}}"},
    {"long texts", SHARD_GRAMMAR_JSON_SCHEMA, "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":5,\"maxLength\":5000},\"maxItems\":1000}"},
    {"words", SHARD_GRAMMAR_REGEX, "([a-z]+ )*[a-z]+\\."},
    {"any but x", SHARD_GRAMMAR_REGEX, "[^x]{1,2000}"},
    {"date", SHARD_GRAMMAR_REGEX, "[0-9]{4}-[0-9]{2}-[0-9]{2}"},
    {"choice", SHARD_GRAMMAR_CHOICE, "[\"positive\",\"negative\",\"neutral\"]"},
    {"sums", SHARD_GRAMMAR_EBNF, "root ::= e\ne ::= e [-+] t | t\nt ::= t [*/] f | f\nf ::= [0-9]+ | \"(\" e \")\" | [a-z]+"},
};

typedef struct bench {
    const shard_tokenizer *tokenizer;
    shard_grammar_vocab *vocab;
    int32_t n, end;
    uint32_t *mask;
    int32_t *allowed;
    double *times;
    size_t n_times, cap_times;
    uint64_t random;
    bool check;
} bench;

static uint64_t draw(bench *b)
{
    return hash_mix(b->random += 0x9e3779b97f4a7c15u);
}

static bool bit(const bench *b, int32_t i)
{
    return (b->mask[i / 32] >> (i % 32) & 1) != 0;
}

static int32_t pick(bench *b)
{
    uint32_t n = 0, n_close = 0;
    if (bit(b, b->end) && draw(b) % 8 == 0)
        return b->end;
    for (int32_t i = 0; i < b->n; i++) {
        size_t len;
        const char *t = bit(b, i) && i != b->end ? shard_tokenizer_token(b->tokenizer, i, &len) : NULL;
        if (t == NULL)
            continue;
        b->allowed[n++] = i;
        if (len <= 2 && strchr("\"]}", t[0]) != NULL) {
            b->allowed[n - 1] = b->allowed[n_close];
            b->allowed[n_close++] = i;
        }
    }
    if (n == 0)
        return bit(b, b->end) ? b->end : -1;
    return b->allowed[draw(b) % (n_close > 0 && draw(b) % 8 == 0 ? n_close : n)];
}

static status check(bench *b, const shard_grammar_state *s)
{
    int32_t wrong = 0;
    status_mute();
    for (int32_t i = 0; i < b->n; i++) {
        shard_grammar_state *copy;
        TRY(shard_grammar_state_copy(s, &copy));
        bool taken = shard_grammar_accept(copy, i) == ST_OK;
        shard_grammar_state_destroy(&copy);
        wrong += taken != bit(b, i);
    }
    status_unmute();
    return wrong == 0 ? ST_OK : FAIL(ST_INTERNAL, "%d tokens of the mask are wrong", wrong);
}

static status keep_time(bench *b, double t)
{
    if (b->n_times == b->cap_times) {
        b->cap_times = b->cap_times == 0 ? 1024 : b->cap_times * 2;
        double *grown = realloc(b->times, b->cap_times * sizeof(*grown));
        if (grown == NULL)
            return FAIL(ST_NO_MEMORY, "no memory");
        b->times = grown;
    }
    b->times[b->n_times++] = t;
    return ST_OK;
}

/* Returns what the walk's masks and tokens took together. */
static status one_walk(bench *b, shard_grammar *g, double *total, size_t *tokens)
{
    enum { MAX_TOKENS = 400 };
    shard_grammar_state *s;
    status st = ST_OK;
    TRY(shard_grammar_state_create(g, &s));
    for (int i = 0; i < MAX_TOKENS && st == ST_OK; i++) {
        double start = cpu_clock();
        st = shard_grammar_mask(s, b->mask);
        double mask = cpu_clock() - start;
        if (st == ST_OK && b->check && draw(b) % 4 == 0)
            st = check(b, s);
        int32_t token = st == ST_OK ? pick(b) : -1;
        if (token < 0)
            break;
        start = cpu_clock();
        st = shard_grammar_accept(s, token);
        *total += mask + (cpu_clock() - start);
        ++*tokens;
        if (st == ST_OK)
            st = keep_time(b, mask);
        if (token == b->end)
            break;
    }
    shard_grammar_state_destroy(&s);
    return st;
}

static int by_time(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return a < b ? -1 : a > b;
}

static status one_grammar(bench *b, size_t k, int walks)
{
    mem_str bytes = {0};
    shard_grammar *g;
    double compile = 1e9, load = 1e9, total = 0;
    size_t tokens = 0;
    for (int i = 0; i < 5; i++) {
        double start = cpu_clock();
        mem_str_clear(&bytes);
        TRY(shard_grammar_compile(grammars[k].kind, grammars[k].source, strlen(grammars[k].source), NULL, &bytes));
        double t = cpu_clock() - start;
        compile = t < compile ? t : compile;
    }
    b->n_times = 0;
    for (int i = 0; i < walks; i++) { /* each walk as a request of its own: nothing is kept from the one before */
        double start = cpu_clock();
        TRY(shard_grammar_load(bytes.data, bytes.len, b->vocab, &g));
        double t = cpu_clock() - start;
        load = t < load ? t : load;
        status st = one_walk(b, g, &total, &tokens);
        shard_grammar_destroy(&g);
        TRY(st);
    }
    qsort(b->times, b->n_times, sizeof(*b->times), by_time);
    printf("%-11s %7zu bytes, compiled in %7.2f ms, loaded in %5.2f ms; %6zu masks: p50 %7.1f us, p99 %7.1f us, max %7.1f us; %6.1f us a token\n", grammars[k].name, bytes.len, compile * 1e3,
           load * 1e3, b->n_times, b->times[b->n_times / 2] * 1e6, b->times[b->n_times * 99 / 100] * 1e6, b->times[b->n_times - 1] * 1e6, total / (double)tokens * 1e6);
    mem_str_free(&bytes);
    return ST_OK;
}

static status run(const char *path, int walks, bool checks)
{
    shard_tokenizer *t;
    bench b = {.check = checks, .random = 1};
    TRY(shard_tokenizer_open(path, &t));
    b.tokenizer = t;
    b.n = shard_tokenizer_size(t);
    for (int32_t i = 0; i < b.n && b.end == 0; i++)
        b.end = shard_tokenizer_is_special(t, i) ? i : 0;
    TRY(mem_calloc(((size_t)b.n + 31) / 32, sizeof(*b.mask), "mask", &b.mask));
    TRY(mem_calloc((size_t)b.n, sizeof(*b.allowed), "tokens", &b.allowed));
    double start = cpu_clock();
    size_t before = mem_resident();
    TRY(shard_grammar_vocab_create(t, b.n, &b.end, 1, &b.vocab));
    printf("%s: %d tokens, arranged in %.0f ms, %.1f MB\n", path, b.n, (cpu_clock() - start) * 1e3, (double)(mem_resident() - before) / 1e6);
    for (size_t k = 0; k < ARRAY_LEN(grammars); k++)
        TRY(one_grammar(&b, k, walks));
    shard_grammar_vocab_destroy(&b.vocab);
    shard_tokenizer_destroy(&t);
    free(b.mask);
    free(b.allowed);
    free(b.times);
    return ST_OK;
}

int main(int argc, char **argv)
{
    bool checks = argc > 2 && strcmp(argv[argc - 1], "--check") == 0;
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL|TOKENIZER.json [WALKS] [--check]\n", argv[0]);
        return 2;
    }
    return run(argv[1], argc > 2 + checks ? atoi(argv[2]) : 20, checks) == ST_OK ? 0 : 1;
}
