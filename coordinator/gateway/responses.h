/* coordinator/gateway/responses.h - answers of /v1/responses, kept for a later GET or a conversation that goes on: bounded in bytes, the oldest forgotten first.
 *
 * Each belongs to the key that made it and is nobody else's.  One that is still computed is known by its call, so that it can be cancelled.  Any thread. */
#ifndef COORDINATOR_GATEWAY_RESPONSES_H
#define COORDINATOR_GATEWAY_RESPONSES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"

typedef struct responses responses;
status responses_create(size_t max_bytes, responses **out);
void responses_destroy(responses **r);

/* It is being computed by that call. */
void responses_begin(responses *r, int32_t owner, const char *id, uint64_t call_id);
/* It has ended: keeps copies, replacing what was there. */
void responses_put(responses *r, int32_t owner, const char *id, const char *body, size_t len, const json_t *conversation);
void responses_remove(responses *r, int32_t owner, const char *id);
/* false: none of that id and owner.  *call_id: who computes it, and body stays as it is; 0: it has ended, and its body is appended.  body may be NULL. */
bool responses_get(responses *r, int32_t owner, const char *id, mem_str *body, uint64_t *call_id);
/* A new reference; NULL: none, or not ended. */
json_t *responses_conversation(responses *r, int32_t owner, const char *id);

#endif
