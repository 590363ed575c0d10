/* coordinator/client/stream.h - a streamed answer of an OpenAI-compatible server, from bytes as they come to what they mean for a benchmark.
 *
 * Server-sent events (the HTML standard's, any line ends, pieces cut anywhere), each a JSON object as /v1/completions or /v1/chat/completions sends them.  An event is
 * an *output* where its first choice brings something: text, content, reasoning, a tool call, or token ids; one that only names the role or the reason of the end is
 * none.  A pure function of bytes: hostile ones end in `failed` and a message. */
#ifndef COORDINATOR_CLIENT_STREAM_H
#define COORDINATOR_CLIENT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

enum { CLIENT_STREAM_EVENT = 1 << 20, CLIENT_STREAM_ERROR = 200 };

typedef struct client_stream {
    mem_str line, data;   /* a line that has not ended; an event's data so far */
    bool after_cr, begun_bytes;
    int32_t n_choices;    /* events with a choice, outputs or not */
    int32_t n_outputs;
    bool finished, done;  /* a reason of the end was given; "[DONE]" came */
    bool failed;          /* the server said that it failed, or what it sent is no such stream: error says which */
    int64_t prompt_tokens, completion_tokens; /* of the server's own count; -1 if it gave none */
    char error[CLIENT_STREAM_ERROR];
} client_stream;

void client_stream_begin(client_stream *s); /* also after use: keeps the memory */
void client_stream_free(client_stream *s);

/* The next bytes.  Returns how many outputs ended in them, the same as n_outputs grew by. */
int32_t client_stream_feed(client_stream *s, const char *bytes, size_t n);
/* No more will come: an event that no blank line ended counts. */
int32_t client_stream_end(client_stream *s);

/* The message of an error's body, {"error": {"message"}} and its kin, or the beginning of the body; one line, printable. */
void client_error_text(const char *body, size_t len, char out[CLIENT_STREAM_ERROR]);

#endif
