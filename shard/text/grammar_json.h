/* shard/text/grammar_json.h - the parts of JSON as expressions (grammar_json.c), and what schemas need besides. */
#ifndef SHARD_TEXT_GRAMMAR_JSON_H
#define SHARD_TEXT_GRAMMAR_JSON_H

#include "shard/text/grammar_internal.h"

status gram_regex_of(gram_ctx *c, const char *pattern, const gram_expr **out);
status gram_json_separator(gram_ctx *c, char mark, const gram_expr **out); /* the mark, then a blank or none */
/* A string of min to max characters, quotes included. */
status gram_json_string(gram_ctx *c, uint32_t min, uint32_t max, const gram_expr **out);
status gram_json_number(gram_ctx *c, const gram_expr **out);
status gram_json_integer(gram_ctx *c, const gram_expr **out);
status gram_json_list(gram_ctx *c, const char *open, const gram_expr *item, const char *close, const gram_expr **out);
status gram_json_pair(gram_ctx *c, const gram_expr *key, const gram_expr *value, const gram_expr **out);
/* Any value (a call of a new rule), and any object. */
status gram_json_any(gram_ctx *c, const gram_expr **any, const gram_expr **object);

#endif
