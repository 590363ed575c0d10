/* shard/text/template_tests.c - what may stand after "is". */
#include "shard/text/template_internal.h"

static void no_args(tmpl_run *r, const targs *a)
{
    if (a->n > 0 || a->n_kw > 0)
        tmpl_fail(r, ST_INVALID, "the test takes no arguments");
}

static tv one_arg(tmpl_run *r, const targs *a)
{
    if (a->n != 1 || a->n_kw > 0)
        tmpl_fail(r, ST_INVALID, "the test takes exactly one argument");
    return a->pos[0];
}

/* Fails as Python's hash() does. */
static bool tv_hashable(tmpl_run *r, tv v)
{
    tdict empty = {0};
    return tv_dict_get(r, &empty, v) == NULL;
}

static bool modulo_is(tmpl_run *r, tv v, tv by, int64_t want)
{
    return tv_equal(r, tmpl_binary(r, OP_MOD, v, by), tv_int(want));
}

static bool t_odd(tmpl_run *r, tv v, const targs *a)
{
    no_args(r, a);
    return modulo_is(r, v, tv_int(2), 1);
}
static bool t_even(tmpl_run *r, tv v, const targs *a)
{
    no_args(r, a);
    return modulo_is(r, v, tv_int(2), 0);
}
static bool t_divisibleby(tmpl_run *r, tv v, const targs *a)
{
    static const char *const names[] = {"num"};
    tv num[1];
    tmpl_bind(r, "divisibleby", a, names, 1, 1, num);
    return modulo_is(r, v, num[0], 0);
}

#define SIMPLE(name, expression)                                                        \
    static bool t_##name(tmpl_run *r, tv v, const targs *a)                             \
    {                                                                                   \
        no_args(r, a);                                                                  \
        return expression;                                                              \
    }
SIMPLE(defined, v.type != TV_UNDEFINED)
SIMPLE(undefined, v.type == TV_UNDEFINED)
SIMPLE(none, v.type == TV_NONE)
SIMPLE(boolean, v.type == TV_BOOL)
SIMPLE(false, v.type == TV_BOOL && !v.u.b)
SIMPLE(true, v.type == TV_BOOL && v.u.b)
SIMPLE(integer, v.type == TV_INT)
SIMPLE(float, v.type == TV_FLOAT)
SIMPLE(string, v.type == TV_STR)
SIMPLE(mapping, v.type == TV_DICT)
SIMPLE(number, tv_is_number(v))
SIMPLE(sequence, v.type == TV_UNDEFINED || v.type == TV_STR || tv_is_seq(v) || v.type == TV_DICT || v.type == TV_RANGE)
SIMPLE(iterable, tv_is_iterable(v))
SIMPLE(escaped, v.type == TV_STR && v.markup)
SIMPLE(callable, v.type == TV_MACRO || v.type == TV_METHOD || v.type == TV_FUNC || v.type == TV_LOOP || v.type == TV_JOINER || v.type == TV_UNDEFINED)
SIMPLE(filter, tv_hashable(r, v) && v.type == TV_STR && tmpl_filter_find(v.u.s) != NULL)
SIMPLE(test, tv_hashable(r, v) && v.type == TV_STR && tmpl_test_find(v.u.s) != NULL)

static bool case_test(tmpl_run *r, tv v, const targs *a, const char *method)
{
    const char *name;
    no_args(r, a);
    return tmpl_str_method(method, strlen(method), &name)(r, tmpl_str(r, v), &(targs){0}).u.b;
}
static bool t_lower(tmpl_run *r, tv v, const targs *a)
{
    return case_test(r, v, a, "islower");
}
static bool t_upper(tmpl_run *r, tv v, const targs *a)
{
    return case_test(r, v, a, "isupper");
}

static bool t_sameas(tmpl_run *r, tv v, const targs *a)
{
    static const char *const names[] = {"other"};
    tv o[1];
    tmpl_bind(r, "sameas", a, names, 1, 1, o);
    if (v.type != o[0].type)
        return false;
    switch (v.type) {
    case TV_NONE:
        return true;
    case TV_BOOL:
    case TV_INT:
        return tv_whole(v) == tv_whole(o[0]);
    case TV_FLOAT:
        return v.u.f == o[0].u.f;
    case TV_STR:
        return v.u.s == o[0].u.s || tv_equal(r, v, o[0]);
    default:
        return v.u.p == o[0].u.p;
    }
}

static bool t_in(tmpl_run *r, tv v, const targs *a)
{
    static const char *const names[] = {"seq"};
    tv seq[1];
    tmpl_bind(r, "in", a, names, 1, 1, seq);
    return tv_in(r, v, seq[0]);
}
static bool t_eq(tmpl_run *r, tv v, const targs *a)
{
    return tv_equal(r, v, one_arg(r, a));
}
static bool t_ne(tmpl_run *r, tv v, const targs *a)
{
    return !tv_equal(r, v, one_arg(r, a));
}
static bool t_lt(tmpl_run *r, tv v, const targs *a)
{
    return tv_order(r, TV_LT, v, one_arg(r, a));
}
static bool t_le(tmpl_run *r, tv v, const targs *a)
{
    return tv_order(r, TV_LE, v, one_arg(r, a));
}
static bool t_gt(tmpl_run *r, tv v, const targs *a)
{
    return tv_order(r, TV_GT, v, one_arg(r, a));
}
static bool t_ge(tmpl_run *r, tv v, const targs *a)
{
    return tv_order(r, TV_GE, v, one_arg(r, a));
}

const tmpl_test tmpl_tests[] = {
    {"odd", t_odd}, {"even", t_even}, {"divisibleby", t_divisibleby}, {"defined", t_defined}, {"undefined", t_undefined}, {"filter", t_filter},
    {"test", t_test}, {"none", t_none}, {"boolean", t_boolean}, {"false", t_false}, {"true", t_true}, {"integer", t_integer}, {"float", t_float},
    {"lower", t_lower}, {"upper", t_upper}, {"string", t_string}, {"mapping", t_mapping}, {"number", t_number}, {"sequence", t_sequence},
    {"iterable", t_iterable}, {"callable", t_callable}, {"sameas", t_sameas}, {"escaped", t_escaped}, {"in", t_in}, {"==", t_eq}, {"eq", t_eq},
    {"equalto", t_eq}, {"!=", t_ne}, {"ne", t_ne}, {">", t_gt}, {"gt", t_gt}, {"greaterthan", t_gt}, {">=", t_ge}, {"ge", t_ge}, {"<", t_lt},
    {"lt", t_lt}, {"lessthan", t_lt}, {"<=", t_le}, {"le", t_le}, {NULL, NULL},
};

const tmpl_test *tmpl_test_find(const tstr *name)
{
    for (const tmpl_test *t = tmpl_tests; t->name != NULL; t++) {
        if (strlen(t->name) == name->len && memcmp(t->name, name->p, name->len) == 0)
            return t;
    }
    return NULL;
}
