/* coordinator/gateway/access.h - the access log: one JSON object a line for each request.  Never a prompt, an output, a key or a query string.
 *
 * Lines are queued, bounded, and written by a thread of its own, so that a slow disk stalls nobody; what does not fit is counted and the count logged. */
#ifndef COORDINATOR_GATEWAY_ACCESS_H
#define COORDINATOR_GATEWAY_ACCESS_H

#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"
#include "coordinator/gateway/http.h"

/* What only the gateway's core knows.  NULL or negative: left out of the line. */
typedef struct access_note {
    const char *model, *digest, *adapter, *build, *split, *replica, *finish;
    int32_t prompt_tokens, completion_tokens, cached_tokens, n, replays;
    double queue_ms, ttft_ms, generation_ms;
} access_note;
#define ACCESS_NOTE_NONE                                                                                                                              \
    ((access_note){.prompt_tokens = -1, .completion_tokens = -1, .cached_tokens = -1, .n = -1, .replays = -1, .queue_ms = -1, .ttft_ms = -1, .generation_ms = -1})

/* Text for http_request_note; the caller (or http_request_note) owns it; NULL: out of memory. */
char *access_note_text(const access_note *note);

typedef struct access_log access_log;
/* path: a file to append to, "-" for standard error, or NULL: nothing is written. */
status access_open(const char *path, access_log **out);
void access_close(access_log **a); /* writes what is queued */
/* key: the caller's name ("" for none).  Never waits. */
void access_write(access_log *a, const http_record *record, const char *key);
/* After the file was moved away (log rotation). */
void access_reopen(access_log *a);
uint64_t access_dropped(const access_log *a);

#endif
