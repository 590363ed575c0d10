/* shard/text/grammar_string.c - strings of a schema: lengths, patterns, formats, exclusions.
 *
 * Lengths alone are counted. With anything more the strings are one automaton over their own text, put together by set operations, which then
 * is written as JSON writes strings. */
#include <string.h>

#include "shard/text/grammar_schema.h"
#include "shard/text/tokenizer_text.h"

#define DATE "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
#define TIME "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[-+](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define LABEL "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?"
#define HOST LABEL "(?:\\." LABEL "){0,6}"
#define OCTET "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define IPV4 OCTET "(?:\\." OCTET "){3}"
#define H16 "[0-9a-fA-F]{1,4}"
#define IPV6                                                                                                                                                              \
    "(?:" H16 ":){7}" H16 "|(?:" H16 ":){1,7}:|(?:" H16 ":){1,6}:" H16 "|(?:" H16 ":){1,5}(?::" H16 "){1,2}|(?:" H16 ":){1,4}(?::" H16 "){1,3}|(?:" H16 ":){1,3}(?::" H16 \
    "){1,4}|(?:" H16 ":){1,2}(?::" H16 "){1,5}|" H16 ":(?::" H16 "){1,6}|:(?::" H16 "){1,7}|::"
#define PCHAR "(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2})"
#define TAIL "(?:\\?(?:" PCHAR "|[/?])*)?(?:#(?:" PCHAR "|[/?])*)?"
#define AUTHORITY "//" HOST "(?::[0-9]{1,5})?(?:/" PCHAR "*)*"
#define URI "(?:[a-zA-Z][a-zA-Z0-9+.-]{0,20}):(?:" AUTHORITY "|" PCHAR "+(?:/" PCHAR "*)*)" TAIL
#define ATOM "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,40}"

/* Each is a subset of what its format allows: the forms in use. */
static const struct { const char *name, *regex; } formats[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "T" TIME},
    {"duration", "P(?:[0-9]{1,6}W|(?:[0-9]{1,6}Y)?(?:[0-9]{1,6}M)?[0-9]{1,6}D(?:T[0-9]{1,6}S)?|[0-9]{1,6}Y(?:[0-9]{1,6}M)?|T[0-9]{1,6}H(?:[0-9]{1,6}M(?:[0-9]{1,6}S)?)?|T[0-9]{1,6}M|T[0-9]{1,6}S)"},
    {"email", ATOM "(?:\\." ATOM "){0,3}@" HOST},
    {"hostname", HOST},
    {"ipv4", IPV4},
    {"ipv6", IPV6},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"uri", URI},
    {"uri-reference", "(?:" URI ")|" AUTHORITY TAIL "|/?(?:[a-zA-Z0-9._~-]+(?:/" PCHAR "*)*)?" TAIL},
    /* what the international and templated forms share with the plain ones */
    {"idn-email", ATOM "(?:\\." ATOM "){0,3}@" HOST},
    {"idn-hostname", HOST},
    {"iri", URI},
    {"iri-reference", AUTHORITY TAIL "|" URI},
    {"uri-template", URI},
    {"regex", "[a-zA-Z0-9_ ]*"},
    {"json-pointer", "(?:/(?:[^~/]|~[01])*)*"},
    {"relative-json-pointer", "(?:0|[1-9][0-9]{0,5})(?:#|(?:/(?:[^~/]|~[01])*)*)"},
    /* of OpenAPI: no text is wrong */
    {"password", NULL}, {"byte", "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"}, {"binary", NULL},
    /* of numbers: they say nothing of strings */
    {"int32", NULL}, {"int64", NULL}, {"float", NULL}, {"double", NULL},
};

size_t sch_chars(const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

status sch_length_dfa(sch_ctx *s, uint32_t min, uint32_t max, gram_dfa *out)
{
    gram_set all = {0};
    const gram_expr *e;
    TRY(gram_set_add(s->c, &all, 0, 0x10ffff));
    TRY(gram_chars(s->c, all, &e));
    TRY(gram_repeat(s->c, e, min, max, &e));
    return gram_dfa_of(s->c, e, true, out);
}

status sch_pattern_dfa(sch_ctx *s, const char *text, size_t len, bool wide, const gram_dfa **out)
{
    for (size_t i = 0; i < s->n_patterns; i++) {
        if (s->patterns[i].len == len && s->patterns[i].wide == wide && memcmp(s->patterns[i].text, text, len) == 0) {
            *out = &s->patterns[i].dfa;
            return ST_OK;
        }
    }
    const gram_expr *e;
    sch_pattern p = {.text = text, .len = len, .wide = wide};
    TRY(gram_regex(s->c, text, len, GRAM_REGEX_SEARCH | (wide ? GRAM_REGEX_WIDE : 0), &e));
    TRY(gram_dfa_of(s->c, e, true, &p.dfa));
    TRY(gram_grow(s->c, &s->patterns, s->n_patterns, &s->cap_patterns, sizeof(*s->patterns)));
    s->patterns[s->n_patterns] = p;
    *out = &s->patterns[s->n_patterns++].dfa;
    return ST_OK;
}

static status format_dfa(sch_ctx *s, const sch_cell *f, gram_dfa *out, bool *any)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        const gram_expr *e;
        if (strcmp(formats[i].name, f->text) != 0)
            continue;
        *any = formats[i].regex == NULL;
        if (*any)
            return ST_OK;
        TRY(gram_regex_of(s->c, formats[i].regex, &e));
        return gram_dfa_of(s->c, e, true, out);
    }
    return FAIL(ST_UNSUPPORTED, "schema: the format \"%.60s\" is not supported", f->text);
}

static status add_formats(sch_ctx *s, const sch_shape *sh, gram_dfa *all)
{
    for (const sch_cell *f = sh->formats; f != NULL; f = f->next) {
        gram_dfa d;
        bool any = false;
        TRY(format_dfa(s, f, &d, &any));
        if (!any)
            TRY(gram_dfa_both(s->c, all, &d, all));
    }
    return ST_OK;
}

static status drop_excluded(sch_ctx *s, const sch_shape *sh, gram_dfa *all)
{
    gram_list l = {0};
    const gram_expr *e;
    gram_dfa d;
    for (const sch_cell *x = sh->excluded; x != NULL; x = x->next) {
        if (!json_is_string(x->json))
            continue;
        TRY(gram_text(s->c, json_string_value(x->json), json_string_length(x->json), &e));
        TRY(gram_push(s->c, &l, e));
    }
    if (l.n == 0)
        return ST_OK;
    TRY(gram_alt(s->c, &l, &e));
    TRY(gram_dfa_of(s->c, e, true, &d));
    TRY(gram_dfa_not(s->c, &d, &d));
    return gram_dfa_both(s->c, all, &d, all);
}

/* All but the length. */
static status content_dfa(sch_ctx *s, const sch_shape *sh, gram_dfa *out)
{
    TRY(sch_length_dfa(s, 0, GRAM_NO_LIMIT, out));
    for (const sch_cell *p = sh->patterns; p != NULL; p = p->next) {
        const gram_dfa *d;
        gram_dfa inverse;
        TRY(sch_pattern_dfa(s, p->text, p->len, p->kind == 1, &d));
        if (p->kind == 1) {
            TRY(gram_dfa_not(s->c, d, &inverse));
            d = &inverse;
        }
        TRY(gram_dfa_both(s->c, out, d, out));
    }
    TRY(add_formats(s, sh, out));
    return drop_excluded(s, sh, out);
}

status sch_string_dfa(sch_ctx *s, const sch_shape *sh, gram_dfa *out)
{
    gram_dfa length;
    TRY(content_dfa(s, sh, out));
    if (sh->min_length == 0 && sh->max_length == GRAM_NO_LIMIT)
        return ST_OK;
    TRY(sch_length_dfa(s, sh->min_length, sh->max_length, &length));
    return gram_dfa_both(s->c, out, &length, out);
}

status sch_string(sch_ctx *s, const sch_shape *sh, const gram_expr **out)
{
    gram_list l = {0};
    gram_dfa d;
    bool excluded = false;
    for (const sch_cell *x = sh->excluded; x != NULL; x = x->next)
        excluded = excluded || json_is_string(x->json);
    if (sh->patterns == NULL && sh->formats == NULL && !excluded)
        return gram_json_string(s->c, sh->min_length, sh->max_length, out);
    TRY(sch_string_dfa(s, sh, &d));
    TRY(gram_dfa_json(s->c, &d, &d));
    TRY(gram_automaton(s->c, d, out));
    TRY(gram_push_text(s->c, &l, "\""));
    TRY(gram_push(s->c, &l, *out));
    TRY(gram_push_text(s->c, &l, "\""));
    return gram_seq(s->c, &l, out);
}

status sch_string_ok(sch_ctx *s, const sch_shape *sh, const char *text, size_t len, bool *ok)
{
    size_t n = sch_chars(text, len);
    gram_dfa d;
    *ok = n >= sh->min_length && n <= sh->max_length;
    if (!*ok || (sh->patterns == NULL && sh->formats == NULL))
        return ST_OK;
    TRY(content_dfa(s, sh, &d));
    *ok = gram_dfa_matches(&d, text, len);
    return ST_OK;
}
