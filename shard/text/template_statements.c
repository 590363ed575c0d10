/* shard/text/template_statements.c - Jinja's statements, with loop controls and {% generation %}.
 *
 * include, import and extends are refused: a chat template stands alone. */
#include "shard/text/template_parser.h"

static void parse_body(tmpl_parser *p, tmpl_list *out, const char *const *ends, int n_ends, const char *tag);

static void expect_block_end(tmpl_parser *p)
{
    if (p->t->type != T_BLOCK_END)
        tmpl_expected(p, "end of statement block");
    tmpl_next(p);
}

/* What Jinja calls an expression that cannot be assigned to. */
static const char *expression_name(const tmpl_node *n)
{
    static const char *const kinds[] = {
        [N_CONST] = "const", [N_LIST] = "list", [N_DICT] = "dict", [N_COND] = "condexpr", [N_OR] = "or", [N_AND] = "and", [N_NOT] = "not",
        [N_COMPARE] = "compare", [N_CONCAT] = "concat", [N_NEG] = "neg", [N_POS] = "pos", [N_GETATTR] = "getattr", [N_GETITEM] = "getitem",
        [N_SLICE] = "getitem", [N_CALL] = "call", [N_FILTER] = "filter", [N_TEST] = "test",
    };
    static const char *const ops[] = {"add", "sub", "mul", "div", "floordiv", "mod", "pow"};
    if (n->kind == N_BINARY)
        return n->op < ARRAY_LEN(ops) ? ops[n->op] : "compare";
    return n->kind < ARRAY_LEN(kinds) && kinds[n->kind] != NULL ? kinds[n->kind] : "expression";
}

static void check_target(tmpl_parser *p, tmpl_node *n)
{
    p->r->line = n->line;
    if (n->kind == N_TUPLE) {
        n->flag = true;
        for (int i = 0; i < n->list.n; i++)
            check_target(p, n->list.v[i]);
    } else if (n->kind == N_NAME) {
        p->loop_stores += tv_text_is(n->value, "loop");
    } else if (n->kind != N_NSREF) {
        tmpl_fail(p->r, ST_FORMAT, "can't assign to '%s'", expression_name(n));
    }
}

static tmpl_node *parse_target(tmpl_parser *p, bool namespace)
{
    int64_t counts[] = {p->caller_loads, p->kwargs_loads, p->varargs_loads};
    tmpl_node *n = tmpl_parse_tuple(p, true, false, false, namespace);
    p->caller_loads = counts[0]; /* storing is not loading */
    p->kwargs_loads = counts[1];
    p->varargs_loads = counts[2];
    check_target(p, n);
    return n;
}

static void body_until(tmpl_parser *p, tmpl_node *n, tmpl_list *out, const char *end, const char *tag)
{
    parse_body(p, out, &end, 1, tag);
    tmpl_next(p);
    for (int i = 0; i < out->n; i++)
        tmpl_adopt(p, n, out->v[i]);
}

static tmpl_node *parse_if(tmpl_parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif"};
    tmpl_node *first = tmpl_node_new(p, N_IF, tmpl_next(p)->line), *n = first;
    for (;;) {
        n->a = tmpl_parse_tuple(p, false, false, false, false);
        tmpl_adopt(p, n, n->a);
        parse_body(p, &n->list, ends, 3, "if");
        for (int i = 0; i < n->list.n; i++)
            tmpl_adopt(p, n, n->list.v[i]);
        tok *t = tmpl_next(p);
        if (tmpl_tok_is(t, "elif")) {
            if (n != first)
                tmpl_adopt(p, first, n);
            n = tmpl_node_new(p, N_IF, t->line);
            tmpl_list_add(p, first, &first->list2, n);
            continue;
        }
        tmpl_adopt(p, first, n == first ? NULL : n);
        if (tmpl_tok_is(t, "else"))
            body_until(p, first, &first->list3, "endif", "if");
        break;
    }
    return first;
}

static tmpl_node *parse_for(tmpl_parser *p)
{
    static const char *const ends[] = {"endfor", "else"};
    tmpl_node *n = tmpl_node_new(p, N_FOR, tmpl_next(p)->line);
    int64_t stores = p->loop_stores;
    n->a = parse_target(p, false);
    if (!tmpl_skip_name(p, "in"))
        tmpl_expected(p, "'in'");
    tmpl_adopt(p, n, n->b = tmpl_parse_tuple(p, false, false, false, false));
    if (tmpl_skip_name(p, "if"))
        tmpl_adopt(p, n, n->c = tmpl_parse_expression(p));
    n->flag = tmpl_skip_name(p, "recursive");
    int loops = p->loops;
    p->loops = n->flag ? 1 : loops + 1;
    parse_body(p, &n->list, ends, 2, "for");
    for (int i = 0; i < n->list.n; i++)
        tmpl_adopt(p, n, n->list.v[i]);
    p->loops = n->flag ? 0 : loops;
    if (tmpl_tok_is(tmpl_next(p), "else"))
        body_until(p, n, &n->list2, "endfor", "for");
    p->loops = loops;
    if (p->loop_stores != stores) {
        p->r->line = n->line;
        tmpl_fail(p->r, ST_FORMAT, "can't assign to special loop variable in for-loop target");
    }
    return n;
}

static tmpl_node *parse_set(tmpl_parser *p)
{
    int line = tmpl_next(p)->line;
    tmpl_node *target = parse_target(p, true);
    if (tmpl_skip_op(p, "=")) {
        tmpl_node *n = tmpl_node_ab(p, N_SET, line, target, NULL);
        tmpl_adopt(p, n, n->b = tmpl_parse_tuple(p, false, true, false, false));
        return n;
    }
    tmpl_node *n = tmpl_node_ab(p, N_SET_BLOCK, line, target, NULL);
    while (tmpl_skip_op(p, "|"))
        n->b = tmpl_parse_one_filter(p, n->b);
    tmpl_adopt(p, n, n->b);
    body_until(p, n, &n->list, "endset", "set");
    return n;
}

/* Parameters of a macro or call block: list holds names, list2 the defaults of the last ones. */
static void parse_signature(tmpl_parser *p, tmpl_node *n)
{
    tmpl_expect_op(p, "(");
    while (!tmpl_at_op(p, ")")) {
        if (n->list.n > 0)
            tmpl_expect_op(p, ",");
        int line = p->t->line;
        tmpl_node *arg = tmpl_name_node(p, line, tmpl_expect_name(p));
        for (int i = 0; i < n->list.n; i++) {
            tmpl_charge(p->r, 0);
            if (tv_equal(p->r, n->list.v[i]->value, arg->value))
                tmpl_fail(p->r, ST_FORMAT, "duplicate argument '%.*s' in a macro", (int)arg->value.u.s->len, arg->value.u.s->p);
        }
        if (tmpl_skip_op(p, "="))
            tmpl_list_add(p, n, &n->list2, tmpl_parse_expression(p));
        else if (n->list2.n > 0)
            tmpl_fail(p->r, ST_FORMAT, "non-default argument follows default argument");
        tmpl_list_add(p, n, &n->list, arg);
    }
    tmpl_next(p);
}

static void check_caller(tmpl_parser *p, const tmpl_node *n)
{
    for (int i = 0; n->uses_caller && i < n->list.n - n->list2.n; i++) {
        if (tv_text_is(n->list.v[i]->value, "caller"))
            tmpl_fail(p->r, ST_FORMAT, "the special \"caller\" argument must be omitted or be given a default");
    }
}

/* The body of a macro, call block or {% generation %}: a function of its own. */
static void function_body(tmpl_parser *p, tmpl_node *n, const char *end, const char *tag)
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

static tmpl_node *parse_macro(tmpl_parser *p)
{
    tmpl_node *n = tmpl_node_new(p, N_MACRO, tmpl_next(p)->line);
    n->value = tmpl_expect_name(p);
    parse_signature(p, n);
    function_body(p, n, "endmacro", "macro");
    return n;
}

static tmpl_node *parse_call_block(tmpl_parser *p)
{
    tmpl_node *n = tmpl_node_new(p, N_CALL_BLOCK, tmpl_next(p)->line);
    if (tmpl_at_op(p, "("))
        parse_signature(p, n);
    tmpl_adopt(p, n, n->a = tmpl_parse_expression(p));
    if (n->a->kind != N_CALL)
        tmpl_fail(p->r, ST_FORMAT, "expected a call");
    function_body(p, n, "endcall", "call");
    return n;
}

static tmpl_node *parse_generation(tmpl_parser *p)
{
    tmpl_node *n = tmpl_node_new(p, N_GENERATION, tmpl_next(p)->line);
    function_body(p, n, "endgeneration", "generation");
    return n;
}

static tmpl_node *parse_filter_block(tmpl_parser *p)
{
    tmpl_node *n = tmpl_node_new(p, N_FILTER_BLOCK, tmpl_next(p)->line);
    n->b = tmpl_parse_one_filter(p, NULL);
    while (tmpl_skip_op(p, "|"))
        n->b = tmpl_parse_one_filter(p, n->b);
    tmpl_adopt(p, n, n->b);
    body_until(p, n, &n->list, "endfilter", "filter");
    return n;
}

static tmpl_node *parse_with(tmpl_parser *p)
{
    tmpl_node *n = tmpl_node_new(p, N_WITH, tmpl_next(p)->line);
    while (p->t->type != T_BLOCK_END) {
        if (n->list2.n > 0)
            tmpl_expect_op(p, ",");
        tmpl_list_add(p, n, &n->list2, parse_target(p, false));
        tmpl_expect_op(p, "=");
        tmpl_list_add(p, n, &n->list3, tmpl_parse_expression(p));
    }
    body_until(p, n, &n->list, "endwith", "with");
    return n;
}

static tmpl_node *parse_autoescape(tmpl_parser *p)
{
    tmpl_node *n = tmpl_node_new(p, N_SCOPE, tmpl_next(p)->line), *on = tmpl_parse_expression(p);
    if (on->kind != N_CONST || tv_truth(on->value))
        tmpl_fail(p->r, ST_UNSUPPORTED, "autoescape is not supported: a prompt is not HTML");
    body_until(p, n, &n->list, "endautoescape", "autoescape");
    return n;
}

static tmpl_node *parse_block(tmpl_parser *p)
{
    tmpl_node *n = tmpl_node_new(p, N_BLOCK, tmpl_next(p)->line);
    int loops = p->loops;
    n->value = tmpl_expect_name(p);
    if (tmpl_tok_is(p->t, "scoped") || tmpl_tok_is(p->t, "required"))
        tmpl_fail(p->r, ST_UNSUPPORTED, "scoped and required blocks are not supported: a chat template stands alone");
    for (int i = 0; i < p->out->blocks.n; i++) {
        if (tv_equal(p->r, p->out->blocks.v[i]->value, n->value))
            tmpl_fail(p->r, ST_FORMAT, "block '%.*s' defined twice", (int)n->value.u.s->len, n->value.u.s->p);
    }
    tmpl_list_add(p, NULL, &p->out->blocks, n);
    p->loops = 0;
    body_until(p, n, &n->list, "endblock", "block");
    p->loops = loops;
    if (p->t->type == T_NAME && tv_equal(p->r, p->t->value, n->value))
        tmpl_next(p);
    return n;
}

static tmpl_node *parse_print(tmpl_parser *p)
{
    tmpl_node *n = tmpl_node_new(p, N_OUTPUT, tmpl_next(p)->line);
    while (p->t->type != T_BLOCK_END) {
        if (n->list.n > 0)
            tmpl_expect_op(p, ",");
        tmpl_list_add(p, n, &n->list, tmpl_parse_expression(p));
    }
    return n;
}

static tmpl_node *parse_loop_control(tmpl_parser *p)
{
    tmpl_node *n = tmpl_node_new(p, tmpl_tok_is(p->t, "break") ? N_BREAK : N_CONTINUE, p->t->line);
    tmpl_next(p);
    if (p->loops == 0)
        tmpl_fail(p->r, ST_FORMAT, "'%s' outside loop", n->kind == N_BREAK ? "break" : "continue");
    return n;
}

static tmpl_node *parse_refused(tmpl_parser *p)
{
    tv name = tmpl_next(p)->value;
    tmpl_fail(p->r, ST_UNSUPPORTED, "'%.*s' is not supported: a chat template stands alone", (int)name.u.s->len, name.u.s->p);
}

static tmpl_node *parse_statement(tmpl_parser *p, const char *const *ends, int n_ends, const char *tag)
{
    static const struct {
        const char *name;
        tmpl_node *(*parse)(tmpl_parser *);
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
        tmpl_expected(p, "a tag name");
    for (size_t i = 0; i < ARRAY_LEN(statements); i++) {
        if (tmpl_tok_is(p->t, statements[i].name))
            return statements[i].parse(p);
    }
    const tstr *name = p->t->value.u.s;
    p->r->line = p->t->line;
    if (n_ends == 0)
        tmpl_fail(p->r, ST_FORMAT, "unknown tag '%.*s'", (int)name->len, name->p);
    tmpl_fail(p->r, ST_FORMAT, "unknown tag '%.*s'; looking for '%s', the end of the '%s' block", (int)name->len, name->p, ends[n_ends - 1], tag);
}

/* Statements and text up to one of the end tags, on whose name the stream then stands; n_ends 0: up to the end of the template. */
static void parse_nodes(tmpl_parser *p, tmpl_list *out, const char *const *ends, int n_ends, const char *tag)
{
    tmpl_node *output = NULL;
    tmpl_enter(p->r);
    while (p->t->type != T_EOF) {
        tok *t = tmpl_next(p);
        if (t->type == T_DATA || t->type == T_VAR_BEGIN) {
            if (output == NULL) {
                output = tmpl_node_new(p, N_OUTPUT, t->line);
                tmpl_list_add(p, NULL, out, output);
            }
            if (t->type == T_DATA) {
                tmpl_list_add(p, output, &output->list, tmpl_const_node(p, t->line, t->value));
                continue;
            }
            tmpl_list_add(p, output, &output->list, tmpl_parse_tuple(p, false, true, false, false));
            if (p->t->type != T_VAR_END)
                tmpl_expected(p, "end of print statement");
            tmpl_next(p);
            continue;
        }
        output = NULL;
        for (int i = 0; i < n_ends; i++) {
            if (tmpl_tok_is(p->t, ends[i])) {
                tmpl_leave(p->r);
                return;
            }
        }
        tmpl_list_add(p, NULL, out, parse_statement(p, ends, n_ends, tag));
        expect_block_end(p);
    }
    tmpl_leave(p->r);
    p->r->line = p->t->line;
    if (n_ends > 0)
        tmpl_fail(p->r, ST_FORMAT, "unexpected end of template; looking for '%s', the end of the '%s' block", ends[n_ends - 1], tag);
}

static void parse_body(tmpl_parser *p, tmpl_list *out, const char *const *ends, int n_ends, const char *tag)
{
    tmpl_skip_op(p, ":");
    expect_block_end(p);
    parse_nodes(p, out, ends, n_ends, tag);
}

void tmpl_parse(tmpl_run *r, tok *tokens, shard_template *t)
{
    tmpl_parser p = {.r = r, .t = tokens, .out = t};
    parse_nodes(&p, &t->body, NULL, 0, NULL);
}
