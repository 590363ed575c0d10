/* coordinator/gateway/api_parser.h - an answer's text split into what was thought, said and called.
 *
 * Models mark these in their text: <think>...</think>, <tool_call>{...}</tool_call> and so on; two tables list the marks.  All formats
 * for calls are known at once, since a mark says which it is; without one, a message that begins as a call of a tool on offer is a call.
 * What looked like a call and is none becomes text again.  Text only grows: what has been given once stays. */
#ifndef COORDINATOR_GATEWAY_API_PARSER_H
#define COORDINATOR_GATEWAY_API_PARSER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"
#include "shard/text/tokenizer.h"

/* How a family marks its reasoning. */
typedef struct api_reasoning {
    const char *start, *end;
    const char *drop[2]; /* marks that stand before what is said, and are no text */
    const char *sign;    /* a chat template with this in it is the family's */
} api_reasoning;
/* By the marks that the chat template writes or the tokenizer knows; NULL: none. */
const api_reasoning *api_reasoning_find(const char *template_source, const shard_tokenizer *t);
/* Whether the prompt ends where reasoning begins. */
bool api_reasoning_is_open(const api_reasoning *r, const char *prompt, size_t len);

typedef enum api_calls {
    API_CALLS_NONE,   /* text is text */
    API_CALLS_AUTO,
    API_CALLS_LIST,   /* the whole text is a JSON list of calls */
    API_CALLS_ONE,    /* the whole text is the arguments of one call */
} api_calls;

typedef struct api_parser_options {  /* borrowed while the parser lives */
    const api_reasoning *reasoning;  /* NULL: none is split out */
    bool reasoning_open;
    api_calls calls;
    const json_t *tools;             /* of the request */
    const char *name;                /* API_CALLS_ONE: of the tool */
    bool one_call;                   /* the first complete call ends the answer */
    const char *id;                  /* call ids are drawn from it */
    bool short_ids;                  /* nine letters and digits (Mistral) */
} api_parser_options;

typedef struct api_tool_call {
    char *name;
    char id[40];
    mem_str arguments; /* JSON */
    bool complete;
} api_tool_call;

typedef enum api_part { API_PART_REASONING, API_PART_CONTENT, API_PART_CALL } api_part;

/* What has been found. */
typedef struct api_parts {
    mem_str content, reasoning;
    api_tool_call *calls;
    size_t n_calls;
    api_part *order; /* in which they began: reasoning and content once at most, calls one after the other */
    size_t n_order;
} api_parts;

typedef struct api_parser api_parser;
status api_parser_create(const api_parser_options *options, api_parser **out);
void api_parser_destroy(api_parser **p);
/* Text that the answer begins with, before anything is generated: taken as it is. */
status api_parser_lead(api_parser *p, const char *text, size_t len);
/* More of the answer's text; *done: a complete call ended it (one_call). */
status api_parser_push(api_parser *p, const char *text, size_t len, bool *done);
/* Nothing more comes. */
status api_parser_end(api_parser *p);
const api_parts *api_parser_parts(const api_parser *p);

/* Special tokens that are marks: their text must reach the parser.  Returns how many (at most cap). */
int api_parser_mark_tokens(const api_parser_options *options, const shard_tokenizer *t, int32_t *ids, int cap);

#endif
