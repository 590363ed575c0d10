/* shard/text/grammar_number.c - numbers of a schema: bounds, multiples, exclusions.
 *
 * Bounds compare decimal texts digit by digit, so they become regular expressions over digits.  A validator reads what we write as a double:
 * a number with a fraction under bounds has at most 6 digits before and 9 behind the point, which no double blurs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/text/grammar_schema.h"

#define FRACTION "[0-9]{0,8}[1-9]" /* not zero, written in one way */
enum { MAX_MULTIPLE = 4000 };

bool sch_is_whole(const json_t *number)
{
    return json_is_integer(number) || (json_is_real(number) && json_real_value(number) == floor(json_real_value(number)));
}

int sch_compare(const json_t *a, const json_t *b)
{
    if (json_is_integer(a) && json_is_integer(b)) {
        json_int_t x = json_integer_value(a), y = json_integer_value(b);
        return x < y ? -1 : x > y;
    }
    long double x = json_is_integer(a) ? (long double)json_integer_value(a) : (long double)json_real_value(a);
    long double y = json_is_integer(b) ? (long double)json_integer_value(b) : (long double)json_real_value(b);
    return x < y ? -1 : x > y;
}

/* ---- decimals ---- */

typedef struct decimal {
    bool negative;
    char whole[400], fraction[400]; /* digits without needless zeros; whole at least "0" */
} decimal;

static void from_real(double v, decimal *out)
{
    char text[32];
    int digits = 1, exponent;
    do
        snprintf(text, sizeof(text), "%.*e", digits - 1, fabs(v));
    while (strtod(text, NULL) != fabs(v) && digits++ < 17);
    char *e = strchr(text, 'e');
    exponent = atoi(e + 1);
    *e = '\0';
    char mantissa[40] = {text[0], '\0'};
    if (text[1] == '.')
        snprintf(mantissa + 1, sizeof(mantissa) - 1, "%s", text + 2);
    int n = (int)strlen(mantissa), w = 0, f = 0;
    for (int i = 0; i <= exponent; i++)
        out->whole[w++] = i < n ? mantissa[i] : '0';
    for (int i = exponent + 1; i < 0; i++)
        out->fraction[f++] = '0';
    for (int i = exponent + 1 > 0 ? exponent + 1 : 0; i < n; i++)
        out->fraction[f++] = mantissa[i];
    out->whole[w] = out->fraction[f] = '\0';
}

static void to_decimal(const json_t *v, decimal *out)
{
    *out = (decimal){0};
    if (json_is_integer(v)) {
        json_int_t i = json_integer_value(v);
        snprintf(out->whole, sizeof(out->whole), "%llu", i < 0 ? 0 - (unsigned long long)i : (unsigned long long)i);
        out->negative = i < 0;
    } else {
        from_real(json_real_value(v), out);
        out->negative = json_real_value(v) < 0;
    }
    for (size_t n = strlen(out->fraction); n > 0 && out->fraction[n - 1] == '0'; n--)
        out->fraction[n - 1] = '\0';
    if (out->whole[0] == '\0')
        strcpy(out->whole, "0");
}

/* ---- digits above or below others, as alternatives of a regular expression ---- */

static void put_alternative(mem_str *out)
{
    if (out->len > 0)
        mem_str_putc(out, '|');
}

/* Whole numbers of more (or fewer) than `than`; each followed by `tail`. */
static void put_whole(mem_str *out, const char *than, bool above, const char *tail)
{
    size_t n = strlen(than);
    if (above && n < 40) {
        put_alternative(out);
        mem_str_printf(out, "[1-9][0-9]{%zu,39}%s", strcmp(than, "0") == 0 ? 0 : n, tail);
    } else if (!above && n > 1) {
        put_alternative(out);
        mem_str_printf(out, "(?:0|[1-9][0-9]{0,%zu})%s", n - 2, tail);
    }
    for (size_t i = 0; i < n && n <= 40; i++) {
        int low = above ? than[i] + 1 : (i == 0 && n > 1 ? '1' : '0'), high = above ? '9' : than[i] - 1;
        if (low > high || (above && strcmp(than, "0") == 0))
            continue;
        put_alternative(out);
        mem_str_printf(out, "%.*s[%c-%c][0-9]{%zu}%s", (int)i, than, low, high, n - 1 - i, tail);
    }
}

/* whole '.' and a fraction above (below) the digits f. */
static void put_fraction(mem_str *out, const char *whole, const char *f, bool above)
{
    size_t n = strlen(f) > 9 ? 9 : strlen(f);
    for (size_t i = 0; i < n; i++) {
        if (above && f[i] < '9') {
            put_alternative(out);
            mem_str_printf(out, "%s\\.%.*s[%c-9](?:" FRACTION ")?", whole, (int)i, f, f[i] + 1);
        }
        if (!above && f[i] > '1') {
            put_alternative(out);
            mem_str_printf(out, "%s\\.%.*s[1-%c](?:" FRACTION ")?", whole, (int)i, f, f[i] - 1);
        }
        if (!above && f[i] > '0') {
            put_alternative(out);
            mem_str_printf(out, "%s\\.%.*s0" FRACTION, whole, (int)i, f);
        }
        if (!above && i > 0 && f[i - 1] != '0') { /* f's own beginning is less than f */
            put_alternative(out);
            mem_str_printf(out, "%s\\.%.*s", whole, (int)i, f);
        }
    }
    if (above) {
        put_alternative(out);
        mem_str_printf(out, "%s\\.%.*s" FRACTION, whole, (int)n, f);
    }
}

/* Magnitudes on one side of b, whole ones and those with a fraction as `types` says. */
static void put_side(mem_str *out, const decimal *b, bool above, bool inclusive, unsigned types)
{
    bool whole = b->fraction[0] == '\0';
    if ((types & SCH_INT) != 0) {
        put_whole(out, b->whole, above, "");
        if (whole ? inclusive : !above) {
            put_alternative(out);
            mem_str_puts(out, b->whole);
        }
    }
    if ((types & SCH_FRACTION) != 0) {
        put_whole(out, b->whole, above, "\\." FRACTION);
        put_fraction(out, b->whole, b->fraction, above);
        if (!whole && inclusive && strlen(b->fraction) <= 9) {
            put_alternative(out);
            mem_str_printf(out, "%s\\.%s", b->whole, b->fraction);
        }
    }
}

static status regex_dfa(sch_ctx *s, mem_str *text, gram_dfa *out)
{
    const gram_expr *e;
    if (text->failed)
        return FAIL(ST_NO_MEMORY, "schema: no memory");
    *out = (gram_dfa){0};
    if (text->len == 0)
        return ST_OK;
    TRY(gram_regex(s->c, text->data, text->len, 0, &e));
    return gram_dfa_of(s->c, e, true, out);
}

/* Numbers on one side of a bound.  Below zero the magnitudes turn round. */
static status side_dfa(sch_ctx *s, const sch_bound *b, bool above, unsigned types, gram_dfa *out)
{
    static const decimal zero = {.whole = "0"};
    mem_str text = {0}, part = {0};
    decimal d;
    to_decimal(b->value, &d);
    bool all_negative = above == d.negative; /* x > -3 holds some below zero, x > 3 none; x < 3 all of them */
    put_side(&part, &d, above != d.negative, !b->exclusive, types);
    if (part.len > 0)
        mem_str_printf(&text, d.negative ? "-(?:%s)" : "%s", part.data);
    if (all_negative) { /* the other sign's half is all in */
        mem_str_clear(&part);
        put_side(&part, &zero, true, d.negative, types);
        put_alternative(&text);
        mem_str_printf(&text, d.negative ? "%s" : "-(?:%s)", part.data);
    }
    status st = regex_dfa(s, &text, out);
    mem_str_free(&text);
    mem_str_free(&part);
    return st;
}

/* ---- multiples ---- */

/* The whole numbers that are multiples of v: of what whole number? */
static status whole_multiple(const json_t *v, uint32_t *out)
{
    decimal d;
    char digits[900];
    to_decimal(v, &d);
    size_t nw = strlen(d.whole), nf = strlen(d.fraction);
    if (nw + nf > 15)
        return FAIL(ST_UNSUPPORTED, "schema: multipleOf with so many digits is not supported");
    snprintf(digits, sizeof(digits), "%s%s", d.whole, d.fraction);
    unsigned long long p = strtoull(digits, NULL, 10), q = 1, a, b;
    for (size_t i = 0; i < nf; i++)
        q *= 10;
    for (a = p, b = q; b != 0;) {
        unsigned long long r = a % b;
        a = b;
        b = r;
    }
    p /= a;
    if (p > MAX_MULTIPLE)
        return FAIL(ST_UNSUPPORTED, "schema: multipleOf above %d is not supported", MAX_MULTIPLE);
    *out = (uint32_t)p;
    return ST_OK;
}

/* Remainders as states. */
static status multiple_dfa(sch_ctx *s, uint32_t of, gram_dfa *out)
{
    gram_nfa n;
    TRY(gram_nfa_init(s->c, true, &n));
    n.n_states = of + 3; /* 2: behind a sign; 3 + r */
    n.n_states++;
    TRY(gram_nfa_edge(&n, (gram_nedge){.from = 0, .to = 2, .first = '-', .last = '-'}));
    TRY(gram_nfa_skip(&n, 0, 2));
    TRY(gram_nfa_skip(&n, 3, 1));
    for (uint32_t r = 0; r < of; r++) {
        for (uint32_t d = 0; d < 10; d++) {
            uint32_t to = 3 + (r * 10 + d) % of;
            if (r == 0)
                TRY(gram_nfa_edge(&n, (gram_nedge){.from = 2, .to = to, .first = (uint8_t)('0' + d), .last = (uint8_t)('0' + d)}));
            TRY(gram_nfa_edge(&n, (gram_nedge){.from = 3 + r, .to = to, .first = (uint8_t)('0' + d), .last = (uint8_t)('0' + d)}));
        }
    }
    return gram_nfa_finish(&n, out);
}

/* ---- all together ---- */

static status excluded_dfa(sch_ctx *s, const sch_shape *sh, gram_dfa *all)
{
    gram_list l = {0};
    const gram_expr *e;
    gram_dfa d;
    for (const sch_cell *x = sh->excluded; x != NULL; x = x->next) {
        decimal v;
        char text[900];
        if (!json_is_number(x->json))
            continue;
        to_decimal(x->json, &v);
        snprintf(text, sizeof(text), "%s%s%s%s", v.negative ? "-" : "", v.whole, v.fraction[0] != '\0' ? "." : "", v.fraction);
        TRY(gram_text(s->c, text, strlen(text), &e));
        TRY(gram_push(s->c, &l, e));
    }
    TRY(gram_alt(s->c, &l, &e));
    TRY(gram_dfa_of(s->c, e, true, &d));
    TRY(gram_dfa_not(s->c, &d, &d));
    return gram_dfa_both(s->c, all, &d, all);
}

static status exact(sch_ctx *s, const sch_shape *sh, unsigned types, const gram_expr **out)
{
    gram_dfa all, d;
    mem_str forms = {0};
    if ((types & SCH_INT) != 0)
        mem_str_puts(&forms, "0|-?[1-9][0-9]{0,39}");
    if ((types & SCH_FRACTION) != 0)
        mem_str_printf(&forms, "%s-?(?:0|[1-9][0-9]{0,5})\\." FRACTION, forms.len > 0 ? "|" : "");
    status st = regex_dfa(s, &forms, &all);
    mem_str_free(&forms);
    TRY(st);
    if (sh->low.value != NULL) {
        TRY(side_dfa(s, &sh->low, true, types, &d));
        TRY(gram_dfa_both(s->c, &all, &d, &all));
    }
    if (sh->high.value != NULL) {
        TRY(side_dfa(s, &sh->high, false, types, &d));
        TRY(gram_dfa_both(s->c, &all, &d, &all));
    }
    for (const sch_cell *m = sh->multiples; m != NULL; m = m->next) {
        uint32_t of;
        TRY(whole_multiple(m->json, &of));
        TRY(multiple_dfa(s, of, &d));
        TRY(gram_dfa_both(s->c, &all, &d, &all));
    }
    TRY(excluded_dfa(s, sh, &all));
    return gram_automaton(s->c, all, out);
}

status sch_number(sch_ctx *s, const sch_shape *sh, const gram_expr **out)
{
    unsigned types = sh->types & SCH_NUMBER;
    bool excluded = false;
    for (const sch_cell *x = sh->excluded; x != NULL; x = x->next)
        excluded = excluded || json_is_number(x->json);
    if (sh->low.value == NULL && sh->high.value == NULL && sh->multiples == NULL && !excluded && types != SCH_FRACTION)
        return types == SCH_INT ? gram_json_integer(s->c, out) : gram_json_number(s->c, out);
    if (sh->multiples != NULL) /* fractions that are multiples of a fraction: doubles disagree on which are; whole ones do */
        types &= SCH_INT;
    *out = gram_nothing();
    return types == 0 ? ST_OK : exact(s, sh, types, out);
}

status sch_number_ok(const sch_shape *sh, const json_t *value, bool *ok)
{
    int low = sh->low.value == NULL ? 1 : sch_compare(value, sh->low.value), high = sh->high.value == NULL ? -1 : sch_compare(value, sh->high.value);
    *ok = (low > 0 || (low == 0 && !sh->low.exclusive)) && (high < 0 || (high == 0 && !sh->high.exclusive));
    for (const sch_cell *m = sh->multiples; m != NULL; m = m->next) {
        double quotient = json_number_value(value) / json_number_value(m->json);
        *ok = *ok && (json_is_integer(value) && json_is_integer(m->json) ? json_integer_value(value) % json_integer_value(m->json) == 0 : quotient == floor(quotient));
    }
    return ST_OK;
}
