#include "coordinator/gateway/api_text.h"

#include <stdlib.h>
#include <string.h>

struct api_text {
    api_text_options o;
    shard_stream *stream; /* NULL: no tokenizer */
    size_t longest_stop;
    mem_str text;
    size_t taken;         /* bytes of text handed out */
    bool ended;
    const char *stop;
};

status api_text_create(const api_text_options *options, api_text **out)
{
    api_text *t;
    TRY(mem_calloc(1, sizeof(*t), "text of an answer", &t));
    t->o = *options;
    for (int i = 0; i < t->o.n_stops; i++) {
        size_t n = strlen(t->o.stops[i]);
        t->longest_stop = n > t->longest_stop ? n : t->longest_stop;
    }
    status st = t->o.tokenizer == NULL ? ST_OK : shard_stream_create(t->o.tokenizer, t->o.skip_special, &t->stream);
    if (st != ST_OK)
        api_text_destroy(&t);
    else
        *out = t;
    return st;
}

void api_text_destroy(api_text **tp)
{
    api_text *t = *tp;
    if (t == NULL)
        return;
    shard_stream_destroy(&t->stream);
    mem_str_free(&t->text);
    free(t);
    *tp = NULL;
}

/* Ends the text at the first stop string that begins at `from` or later; true if there is one. */
static bool stop_found(api_text *t, size_t from)
{
    size_t at = SIZE_MAX;
    for (int i = 0; i < t->o.n_stops; i++) {
        const char *s = t->o.stops[i], *hit = t->text.data == NULL ? NULL : memmem(t->text.data + from, t->text.len - from, s, strlen(s));
        if (hit != NULL && (size_t)(hit - t->text.data) < at) {
            at = (size_t)(hit - t->text.data);
            t->stop = s;
        }
    }
    if (at == SIZE_MAX)
        return false;
    t->text.len = at + (t->o.include_stop ? strlen(t->stop) : 0);
    t->text.data[t->text.len] = '\0';
    return true;
}

static status decode(api_text *t, int32_t token)
{
    for (int i = 0; i < t->o.n_keep && t->o.skip_special; i++) {
        if (t->o.keep[i] == token) {
            TRY(shard_stream_flush(t->stream, &t->text));
            return shard_tokenizer_token_bytes(t->o.tokenizer, token, &t->text);
        }
    }
    return shard_stream_push(t->stream, token, &t->text);
}

status api_text_push(api_text *t, int32_t token, uint32_t finish, bool *stopped)
{
    *stopped = false;
    if (t->stream == NULL || t->ended)
        return ST_OK;
    size_t before = t->text.len;
    /* An end token ends the answer; it is no text of it, special or not. */
    if (finish != 1 || t->o.include_end)
        TRY(decode(t, token));
    if (finish != 0)
        TRY(shard_stream_flush(t->stream, &t->text));
    if (t->text.failed)
        return FAIL(ST_NO_MEMORY, "no memory for the text of a request");
    size_t overlap = t->longest_stop > 0 ? t->longest_stop - 1 : 0;
    *stopped = t->o.n_stops > 0 && stop_found(t, before > overlap ? before - overlap : 0);
    t->ended = *stopped || finish != 0;
    return ST_OK;
}

status api_text_end(api_text *t)
{
    if (t->stream == NULL || t->ended)
        return ST_OK;
    t->ended = true;
    return shard_stream_flush(t->stream, &t->text);
}

/* Bytes at the end of the text that may be the beginning of a stop string. */
static size_t held_back(const api_text *t)
{
    size_t held = 0;
    for (int i = 0; !t->ended && i < t->o.n_stops; i++) {
        size_t n = strlen(t->o.stops[i]);
        for (size_t k = n - 1 < t->text.len ? n - 1 : t->text.len; k > held; k--) {
            if (memcmp(t->text.data + t->text.len - k, t->o.stops[i], k) == 0) {
                held = k;
                break;
            }
        }
    }
    return held;
}

const char *api_text_take(api_text *t, size_t *len)
{
    size_t shown = t->text.len - held_back(t);
    const char *at = t->text.data == NULL ? "" : t->text.data + t->taken;
    *len = shown > t->taken ? shown - t->taken : 0;
    t->taken += *len;
    return at;
}

const char *api_text_all(const api_text *t, size_t *len)
{
    *len = t->text.len;
    return t->stream == NULL ? NULL : t->text.data == NULL ? "" : t->text.data;
}

const char *api_text_stop(const api_text *t)
{
    return t->stop;
}
