/* shard/text/grammar_schema.c - JSON schemas as grammars. */
#include "shard/text/grammar_internal.h"

status gram_json_schema(gram_ctx *c, const char *text, size_t len, const gram_expr **out)
{
    (void)c;
    (void)text;
    (void)len;
    (void)out;
    return FAIL(ST_UNSUPPORTED, "schema: JSON schemas are not supported yet");
}
