/* shard/text/template_parse.c - tokens to the syntax tree: Jinja's grammar, with loop controls and {% generation %}.
 *
 * Recursive descent; nesting is bounded both while parsing (tmpl_enter) and in the tree itself (node depth), so that whatever
 * walks the tree later needs no bound of its own.  include, import and extends are refused: a chat template stands alone. */
#include "shard/text/template_internal.h"

#define MAX_TREE_DEPTH 400

typedef struct parser {
    tmpl_run *r;
    tok *t;
    shard_template *out;
    int loops;           /* for loops around, within the current function */
    int64_t caller_loads, kwargs_loads, varargs_loads, loop_stores;
} parser;

static tmpl_node *parse_expression(parser *p);
static tmpl_node *parse_or(parser *p);
static tmpl_node *parse_unary(parser *p, bool with_filter);
static tmpl_node *parse_postfix(parser *p, tmpl_node *node);
static void parse_body(parser *p, tmpl_list *out, const char *const *ends, int n_ends, const char *tag);

/* ---- tokens and nodes ---- */

static bool is_op(const parser *p, const char *op)
{
    return p->t->type == T_OP && strcmp(p->t->op, op) == 0;
}

static bool is_name(const tok *t, const char *name)
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

_Noreturn static void fail_token(parser *p, const char *want)
{
    int len;
    const char *got = describe(p->t, &len);
    p->r->line = p->t->line;
    tmpl_fail(p->r, ST_FORMAT, "expected %s, got '%.*s'", want, len, got);
}

static tok *next(parser *p)
{
    tok *t = p->t;
    p->r->line = t->line;
    tmpl_charge(p->r, 0);
    if (t->type != T_EOF)
        p->t++;
    return t;
}

static bool skip_op(parser *p, const char *op)
{
    if (!is_op(p, op))
        return false;
    next(p);
    return true;
}

static bool skip_name(parser *p, const char *name)
{
    if (!is_name(p->t, name))
        return false;
    next(p);
    return true;
}

static void expect_op(parser *p, const char *op)
{
    if (!skip_op(p, op)) {
        char want[8] = {'\'', op[0], '\'', '\0'};
        fail_token(p, want);
    }
}

static tv expect_name(parser *p)
{
    if (p->t->type != T_NAME)
        fail_token(p, "a name");
    return next(p)->value;
}

static void expect_block_end(parser *p)
{
    if (p->t->type != T_BLOCK_END)
        fail_token(p, "end of statement block");
    next(p);
}

static tmpl_node *node_new(parser *p, tmpl_kind kind, int line)
{
    tmpl_node *n = tmpl_alloc(p->r, sizeof(*n));
    n->kind = (uint8_t)kind;
    n->line = line;
    n->depth = 1;
    n->ref.slot = n->slot = n->slot2 = n->slot3 = -1;
    return n;
}

/* The node is as deep as its deepest child, and one more. */
static void adopt(parser *p, tmpl_node *parent, const tmpl_node *child)
{
    if (child != NULL && child->depth >= parent->depth)
        parent->depth = child->depth + 1;
    if (parent->depth > MAX_TREE_DEPTH)
        tmpl_fail(p->r, ST_LIMIT, "nests more than %d expressions and statements", MAX_TREE_DEPTH);
}

static void list_add(parser *p, tmpl_node *parent, tmpl_list *l, tmpl_node *child)
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
        adopt(p, parent, child);
}

static tmpl_node *node_ab(parser *p, tmpl_kind kind, int line, tmpl_node *a, tmpl_node *b)
{
    tmpl_node *n = node_new(p, kind, line);
    n->a = a;
    n->b = b;
    adopt(p, n, a);
    adopt(p, n, b);
    return n;
}

static tmpl_node *const_node(parser *p, int line, tv value)
{
    tmpl_node *n = node_new(p, N_CONST, line);
    n->value = value;
    return n;
}

static tmpl_node *name_node(parser *p, int line, tv name)
{
    tmpl_node *n = node_new(p, N_NAME, line);
    n->value = name;
    return n;
}

/* ---- expressions ---- */

static bool tuple_end(const parser *p)
{
    return p->t->type == T_VAR_END || p->t->type == T_BLOCK_END || is_op(p, ")");
}

static tmpl_node *parse_primary(parser *p, bool namespace);

/* An expression, or several with commas.  `target`: names and literals only. */
static tmpl_node *parse_tuple(parser *p, bool target, bool condexpr, bool parentheses, bool namespace)
{
    int line = p->t->line;
    tmpl_node *tuple = node_new(p, N_TUPLE, line);
    bool is_tuple = false;
    tmpl_enter(p->r);
    for (;;) {
        if (tuple->list.n > 0)
            expect_op(p, ",");
        if (tuple_end(p))
            break;
        list_add(p, tuple, &tuple->list, target ? parse_primary(p, namespace) : condexpr ? parse_expression(p) : parse_or(p));
        if (!is_op(p, ","))
            break;
        is_tuple = true;
    }
    tmpl_leave(p->r);
    if (!is_tuple && tuple->list.n > 0)
        return tuple->list.v[0];
    if (!is_tuple && !parentheses)
        fail_token(p, "an expression");
    return tuple;
}

static tmpl_node *parse_list(parser *p)
{
    tmpl_node *n = node_new(p, N_LIST, next(p)->line);
    while (!is_op(p, "]")) {
        if (n->list.n > 0)
            expect_op(p, ",");
        if (is_op(p, "]"))
            break;
        list_add(p, n, &n->list, parse_expression(p));
    }
    next(p);
    return n;
}

static tmpl_node *parse_dict(parser *p)
{
    tmpl_node *n = node_new(p, N_DICT, next(p)->line);
    while (!is_op(p, "}")) {
        if (n->list.n > 0)
            expect_op(p, ",");
        if (is_op(p, "}"))
            break;
        list_add(p, n, &n->list, parse_expression(p));
        expect_op(p, ":");
        list_add(p, n, &n->list, parse_expression(p));
    }
    next(p);
    return n;
}

static tmpl_node *parse_name(parser *p, bool namespace)
{
    tok *t = next(p);
    if (is_name(t, "true") || is_name(t, "True"))
        return const_node(p, t->line, tv_bool(true));
    if (is_name(t, "false") || is_name(t, "False"))
        return const_node(p, t->line, tv_bool(false));
    if (is_name(t, "none") || is_name(t, "None"))
        return const_node(p, t->line, tv_none());
    if (namespace && skip_op(p, ".")) {
        tmpl_node *n = node_new(p, N_NSREF, t->line);
        n->value = t->value;
        n->a = const_node(p, t->line, expect_name(p));
        return n;
    }
    p->caller_loads += is_name(t, "caller");
    p->kwargs_loads += is_name(t, "kwargs");
    p->varargs_loads += is_name(t, "varargs");
    return name_node(p, t->line, t->value);
}

static tmpl_node *parse_primary(parser *p, bool namespace)
{
    tok *t = p->t;
    tmpl_node *n;
    if (t->type == T_NAME)
        return parse_name(p, namespace);
    if (t->type == T_STRING) {
        tv text = next(p)->value;
        while (p->t->type == T_STRING)
            text = tv_concat(p->r, text, next(p)->value);
        return const_node(p, t->line, text);
    }
    if (t->type == T_INT || t->type == T_FLOAT)
        return const_node(p, t->line, next(p)->value);
    tmpl_enter(p->r);
    if (skip_op(p, "(")) {
        n = parse_tuple(p, false, true, true, false);
        expect_op(p, ")");
    } else if (is_op(p, "[")) {
        n = parse_list(p);
    } else if (is_op(p, "{")) {
        n = parse_dict(p);
    } else {
        fail_token(p, "an expression");
    }
    tmpl_leave(p->r);
    return n;
}

static tmpl_node *parse_slice_part(parser *p)
{
    return is_op(p, ":") || is_op(p, "]") || is_op(p, ",") ? NULL : parse_expression(p);
}

static tmpl_node *parse_subscript(parser *p, tmpl_node *object)
{
    int line = next(p)->line;
    if (is_op(p, "]")) /* x[] asks for the item named () */
        return next(p), node_ab(p, N_GETITEM, line, object, node_new(p, N_TUPLE, line));
    tmpl_node *start = parse_slice_part(p), *index = start;
    if (is_op(p, ":")) {
        tmpl_node *slice = node_ab(p, N_SLICE, line, object, start);
        next(p);
        tmpl_node *stop = parse_slice_part(p), *step = skip_op(p, ":") ? parse_slice_part(p) : NULL;
        list_add(p, slice, &slice->list, stop);
        list_add(p, slice, &slice->list, step);
        if (is_op(p, ","))
            tmpl_fail(p->r, ST_UNSUPPORTED, "a tuple of slices as an index is not supported");
        expect_op(p, "]");
        return slice;
    }
    if (start == NULL)
        fail_token(p, "an expression");
    if (is_op(p, ",")) {
        index = node_new(p, N_TUPLE, line);
        list_add(p, index, &index->list, start);
        while (skip_op(p, ","))
            list_add(p, index, &index->list, parse_expression(p));
    }
    expect_op(p, "]");
    return node_ab(p, N_GETITEM, line, object, index);
}

static tmpl_node *parse_attribute(parser *p, tmpl_node *object)
{
    int line = next(p)->line;
    if (p->t->type == T_INT) {
        tmpl_node *index = const_node(p, line, next(p)->value);
        return node_ab(p, N_GETITEM, line, object, index);
    }
    tmpl_node *n = node_ab(p, N_GETATTR, line, object, NULL);
    if (p->t->type != T_NAME)
        fail_token(p, "a name or number");
    n->value = next(p)->value;
    return n;
}

static void call_fail(parser *p, bool good)
{
    if (!good)
        tmpl_fail(p->r, ST_FORMAT, "invalid syntax for function call expression");
}

/* Arguments in parentheses, into args; `n` is the node they belong to. */
static void parse_args(parser *p, tmpl_node *n, tmpl_call_args *args)
{
    bool comma = false;
    expect_op(p, "(");
    while (!is_op(p, ")")) {
        if (comma) {
            expect_op(p, ",");
            if (is_op(p, ")"))
                break;
        }
        if (skip_op(p, "*")) {
            call_fail(p, args->star == NULL && args->star_star == NULL);
            adopt(p, n, args->star = parse_expression(p));
        } else if (skip_op(p, "**")) {
            call_fail(p, args->star_star == NULL);
            adopt(p, n, args->star_star = parse_expression(p));
        } else if (p->t->type == T_NAME && p->t[1].type == T_OP && strcmp(p->t[1].op, "=") == 0) {
            call_fail(p, args->star_star == NULL);
            tmpl_node *key = const_node(p, p->t->line, next(p)->value);
            next(p);
            for (int i = 0; i < args->kw.n; i += 2) {
                if (tv_equal(p->r, args->kw.v[i]->value, key->value))
                    tmpl_fail(p->r, ST_FORMAT, "keyword argument repeated: %.*s", (int)key->value.u.s->len, key->value.u.s->p);
                tmpl_charge(p->r, 0);
            }
            list_add(p, n, &args->kw, key);
            list_add(p, n, &args->kw, parse_expression(p));
        } else {
            call_fail(p, args->star == NULL && args->star_star == NULL && args->kw.n == 0);
            list_add(p, n, &args->pos, parse_expression(p));
        }
        comma = true;
    }
    next(p);
}

static tmpl_call_args *args_new(parser *p)
{
    return tmpl_alloc(p->r, sizeof(tmpl_call_args));
}

static tmpl_node *parse_call(parser *p, tmpl_node *callee)
{
    tmpl_node *n = node_ab(p, N_CALL, p->t->line, callee, NULL);
    n->args = args_new(p);
    parse_args(p, n, n->args);
    return n;
}

static tv dotted_name(parser *p)
{
    tv name = expect_name(p);
    while (skip_op(p, "."))
        name = tv_concat(p->r, tv_concat(p->r, name, tv_text(p->r, ".")), expect_name(p));
    return name;
}

/* One filter, after its pipe. */
static tmpl_node *parse_one_filter(parser *p, tmpl_node *value)
{
    tmpl_node *n = node_ab(p, N_FILTER, p->t->line, value, NULL);
    n->value = dotted_name(p);
    n->args = args_new(p);
    n->filter = tmpl_filter_find(n->value.u.s);
    if (is_op(p, "("))
        parse_args(p, n, n->args);
    return n;
}

static tmpl_node *parse_test(parser *p, tmpl_node *value)
{
    int line = next(p)->line;
    bool negated = skip_name(p, "not");
    tmpl_node *n = node_ab(p, N_TEST, line, value, NULL);
    n->value = dotted_name(p);
    n->args = args_new(p);
    n->test = tmpl_test_find(n->value.u.s);
    const tok *t = p->t;
    if (is_op(p, "(")) {
        parse_args(p, n, n->args);
    } else if ((t->type == T_NAME || t->type == T_STRING || t->type == T_INT || t->type == T_FLOAT || is_op(p, "[") || is_op(p, "{")) &&
               !is_name(t, "else") && !is_name(t, "or") && !is_name(t, "and")) {
        if (is_name(t, "is"))
            tmpl_fail(p->r, ST_FORMAT, "you cannot chain multiple tests with is");
        list_add(p, n, &n->args->pos, parse_postfix(p, parse_primary(p, false)));
    }
    return negated ? node_ab(p, N_NOT, line, n, NULL) : n;
}

static tmpl_node *parse_postfix(parser *p, tmpl_node *n)
{
    for (;;) {
        if (is_op(p, "."))
            n = parse_attribute(p, n);
        else if (is_op(p, "["))
            n = parse_subscript(p, n);
        else if (is_op(p, "("))
            n = parse_call(p, n);
        else
            return n;
    }
}

static tmpl_node *parse_filters(parser *p, tmpl_node *n)
{
    for (;;) {
        if (skip_op(p, "|"))
            n = parse_one_filter(p, n);
        else if (is_name(p->t, "is"))
            n = parse_test(p, n);
        else if (is_op(p, "("))
            n = parse_call(p, n);
        else
            return n;
    }
}

static tmpl_node *parse_unary(parser *p, bool with_filter)
{
    int line = p->t->line;
    tmpl_node *n;
    tmpl_enter(p->r);
    if (skip_op(p, "-"))
        n = node_ab(p, N_NEG, line, parse_unary(p, false), NULL);
    else if (skip_op(p, "+"))
        n = node_ab(p, N_POS, line, parse_unary(p, false), NULL);
    else
        n = parse_primary(p, false);
    tmpl_leave(p->r);
    n = parse_postfix(p, n);
    return with_filter ? parse_filters(p, n) : n;
}

static tmpl_node *binary(parser *p, tmpl_op op, int line, tmpl_node *a, tmpl_node *b)
{
    tmpl_node *n = node_ab(p, N_BINARY, line, a, b);
    n->op = (uint8_t)op;
    return n;
}

static tmpl_node *parse_pow(parser *p)
{
    tmpl_node *left = parse_unary(p, true);
    while (is_op(p, "**")) {
        int line = next(p)->line;
        left = binary(p, OP_POW, line, left, parse_unary(p, true));
    }
    return left;
}

static tmpl_node *parse_product(parser *p)
{
    static const struct {
        const char *text;
        tmpl_op op;
    } ops[] = {{"*", OP_MUL}, {"/", OP_DIV}, {"//", OP_FLOORDIV}, {"%", OP_MOD}};
    tmpl_node *left = parse_pow(p);
    for (size_t i = 0; i < ARRAY_LEN(ops);) {
        if (!is_op(p, ops[i].text)) {
            i++;
            continue;
        }
        int line = next(p)->line;
        left = binary(p, ops[i].op, line, left, parse_pow(p));
        i = 0;
    }
    return left;
}

static tmpl_node *parse_concat(parser *p)
{
    tmpl_node *first = parse_product(p);
    if (!is_op(p, "~"))
        return first;
    tmpl_node *n = node_new(p, N_CONCAT, p->t->line);
    list_add(p, n, &n->list, first);
    while (skip_op(p, "~"))
        list_add(p, n, &n->list, parse_product(p));
    return n;
}

static tmpl_node *parse_sum(parser *p)
{
    tmpl_node *left = parse_concat(p);
    while (is_op(p, "+") || is_op(p, "-")) {
        tmpl_op op = is_op(p, "+") ? OP_ADD : OP_SUB;
        int line = next(p)->line;
        left = binary(p, op, line, left, parse_concat(p));
    }
    return left;
}

/* Takes a comparison operator if there is one. */
static bool comparison(parser *p, uint8_t *op)
{
    static const struct {
        const char *text;
        tmpl_op op;
    } ops[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<", OP_LT}, {"<=", OP_LE}, {">", OP_GT}, {">=", OP_GE}};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        if (skip_op(p, ops[i].text)) {
            *op = (uint8_t)ops[i].op;
            return true;
        }
    }
    if (skip_name(p, "in")) {
        *op = OP_IN;
        return true;
    }
    if (is_name(p->t, "not") && is_name(p->t + 1, "in")) {
        next(p);
        next(p);
        *op = OP_NOT_IN;
        return true;
    }
    return false;
}

static tmpl_node *parse_compare(parser *p)
{
    tmpl_node *first = parse_sum(p);
    uint8_t op;
    int line = p->t->line;
    if (!comparison(p, &op))
        return first;
    tmpl_node *n = node_ab(p, N_COMPARE, line, first, NULL);
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
        list_add(p, n, &n->list, parse_sum(p));
    } while (comparison(p, &op));
    return n;
}

static tmpl_node *parse_not(parser *p)
{
    if (!is_name(p->t, "not"))
        return parse_compare(p);
    int line = next(p)->line;
    tmpl_enter(p->r);
    tmpl_node *n = node_ab(p, N_NOT, line, parse_not(p), NULL);
    tmpl_leave(p->r);
    return n;
}

static tmpl_node *parse_and(parser *p)
{
    tmpl_node *left = parse_not(p);
    while (is_name(p->t, "and")) {
        int line = next(p)->line;
        left = node_ab(p, N_AND, line, left, parse_not(p));
    }
    return left;
}

static tmpl_node *parse_or(parser *p)
{
    tmpl_node *left = parse_and(p);
    while (is_name(p->t, "or")) {
        int line = next(p)->line;
        left = node_ab(p, N_OR, line, left, parse_and(p));
    }
    return left;
}

static tmpl_node *parse_expression(parser *p)
{
    tmpl_enter(p->r);
    int line = p->t->line;
    tmpl_node *value = parse_or(p);
    while (skip_name(p, "if")) {
        tmpl_node *n = node_ab(p, N_COND, line, parse_or(p), value);
        if (skip_name(p, "else")) {
            n->flag = true;
            adopt(p, n, n->c = parse_expression(p));
        }
        value = n;
    }
    tmpl_leave(p->r);
    return value;
}

/* ---- statements ---- */

static void check_target(parser *p, tmpl_node *n)
{
    static const char *const kinds[] = {[N_CONST] = "const", [N_LIST] = "list", [N_DICT] = "dict"};
    p->r->line = n->line;
    if (n->kind == N_TUPLE) {
        n->flag = true;
        for (int i = 0; i < n->list.n; i++)
            check_target(p, n->list.v[i]);
    } else if (n->kind == N_NAME) {
        p->loop_stores += tv_text_is(n->value, "loop");
    } else if (n->kind != N_NSREF) {
        tmpl_fail(p->r, ST_FORMAT, "can't assign to '%s'", kinds[n->kind]);
    }
}

static tmpl_node *parse_target(parser *p, bool namespace)
{
    int64_t counts[] = {p->caller_loads, p->kwargs_loads, p->varargs_loads};
    tmpl_node *n = parse_tuple(p, true, false, false, namespace);
    p->caller_loads = counts[0]; /* storing is not loading */
    p->kwargs_loads = counts[1];
    p->varargs_loads = counts[2];
    check_target(p, n);
    return n;
}

static void body_until(parser *p, tmpl_node *n, tmpl_list *out, const char *end, const char *tag)
{
    parse_body(p, out, &end, 1, tag);
    next(p);
    for (int i = 0; i < out->n; i++)
        adopt(p, n, out->v[i]);
}

static tmpl_node *parse_if(parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif"};
    tmpl_node *first = node_new(p, N_IF, next(p)->line), *n = first;
    for (;;) {
        n->a = parse_tuple(p, false, false, false, false);
        adopt(p, n, n->a);
        parse_body(p, &n->list, ends, 3, "if");
        for (int i = 0; i < n->list.n; i++)
            adopt(p, n, n->list.v[i]);
        tok *t = next(p);
        if (is_name(t, "elif")) {
            if (n != first)
                adopt(p, first, n);
            n = node_new(p, N_IF, t->line);
            list_add(p, first, &first->list2, n);
            continue;
        }
        adopt(p, first, n == first ? NULL : n);
        if (is_name(t, "else"))
            body_until(p, first, &first->list3, "endif", "if");
        break;
    }
    return first;
}

static tmpl_node *parse_for(parser *p)
{
    static const char *const ends[] = {"endfor", "else"};
    tmpl_node *n = node_new(p, N_FOR, next(p)->line);
    int64_t stores = p->loop_stores;
    n->a = parse_target(p, false);
    if (!skip_name(p, "in"))
        fail_token(p, "'in'");
    adopt(p, n, n->b = parse_tuple(p, false, false, false, false));
    if (skip_name(p, "if"))
        adopt(p, n, n->c = parse_expression(p));
    n->flag = skip_name(p, "recursive");
    int loops = p->loops;
    p->loops = n->flag ? 1 : loops + 1;
    parse_body(p, &n->list, ends, 2, "for");
    for (int i = 0; i < n->list.n; i++)
        adopt(p, n, n->list.v[i]);
    p->loops = n->flag ? 0 : loops;
    if (is_name(next(p), "else"))
        body_until(p, n, &n->list2, "endfor", "for");
    p->loops = loops;
    if (p->loop_stores != stores) {
        p->r->line = n->line;
        tmpl_fail(p->r, ST_FORMAT, "can't assign to special loop variable in for-loop target");
    }
    return n;
}

static tmpl_node *parse_set(parser *p)
{
    int line = next(p)->line;
    tmpl_node *target = parse_target(p, true);
    if (skip_op(p, "=")) {
        tmpl_node *n = node_ab(p, N_SET, line, target, NULL);
        adopt(p, n, n->b = parse_tuple(p, false, true, false, false));
        return n;
    }
    tmpl_node *n = node_ab(p, N_SET_BLOCK, line, target, NULL);
    while (skip_op(p, "|"))
        n->b = parse_one_filter(p, n->b);
    adopt(p, n, n->b);
    body_until(p, n, &n->list, "endset", "set");
    return n;
}

/* Parameters of a macro or call block: list holds names, list2 the defaults of the last ones. */
static void parse_signature(parser *p, tmpl_node *n)
{
    expect_op(p, "(");
    while (!is_op(p, ")")) {
        if (n->list.n > 0)
            expect_op(p, ",");
        int line = p->t->line;
        tmpl_node *arg = name_node(p, line, expect_name(p));
        for (int i = 0; i < n->list.n; i++) {
            tmpl_charge(p->r, 0);
            if (tv_equal(p->r, n->list.v[i]->value, arg->value))
                tmpl_fail(p->r, ST_FORMAT, "duplicate argument '%.*s' in a macro", (int)arg->value.u.s->len, arg->value.u.s->p);
        }
        if (skip_op(p, "="))
            list_add(p, n, &n->list2, parse_expression(p));
        else if (n->list2.n > 0)
            tmpl_fail(p->r, ST_FORMAT, "non-default argument follows default argument");
        list_add(p, n, &n->list, arg);
    }
    next(p);
}

static void check_caller(parser *p, const tmpl_node *n)
{
    for (int i = 0; n->uses_caller && i < n->list.n - n->list2.n; i++) {
        if (tv_text_is(n->list.v[i]->value, "caller"))
            tmpl_fail(p->r, ST_FORMAT, "the special \"caller\" argument must be omitted or be given a default");
    }
}

/* The body of a macro, call block or {% generation %}: a function of its own. */
static void function_body(parser *p, tmpl_node *n, const char *end, const char *tag)
{
    int loops = p->loops;
    int64_t counts[] = {p->caller_loads, p->kwargs_loads, p->varargs_loads};
    p->loops = 0;
    body_until(p, n, &n->list3, end, tag);
    p->loops = loops;
    n->uses_caller = p->caller_loads != counts[0];
    n->uses_kwargs = p->kwargs_loads != counts[1];
    n->uses_varargs = p->varargs_loads != counts[2];
    check_caller(p, n);
}

static tmpl_node *parse_macro(parser *p)
{
    tmpl_node *n = node_new(p, N_MACRO, next(p)->line);
    n->value = expect_name(p);
    parse_signature(p, n);
    function_body(p, n, "endmacro", "macro");
    return n;
}

static tmpl_node *parse_call_block(parser *p)
{
    tmpl_node *n = node_new(p, N_CALL_BLOCK, next(p)->line);
    if (is_op(p, "("))
        parse_signature(p, n);
    adopt(p, n, n->a = parse_expression(p));
    if (n->a->kind != N_CALL)
        tmpl_fail(p->r, ST_FORMAT, "expected a call");
    function_body(p, n, "endcall", "call");
    return n;
}

static tmpl_node *parse_generation(parser *p)
{
    tmpl_node *n = node_new(p, N_GENERATION, next(p)->line);
    function_body(p, n, "endgeneration", "generation");
    return n;
}

static tmpl_node *parse_filter_block(parser *p)
{
    tmpl_node *n = node_new(p, N_FILTER_BLOCK, next(p)->line);
    n->b = parse_one_filter(p, NULL);
    while (skip_op(p, "|"))
        n->b = parse_one_filter(p, n->b);
    adopt(p, n, n->b);
    body_until(p, n, &n->list, "endfilter", "filter");
    return n;
}

static tmpl_node *parse_with(parser *p)
{
    tmpl_node *n = node_new(p, N_WITH, next(p)->line);
    while (p->t->type != T_BLOCK_END) {
        if (n->list2.n > 0)
            expect_op(p, ",");
        list_add(p, n, &n->list2, parse_target(p, false));
        expect_op(p, "=");
        list_add(p, n, &n->list3, parse_expression(p));
    }
    body_until(p, n, &n->list, "endwith", "with");
    return n;
}

static tmpl_node *parse_autoescape(parser *p)
{
    tmpl_node *n = node_new(p, N_SCOPE, next(p)->line), *on = parse_expression(p);
    if (on->kind != N_CONST || tv_truth(on->value))
        tmpl_fail(p->r, ST_UNSUPPORTED, "autoescape is not supported: a prompt is not HTML");
    body_until(p, n, &n->list, "endautoescape", "autoescape");
    return n;
}

static tmpl_node *parse_block(parser *p)
{
    tmpl_node *n = node_new(p, N_BLOCK, next(p)->line);
    int loops = p->loops;
    n->value = expect_name(p);
    if (is_name(p->t, "scoped") || is_name(p->t, "required"))
        tmpl_fail(p->r, ST_UNSUPPORTED, "scoped and required blocks are not supported: a chat template stands alone");
    for (int i = 0; i < p->out->blocks.n; i++) {
        if (tv_equal(p->r, p->out->blocks.v[i]->value, n->value))
            tmpl_fail(p->r, ST_FORMAT, "block '%.*s' defined twice", (int)n->value.u.s->len, n->value.u.s->p);
    }
    list_add(p, NULL, &p->out->blocks, n);
    p->loops = 0;
    body_until(p, n, &n->list, "endblock", "block");
    p->loops = loops;
    if (p->t->type == T_NAME && tv_equal(p->r, p->t->value, n->value))
        next(p);
    return n;
}

static tmpl_node *parse_print(parser *p)
{
    tmpl_node *n = node_new(p, N_OUTPUT, next(p)->line);
    while (p->t->type != T_BLOCK_END) {
        if (n->list.n > 0)
            expect_op(p, ",");
        list_add(p, n, &n->list, parse_expression(p));
    }
    return n;
}

static tmpl_node *parse_loop_control(parser *p)
{
    tmpl_node *n = node_new(p, is_name(p->t, "break") ? N_BREAK : N_CONTINUE, p->t->line);
    next(p);
    if (p->loops == 0)
        tmpl_fail(p->r, ST_FORMAT, "'%s' outside loop", n->kind == N_BREAK ? "break" : "continue");
    return n;
}

static tmpl_node *parse_refused(parser *p)
{
    tv name = next(p)->value;
    tmpl_fail(p->r, ST_UNSUPPORTED, "'%.*s' is not supported: a chat template stands alone", (int)name.u.s->len, name.u.s->p);
}

static tmpl_node *parse_statement(parser *p, const char *const *ends, int n_ends, const char *tag)
{
    static const struct {
        const char *name;
        tmpl_node *(*parse)(parser *);
    } statements[] = {
        {"for", parse_for},
        {"if", parse_if},
        {"set", parse_set},
        {"macro", parse_macro},
        {"call", parse_call_block},
        {"filter", parse_filter_block},
        {"with", parse_with},
        {"generation", parse_generation},
        {"break", parse_loop_control},
        {"continue", parse_loop_control},
        {"print", parse_print},
        {"autoescape", parse_autoescape},
        {"block", parse_block},
        {"extends", parse_refused},
        {"include", parse_refused},
        {"import", parse_refused},
        {"from", parse_refused},
    };
    if (p->t->type != T_NAME)
        fail_token(p, "a tag name");
    for (size_t i = 0; i < ARRAY_LEN(statements); i++) {
        if (is_name(p->t, statements[i].name))
            return statements[i].parse(p);
    }
    const tstr *name = p->t->value.u.s;
    p->r->line = p->t->line;
    if (n_ends == 0)
        tmpl_fail(p->r, ST_FORMAT, "unknown tag '%.*s'", (int)name->len, name->p);
    tmpl_fail(p->r, ST_FORMAT, "unknown tag '%.*s'; looking for '%s', the end of the '%s' block", (int)name->len, name->p, ends[n_ends - 1], tag);
}

/* Statements and text up to one of the end tags, on whose name the stream then stands; n_ends 0: up to the end of the template. */
static void parse_nodes(parser *p, tmpl_list *out, const char *const *ends, int n_ends, const char *tag)
{
    tmpl_node *output = NULL;
    tmpl_enter(p->r);
    while (p->t->type != T_EOF) {
        tok *t = next(p);
        if (t->type == T_DATA || t->type == T_VAR_BEGIN) {
            if (output == NULL) {
                output = node_new(p, N_OUTPUT, t->line);
                list_add(p, NULL, out, output);
            }
            if (t->type == T_DATA) {
                list_add(p, output, &output->list, const_node(p, t->line, t->value));
                continue;
            }
            list_add(p, output, &output->list, parse_tuple(p, false, true, false, false));
            if (p->t->type != T_VAR_END)
                fail_token(p, "end of print statement");
            next(p);
            continue;
        }
        output = NULL;
        for (int i = 0; i < n_ends; i++) {
            if (is_name(p->t, ends[i])) {
                tmpl_leave(p->r);
                return;
            }
        }
        list_add(p, NULL, out, parse_statement(p, ends, n_ends, tag));
        expect_block_end(p);
    }
    tmpl_leave(p->r);
    p->r->line = p->t->line;
    if (n_ends > 0)
        tmpl_fail(p->r, ST_FORMAT, "unexpected end of template; looking for '%s', the end of the '%s' block", ends[n_ends - 1], tag);
}

static void parse_body(parser *p, tmpl_list *out, const char *const *ends, int n_ends, const char *tag)
{
    skip_op(p, ":");
    expect_block_end(p);
    parse_nodes(p, out, ends, n_ends, tag);
}

void tmpl_parse(tmpl_run *r, tok *tokens, shard_template *t)
{
    parser p = {.r = r, .t = tokens, .out = t};
    parse_nodes(&p, &t->body, NULL, 0, NULL);
}
