/* shard/text/grammar_regex.c - regular expressions, in the dialect that Python's re, ECMAScript and RE2 share.
 *
 * Literals, classes, groups, alternation, quantifiers (lazy ones match the same texts), anchors.  Refused by name: look-around, references back,
 * word boundaries, flags, atomic groups and possessive quantifiers: not regular, or not the same in all.
 *
 * Anchors at the edges of the outermost alternatives say on which side other text may stand.  Anywhere else they become two bytes
 * that UTF-8 never holds: the texts with such marks are cut down to those where all of the first mark lead and all of the second end,
 * and then the marks are taken out. */
#include <string.h>

#include "shard/text/grammar_internal.h"

#define MARK_BEGIN "\xfe"
#define MARK_END "\xff"

typedef struct parser {
    gram_scan s;
    bool marks; /* some anchor stands inside */
} parser;

static status alternatives(parser *p, bool outermost, int flags, const gram_expr **out);

static bool at(const parser *p, const char *text)
{
    size_t n = strlen(text);
    return p->s.len - p->s.pos >= n && memcmp(p->s.text + p->s.pos, text, n) == 0;
}

static bool take(parser *p, const char *text)
{
    bool found = at(p, text);
    p->s.pos += found ? strlen(text) : 0;
    return found;
}

static status one_char(parser *p, uint32_t c, const gram_expr **out)
{
    gram_set set = {0};
    TRY(gram_set_add(p->s.ctx, &set, c, c));
    if (c >= 0xd800 && c <= 0xdfff) {
        *out = gram_nothing(); /* no text holds half a pair */
        return ST_OK;
    }
    return gram_chars(p->s.ctx, set, out);
}

static status mark(parser *p, const char *which, const gram_expr **out)
{
    p->marks = true;
    return gram_text(p->s.ctx, which, 1, out);
}

static status dot(parser *p, const gram_expr **out)
{
    gram_set set = {0};
    TRY(gram_set_add(p->s.ctx, &set, '\n', '\n'));
    if (!p->s.wide) {
        TRY(gram_set_add(p->s.ctx, &set, '\r', '\r'));
        TRY(gram_set_add(p->s.ctx, &set, 0x2028, 0x2029));
    }
    gram_set_finish(&set);
    TRY(gram_set_invert(p->s.ctx, &set));
    return gram_chars(p->s.ctx, set, out);
}

static status group(parser *p, const gram_expr **out)
{
    static const char *const refused[][2] = {{"?=", "look-ahead is not supported"}, {"?!", "look-ahead is not supported"}, {"?<=", "look-behind is not supported"},
                                             {"?<!", "look-behind is not supported"}, {"?>", "an atomic group is not supported"}, {"?(", "a conditional is not supported"},
                                             {"?P=", "a reference back to a group is not supported"}};
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        if (at(p, refused[i][0]))
            return gram_scan_bad(&p->s, ST_UNSUPPORTED, refused[i][1]);
    }
    if (take(p, "?#")) {
        while (p->s.pos < p->s.len && p->s.text[p->s.pos] != ')')
            p->s.pos++;
        *out = gram_empty();
        return take(p, ")") ? ST_OK : gram_scan_bad(&p->s, ST_INVALID, "a comment is not closed");
    }
    if (take(p, "?P<") || take(p, "?<")) {
        while (p->s.pos < p->s.len && p->s.text[p->s.pos] != '>')
            p->s.pos++;
        if (!take(p, ">"))
            return gram_scan_bad(&p->s, ST_INVALID, "a group's name is not closed");
    } else if (!take(p, "?:") && at(p, "?")) {
        return gram_scan_bad(&p->s, ST_UNSUPPORTED, "a flag is not supported");
    }
    if (++p->s.depth > GRAM_MAX_DEPTH / 2)
        return gram_scan_bad(&p->s, ST_LIMIT, "nested too deeply");
    TRY(alternatives(p, false, 0, out));
    p->s.depth--;
    return take(p, ")") ? ST_OK : gram_scan_bad(&p->s, ST_INVALID, "a group is not closed");
}

static status escape(parser *p, const gram_expr **out)
{
    gram_set set = {0};
    bool found;
    uint32_t c;
    if (take(p, "A"))
        return mark(p, MARK_BEGIN, out);
    if (take(p, "Z") || take(p, "z"))
        return mark(p, MARK_END, out);
    if (at(p, "b") || at(p, "B"))
        return gram_scan_bad(&p->s, ST_UNSUPPORTED, "a word boundary is not supported");
    if (at(p, "k") || at(p, "G") || at(p, "K") || at(p, "R") || at(p, "X"))
        return gram_scan_bad(&p->s, ST_UNSUPPORTED, "this escape is not supported");
    TRY(gram_scan_set_escape(&p->s, false, &set, &found));
    if (found) {
        gram_set_finish(&set);
        return gram_chars(p->s.ctx, set, out);
    }
    TRY(gram_scan_escape(&p->s, &c));
    return one_char(p, c, out);
}

static status atom(parser *p, const gram_expr **out)
{
    gram_set set;
    uint32_t c;
    if (take(p, "("))
        return group(p, out);
    if (take(p, "[")) {
        TRY(gram_scan_class(&p->s, &set));
        return gram_chars(p->s.ctx, set, out);
    }
    if (take(p, "."))
        return dot(p, out);
    if (take(p, "^"))
        return mark(p, MARK_BEGIN, out);
    if (take(p, "$"))
        return mark(p, MARK_END, out);
    if (take(p, "\\"))
        return escape(p, out);
    if (at(p, "*") || at(p, "+") || at(p, "?"))
        return gram_scan_bad(&p->s, ST_INVALID, "nothing to repeat");
    TRY(gram_scan_char(&p->s, &c));
    return one_char(p, c, out);
}

static status quantified(parser *p, const gram_expr **out)
{
    bool found = true;
    uint32_t min = 0, max = GRAM_NO_LIMIT;
    TRY(atom(p, out));
    if (take(p, "+"))
        min = 1;
    else if (take(p, "?"))
        max = 1;
    else if (!take(p, "*"))
        TRY(gram_scan_counts(&p->s, &found, &min, &max));
    if (!found)
        return ST_OK;
    if (at(p, "+"))
        return gram_scan_bad(&p->s, ST_UNSUPPORTED, "a possessive quantifier is not supported");
    take(p, "?"); /* lazy: the same texts */
    if (at(p, "*") || at(p, "?"))
        return gram_scan_bad(&p->s, ST_INVALID, "a quantifier follows another");
    return gram_repeat(p->s.ctx, *out, min, max, out);
}

static status any_text(gram_ctx *c, const gram_expr **out)
{
    gram_set set = {0};
    const gram_expr *e;
    TRY(gram_set_add(c, &set, 0, 0x10ffff));
    TRY(gram_chars(c, set, &e));
    return gram_repeat(c, e, 0, GRAM_NO_LIMIT, out);
}

static bool branch_ends(const parser *p)
{
    return p->s.pos >= p->s.len || p->s.text[p->s.pos] == '|' || p->s.text[p->s.pos] == ')';
}

/* One branch; the outermost one with the text around it. */
static status branch(parser *p, bool outermost, int flags, const gram_expr **out)
{
    gram_list l = {0};
    const gram_expr *any;
    bool search = outermost && (flags & GRAM_REGEX_SEARCH) != 0;
    TRY(any_text(p->s.ctx, &any));
    if (!(outermost && take(p, "^")) && search)
        TRY(gram_push(p->s.ctx, &l, any));
    while (!branch_ends(p)) {
        const gram_expr *e;
        if (outermost && take(p, "$")) {
            if (branch_ends(p))
                return gram_seq(p->s.ctx, &l, out);
            p->s.pos--;
        }
        TRY(quantified(p, &e));
        TRY(gram_push(p->s.ctx, &l, e));
    }
    if (search)
        TRY(gram_push(p->s.ctx, &l, any));
    return gram_seq(p->s.ctx, &l, out);
}

static status alternatives(parser *p, bool outermost, int flags, const gram_expr **out)
{
    gram_list l = {0};
    do {
        const gram_expr *e;
        TRY(branch(p, outermost, flags, &e));
        TRY(gram_push(p->s.ctx, &l, e));
    } while (take(p, "|"));
    return gram_alt(p->s.ctx, &l, out);
}

/* Texts without marks, from those with. */
static status settle_marks(gram_ctx *c, const gram_expr *marked, const gram_expr **out)
{
    gram_list l = {0};
    const gram_expr *e;
    gram_dfa a, b, both;
    gram_nfa n;
    TRY(gram_text(c, MARK_BEGIN, 1, &e));
    TRY(gram_repeat(c, e, 0, GRAM_NO_LIMIT, &e));
    TRY(gram_push(c, &l, e));
    TRY(any_text(c, &e));
    TRY(gram_push(c, &l, e));
    TRY(gram_text(c, MARK_END, 1, &e));
    TRY(gram_repeat(c, e, 0, GRAM_NO_LIMIT, &e));
    TRY(gram_push(c, &l, e));
    TRY(gram_seq(c, &l, &e));
    TRY(gram_dfa_of(c, e, true, &a));
    TRY(gram_dfa_of(c, marked, true, &b));
    TRY(gram_dfa_both(c, &a, &b, &both));
    TRY(gram_nfa_init(c, true, &n));
    TRY(gram_nfa_dfa(&n, &both, 0, 1));
    for (size_t i = 0; i < n.n_edges; i++) {
        if (n.edges[i].label == GRAM_ON_BYTES && n.edges[i].first >= 0xfe)
            n.edges[i].label = GRAM_ON_NOTHING;
    }
    TRY(gram_nfa_finish(&n, &both));
    return gram_automaton(c, both, out);
}

status gram_regex(gram_ctx *c, const char *text, size_t len, int flags, const gram_expr **out)
{
    parser p = {.s = {.ctx = c, .what = "regex", .text = text, .len = len, .wide = (flags & GRAM_REGEX_WIDE) != 0}};
    TRY(alternatives(&p, true, flags, out));
    if (p.s.pos < len)
        return gram_scan_bad(&p.s, ST_INVALID, "a ) too many");
    return p.marks ? settle_marks(c, *out, out) : ST_OK;
}
