/* shard/text/grammar_ebnf.c - GBNF, as llama.cpp and XGrammar read it.
 *
 *   name ::= alternatives          "text" with escapes, [classes], names, ( groups ), . (any character), * + ? {m,n}, # comments
 *
 * A rule ends where the next `name ::=` begins: newlines are blanks otherwise.  Rules may recur in any place. */
#include <string.h>

#include "base/hash.h"
#include "shard/text/grammar_internal.h"

typedef struct name_rule {
    const char *name;
    size_t len;
    uint32_t rule;
    bool defined;
} name_rule;

typedef struct parser {
    gram_scan s;
    name_rule *names;
    size_t n_names, cap;
} parser;

static status alternatives(parser *p, const gram_expr **out);

static char peek(const parser *p)
{
    return p->s.pos < p->s.len ? p->s.text[p->s.pos] : '\0';
}

static void skip_blank(parser *p)
{
    for (; p->s.pos < p->s.len; p->s.pos++) {
        char c = p->s.text[p->s.pos];
        if (c == '#') {
            while (p->s.pos < p->s.len && p->s.text[p->s.pos] != '\n')
                p->s.pos++;
            if (p->s.pos == p->s.len)
                return;
        } else if (c != ' ' && c != '\t' && c != '\r' && c != '\n') {
            return;
        }
    }
}

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

static size_t name_length(const parser *p)
{
    size_t n = 0;
    if (peek(p) == '.' || peek(p) == '-')
        return 0;
    while (p->s.pos + n < p->s.len && name_char(p->s.text[p->s.pos + n]))
        n++;
    return n;
}

/* `name ::=` begins here. */
static bool at_rule(const parser *p)
{
    parser ahead = *p;
    size_t n = name_length(p);
    ahead.s.pos += n;
    skip_blank(&ahead);
    return n > 0 && ahead.s.len - ahead.s.pos >= 3 && memcmp(ahead.s.text + ahead.s.pos, "::=", 3) == 0;
}

static status find_name(parser *p, const char *name, size_t len, name_rule **out)
{
    for (size_t i = 0; i < p->n_names; i++) {
        if (p->names[i].len == len && memcmp(p->names[i].name, name, len) == 0) {
            *out = &p->names[i];
            return ST_OK;
        }
    }
    TRY(gram_work(p->s.ctx, p->n_names));
    TRY(gram_grow(p->s.ctx, &p->names, p->n_names, &p->cap, sizeof(*p->names)));
    *out = &p->names[p->n_names++];
    **out = (name_rule){.name = name, .len = len};
    return gram_rule_add(p->s.ctx, &(*out)->rule);
}

static status literal(parser *p, const gram_expr **out)
{
    gram_list l = {0};
    char quote = p->s.text[p->s.pos++];
    while (peek(p) != quote) {
        gram_set set = {0};
        uint32_t c;
        const gram_expr *e;
        if (p->s.pos >= p->s.len)
            return gram_scan_bad(&p->s, ST_INVALID, "a text is not closed");
        if (peek(p) == '\\') {
            p->s.pos++;
            TRY(gram_scan_escape(&p->s, &c));
        } else {
            TRY(gram_scan_char(&p->s, &c));
        }
        TRY(gram_set_add(p->s.ctx, &set, c, c));
        TRY(gram_chars(p->s.ctx, set, &e));
        TRY(gram_push(p->s.ctx, &l, e));
    }
    p->s.pos++;
    return gram_seq(p->s.ctx, &l, out);
}

static status atom(parser *p, const gram_expr **out)
{
    gram_set set = {0};
    name_rule *name;
    char c = peek(p);
    size_t n = name_length(p);
    if (n > 0) {
        TRY(find_name(p, p->s.text + p->s.pos, n, &name));
        p->s.pos += n;
        return gram_call_rule(p->s.ctx, name->rule, out);
    }
    if (c == '"' || c == '\'')
        return literal(p, out);
    p->s.pos++;
    if (c == '[') {
        TRY(gram_scan_class(&p->s, &set));
        return gram_chars(p->s.ctx, set, out);
    }
    if (c == '.') {
        TRY(gram_set_add(p->s.ctx, &set, 0, 0x10ffff));
        return gram_chars(p->s.ctx, set, out);
    }
    if (c != '(') {
        p->s.pos--;
        return gram_scan_bad(&p->s, ST_INVALID, "a text, class, name or group is expected");
    }
    if (++p->s.depth > GRAM_MAX_DEPTH / 2)
        return gram_scan_bad(&p->s, ST_LIMIT, "nested too deeply");
    TRY(alternatives(p, out));
    p->s.depth--;
    if (peek(p) != ')')
        return gram_scan_bad(&p->s, ST_INVALID, "a group is not closed");
    p->s.pos++;
    return ST_OK;
}

static status quantified(parser *p, const gram_expr **out)
{
    TRY(atom(p, out));
    for (;;) {
        bool found;
        uint32_t min = 0, max = GRAM_NO_LIMIT;
        char c = peek(p);
        TRY(gram_scan_counts(&p->s, &found, &min, &max));
        if (!found) {
            if (c != '*' && c != '+' && c != '?')
                return ST_OK;
            min = c == '+';
            max = c == '?' ? 1 : GRAM_NO_LIMIT;
            p->s.pos++;
        }
        TRY(gram_repeat(p->s.ctx, *out, min, max, out));
    }
}

static status sequence(parser *p, const gram_expr **out)
{
    gram_list l = {0};
    for (skip_blank(p); p->s.pos < p->s.len && peek(p) != '|' && peek(p) != ')' && !at_rule(p); skip_blank(p)) {
        const gram_expr *e;
        TRY(quantified(p, &e));
        TRY(gram_push(p->s.ctx, &l, e));
    }
    return gram_seq(p->s.ctx, &l, out);
}

static status alternatives(parser *p, const gram_expr **out)
{
    gram_list l = {0};
    for (;;) {
        const gram_expr *e;
        TRY(sequence(p, &e));
        TRY(gram_push(p->s.ctx, &l, e));
        if (peek(p) != '|')
            return gram_alt(p->s.ctx, &l, out);
        p->s.pos++;
    }
}

static status rule(parser *p)
{
    name_rule *name;
    const gram_expr *body;
    size_t n = name_length(p);
    if (!at_rule(p))
        return gram_scan_bad(&p->s, ST_INVALID, "a rule (name ::= ...) is expected");
    TRY(find_name(p, p->s.text + p->s.pos, n, &name));
    if (name->defined)
        return FAIL(ST_INVALID, "ebnf: rule \"%.*s\" is defined twice", (int)(n > 80 ? 80 : n), name->name);
    name->defined = true;
    uint32_t number = name->rule;
    p->s.pos += n;
    skip_blank(p);
    p->s.pos += 3;
    TRY(alternatives(p, &body));
    p->s.ctx->rules[number].body = body;
    return peek(p) == ')' ? gram_scan_bad(&p->s, ST_INVALID, "a ) too many") : ST_OK;
}

status gram_ebnf(gram_ctx *c, const char *text, size_t len, const gram_expr **out)
{
    parser p = {.s = {.ctx = c, .what = "ebnf", .text = text, .len = len}};
    name_rule *root;
    for (skip_blank(&p); p.s.pos < len; skip_blank(&p))
        TRY(rule(&p));
    for (size_t i = 0; i < p.n_names; i++) {
        if (!p.names[i].defined)
            return FAIL(ST_INVALID, "ebnf: rule \"%.*s\" is not defined", (int)(p.names[i].len > 80 ? 80 : p.names[i].len), p.names[i].name);
    }
    TRY(find_name(&p, "root", 4, &root));
    if (!root->defined)
        return FAIL(ST_INVALID, "ebnf: there is no rule \"root\"");
    return gram_call_rule(c, root->rule, out);
}
