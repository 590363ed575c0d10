/* shard/text/grammar.c - compiling: limits, the front end, the rules. */
#include "shard/text/grammar.h"

#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "shard/text/grammar_internal.h"

enum { DEFAULT_STEPS = 50000000 };
static const size_t default_source = (size_t)1 << 20, default_bytes = (size_t)4 << 20, arena_bytes = (size_t)64 << 20;
static const double default_seconds = 2;

static status choice(gram_ctx *c, const char *text, size_t len, const gram_expr **out)
{
    json_t *list;
    gram_list l = {0};
    size_t i;
    json_t *item;
    status st = ST_OK;
    TRY(json_parse("choice", text, len, &list));
    if (!json_is_array(list) || json_array_size(list) == 0)
        st = FAIL(ST_INVALID, "choice: must be a list of strings");
    json_array_foreach(list, i, item) {
        const gram_expr *e = NULL;
        if (st == ST_OK && !json_is_string(item))
            st = FAIL(ST_INVALID, "choice: item %zu must be a string", i);
        if (st == ST_OK)
            st = gram_text(c, json_string_value(item), json_string_length(item), &e);
        if (st == ST_OK)
            st = gram_push(c, &l, e);
    }
    json_decref(list);
    return st == ST_OK ? gram_alt(c, &l, out) : st;
}

/* An expression without calls runs best as one automaton with its counts written out; if that is large, as it is, with counted rules. */
static status flatten(gram_ctx *c, const gram_expr *e, const gram_expr **out)
{
    enum { MAX_SIZE = 4000, MAX_STEPS = 3000000 };
    gram_dfa d;
    int64_t all = c->steps;
    *out = e;
    if (e->size > MAX_SIZE)
        return ST_OK;
    c->steps = all < MAX_STEPS ? all : MAX_STEPS;
    int64_t given = c->steps;
    status_mute();
    status st = gram_dfa_of(c, e, true, &d);
    status_unmute();
    c->steps = all - (given - (c->steps > 0 ? c->steps : 0));
    return st == ST_OK && d.n <= MAX_SIZE ? gram_automaton(c, d, out) : ST_OK;
}

static status front_end(gram_ctx *c, shard_grammar_kind kind, const char *source, size_t len, const gram_expr **out)
{
    switch (kind) {
    case SHARD_GRAMMAR_JSON_SCHEMA:
        return gram_json_schema(c, source, len, out);
    case SHARD_GRAMMAR_JSON_OBJECT:
        return gram_json_object(c, out);
    case SHARD_GRAMMAR_REGEX:
        TRY(gram_regex(c, source, len, 0, out));
        return flatten(c, *out, out);
    case SHARD_GRAMMAR_CHOICE:
        return choice(c, source, len, out);
    case SHARD_GRAMMAR_EBNF:
        return gram_ebnf(c, source, len, out);
    }
    return FAIL(ST_INVALID, "grammar: no kind %d", (int)kind);
}

static status compile(gram_ctx *c, shard_grammar_kind kind, const char *source, size_t len, mem_str *out)
{
    uint32_t root;
    const gram_expr *body;
    TRY(gram_rule_add(c, &root));
    TRY(front_end(c, kind, source, len, &body));
    c->rules[root].body = body;
    return gram_rules_write(c, root, out);
}

status shard_grammar_compile(shard_grammar_kind kind, const char *source, size_t len, const shard_grammar_limits *limits, mem_str *out)
{
    static const shard_grammar_limits none = {0};
    const shard_grammar_limits *l = limits == NULL ? &none : limits;
    size_t max_source = l->max_source == 0 ? default_source : l->max_source;
    if (len > max_source)
        return FAIL(ST_LIMIT, "grammar: %zu bytes, at most %zu", len, max_source);
    gram_ctx c = {
        .arena = mem_arena_create(arena_bytes),
        .steps = l->max_steps == 0 ? DEFAULT_STEPS : l->max_steps,
        .deadline = log_thread_clock() + (l->max_seconds > 0 ? l->max_seconds : default_seconds),
        .max_bytes = l->max_bytes == 0 ? default_bytes : l->max_bytes,
    };
    if (c.arena == NULL)
        return FAIL(ST_NO_MEMORY, "grammar: no memory");
    status st = compile(&c, kind, source, len, out);
    mem_arena_destroy(&c.arena);
    return st;
}
