/* shard/text/template_parse.c - the parser's tools, and Jinja's expressions. */
#include "shard/text/template_parser.h"

#define MAX_TREE_DEPTH 400

static tmpl_node *parse_or(tmpl_parser *p);
static tmpl_node *parse_unary(tmpl_parser *p, bool with_filter);
static tmpl_node *parse_postfix(tmpl_parser *p, tmpl_node *node);

/* ---- tokens and nodes ---- */

bool tmpl_at_op(const tmpl_parser *p, const char *op)
{
    return p->t->type == T_OP && strcmp(p->t->op, op) == 0;
}

bool tmpl_tok_is(const tok *t, const char *name)
{
    return t->type == T_NAME && tv_text_is(t->value, name);
}

static const char *describe(const tok *t, int *len)
{
    static const char *const names[] = {"end of template", "template text", "begin of print statement", "end of print statement",
                                        "begin of statement block", "end of statement block", "name", "string", "integer", "float"};
    *len = 60;
    if (t->type == T_OP)
        return t->op;
    if (t->type == T_NAME) {
        *len = t->value.u.s->len < 60 ? (int)t->value.u.s->len : 60;
        return t->value.u.s->p;
    }
    return names[t->type];
}

_Noreturn void tmpl_expected(tmpl_parser *p, const char *want)
{
    int len;
    const char *got = describe(p->t, &len);
    p->r->line = p->t->line;
    tmpl_fail(p->r, ST_FORMAT, "expected %s, got '%.*s'", want, len, got);
}

tok *tmpl_next(tmpl_parser *p)
{
    tok *t = p->t;
    p->r->line = t->line;
    tmpl_charge(p->r, 0);
    if (t->type != T_EOF)
        p->t++;
    return t;
}

bool tmpl_skip_op(tmpl_parser *p, const char *op)
{
    if (!tmpl_at_op(p, op))
        return false;
    tmpl_next(p);
    return true;
}

bool tmpl_skip_name(tmpl_parser *p, const char *name)
{
    if (!tmpl_tok_is(p->t, name))
        return false;
    tmpl_next(p);
    return true;
}

void tmpl_expect_op(tmpl_parser *p, const char *op)
{
    if (!tmpl_skip_op(p, op)) {
        char want[8] = {'\'', op[0], '\'', '\0'};
        tmpl_expected(p, want);
    }
}

tv tmpl_expect_name(tmpl_parser *p)
{
    if (p->t->type != T_NAME)
        tmpl_expected(p, "a name");
    return tmpl_next(p)->value;
}

tmpl_node *tmpl_node_new(tmpl_parser *p, tmpl_kind kind, int line)
{
    tmpl_node *n = tmpl_alloc(p->r, sizeof(*n));
    n->kind = (uint8_t)kind;
    n->line = line;
    n->depth = 1;
    n->ref.slot = n->slot = n->slot2 = n->slot3 = -1;
    return n;
}

/* The node is as deep as its deepest child, and one more. */
void tmpl_adopt(tmpl_parser *p, tmpl_node *parent, const tmpl_node *child)
{
    if (child != NULL && child->depth >= parent->depth)
        parent->depth = child->depth + 1;
    if (parent->depth > MAX_TREE_DEPTH)
        tmpl_fail(p->r, ST_LIMIT, "nests more than %d expressions and statements", MAX_TREE_DEPTH);
}

void tmpl_list_add(tmpl_parser *p, tmpl_node *parent, tmpl_list *l, tmpl_node *child)
{
    if (l->n == l->cap) {
        int cap = l->cap == 0 ? 4 : l->cap * 2;
        tmpl_node **wider = tmpl_alloc(p->r, (size_t)cap * sizeof(tmpl_node *));
        if (l->n > 0)
            memcpy(wider, l->v, (size_t)l->n * sizeof(tmpl_node *));
        l->v = wider;
        l->cap = cap;
    }
    l->v[l->n++] = child;
    if (parent != NULL)
        tmpl_adopt(p, parent, child);
}

tmpl_node *tmpl_node_ab(tmpl_parser *p, tmpl_kind kind, int line, tmpl_node *a, tmpl_node *b)
{
    tmpl_node *n = tmpl_node_new(p, kind, line);
    n->a = a;
    n->b = b;
    tmpl_adopt(p, n, a);
    tmpl_adopt(p, n, b);
    return n;
}

tmpl_node *tmpl_const_node(tmpl_parser *p, int line, tv value)
{
    tmpl_node *n = tmpl_node_new(p, N_CONST, line);
    n->value = value;
    return n;
}

tmpl_node *tmpl_name_node(tmpl_parser *p, int line, tv name)
{
    tmpl_node *n = tmpl_node_new(p, N_NAME, line);
    n->value = name;
    return n;
}

/* ---- expressions ---- */

static bool tuple_end(const tmpl_parser *p)
{
    return p->t->type == T_VAR_END || p->t->type == T_BLOCK_END || tmpl_at_op(p, ")");
}

static tmpl_node *parse_primary(tmpl_parser *p, bool namespace);

/* An expression, or several with commas.  `target`: names and literals only. */
tmpl_node *tmpl_parse_tuple(tmpl_parser *p, bool target, bool condexpr, bool parentheses, bool namespace)
{
    int line = p->t->line;
    tmpl_node *tuple = tmpl_node_new(p, N_TUPLE, line);
    bool is_tuple = false;
    tmpl_enter(p->r);
    for (;;) {
        if (tuple->list.n > 0)
            tmpl_expect_op(p, ",");
        if (tuple_end(p))
            break;
        tmpl_list_add(p, tuple, &tuple->list, target ? parse_primary(p, namespace) : condexpr ? tmpl_parse_expression(p) : parse_or(p));
        if (!tmpl_at_op(p, ","))
            break;
        is_tuple = true;
    }
    tmpl_leave(p->r);
    if (!is_tuple && tuple->list.n > 0)
        return tuple->list.v[0];
    if (!is_tuple && !parentheses)
        tmpl_expected(p, "an expression");
    return tuple;
}

static tmpl_node *parse_list(tmpl_parser *p)
{
    tmpl_node *n = tmpl_node_new(p, N_LIST, tmpl_next(p)->line);
    while (!tmpl_at_op(p, "]")) {
        if (n->list.n > 0)
            tmpl_expect_op(p, ",");
        if (tmpl_at_op(p, "]"))
            break;
        tmpl_list_add(p, n, &n->list, tmpl_parse_expression(p));
    }
    tmpl_next(p);
    return n;
}

static tmpl_node *parse_dict(tmpl_parser *p)
{
    tmpl_node *n = tmpl_node_new(p, N_DICT, tmpl_next(p)->line);
    while (!tmpl_at_op(p, "}")) {
        if (n->list.n > 0)
            tmpl_expect_op(p, ",");
        if (tmpl_at_op(p, "}"))
            break;
        tmpl_list_add(p, n, &n->list, tmpl_parse_expression(p));
        tmpl_expect_op(p, ":");
        tmpl_list_add(p, n, &n->list, tmpl_parse_expression(p));
    }
    tmpl_next(p);
    return n;
}

static tmpl_node *parse_name(tmpl_parser *p, bool namespace)
{
    tok *t = tmpl_next(p);
    if (tmpl_tok_is(t, "true") || tmpl_tok_is(t, "True"))
        return tmpl_const_node(p, t->line, tv_bool(true));
    if (tmpl_tok_is(t, "false") || tmpl_tok_is(t, "False"))
        return tmpl_const_node(p, t->line, tv_bool(false));
    if (tmpl_tok_is(t, "none") || tmpl_tok_is(t, "None"))
        return tmpl_const_node(p, t->line, tv_none());
    if (namespace && tmpl_skip_op(p, ".")) {
        tmpl_node *n = tmpl_node_new(p, N_NSREF, t->line);
        n->value = t->value;
        n->a = tmpl_const_node(p, t->line, tmpl_expect_name(p));
        return n;
    }
    p->caller_loads += tmpl_tok_is(t, "caller");
    p->kwargs_loads += tmpl_tok_is(t, "kwargs");
    p->varargs_loads += tmpl_tok_is(t, "varargs");
    return tmpl_name_node(p, t->line, t->value);
}

static tmpl_node *parse_primary(tmpl_parser *p, bool namespace)
{
    tok *t = p->t;
    tmpl_node *n;
    if (t->type == T_NAME)
        return parse_name(p, namespace);
    if (t->type == T_STRING) {
        tv text = tmpl_next(p)->value;
        while (p->t->type == T_STRING)
            text = tv_concat(p->r, text, tmpl_next(p)->value);
        return tmpl_const_node(p, t->line, text);
    }
    if (t->type == T_INT || t->type == T_FLOAT)
        return tmpl_const_node(p, t->line, tmpl_next(p)->value);
    tmpl_enter(p->r);
    if (tmpl_skip_op(p, "(")) {
        n = tmpl_parse_tuple(p, false, true, true, false);
        tmpl_expect_op(p, ")");
    } else if (tmpl_at_op(p, "[")) {
        n = parse_list(p);
    } else if (tmpl_at_op(p, "{")) {
        n = parse_dict(p);
    } else {
        tmpl_expected(p, "an expression");
    }
    tmpl_leave(p->r);
    return n;
}

static tmpl_node *parse_slice_part(tmpl_parser *p)
{
    return tmpl_at_op(p, ":") || tmpl_at_op(p, "]") || tmpl_at_op(p, ",") ? NULL : tmpl_parse_expression(p);
}

static tmpl_node *parse_subscript(tmpl_parser *p, tmpl_node *object)
{
    int line = tmpl_next(p)->line;
    if (tmpl_at_op(p, "]")) /* x[] asks for the item named () */
        return tmpl_next(p), tmpl_node_ab(p, N_GETITEM, line, object, tmpl_node_new(p, N_TUPLE, line));
    tmpl_node *start = parse_slice_part(p), *index = start;
    if (tmpl_at_op(p, ":")) {
        tmpl_node *slice = tmpl_node_ab(p, N_SLICE, line, object, start);
        tmpl_next(p);
        tmpl_node *stop = parse_slice_part(p), *step = tmpl_skip_op(p, ":") ? parse_slice_part(p) : NULL;
        tmpl_list_add(p, slice, &slice->list, stop);
        tmpl_list_add(p, slice, &slice->list, step);
        if (tmpl_at_op(p, ","))
            tmpl_fail(p->r, ST_UNSUPPORTED, "a tuple of slices as an index is not supported");
        tmpl_expect_op(p, "]");
        return slice;
    }
    if (start == NULL)
        tmpl_expected(p, "an expression");
    if (tmpl_at_op(p, ",")) {
        index = tmpl_node_new(p, N_TUPLE, line);
        tmpl_list_add(p, index, &index->list, start);
        while (tmpl_skip_op(p, ","))
            tmpl_list_add(p, index, &index->list, tmpl_parse_expression(p));
    }
    tmpl_expect_op(p, "]");
    return tmpl_node_ab(p, N_GETITEM, line, object, index);
}

static tmpl_node *parse_attribute(tmpl_parser *p, tmpl_node *object)
{
    int line = tmpl_next(p)->line;
    if (p->t->type == T_INT) {
        tmpl_node *index = tmpl_const_node(p, line, tmpl_next(p)->value);
        return tmpl_node_ab(p, N_GETITEM, line, object, index);
    }
    tmpl_node *n = tmpl_node_ab(p, N_GETATTR, line, object, NULL);
    if (p->t->type != T_NAME)
        tmpl_expected(p, "a name or number");
    n->value = tmpl_next(p)->value;
    return n;
}

static void call_fail(tmpl_parser *p, bool good)
{
    if (!good)
        tmpl_fail(p->r, ST_FORMAT, "invalid syntax for function call expression");
}

/* Arguments in parentheses, into args; `n` is the node they belong to. */
static void parse_args(tmpl_parser *p, tmpl_node *n, tmpl_call_args *args)
{
    bool comma = false;
    tmpl_expect_op(p, "(");
    while (!tmpl_at_op(p, ")")) {
        if (comma) {
            tmpl_expect_op(p, ",");
            if (tmpl_at_op(p, ")"))
                break;
        }
        if (tmpl_skip_op(p, "*")) {
            call_fail(p, args->star == NULL && args->star_star == NULL);
            tmpl_adopt(p, n, args->star = tmpl_parse_expression(p));
        } else if (tmpl_skip_op(p, "**")) {
            call_fail(p, args->star_star == NULL);
            tmpl_adopt(p, n, args->star_star = tmpl_parse_expression(p));
        } else if (p->t->type == T_NAME && p->t[1].type == T_OP && strcmp(p->t[1].op, "=") == 0) {
            call_fail(p, args->star_star == NULL);
            tmpl_node *key = tmpl_const_node(p, p->t->line, tmpl_next(p)->value);
            tmpl_next(p);
            for (int i = 0; i < args->kw.n; i += 2) {
                if (tv_equal(p->r, args->kw.v[i]->value, key->value))
                    tmpl_fail(p->r, ST_FORMAT, "keyword argument repeated: %.*s", (int)key->value.u.s->len, key->value.u.s->p);
                tmpl_charge(p->r, 0);
            }
            tmpl_list_add(p, n, &args->kw, key);
            tmpl_list_add(p, n, &args->kw, tmpl_parse_expression(p));
        } else {
            call_fail(p, args->star == NULL && args->star_star == NULL && args->kw.n == 0);
            tmpl_list_add(p, n, &args->pos, tmpl_parse_expression(p));
        }
        comma = true;
    }
    tmpl_next(p);
}

static tmpl_call_args *args_new(tmpl_parser *p)
{
    return tmpl_alloc(p->r, sizeof(tmpl_call_args));
}

static tmpl_node *parse_call(tmpl_parser *p, tmpl_node *callee)
{
    tmpl_node *n = tmpl_node_ab(p, N_CALL, p->t->line, callee, NULL);
    n->args = args_new(p);
    parse_args(p, n, n->args);
    return n;
}

static tv dotted_name(tmpl_parser *p)
{
    tv name = tmpl_expect_name(p);
    while (tmpl_skip_op(p, "."))
        name = tv_concat(p->r, tv_concat(p->r, name, tv_text(p->r, ".")), tmpl_expect_name(p));
    return name;
}

/* One filter, after its pipe. */
tmpl_node *tmpl_parse_one_filter(tmpl_parser *p, tmpl_node *value)
{
    tmpl_node *n = tmpl_node_ab(p, N_FILTER, p->t->line, value, NULL);
    n->value = dotted_name(p);
    n->args = args_new(p);
    n->filter = tmpl_filter_find(n->value.u.s);
    if (tmpl_at_op(p, "("))
        parse_args(p, n, n->args);
    return n;
}

static tmpl_node *parse_test(tmpl_parser *p, tmpl_node *value)
{
    int line = tmpl_next(p)->line;
    bool negated = tmpl_skip_name(p, "not");
    tmpl_node *n = tmpl_node_ab(p, N_TEST, line, value, NULL);
    n->value = dotted_name(p);
    n->args = args_new(p);
    n->test = tmpl_test_find(n->value.u.s);
    const tok *t = p->t;
    if (tmpl_at_op(p, "(")) {
        parse_args(p, n, n->args);
    } else if ((t->type == T_NAME || t->type == T_STRING || t->type == T_INT || t->type == T_FLOAT || tmpl_at_op(p, "[") || tmpl_at_op(p, "{")) &&
               !tmpl_tok_is(t, "else") && !tmpl_tok_is(t, "or") && !tmpl_tok_is(t, "and")) {
        if (tmpl_tok_is(t, "is"))
            tmpl_fail(p->r, ST_FORMAT, "you cannot chain multiple tests with is");
        tmpl_list_add(p, n, &n->args->pos, parse_postfix(p, parse_primary(p, false)));
    }
    return negated ? tmpl_node_ab(p, N_NOT, line, n, NULL) : n;
}

static tmpl_node *parse_postfix(tmpl_parser *p, tmpl_node *n)
{
    for (;;) {
        if (tmpl_at_op(p, "."))
            n = parse_attribute(p, n);
        else if (tmpl_at_op(p, "["))
            n = parse_subscript(p, n);
        else if (tmpl_at_op(p, "("))
            n = parse_call(p, n);
        else
            return n;
    }
}

static tmpl_node *parse_filters(tmpl_parser *p, tmpl_node *n)
{
    for (;;) {
        if (tmpl_skip_op(p, "|"))
            n = tmpl_parse_one_filter(p, n);
        else if (tmpl_tok_is(p->t, "is"))
            n = parse_test(p, n);
        else if (tmpl_at_op(p, "("))
            n = parse_call(p, n);
        else
            return n;
    }
}

static tmpl_node *parse_unary(tmpl_parser *p, bool with_filter)
{
    int line = p->t->line;
    tmpl_node *n;
    tmpl_enter(p->r);
    if (tmpl_skip_op(p, "-"))
        n = tmpl_node_ab(p, N_NEG, line, parse_unary(p, false), NULL);
    else if (tmpl_skip_op(p, "+"))
        n = tmpl_node_ab(p, N_POS, line, parse_unary(p, false), NULL);
    else
        n = parse_primary(p, false);
    tmpl_leave(p->r);
    n = parse_postfix(p, n);
    return with_filter ? parse_filters(p, n) : n;
}

static tmpl_node *binary(tmpl_parser *p, tmpl_op op, int line, tmpl_node *a, tmpl_node *b)
{
    tmpl_node *n = tmpl_node_ab(p, N_BINARY, line, a, b);
    n->op = (uint8_t)op;
    return n;
}

static tmpl_node *parse_pow(tmpl_parser *p)
{
    tmpl_node *left = parse_unary(p, true);
    while (tmpl_at_op(p, "**")) {
        int line = tmpl_next(p)->line;
        left = binary(p, OP_POW, line, left, parse_unary(p, true));
    }
    return left;
}

static tmpl_node *parse_product(tmpl_parser *p)
{
    static const struct {
        const char *text;
        tmpl_op op;
    } ops[] = {{"*", OP_MUL}, {"/", OP_DIV}, {"//", OP_FLOORDIV}, {"%", OP_MOD}};
    tmpl_node *left = parse_pow(p);
    for (size_t i = 0; i < ARRAY_LEN(ops);) {
        if (!tmpl_at_op(p, ops[i].text)) {
            i++;
            continue;
        }
        int line = tmpl_next(p)->line;
        left = binary(p, ops[i].op, line, left, parse_pow(p));
        i = 0;
    }
    return left;
}

static tmpl_node *parse_concat(tmpl_parser *p)
{
    tmpl_node *first = parse_product(p);
    if (!tmpl_at_op(p, "~"))
        return first;
    tmpl_node *n = tmpl_node_new(p, N_CONCAT, p->t->line);
    tmpl_list_add(p, n, &n->list, first);
    while (tmpl_skip_op(p, "~"))
        tmpl_list_add(p, n, &n->list, parse_product(p));
    return n;
}

static tmpl_node *parse_sum(tmpl_parser *p)
{
    tmpl_node *left = parse_concat(p);
    while (tmpl_at_op(p, "+") || tmpl_at_op(p, "-")) {
        tmpl_op op = tmpl_at_op(p, "+") ? OP_ADD : OP_SUB;
        int line = tmpl_next(p)->line;
        left = binary(p, op, line, left, parse_concat(p));
    }
    return left;
}

/* Takes a comparison operator if there is one. */
static bool comparison(tmpl_parser *p, uint8_t *op)
{
    static const struct {
        const char *text;
        tmpl_op op;
    } ops[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<", OP_LT}, {"<=", OP_LE}, {">", OP_GT}, {">=", OP_GE}};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        if (tmpl_skip_op(p, ops[i].text)) {
            *op = (uint8_t)ops[i].op;
            return true;
        }
    }
    if (tmpl_skip_name(p, "in")) {
        *op = OP_IN;
        return true;
    }
    if (tmpl_tok_is(p->t, "not") && tmpl_tok_is(p->t + 1, "in")) {
        tmpl_next(p);
        tmpl_next(p);
        *op = OP_NOT_IN;
        return true;
    }
    return false;
}

static tmpl_node *parse_compare(tmpl_parser *p)
{
    tmpl_node *first = parse_sum(p);
    uint8_t op;
    int line = p->t->line;
    if (!comparison(p, &op))
        return first;
    tmpl_node *n = tmpl_node_ab(p, N_COMPARE, line, first, NULL);
    int cap = 0;
    do {
        if (n->list.n == cap) {
            cap = cap == 0 ? 4 : cap * 2;
            uint8_t *wider = tmpl_alloc(p->r, (size_t)cap);
            if (n->list.n > 0)
                memcpy(wider, n->ops, (size_t)n->list.n);
            n->ops = wider;
        }
        n->ops[n->list.n] = op;
        tmpl_list_add(p, n, &n->list, parse_sum(p));
    } while (comparison(p, &op));
    return n;
}

static tmpl_node *parse_not(tmpl_parser *p)
{
    if (!tmpl_tok_is(p->t, "not"))
        return parse_compare(p);
    int line = tmpl_next(p)->line;
    tmpl_enter(p->r);
    tmpl_node *n = tmpl_node_ab(p, N_NOT, line, parse_not(p), NULL);
    tmpl_leave(p->r);
    return n;
}

static tmpl_node *parse_and(tmpl_parser *p)
{
    tmpl_node *left = parse_not(p);
    while (tmpl_tok_is(p->t, "and")) {
        int line = tmpl_next(p)->line;
        left = tmpl_node_ab(p, N_AND, line, left, parse_not(p));
    }
    return left;
}

static tmpl_node *parse_or(tmpl_parser *p)
{
    tmpl_node *left = parse_and(p);
    while (tmpl_tok_is(p->t, "or")) {
        int line = tmpl_next(p)->line;
        left = tmpl_node_ab(p, N_OR, line, left, parse_and(p));
    }
    return left;
}

tmpl_node *tmpl_parse_expression(tmpl_parser *p)
{
    tmpl_enter(p->r);
    int line = p->t->line;
    tmpl_node *value = parse_or(p);
    while (tmpl_skip_name(p, "if")) {
        tmpl_node *n = tmpl_node_ab(p, N_COND, line, parse_or(p), value);
        if (tmpl_skip_name(p, "else")) {
            n->flag = true;
            tmpl_adopt(p, n, n->c = tmpl_parse_expression(p));
        }
        value = n;
    }
    tmpl_leave(p->r);
    return value;
}

