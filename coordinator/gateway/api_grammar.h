/* coordinator/gateway/api_grammar.h - what an answer must look like: response_format, structured_outputs and a forced tool call, compiled. */
#ifndef COORDINATOR_GATEWAY_API_GRAMMAR_H
#define COORDINATOR_GATEWAY_API_GRAMMAR_H

#include "coordinator/gateway/api_fields.h"

/* Appends the compiled grammar; nothing where the request asks for none.  `forced`: a JSON schema that tool_choice makes, or NULL. */
status api_grammar_make(const api_fields *f, const json_t *forced, mem_str *out, api_error *e);

#endif
