/* shard/text/grammar_json.c - JSON as a model may write it: any value, and the parts that schemas are made of.
 *
 * Between tokens of JSON stands nothing, or one blank after ',' and ':': whitespace must not go on for ever.  Numbers have at most
 * 40 digits before and behind the point and two in the exponent, and the whole-number part of -0 is only written with a fraction. */
#include <string.h>

#include "shard/text/grammar_json.h"

status gram_json_separator(gram_ctx *c, char mark, const gram_expr **out)
{
    gram_list l = {0};
    const gram_expr *blank;
    TRY(gram_text(c, &mark, 1, out));
    TRY(gram_push(c, &l, *out));
    TRY(gram_text(c, " ", 1, &blank));
    TRY(gram_repeat(c, blank, 0, 1, &blank));
    TRY(gram_push(c, &l, blank));
    return gram_seq(c, &l, out);
}

status gram_regex_of(gram_ctx *c, const char *pattern, const gram_expr **out)
{
    return gram_regex(c, pattern, strlen(pattern), 0, out);
}

/* One character inside quotes: as it is, or escaped; a pair of surrogates is one. */
static status string_char(gram_ctx *c, const gram_expr **out)
{
    return gram_regex_of(c,
                         "[^\"\\\\\\x00-\\x1f]|\\\\[\"\\\\/bfnrt]|\\\\u(?:[0-9abcefABCEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}|"
                         "[dD][89abAB][0-9a-fA-F]{2}\\\\u[dD][c-fC-F][0-9a-fA-F]{2})",
                         out);
}

status gram_json_string(gram_ctx *c, uint32_t min, uint32_t max, const gram_expr **out)
{
    gram_list l = {0};
    const gram_expr *e;
    gram_dfa d;
    TRY(string_char(c, &e));
    TRY(gram_dfa_of(c, e, true, &d));
    TRY(gram_automaton(c, d, &e));
    TRY(gram_repeat(c, e, min, max, &e));
    TRY(gram_push_text(c, &l, "\""));
    TRY(gram_push(c, &l, e));
    TRY(gram_push_text(c, &l, "\""));
    return gram_seq(c, &l, out);
}

status gram_json_number(gram_ctx *c, const gram_expr **out)
{
    return gram_regex_of(c, "(?:-?(?:0|[1-9][0-9]{0,39})\\.[0-9]{1,40}|-?[1-9][0-9]{0,39}|0)(?:[eE][-+]?[0-9]{1,2})?", out);
}

status gram_json_integer(gram_ctx *c, const gram_expr **out)
{
    return gram_regex_of(c, "0|-?[1-9][0-9]{0,39}", out);
}

/* open (item (, item)*)? close */
status gram_json_list(gram_ctx *c, const char *open, const gram_expr *item, const char *close, const gram_expr **out)
{
    gram_list whole = {0}, items = {0}, more = {0};
    const gram_expr *e;
    TRY(gram_json_separator(c, ',', &e));
    TRY(gram_push(c, &more, e));
    TRY(gram_push(c, &more, item));
    TRY(gram_seq(c, &more, &e));
    TRY(gram_repeat(c, e, 0, GRAM_NO_LIMIT, &e));
    TRY(gram_push(c, &items, item));
    TRY(gram_push(c, &items, e));
    TRY(gram_seq(c, &items, &e));
    TRY(gram_repeat(c, e, 0, 1, &e));
    TRY(gram_push_text(c, &whole, open));
    TRY(gram_push(c, &whole, e));
    TRY(gram_push_text(c, &whole, close));
    return gram_seq(c, &whole, out);
}

status gram_json_pair(gram_ctx *c, const gram_expr *key, const gram_expr *value, const gram_expr **out)
{
    gram_list l = {0};
    const gram_expr *colon;
    TRY(gram_json_separator(c, ':', &colon));
    TRY(gram_push(c, &l, key));
    TRY(gram_push(c, &l, colon));
    TRY(gram_push(c, &l, value));
    return gram_seq(c, &l, out);
}

/* A rule for any value of the types in the mask; arrays and objects in it hold any value. */
static status any_body(gram_ctx *c, uint32_t rule, const gram_expr **object, const gram_expr **out)
{
    gram_list l = {0};
    const gram_expr *value, *string, *e;
    TRY(gram_call_rule(c, rule, &value));
    TRY(gram_json_string(c, 0, GRAM_NO_LIMIT, &string));
    TRY(gram_push(c, &l, string));
    TRY(gram_json_number(c, &e));
    TRY(gram_push(c, &l, e));
    TRY(gram_regex_of(c, "true|false|null", &e));
    TRY(gram_push(c, &l, e));
    TRY(gram_json_list(c, "[", value, "]", &e));
    TRY(gram_push(c, &l, e));
    TRY(gram_json_pair(c, string, value, &e));
    TRY(gram_json_list(c, "{", e, "}", object));
    TRY(gram_push(c, &l, *object));
    return gram_alt(c, &l, out);
}

status gram_json_any(gram_ctx *c, const gram_expr **any, const gram_expr **object)
{
    uint32_t rule;
    const gram_expr *body;
    TRY(gram_rule_add(c, &rule));
    TRY(any_body(c, rule, object, &body));
    c->rules[rule].body = body;
    return gram_call_rule(c, rule, any);
}

status gram_json_object(gram_ctx *c, const gram_expr **out)
{
    const gram_expr *any;
    return gram_json_any(c, &any, out);
}
