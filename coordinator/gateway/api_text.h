/* coordinator/gateway/api_text.h - tokens of one sequence to text: decoded as they come, ended by stop strings before they show. */
#ifndef COORDINATOR_GATEWAY_API_TEXT_H
#define COORDINATOR_GATEWAY_API_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"
#include "shard/text/tokenizer.h"

enum { API_MAX_STOP_STRINGS = 64, API_MAX_STOP_BYTES = 1024 };

typedef struct api_text api_text;

typedef struct api_text_options { /* all borrowed while the text lives */
    const shard_tokenizer *tokenizer; /* NULL: no text, only tokens */
    char *const *stops;
    int n_stops;
    bool include_stop;                /* the stop string stays in the text */
    bool include_end;                 /* so does an end token, where special tokens are not skipped */
    bool skip_special;
    const int32_t *keep;              /* special tokens whose text is wanted all the same */
    int n_keep;
} api_text_options;
status api_text_create(const api_text_options *options, api_text **out);
void api_text_destroy(api_text **t);

/* finish: as in an event (0 goes on, 1 an end token, 2 the length).  *stopped: a stop string was met, and nothing may follow. */
status api_text_push(api_text *t, int32_t token, uint32_t finish, bool *stopped);
/* Nothing follows, and no token said so. */
status api_text_end(api_text *t);
/* Text that may be shown and was not taken yet: never part of a stop string that may still complete, nor half a character. */
const char *api_text_take(api_text *t, size_t *len);
/* All so far; NULL: there is no tokenizer. */
const char *api_text_all(const api_text *t, size_t *len);
/* The stop string that ended it, or NULL. */
const char *api_text_stop(const api_text *t);

#endif
