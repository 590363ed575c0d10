/* tests/shard_text/test_tokenizer.c - what the vectors do not show: refusals, hostile texts, plain encoding, GGUF vocabularies. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "shard/text/tokenizer_internal.h"
#include "shard/text/tokenizer_pre.h"
#include "tests/shard_text/vectors.h"

#define DATA TEST_SOURCE_DIR "/shard_text/data/"

static shard_tokenizer *load(const char *name)
{
    char path[512];
    shard_tokenizer *t = NULL;
    snprintf(path, sizeof(path), DATA "%s.tokenizer.json", name);
    assert_int_equal(vectors_load(path, &t), ST_OK);
    return t;
}

static shard_ids encode(const shard_tokenizer *t, const char *text, size_t len, int flags)
{
    shard_ids ids = {0};
    assert_int_equal(shard_tokenizer_encode(t, text, len, flags, &ids), ST_OK);
    return ids;
}

static void assert_ids(const shard_tokenizer *t, const char *text, int flags, const int32_t *want, size_t n)
{
    shard_ids ids = encode(t, text, strlen(text), flags);
    assert_int_equal(ids.n, n);
    assert_memory_equal(ids.data, want, n * sizeof(*want));
    shard_ids_free(&ids);
}

/* ---- refusals ---- */

/* The message must name the file and what is wrong. */
static void assert_refused(const char *json, size_t len, status want, const char *says)
{
    shard_tokenizer *t = NULL;
    status_mute();
    status st = shard_tokenizer_from_json("t.json", json, len, &t);
    status_unmute();
    if (st != want || strstr(status_message(), says) == NULL || strstr(status_message(), "t.json") == NULL)
        fail_msg("%.80s: status %s, message %s", json, status_text(st), status_message());
    assert_null(t);
}

#define WORDS "\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,\"<unk>\":1},\"unk_token\":\"<unk>\"}"
#define BPE(vocab, merges) "{\"model\":{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]}}"

static void bad_files_are_refused_by_name(void **state)
{
    (void)state;
    static const struct { const char *json; status st; const char *says; } cases[] = {
        {"", ST_FORMAT, "expected"},
        {"{", ST_FORMAT, "expected"},
        {"[]", ST_FORMAT, "expected"},
        {"{}", ST_FORMAT, "model"},
        {"{\"model\":null}", ST_FORMAT, "model"},
        {"{" WORDS "} x", ST_FORMAT, "follows"},
        {"{\"model\":{\"type\":\"WordLevel\"}}", ST_FORMAT, "vocab"},
        {"{\"model\":{\"type\":\"Rwkv\",\"vocab\":{}}}", ST_UNSUPPORTED, "Rwkv"},
        {"{\"model\":{\"type\":7,\"vocab\":{}}}", ST_FORMAT, "type"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":-1}}}", ST_FORMAT, "id"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":1.5}}}", ST_FORMAT, "id"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":1e18}}}", ST_FORMAT, "id"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":33000000}}}", ST_FORMAT, "highest"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":\"x\"}}}", ST_FORMAT, "number"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"\\ud800\":0}}}", ST_FORMAT, "surrogate"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"\xff\":0}}}", ST_FORMAT, "UTF-8"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,}}}", ST_FORMAT, "expected"},
        {BPE("\"a\":0", "\"a b\""), ST_FORMAT, "merge 0"},
        {BPE("\"a\":0,\"b\":1", "\"a b\""), ST_FORMAT, "merge 0"},
        {BPE("\"a\":0", "\"ab\""), ST_FORMAT, "blank"},
        {BPE("\"a\":0", "[\"a\"]"), ST_FORMAT, "expected"},
        {BPE("\"a\":0", "7"), ST_FORMAT, "expected"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", ST_FORMAT, "merges"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0.0]],\"unk_id\":5}}", ST_FORMAT, "unk_id"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", ST_FORMAT, "expected"},
        {"{" WORDS ",\"normalizer\":{\"type\":\"Rot13\"}}", ST_UNSUPPORTED, "Rot13"},
        {"{" WORDS ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAA!\"}}", ST_FORMAT, "base64"},
        {"{" WORDS ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"/////wAA\"}}", ST_FORMAT, "damaged"},
        {"{" WORDS ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"\"}}", ST_FORMAT, "not closed"},
        {"{" WORDS ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"}}}", ST_FORMAT, "content"},
        {"{" WORDS ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Sideways\"}}", ST_UNSUPPORTED, "Sideways"},
        {"{" WORDS ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{Klingon}\"},\"behavior\":\"Isolated\"}}", ST_UNSUPPORTED, "property"},
        {"{" WORDS ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?<=a+)b\"},\"behavior\":\"Isolated\"}}", ST_UNSUPPORTED, "(?<=a+)b"},
        {"{" WORDS ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}}", ST_FORMAT, "replacement"},
        {"{" WORDS ",\"pre_tokenizer\":[]}", ST_FORMAT, "object"},
        {"{" WORDS ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],\"special_tokens\":{}}}",
            ST_FORMAT, "special_tokens"},
        {"{" WORDS ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"B\"}}],\"special_tokens\":{}}}",
            ST_FORMAT, "sequence A"},
        {"{" WORDS ",\"decoder\":{\"type\":\"Strip\",\"content\":\"\"}}", ST_FORMAT, "content"},
        {"{" WORDS ",\"added_tokens\":[{\"id\":1}]}", ST_FORMAT, "content"},
        {"{" WORDS ",\"added_tokens\":{}}", ST_FORMAT, "list"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_refused(cases[i].json, strlen(cases[i].json), cases[i].st, cases[i].says);
}

static void every_truncation_is_refused_or_read(void **state)
{
    (void)state;
    char *json;
    size_t len;
    assert_int_equal(file_read_all(DATA "ctc-1.tokenizer.json", 1 << 20, &json, &len), ST_OK);
    status_mute();
    for (size_t n = 0; n + 2 < len; n += 3) {
        char *part = malloc(n + 1); /* exact, so that a read past the end shows */
        memcpy(part, json, n);
        shard_tokenizer *t = NULL;
        assert_int_not_equal(shard_tokenizer_from_json("t.json", part, n, &t), ST_OK);
        free(part);
    }
    status_unmute();
    free(json);
}

/* ---- texts ---- */

static void broken_utf8_is_taken_as_replacement_characters(void **state)
{
    (void)state;
    shard_tokenizer *t = load("bpe-bytes");
    static const struct { const char *broken, *repaired; } cases[] = {
        {"a\xff", "a\xef\xbf\xbd"}, {"\xe4\xbd", "\xef\xbf\xbd"}, {"\xe4\xbd" "b", "\xef\xbf\xbd" "b"}, {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, {"\xf0\x9f\x98", "\xef\xbf\xbd"}, {"\xf4\x90\x80\x80",
            "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        shard_ids a = encode(t, cases[i].broken, strlen(cases[i].broken), 0), b = encode(t, cases[i].repaired, strlen(cases[i].repaired), 0);
        assert_int_equal(a.n, b.n);
        assert_memory_equal(a.data, b.data, a.n * sizeof(*a.data));
        shard_ids_free(&a);
        shard_ids_free(&b);
    }
    shard_tokenizer_destroy(&t);
}

static void plain_text_cannot_smuggle_special_tokens(void **state)
{
    (void)state;
    static const char *const names[] = {"bpe-sentencepiece", "unigram-t5", "wordpiece", "roberta"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        shard_tokenizer *t = load(names[i]);
        const char *text = "a <s> b</s><s>[CLS] [SEP] <unk>";
        shard_ids plain = encode(t, text, strlen(text), SHARD_ENCODE_PLAIN), seen = encode(t, text, strlen(text), 0);
        int32_t unk = shard_tokenizer_id(t, "[UNK]");
        for (size_t k = 0; k < plain.n; k++)
            assert_true(plain.data[k] == unk || !shard_tokenizer_is_special(t, plain.data[k]));
        bool special = false;
        for (size_t k = 0; k < seen.n; k++)
            special = special || shard_tokenizer_is_special(t, seen.data[k]);
        assert_true(special || strcmp(names[i], "unigram-t5") == 0);
        shard_ids_free(&plain);
        shard_ids_free(&seen);
        shard_tokenizer_destroy(&t);
    }
}

/* Up to a megabyte of each: time must not be quadratic; where the file's own pattern is (regex-3 on capitals), the encoder
 * gives up.  Quadratic time would be many minutes. */
static void hostile_texts_take_bounded_time(void **state)
{
    (void)state;
    static const char *const names[] = {"bpe-bytes", "bpe-sentencepiece", "unigram-t5", "unigram-no-split", "wordpiece", "norm-nfkc",
        "norm-bert-11None1", "regex-1", "regex-3"};
    static const char *const units[] = {"a", "ab", " ", "\n", "1", "\xcc\x81", "\xcc\xa3\xcc\x81", "\xe2\x96\x81", "A", "the ", "\xe4\xb8\xad",
        "\xf0\x9f\x98\x80", "'s", "\xef\xb7\xba"};
#ifdef __SANITIZE_THREAD__
    const size_t n = (size_t)1 << 17; /* some twenty times slower */
#else
    const size_t n = (size_t)1 << 20;
#endif
    char *text = malloc(n);
    double start = log_clock();
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        shard_tokenizer *t = load(names[i]);
        for (size_t u = 0; u < ARRAY_LEN(units); u++) {
            size_t len = strlen(units[u]), total = n / (i < 2 ? 1 : 8) / len * len;
            for (size_t k = 0; k < total; k += len)
                memcpy(text + k, units[u], len);
            shard_ids ids = {0};
            status_mute();
            status st = shard_tokenizer_encode(t, text, total, 0, &ids);
            status_unmute();
            assert_true(st == ST_OK || st == ST_LIMIT);
            shard_ids_free(&ids);
        }
        shard_tokenizer_destroy(&t);
    }
    assert_true(log_clock() - start < 180);
    free(text);
}

static void a_pattern_that_never_ends_is_stopped(void **state)
{
    (void)state;

           static const char json[] = "{" WORDS ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:a|a|aa)+b\"},"
                               "\"behavior\":\"Isolated\",\"invert\":false}}";
    char text[5000];
    memset(text, 'a', sizeof(text));
    memcpy(text + sizeof(text) - 2, "cb", 2); /* the b that the pattern needs, out of its reach */
    shard_tokenizer *t;
    assert_int_equal(shard_tokenizer_from_json("t.json", json, sizeof(json) - 1, &t), ST_OK);
    shard_ids ids = {0};
    status_mute();
    double start = log_clock();
    assert_int_equal(shard_tokenizer_encode(t, text, sizeof(text), 0, &ids), ST_LIMIT);
    status_unmute();
    assert_true(log_clock() - start < 30);
    shard_ids_free(&ids);
    shard_tokenizer_destroy(&t);
}

static void questions_are_answered(void **state)
{
    (void)state;
    shard_tokenizer *t = load("bpe-sentencepiece");
    size_t len;
    assert_string_equal(shard_tokenizer_kind(t), "SentencePiece BPE");
    assert_int_equal(shard_tokenizer_id(t, "</s>"), 2);
    assert_true(shard_tokenizer_is_special(t, 2));
    assert_false(shard_tokenizer_is_special(t, 100000));
    assert_int_equal(shard_tokenizer_id(t, "no such token"), -1);
    assert_string_equal(shard_tokenizer_token(t, 1, &len), "<s>");
    assert_int_equal(len, 3);
    assert_null(shard_tokenizer_token(t, -1, &len));
    assert_null(shard_tokenizer_token(t, shard_tokenizer_size(t), &len));
    mem_str out = {0};
    const int32_t ids[] = {-5, 1 << 30, 2};
    assert_int_equal(shard_tokenizer_decode(t, ids, 3, true, &out), ST_OK);
    assert_int_equal(out.len, 0);
    mem_str_free(&out);
    shard_ids none = encode(t, "", 0, 0);
    assert_int_equal(none.n, 0);
    shard_ids_free(&none);
    shard_tokenizer_destroy(&t);
}

static void a_limit_on_decoded_text_holds(void **state)
{
    (void)state;
    shard_tokenizer *t = load("bpe-bytes");
    shard_ids ids = encode(t, "the quick brown fox", 19, 0);
    mem_str out = {.limit = 8};
    status_mute();
    assert_int_equal(shard_tokenizer_decode(t, ids.data, ids.n, false, &out), ST_LIMIT);
    status_unmute();
    mem_str_free(&out);
    shard_ids_free(&ids);
    shard_tokenizer_destroy(&t);
}

/* ---- threads ---- */

typedef struct worker {
    const shard_tokenizer *t;
    const shard_ids *want;
    int failures;
} worker;

static const char shared_text[] = "the quick brown fox's 12345 na\xc3\xafve <s> lower newest  wider";

static void *encode_often(void *arg)
{
    worker *w = arg;
    for (int i = 0; i < 50; i++) {
        shard_ids ids = {0};
        mem_str out = {0};
        status st = shard_tokenizer_encode(w->t, shared_text, sizeof(shared_text) - 1, 0, &ids);
        w->failures += st != ST_OK || ids.n != w->want->n || memcmp(ids.data, w->want->data, ids.n * sizeof(*ids.data)) != 0;
        w->failures += shard_tokenizer_decode(w->t, ids.data, ids.n, false, &out) != ST_OK;
        shard_ids_free(&ids);
        mem_str_free(&out);
    }
    return NULL;
}

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    static const char *const names[] = {"bpe-bytes", "unigram-t5", "wordpiece", "regex-1"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        shard_tokenizer *t = load(names[i]);
        shard_ids want = encode(t, shared_text, sizeof(shared_text) - 1, 0);
        pthread_t threads[3];
        worker workers[3];
        for (size_t k = 0; k < ARRAY_LEN(threads); k++) {
            workers[k] = (worker){.t = t, .want = &want};
            assert_int_equal(pthread_create(&threads[k], NULL, encode_often, &workers[k]), 0);
        }
        for (size_t k = 0; k < ARRAY_LEN(threads); k++) {
            pthread_join(threads[k], NULL);
            assert_int_equal(workers[k].failures, 0);
        }
        shard_ids_free(&want);
        shard_tokenizer_destroy(&t);
    }
}

/* ---- GGUF ---- */

/* A vocabulary as a GGUF file would hold it, out of a tokenizer.json. */
typedef struct gguf {
    json_t *file;
    shard_vocab v;
    char **tokens;
    size_t *lens;
    float *scores;
    int32_t *types;
    char **merges;
    size_t *merge_lens, n_merges;
} gguf;

static char *copy_bytes(const char *s, size_t n)
{
    char *p = malloc(n + 1);
    memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

static void gguf_open(gguf *g, const char *name, const char *model, const char *pre)
{
    char path[512];
    *g = (gguf){0};
    snprintf(path, sizeof(path), DATA "%s.tokenizer.json", name);
    assert_int_equal(json_parse_file(path, 1 << 24, &g->file), ST_OK);
    json_t *m = json_object_get(g->file, "model"), *vocab = json_object_get(m, "vocab"), *merges = json_object_get(m, "merges"),
        *added = json_object_get(g->file, "added_tokens");
    size_t n = json_is_array(vocab) ? json_array_size(vocab) : json_object_size(vocab), i;
    g->tokens = calloc(n, sizeof(char *));
    g->lens = calloc(n, sizeof(size_t));
    g->scores = calloc(n, sizeof(float));
    g->types = calloc(n, sizeof(int32_t));
    const char *key;
    json_t *value, *merge;
    json_object_foreach (vocab, key, value) {
        int64_t id = json_integer_value(value);
        assert_true(id >= 0 && (size_t)id < n);
        g->tokens[id] = copy_bytes(key, strlen(key));
        g->lens[id] = strlen(key);
        g->types[id] = strncmp(key, "<0x", 3) == 0 ? 6 : 1;
    }
    json_array_foreach (vocab, i, value) {
        const json_t *text = json_array_get(value, 0);
        g->tokens[i] = copy_bytes(json_string_value(text), json_string_length(text));
        g->lens[i] = json_string_length(text);
        g->scores[i] = (float)json_number_value(json_array_get(value, 1));
        g->types[i] = strncmp(json_string_value(text), "<0x", 3) == 0 ? 6 : 1;
    }
    json_array_foreach (added, i, value) {
        int64_t id = json_integer_value(json_object_get(value, "id"));
        if (id >= 0 && (size_t)id < n)
            g->types[id] = 3;
    }
    g->merges = calloc(json_array_size(merges) + 1, sizeof(char *));
    g->merge_lens = calloc(json_array_size(merges) + 1, sizeof(size_t));
    json_array_foreach (merges, i, merge) {
        char joined[512];
        snprintf(joined, sizeof(joined), "%s %s", json_string_value(json_array_get(merge, 0)), json_string_value(json_array_get(merge, 1)));
        g->merges[i] = copy_bytes(joined, strlen(joined));
        g->merge_lens[i] = strlen(joined);
    }
    g->n_merges = json_array_size(merges);
    g->v = (shard_vocab){.model = model, .pre = pre, .n_tokens = (int32_t)n, .tokens = (const char *const *)g->tokens, .token_lens = g->lens, .types = g->types,
                         .n_merges = (int32_t)json_array_size(merges), .merges = (const char *const *)g->merges, .merge_lens = g->merge_lens,
                             .bos = -1, .eos = -1,
                         .unk = -1, .sep = -1, .cls = -1, .pad = -1, .mask = -1, .add_bos = -1, .add_eos = -1, .add_space_prefix = -1,
                             .remove_extra_whitespaces = -1};
}

static void gguf_close(gguf *g)
{
    for (int32_t i = 0; i < g->v.n_tokens; i++)
        free(g->tokens[i]);
    for (size_t i = 0; i < g->n_merges; i++)
        free(g->merges[i]);
    free(g->tokens);
    free(g->lens);
    free(g->scores);
    free(g->types);
    free(g->merges);
    free(g->merge_lens);
    json_decref(g->file);
}

static const char *const sentences[] = {
    "", "the quick brown fox", "  two  blanks ", "It's 12345!\n\nNew line", "na\xc3\xafve caf\xc3\xa9 \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80",
        "lower lowest newer wider then", "HELLO World", "a\tb", "<s> the </s>",
};

static void assert_same(const shard_tokenizer *a, const shard_tokenizer *b, int flags)
{
    for (size_t i = 0; i < ARRAY_LEN(sentences); i++) {
        shard_ids x = encode(a, sentences[i], strlen(sentences[i]), flags), y = encode(b, sentences[i], strlen(sentences[i]), flags);
        mem_str p = {0}, q = {0};
        if (x.n != y.n || (x.n > 0 && memcmp(x.data, y.data, x.n * sizeof(*x.data)) != 0))
            fail_msg("\"%s\" gives other ids", sentences[i]);
        assert_int_equal(shard_tokenizer_decode(a, x.data, x.n, false, &p), ST_OK);
        assert_int_equal(shard_tokenizer_decode(b, y.data, y.n, false, &q), ST_OK);
        assert_int_equal(p.len, q.len);
        assert_true(p.len == 0 || memcmp(p.data, q.data, p.len) == 0);
        mem_str_free(&p);
        mem_str_free(&q);
        shard_ids_free(&x);
        shard_ids_free(&y);
    }
}

static void a_byte_level_gguf_equals_its_json(void **state)
{
    (void)state;
    gguf g;
    shard_tokenizer *a = load("bpe-bytes"), *b;
    gguf_open(&g, "bpe-bytes", "gpt2", "gpt-2");
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &g.v, &b), ST_OK);
    assert_string_equal(shard_tokenizer_kind(b), "byte-level BPE");
    assert_same(a, b, 0);
    shard_tokenizer_destroy(&a);
    shard_tokenizer_destroy(&b);
    gguf_close(&g);
}

static void a_sentencepiece_gguf_equals_its_json(void **state)
{
    (void)state;
    gguf g;
    shard_tokenizer *a = load("bpe-sentencepiece"), *b;
    gguf_open(&g, "bpe-sentencepiece", "llama", "default");
    g.v.bos = 1;
    g.v.eos = 2;
    g.v.unk = 0;
    g.v.add_eos = 1;
    g.types[0] = 2;
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &g.v, &b), ST_OK);
    assert_same(a, b, 0);
    assert_same(a, b, SHARD_ENCODE_ADD_SPECIAL);
    shard_tokenizer_destroy(&b);
    /* Without merges the scores imply them: the order of the tokens is that of training. */
    for (int32_t i = 0; i < g.v.n_tokens; i++)
        g.scores[i] = (float)-i;
    g.v.n_merges = 0;
    g.v.scores = g.scores;
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &g.v, &b), ST_OK);
    assert_same(a, b, 0);
    shard_tokenizer_destroy(&a);
    shard_tokenizer_destroy(&b);
    gguf_close(&g);
}

static void a_unigram_gguf_equals_its_json(void **state)
{
    (void)state;
    gguf g;
    shard_tokenizer *a = load("unigram-t5"), *b;
    gguf_open(&g, "unigram-t5", "t5", NULL);
    g.v.unk = 0;
    g.v.eos = 2;
    g.v.scores = g.scores;
    g.types[1] = g.types[2] = 1;
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &g.v, &b), ST_OK);
    /* The file lacks the character map here, which only touches the sentence with accents and tabs. */
    const char *text = "the quick fox lower newest";
    shard_ids x = encode(a, text, strlen(text), SHARD_ENCODE_ADD_SPECIAL), y = encode(b, text, strlen(text), SHARD_ENCODE_ADD_SPECIAL);
    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.data, y.data, x.n * sizeof(*x.data));
    shard_ids_free(&x);
    shard_ids_free(&y);
    shard_tokenizer_destroy(&a);
    shard_tokenizer_destroy(&b);
    gguf_close(&g);
}

static void a_wordpiece_gguf_equals_its_json(void **state)
{
    (void)state;
    gguf g;
    shard_tokenizer *a = load("wordpiece"), *b;
    gguf_open(&g, "wordpiece", "bert", NULL);
    for (int32_t i = 0; i < g.v.n_tokens; i++) {
        if (g.types[i] == 3)
            continue;
        bool more = strncmp(g.tokens[i], "##", 2) == 0;
        char spelled[256];
        snprintf(spelled, sizeof(spelled), "%s%s", more ? "" : "\xe2\x96\x81", g.tokens[i] + (more ? 2 : 0));
        free(g.tokens[i]);
        g.tokens[i] = copy_bytes(spelled, strlen(spelled));
        g.lens[i] = strlen(spelled);
    }
    g.v.unk = 0;
    g.v.cls = 1;
    g.v.sep = 2;
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &g.v, &b), ST_OK);
    assert_same(a, b, 0);
    assert_same(a, b, SHARD_ENCODE_ADD_SPECIAL);
    shard_tokenizer_destroy(&a);
    shard_tokenizer_destroy(&b);
    gguf_close(&g);
}

static void every_splitting_rule_works_and_loses_nothing(void **state)
{
    (void)state;
    gguf g;
    int n = 0;
    gguf_open(&g, "bpe-bytes", "gpt2", NULL);
    for (const char *name; (name = tok_pre_name(n)) != NULL; n++) {
        shard_tokenizer *t;
        g.v.pre = name;
        assert_int_equal(shard_tokenizer_from_vocab(name, &g.v, &t), ST_OK);
        for (size_t i = 0; i + 1 < ARRAY_LEN(sentences); i++) {
            shard_ids ids = encode(t, sentences[i], strlen(sentences[i]), 0);
            mem_str out = {0};
            assert_int_equal(shard_tokenizer_decode(t, ids.data, ids.n, false, &out), ST_OK);
            if (out.len != strlen(sentences[i]) || (out.len > 0 && memcmp(out.data, sentences[i], out.len) != 0))
                fail_msg("%s: \"%s\" came back as \"%s\"", name, sentences[i], out.len == 0 ? "" : out.data);
            mem_str_free(&out);
            shard_ids_free(&ids);
        }
        shard_tokenizer_destroy(&t);
    }
    assert_true(n > 60);
    gguf_close(&g);
}

static void bad_vocabularies_are_refused(void **state)
{
    (void)state;
    gguf g;
    gguf_open(&g, "bpe-bytes", "gpt2", "gpt-2");
    shard_tokenizer *t = NULL;
    shard_vocab v = g.v;
    status_mute();
    v.pre = "made-up";
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &v, &t), ST_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "made-up"));
    v = g.v;
    v.model = "rwkv";
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &v, &t), ST_UNSUPPORTED);
    v.model = NULL;
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &v, &t), ST_NOT_FOUND);
    v = g.v;
    v.n_tokens = 0;
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &v, &t), ST_FORMAT);
    v = g.v;
    v.bos = v.n_tokens;
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &v, &t), ST_FORMAT);
    v = g.v;
    v.model = "t5";
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &v, &t), ST_FORMAT);
    v = g.v;
    v.model = "llama";
    v.n_merges = 0;
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &v, &t), ST_FORMAT);
    g.merge_lens[0] = 1;
    assert_int_equal(shard_tokenizer_from_vocab("t.gguf", &g.v, &t), ST_FORMAT);
    status_unmute();
    assert_null(t);
    gguf_close(&g);
}

/* ---- JSON that other readers refuse ---- */

static void a_token_may_hold_nul_and_ids_may_have_gaps(void **state)
{
    (void)state;
    static const char json[] = "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\\u0000b\":5,\"<unk>\":9},\"unk_token\":\"<unk>\"},"
                               "\"added_tokens\":[{\"id\":77,\"content\":\"new\",\"special\":true}]}";
    shard_tokenizer *t;
    assert_int_equal(shard_tokenizer_from_json("t.json", json, sizeof(json) - 1, &t), ST_OK);
    shard_ids ids = encode(t, "a\0b", 3, 0);
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.data[0], 5);
    shard_ids_free(&ids);
    /* The reference numbers a new token from the count of the vocabulary on, whatever the file says. */
    assert_ids(t, "new", 0, (const int32_t[]){2}, 1);
    shard_tokenizer_destroy(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_files_are_refused_by_name),
        cmocka_unit_test(every_truncation_is_refused_or_read),
        cmocka_unit_test(broken_utf8_is_taken_as_replacement_characters),
        cmocka_unit_test(plain_text_cannot_smuggle_special_tokens),
        cmocka_unit_test(hostile_texts_take_bounded_time),
        cmocka_unit_test(a_pattern_that_never_ends_is_stopped),
        cmocka_unit_test(questions_are_answered),
        cmocka_unit_test(a_limit_on_decoded_text_holds),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(a_byte_level_gguf_equals_its_json),
        cmocka_unit_test(a_sentencepiece_gguf_equals_its_json),
        cmocka_unit_test(a_unigram_gguf_equals_its_json),
        cmocka_unit_test(a_wordpiece_gguf_equals_its_json),
        cmocka_unit_test(every_splitting_rule_works_and_loses_nothing),
        cmocka_unit_test(bad_vocabularies_are_refused),
        cmocka_unit_test(a_token_may_hold_nul_and_ids_may_have_gaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
