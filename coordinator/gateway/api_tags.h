/* coordinator/gateway/api_tags.h - calls written as tags, each argument in a tag of its own:
 *
 *   <function=NAME><parameter=KEY>VALUE</parameter>...</function>                 (Qwen3-Coder, Seed-OSS)
 *   <invoke name="NAME"><parameter name="KEY">VALUE</parameter>...</invoke>       (MiniMax)
 *   NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>...                     (GLM) */
#ifndef COORDINATOR_GATEWAY_API_TAGS_H
#define COORDINATOR_GATEWAY_API_TAGS_H

#include <jansson.h>
#include <stddef.h>

#include "base/mem.h"
#include "base/status.h"

/* The call at *at of text, which moves behind it; its arguments become a JSON object.  A value is text, or JSON (or a Python literal) where the tool's schema
 * gives its type and that is no string.  ST_NOT_FOUND: there is none (nothing is logged). */
status api_tags_call(const char *text, size_t len, size_t *at, const json_t *tools, mem_str *name, mem_str *arguments);

#endif
