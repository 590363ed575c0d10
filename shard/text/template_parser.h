/* shard/text/template_parser.h - tokens to the syntax tree: what expressions (template_parse.c) and statements
 * (template_statements.c) share.  Stays in this folder.
 *
 * Recursive descent; nesting is bounded both while parsing (tmpl_enter) and in the tree itself (node depth), so that whatever
 * walks the tree later needs no bound of its own. */
#ifndef SHARD_TEXT_TEMPLATE_PARSER_H
#define SHARD_TEXT_TEMPLATE_PARSER_H

#include "shard/text/template_internal.h"

typedef struct tmpl_parser {
    tmpl_run *r;
    tok *t;
    shard_template *out;
    int loops;           /* for loops around, within the current function */
    int64_t caller_loads, kwargs_loads, varargs_loads, loop_stores; /* counted, to see whether a body has any */
} tmpl_parser;

/* The current token. */
bool tmpl_at_op(const tmpl_parser *p, const char *op);
bool tmpl_tok_is(const tok *t, const char *name); /* a name, and that one */
tok *tmpl_next(tmpl_parser *p);
bool tmpl_skip_op(tmpl_parser *p, const char *op);
bool tmpl_skip_name(tmpl_parser *p, const char *name);
void tmpl_expect_op(tmpl_parser *p, const char *op);
tv tmpl_expect_name(tmpl_parser *p);
_Noreturn void tmpl_expected(tmpl_parser *p, const char *want);

/* Nodes; a parent is as deep as its deepest child, and one more. */
tmpl_node *tmpl_node_new(tmpl_parser *p, tmpl_kind kind, int line);
tmpl_node *tmpl_node_ab(tmpl_parser *p, tmpl_kind kind, int line, tmpl_node *a, tmpl_node *b);
tmpl_node *tmpl_const_node(tmpl_parser *p, int line, tv value);
tmpl_node *tmpl_name_node(tmpl_parser *p, int line, tv name);
void tmpl_adopt(tmpl_parser *p, tmpl_node *parent, const tmpl_node *child);
void tmpl_list_add(tmpl_parser *p, tmpl_node *parent, tmpl_list *l, tmpl_node *child); /* parent may be NULL */

tmpl_node *tmpl_parse_expression(tmpl_parser *p);
/* An expression, or several with commas.  target: names and literals only; namespace: NAME.ATTRIBUTE too. */
tmpl_node *tmpl_parse_tuple(tmpl_parser *p, bool target, bool condexpr, bool parentheses, bool namespace);
tmpl_node *tmpl_parse_one_filter(tmpl_parser *p, tmpl_node *value); /* after its pipe */

#endif
