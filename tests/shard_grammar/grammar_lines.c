/* tests/shard_grammar/grammar_lines.c - grammars in, verdicts and generated texts out, for checks against references in Python.
 *
 *   grammar_lines [TOKENIZER.json]          (without: single bytes)
 *
 * Standard input: a JSON object a line: {"kind": "json_schema" | "json_object" | "regex" | "choice" | "ebnf", "source": text,
 * "texts": [text ...] to be judged, "walks": n, "seed": n, "steps": tokens before a walk is told to end}.  Standard output: for each
 * {"status", "message", "accepted": [bool], "prefix": [bool], "walks": [{"text", "finished"}], "unfinished": [...]}: an unfinished walk is
 * also given as it then ends when told to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/hash.h"
#include "tests/shard_grammar/walk.h"

typedef struct side {
    shard_tokenizer *tokenizer;
    shard_grammar_vocab *vocab;
    int32_t n, end;
    uint32_t *mask;
    int32_t *allowed;
    uint64_t random;
} side;

static uint64_t draw(side *s)
{
    return hash_mix(s->random += 0x9e3779b97f4a7c15u);
}

static const char *const kinds[] = {"json_schema", "json_object", "regex", "choice", "ebnf"};

static bool closes(const side *s, int32_t token)
{
    size_t len;
    const char *t = shard_tokenizer_token(s->tokenizer, token, &len);
    return t != NULL && len == 1 && strchr("\"]},:1", t[0]) != NULL;
}

/* Picks an allowed token: the end, or what closes something, more often than chance. */
static int32_t pick(side *s, bool hurry)
{
    uint32_t n = 0, n_close = 0;
    bool end = (s->mask[s->end / 32] >> (s->end % 32) & 1) != 0;
    if (end && (hurry || draw(s) % 4 == 0))
        return s->end;
    for (int32_t i = 0; i < s->n; i++) {
        if ((s->mask[i / 32] >> (i % 32) & 1) != 0 && i != s->end)
            s->allowed[n++] = i;
    }
    if (n == 0)
        return end ? s->end : -1;
    if (draw(s) % 4 == 0 || hurry) {
        for (uint32_t i = 0; i < n; i++) {
            if (closes(s, s->allowed[i])) {
                int32_t t = s->allowed[i];
                s->allowed[i] = s->allowed[n_close];
                s->allowed[n_close++] = t;
            }
        }
        /* In a hurry, some chance all the same: what closes may not be what ends. */
        if (n_close > 0 && (!hurry || draw(s) % 4 != 0))
            n = n_close;
    }
    return s->allowed[draw(s) % n];
}

static status walk_on(side *s, shard_grammar_state *state, int steps, bool hurry, shard_ids *ids, bool *finished)
{
    *finished = false;
    for (int i = 0; i < steps; i++) {
        TRY(shard_grammar_mask(state, s->mask));
        int32_t token = pick(s, hurry);
        if (token < 0)
            return FAIL(ST_INTERNAL, "no token is allowed");
        TRY(shard_grammar_accept(state, token));
        if (token == s->end) {
            *finished = true;
            return ST_OK;
        }
        if (ids->n == ids->cap) {
            ids->cap = ids->cap == 0 ? 64 : ids->cap * 2;
            ids->data = realloc(ids->data, ids->cap * sizeof(*ids->data));
        }
        ids->data[ids->n++] = token;
    }
    return ST_OK;
}

static json_t *text_of(const side *s, const shard_ids *ids)
{
    mem_str text = {0};
    shard_tokenizer_decode(s->tokenizer, ids->data, ids->n, false, &text);
    json_t *out = json_stringn(text.len == 0 ? "" : text.data, text.len);
    mem_str_free(&text);
    return out;
}

static status one_walk(side *s, shard_grammar *g, int steps, json_t *walks, json_t *unfinished)
{
    shard_grammar_state *state;
    shard_ids ids = {0};
    bool finished;
    TRY(shard_grammar_state_create(g, &state));
    status st = walk_on(s, state, steps, false, &ids, &finished);
    if (st == ST_OK && finished) {
        json_array_append_new(walks, text_of(s, &ids));
    } else if (st == ST_OK) {
        st = walk_on(s, state, steps * 20 + 2000, true, &ids, &finished);
        if (st == ST_OK)
            json_array_append_new(unfinished, json_pack("{s:o, s:b}", "text", text_of(s, &ids), "finished", finished));
    }
    shard_ids_free(&ids);
    shard_grammar_state_destroy(&state);
    return st;
}

static status judge(side *s, side *bytes, json_t *line, json_t *out)
{
    const char *kind = "", *source = "";
    int32_t steps;
    int64_t seed, n;
    size_t i, k = 0;
    json_t *texts, *text, *accepted = json_array(), *prefix = json_array(), *walks = json_array(), *unfinished = json_array();
    json_object_set_new(out, "accepted", accepted);
    json_object_set_new(out, "prefix", prefix);
    json_object_set_new(out, "walks", walks);
    json_object_set_new(out, "unfinished", unfinished);
    TRY(json_get_str(line, "line", "kind", "", &kind));
    TRY(json_get_str(line, "line", "source", "", &source));
    TRY(json_get_arr(line, "line", "texts", &texts));
    TRY(json_get_int(line, "line", "walks", 0, 0, 1000000, &n));
    TRY(json_get_int(line, "line", "seed", 0, 0, INT64_MAX, &seed));
    TRY(json_get_i32(line, "line", "steps", 100, 1, 1000000, &steps));
    while (k < ARRAY_LEN(kinds) && strcmp(kinds[k], kind) != 0)
        k++;
    walk w;
    size_t len = json_string_length(json_object_get(line, "source"));
    TRY(walk_open((shard_grammar_kind)k, source, len, bytes->vocab, &w));
    json_object_set_new(out, "bytes", json_integer((json_int_t)w.compiled.len));
    json_array_foreach(texts, i, text) {
        bool may;
        bool yes = walk_accepts(&w, json_string_value(text), json_string_length(text), &may);
        json_array_append_new(accepted, json_boolean(yes));
        json_array_append_new(prefix, json_boolean(may));
    }
    status st = ST_OK;
    shard_grammar *g = NULL;
    s->random = hash_mix((uint64_t)seed + 1);
    st = shard_grammar_load(w.compiled.data, w.compiled.len, s->vocab, &g);
    for (int64_t j = 0; j < n && st == ST_OK; j++)
        st = one_walk(s, g, steps, walks, unfinished);
    shard_grammar_destroy(&g);
    walk_close(&w);
    return st;
}

static status open_side(const char *path, side *out)
{
    *out = (side){0};
    if (path == NULL) {
        TRY(walk_byte_tokenizer(&out->tokenizer));
    } else {
        char *json;
        size_t len;
        TRY(file_read_all(path, (size_t)1 << 30, &json, &len));
        status st = shard_tokenizer_from_json(path, json, len, &out->tokenizer);
        free(json);
        TRY(st);
    }
    out->n = shard_tokenizer_size(out->tokenizer);
    out->end = path == NULL ? WALK_END : 0;
    TRY(mem_calloc(((size_t)out->n + 31) / 32, sizeof(*out->mask), "mask", &out->mask));
    TRY(mem_calloc((size_t)out->n, sizeof(*out->allowed), "tokens", &out->allowed));
    return shard_grammar_vocab_create(out->tokenizer, out->n, &out->end, 1, &out->vocab);
}

static void close_side(side *s)
{
    shard_grammar_vocab_destroy(&s->vocab);
    shard_tokenizer_destroy(&s->tokenizer);
    free(s->mask);
    free(s->allowed);
}

static void answer(side *s, side *bytes, const char *text, size_t len)
{
    json_t *line = NULL, *out = json_object();
    status_mute();
    status st = json_parse("line", text, len, &line);
    if (st == ST_OK)
        st = judge(s, bytes, line, out);
    status_unmute();
    json_object_set_new(out, "status", json_string(status_text(st)));
    json_object_set_new(out, "message", json_string(st == ST_OK ? "" : status_message()));
    char *dump = json_dumps(out, JSON_COMPACT);
    puts(dump);
    fflush(stdout);
    free(dump);
    json_decref(out);
    json_decref(line);
}

int main(int argc, char **argv)
{
    side bytes, s;
    char *line = NULL;
    size_t cap = 0;
    if (open_side(NULL, &bytes) != ST_OK || open_side(argc > 1 ? argv[1] : NULL, &s) != ST_OK)
        return 1;
    for (ssize_t n; (n = getline(&line, &cap, stdin)) > 0;)
        answer(&s, &bytes, line, (size_t)n);
    free(line);
    close_side(&s);
    close_side(&bytes);
    return 0;
}
