/* coordinator/gateway/api_embeddings.c - POST /v1/embeddings: a vector for each text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/gateway/api_internal.h"

static status prepare(api_call *c, api_error *e)
{
    const api_fields *f = &c->fields;
    if (c->model->embedding_dim <= 0)
        return api_refuse(e, ST_UNSUPPORTED, "model", "\"%.128s\" gives no embeddings", c->model->name);
    if (f->dimensions != API_ABSENT && f->dimensions > c->model->embedding_dim)
        return api_refuse(e, ST_INVALID, "dimensions", "dimensions is %d, but an embedding has %d", f->dimensions, c->model->embedding_dim);
    if (f->encoding_format != NULL && strcmp(f->encoding_format, "float") != 0 && strcmp(f->encoding_format, "base64") != 0)
        return api_refuse(e, ST_INVALID, "encoding_format", "encoding_format must be \"float\" or \"base64\"");
    TRY(api_call_read_prompts(c, "input", f->input, !f->has_add_special_tokens || f->add_special_tokens, e));
    c->limits.default_max_tokens = 1;
    TRY(api_call_make_sequences(c, e));
    for (int i = 0; i < c->n_sequences; i++) {
        c->sequences[i].submit.pooling = shard_text_info_get(c->model->text)->pooling == SHARD_POOL_MEAN ? TRIREME__POOLING__POOL_MEAN : TRIREME__POOLING__POOL_LAST;
        c->sequences[i].submit.normalize = true;
    }
    return ST_OK;
}

static void put_embedding(const api_call *c, const api_sequence *s, mem_str *out)
{
    size_t n = c->fields.dimensions == API_ABSENT ? s->n_embedding : (size_t)c->fields.dimensions;
    double square = 0;
    for (size_t i = 0; i < n; i++)
        square += (double)s->embedding[i] * (double)s->embedding[i];
    /* Shortened, it must be made of length 1 again. */
    float scale = n < s->n_embedding && square > 0 ? (float)(1 / sqrt(square)) : 1;
    float *v = malloc(n * sizeof(*v));
    if (v == NULL) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < n; i++)
        v[i] = s->embedding[i] * scale;
    if (c->fields.encoding_format != NULL && strcmp(c->fields.encoding_format, "base64") == 0) {
        mem_str_putc(out, '"');
        api_put_base64(out, v, n * sizeof(*v)); /* little endian, as everywhere here */
        mem_str_putc(out, '"');
    } else {
        mem_str_putc(out, '[');
        for (size_t i = 0; i < n; i++) {
            if (i > 0)
                mem_str_putc(out, ',');
            api_put_float(out, (double)v[i]);
        }
        mem_str_putc(out, ']');
    }
    free(v);
}

static void answer(const api_call *c, mem_str *out)
{
    api_call_usage u;
    api_call_usage_get(c, &u);
    mem_str_puts(out, "{\"id\":");
    api_put_text(out, c->id);
    mem_str_printf(out, ",\"object\":\"list\",\"created\":%lld,\"data\":[", (long long)c->created);
    for (int i = 0; i < c->n_sequences; i++) {
        mem_str_printf(out, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i == 0 ? "" : ",", i);
        put_embedding(c, &c->sequences[i], out);
        mem_str_putc(out, '}');
    }
    mem_str_puts(out, "],\"model\":");
    api_put_text(out, c->model->name);
    mem_str_printf(out, ",\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d}}", u.prompt_tokens, u.prompt_tokens);
}

const api_route_ops api_embeddings_ops = {
    .prefix = "embd-", .object = "list", .chunk_object = "list", .who = API_FOR_EMBEDDINGS, .default_max_tokens = 1, .prepare = prepare,
    .answer = answer,
};
