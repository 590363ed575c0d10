/* coordinator/gateway/api_prompt.h - from what a user writes to token ids: messages made what templates take, the template rendered, text encoded. */
#ifndef COORDINATOR_GATEWAY_API_PROMPT_H
#define COORDINATOR_GATEWAY_API_PROMPT_H

#include "coordinator/gateway/api_fields.h"

typedef struct api_chat { /* borrowed */
    const json_t *messages, *tools; /* tools NULL: none are offered */
    const char *messages_name;      /* of the field, for messages */
} api_chat;

/* Renders into *rendered and encodes it, appending to ids.  ST_NOT_FOUND: no template, or no tokenizer. */
status api_prompt_chat(const api_fields *f, const api_chat *chat, const shard_text *text, mem_str *rendered, shard_ids *ids, api_error *e);
/* One text. */
status api_prompt_text(const char *name, const char *s, size_t len, bool special, const shard_text *text, shard_ids *ids, api_error *e);
/* A text to be filled in between two others, by the checkpoint's own tokens for that; ST_UNSUPPORTED: it has none. */
status api_prompt_fill(const char *before, size_t before_len, const char *after, size_t after_len, const shard_text *text, shard_ids *ids, api_error *e);
/* truncate_prompt_tokens and truncation_side. */
status api_prompt_truncate(const api_fields *f, int32_t max_model_len, shard_ids *ids, api_error *e);

/* A list of tools is one: {"type": "function", "function": {"name", ...}}. */
status api_tools_check(const json_t *tools, api_error *e);

#endif
