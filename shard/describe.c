/* shard/describe.c - what a checkpoint is, as one JSON object, its digest, and its check against recorded hashes.
 *
 * Facts come from where they are given: the model card's head, GGUF's general.* keys, the hub's cache, the manifest of a cut.  What nobody says is null. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "shard/card.h"
#include "shard/checkpoint_internal.h"
#include "shard/cut.h"
#include "shard/jobs.h"

enum { MAX_CARD = 4 << 20, MAX_BASES = 64, SAMPLE_BYTES = 1024 };

static json_t *string_or_null(const char *s)
{
    json_t *v = s == NULL || s[0] == '\0' ? NULL : json_string(s);
    return v == NULL ? json_null() : v;
}

static json_t *copy_or_null(const json_t *v)
{
    return v == NULL || (json_is_string(v) && json_string_length(v) == 0) ? json_null() : json_deep_copy(v);
}

/* ---- where it comes from ---- */

/* .../models--ORG--NAME/snapshots/COMMIT[/...]: both out of a path inside the hub's cache; false if it is none. */
static bool cache_parts(const char *path, char repo[256], char commit[41])
{
    const char *snap = strstr(path, "/snapshots/"), *begin = snap;
    if (snap == NULL || strspn(snap + 11, "0123456789abcdef") != 40 || (snap[51] != '\0' && snap[51] != '/'))
        return false;
    while (begin > path && begin[-1] != '/')
        begin--;
    if (strncmp(begin, "models--", 8) != 0 || snap - begin >= 256)
        return false;
    snprintf(repo, 256, "%.*s", (int)(snap - begin - 8), begin + 8);
    char *sep = strstr(repo, "--");
    if (sep != NULL) {
        *sep = '/';
        memmove(sep + 1, sep + 2, strlen(sep + 2) + 1);
    }
    memcpy(commit, snap + 11, 40);
    commit[40] = '\0';
    return true;
}

/* The folder's own path, links resolved except those of the hub's cache; caller frees. */
static char *full_path(const char *path)
{
    char *full = realpath(path, NULL);
    return full == NULL ? strdup(path) : full;
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL || slash[1] == '\0' ? path : slash + 1;
}

static void describe_origin(shard_checkpoint *c, json_t *out)
{
    char repo[256] = "", commit[41] = "", *full = full_path(c->folder);
    const char *name = c->hub_name, *revision = c->revision, *given = NULL;
    if (full != NULL && (name == NULL || revision == NULL) && cache_parts(full, repo, commit)) {
        name = name == NULL ? repo : name;
        revision = revision == NULL ? commit : revision;
    }
    if (name == NULL && c->gguf != NULL)
        given = shard_gguf_str(c->gguf, "general.name");
    if (name == NULL && given == NULL)
        given = json_string_value(json_object_get(c->config, "_name_or_path"));
    if (name == NULL && (given == NULL || given[0] == '\0'))
        given = last_part(c->gguf != NULL ? c->path : full != NULL ? full : c->folder);
    json_object_set_new(out, "name", string_or_null(name != NULL ? name : last_part(given)));
    char *place = full_path(c->path);
    json_object_set_new(out, "source", string_or_null(c->hub_name != NULL || repo[0] != '\0' ? name : place));
    json_object_set_new(out, "path", string_or_null(place));
    json_object_set_new(out, "format", json_string(c->source == SHARD_SOURCE_GGUF ? "gguf" : c->source == SHARD_SOURCE_CUT ? SHARD_CUT_FORMAT
                                                   : c->has_weights                ? "safetensors" : "config"));
    json_object_set_new(out, "revision", string_or_null(revision));
    free(place);
    free(full);
}

/* ---- what its card says ---- */

static json_t *load_card(const shard_checkpoint *c)
{
    char *path = file_join(c->folder, "README.md"), *text = NULL;
    size_t len = 0;
    status_mute();
    if (path != NULL && file_exists(path))
        (void)file_read_all(path, MAX_CARD, &text, &len);
    status_unmute();
    json_t *card = shard_card_parse(text == NULL ? "" : text, len);
    free(text);
    free(path);
    return card;
}

static void licence_of(const shard_checkpoint *c, const json_t *card, json_t *out)
{
    const json_t *v = json_object_get(card, "license");
    const char *word = json_string_value(v);
    if (word != NULL && strcmp(word, "other") == 0 && json_is_string(json_object_get(card, "license_name")))
        v = json_object_get(card, "license_name");
    if (v != NULL)
        json_object_set_new(out, "licence", copy_or_null(v));
    else
        json_object_set_new(out, "licence", string_or_null(c->gguf == NULL ? NULL : shard_gguf_str(c->gguf, "general.license")));
}

static json_t *gguf_bases(const shard_gguf *g)
{
    int64_t n = 0;
    json_t *list = json_array();
    shard_gguf_int(g, "general.base_model.count", &n);
    for (int64_t i = 0; i < n && i < MAX_BASES; i++) {
        char key[64];
        snprintf(key, sizeof(key), "general.base_model.%lld.name", (long long)i);
        const char *name = shard_gguf_str(g, key);
        snprintf(key, sizeof(key), "general.base_model.%lld.repo_url", (long long)i);
        const char *url = shard_gguf_str(g, key);
        if (url != NULL || name != NULL)
            json_array_append_new(list, string_or_null(url != NULL ? url : name));
    }
    json_t *v = json_array_size(list) == 0 ? json_null() : json_array_size(list) == 1 ? json_incref(json_array_get(list, 0)) : json_incref(list);
    json_decref(list);
    return v;
}

static void lineage_of(const shard_checkpoint *c, const json_t *card, json_t *out)
{
    const json_t *base = json_object_get(card, "base_model");
    json_t *b = base != NULL ? copy_or_null(base) : c->gguf != NULL ? gguf_bases(c->gguf) : json_null();
    const char *relation = json_string_value(json_object_get(card, "base_model_relation"));
    json_object_set(out, "base", b);
    if (json_is_null(b))
        json_object_set_new(out, "parent", json_null());
    else
        json_object_set_new(out, "parent", json_pack("{s:O, s:o}", "model", b, "relation", string_or_null(relation)));
    json_decref(b);
}

/* How the weights came to be, as far as it is told; null where nothing is. */
static json_t *recipe_of(const shard_checkpoint *c, const json_t *card)
{
    static const char *const card_keys[] = {"datasets", "library_name", "pipeline_tag", "new_version", "quantized_by"};
    static const char *const gguf_keys[] = {"general.quantized_by", "general.finetune", "general.size_label", "general.version", "general.repo_url",
                                            "general.source.url", "general.source.huggingface.repository", "quantize.imatrix.file",
                                            "quantize.imatrix.dataset"};
    json_t *out = json_object();
    for (size_t i = 0; i < ARRAY_LEN(card_keys); i++) {
        const json_t *v = json_object_get(card, card_keys[i]);
        if (v != NULL && !json_is_null(v))
            json_object_set_new(out, card_keys[i], json_deep_copy(v));
    }
    for (size_t i = 0; c->gguf != NULL && i < ARRAY_LEN(gguf_keys); i++) {
        const char *v = shard_gguf_str(c->gguf, gguf_keys[i]);
        if (v != NULL)
            json_object_set_new(out, gguf_keys[i], string_or_null(v));
    }
    const json_t *version = json_object_get(c->config, "transformers_version");
    if (json_is_string(version))
        json_object_set_new(out, "transformers_version", json_deep_copy(version));
    if (json_object_size(out) > 0)
        return out;
    json_decref(out);
    return json_null();
}

static json_t *policies_of(const json_t *card)
{
    json_t *out = json_object(), *v;
    const char *key;
    json_object_foreach((json_t *)card, key, v)
    {
        if (strncmp(key, "extra_gated_", 12) == 0 || strcmp(key, "license_link") == 0 || strcmp(key, "gated") == 0)
            json_object_set_new(out, key, json_deep_copy(v));
    }
    if (json_object_size(out) > 0)
        return out;
    json_decref(out);
    return json_null();
}

/* The card's model-index as a flat list of {task, dataset, metric, value}. */
static json_t *evaluations_of(const json_t *card)
{
    json_t *out = json_array(), *model, *result, *metric;
    size_t i, j, k;
    json_array_foreach(json_object_get(card, "model-index"), i, model)
    json_array_foreach(json_object_get(model, "results"), j, result)
    json_array_foreach(json_object_get(result, "metrics"), k, metric)
    {
        const json_t *dataset = json_object_get(json_object_get(result, "dataset"), "name"), *task = json_object_get(json_object_get(result, "task"), "type");
        const json_t *name = json_object_get(metric, "name");
        if (name == NULL)
            name = json_object_get(metric, "type");
        json_array_append_new(out, json_pack("{s:o, s:o, s:o, s:o}", "task", copy_or_null(task), "dataset", copy_or_null(dataset), "metric",
                                             copy_or_null(name), "value", copy_or_null(json_object_get(metric, "value"))));
    }
    if (json_array_size(out) > 0)
        return out;
    json_decref(out);
    return json_null();
}

static status describe_card(shard_checkpoint *c, json_t *out)
{
    json_t *card = load_card(c);
    if (card == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", c->path);
    licence_of(c, card, out);
    lineage_of(c, card, out);
    json_object_set_new(out, "recipe", recipe_of(c, card));
    json_object_set_new(out, "policies", policies_of(card));
    json_object_set_new(out, "evaluations", evaluations_of(card));
    json_decref(card);
    return ST_OK;
}

/* ---- what it is made of ---- */

static json_t *describe_arch(const shard_arch *a)
{
    static const char *const scalings[] = {"none", "linear", "dynamic", "llama3", "yarn", "longrope"};
    int32_t windowed = 0, window = 0;
    for (int32_t i = 0; i < a->n_layers; i++) {
        windowed += a->layers[i].window > 0;
        window = a->layers[i].window > 0 ? a->layers[i].window : window;
    }
    json_t *o = json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b}", "family", a->family, "model_type", a->model_type, "layers", a->n_layers,
                          "hidden", a->hidden, "heads", a->n_heads, "kv_heads", a->n_kv_heads, "head_dim", a->head_dim, "intermediate", a->intermediate,
                          "vocab", a->vocab, "context", a->max_positions, "tied_embeddings", (int)a->tied_embeddings);
    if (o == NULL)
        return json_null();
    if (a->n_ropes > 0) {
        json_object_set_new(o, "rope_theta", json_real(a->ropes[0].theta));
        json_object_set_new(o, "rope_scaling", json_string(scalings[a->ropes[0].scaling]));
    }
    json_object_set_new(o, "window", windowed > 0 ? json_integer(window) : json_null());
    json_object_set_new(o, "windowed_layers", json_integer(windowed));
    return o;
}

typedef struct tally {
    int64_t tensors, elements, bytes;
} tally;

/* Tensors that play a role, by the type they are stored as. */
static void describe_tensors(const shard_checkpoint *c, json_t *out)
{
    tally by_type[SHARD_DTYPES] = {0}, all = {0};
    json_t *types = json_object();
    for (size_t i = 0; i < c->tensors.n; i++) {
        const shard_tensor *t = &c->tensors.list[i];
        tally *y = &by_type[t->dtype];
        y->tensors++;
        y->elements += t->elements;
        y->bytes += (int64_t)t->bytes;
    }
    for (int d = 0; d < SHARD_DTYPES; d++) {
        const tally *y = &by_type[d];
        if (y->tensors == 0)
            continue;
        json_object_set_new(types, shard_dtype_name((shard_dtype)d), json_pack("{s:I, s:I, s:I}", "tensors", (json_int_t)y->tensors, "elements",
                                                                               (json_int_t)y->elements, "bytes", (json_int_t)y->bytes));
        all.tensors += y->tensors;
        all.elements += y->elements;
        all.bytes += y->bytes;
    }
    bool known = c->tensors.n > 0;
    json_object_set_new(out, "parameters", known ? json_integer(all.elements) : json_null());
    json_object_set_new(out, "weight_bytes", known ? json_integer(all.bytes) : json_null());
    json_object_set_new(out, "tensors", types);
}

static void describe_files(const shard_checkpoint *c, json_t *out)
{
    json_t *files = json_array();
    for (int32_t i = 0; i < c->n_files; i++)
        json_array_append_new(files, json_pack("{s:s, s:I}", "name", last_part(c->files[i].path), "bytes", (json_int_t)c->files[i].bytes));
    json_object_set_new(out, "files", files);
}

static void describe_text(shard_checkpoint *c, json_t *out)
{
    const shard_tokenizer *t = NULL;
    const shard_generation *g = &c->generation;
    status_mute();
    bool ok = shard_checkpoint_tokenizer(c, &t) == ST_OK;
    status_unmute();
    json_object_set_new(out, "tokenizer", ok ? json_pack("{s:s, s:i}", "kind", shard_tokenizer_kind(t), "tokens", (int)shard_tokenizer_size(t))
                                             : json_null());
    json_object_set_new(out, "chat_templates", shard_checkpoint_template_names(c));
    json_t *eos = json_array(), *generation = json_object();
    for (int32_t i = 0; i < g->n_eos; i++)
        json_array_append_new(eos, json_integer(g->eos[i]));
    json_object_set_new(generation, "bos", g->bos >= 0 ? json_integer(g->bos) : json_null());
    json_object_set_new(generation, "eos", eos);
    const struct {
        const char *key;
        float value;
    } floats[] = {{"temperature", g->temperature}, {"top_p", g->top_p}, {"min_p", g->min_p}, {"repetition_penalty", g->repetition_penalty}};
    for (size_t i = 0; i < ARRAY_LEN(floats); i++) {
        char text[32];
        snprintf(text, sizeof(text), "%.6g", (double)floats[i].value); /* 0.6, not 0.60000002384 */
        json_object_set_new(generation, floats[i].key, floats[i].value >= 0 ? json_real(strtod(text, NULL)) : json_null());
    }
    json_object_set_new(generation, "top_k", g->top_k >= 0 ? json_integer(g->top_k) : json_null());
    json_object_set_new(out, "generation", generation);
}

static void describe_cut(const shard_checkpoint *c, json_t *out)
{
    static const char *const inherited[] = {"name", "source", "revision", "licence", "base", "parent", "recipe", "policies", "evaluations"};
    const json_t *m = c->cut->manifest;
    for (size_t i = 0; i < ARRAY_LEN(inherited); i++)
        json_object_set_new(out, inherited[i], copy_or_null(json_object_get(m, inherited[i])));
    json_t *cut = json_pack("{s:i, s:i, s:b}", "tp", c->cut->tp, "pp", c->cut->pp, "f32", (int)c->cut->f32);
    json_object_set_new(cut, "version", copy_or_null(json_object_get(m, "version")));
    json_object_set_new(cut, "tool", copy_or_null(json_object_get(m, "tool")));
    json_object_set_new(cut, "created", copy_or_null(json_object_get(m, "created")));
    json_object_set_new(out, "cut", cut);
}

status shard_checkpoint_describe(shard_checkpoint *c, json_t **out)
{
    json_t *o = json_object();
    if (o == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", c->path);
    describe_origin(c, o);
    status st = describe_card(c, o);
    if (st == ST_OK && c->cut != NULL)
        describe_cut(c, o);
    if (st != ST_OK) {
        json_decref(o);
        return st;
    }
    const char *digest = shard_checkpoint_digest(c);
    json_object_set_new(o, "digest", string_or_null(digest));
    json_object_set_new(o, "architecture", describe_arch(&c->arch));
    describe_tensors(c, o);
    describe_files(c, o);
    describe_text(c, o);
    *out = o;
    return ST_OK;
}

const char *shard_checkpoint_file(const shard_checkpoint *c, int i)
{
    return i >= 0 && i < c->n_files ? c->files[i].path : NULL;
}

status shard_checkpoint_list_tensors(shard_checkpoint *c, json_t **out)
{
    json_t *list = json_array();
    for (size_t i = 0; list != NULL && i < c->tensors.n; i++) {
        const shard_tensor *t = &c->tensors.list[i];
        json_t *shape = json_array();
        for (int d = 0; d < t->n_dims; d++)
            json_array_append_new(shape, json_integer(t->dims[d]));
        json_array_append_new(list, json_pack("{s:o, s:s, s:o, s:I, s:o}", "name", string_or_null(t->name), "type", shard_dtype_name(t->dtype), "shape", shape,
                                              "bytes", (json_int_t)t->bytes, "file",
                                              string_or_null(t->file < 0 ? NULL : last_part(c->files[t->file].path))));
    }
    if (list == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", c->path);
    *out = list;
    return ST_OK;
}

/* ---- digest ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const shard_tensor *const *)a)->name, (*(const shard_tensor *const *)b)->name);
}

/* Name, type, shape and three samples of a tensor: enough to tell two trainings of one architecture apart, and the same however the tensors are spread
 * over files. */
static status digest_tensor(shard_checkpoint *c, hash_sha256 *h, const shard_tensor *t)
{
    char head[SHARD_MAX_NAME + 256], shape[160], sample[SAMPLE_BYTES];
    int n = snprintf(head, sizeof(head), "%s %s %s\n", t->name, shard_dtype_name(t->dtype), shard_tensor_shape_text(t, shape));
    hash_sha256_update(h, head, (size_t)n);
    size_t len = t->bytes < SAMPLE_BYTES ? (size_t)t->bytes : SAMPLE_BYTES;
    for (int i = 0; i < 3 && len > 0; i++) {
        const shard_file *f = &c->files[t->file];
        TRY(file_read_at(f->fd, f->path, t->offset + (t->bytes - len) / 2 * (uint64_t)i, sample, len));
        hash_sha256_update(h, sample, len);
    }
    return ST_OK;
}

static status digest_config(shard_checkpoint *c, hash_sha256 *h)
{
    if (c->gguf != NULL) {
        hash_sha256_update(h, c->gguf->bytes + c->gguf->kv_begin, (size_t)(c->gguf->kv_end - c->gguf->kv_begin));
        return ST_OK;
    }
    char *text = json_dumps(c->config, JSON_COMPACT | JSON_SORT_KEYS);
    if (text == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", c->path);
    hash_sha256_update(h, text, strlen(text));
    free(text);
    return ST_OK;
}

static status make_digest(shard_checkpoint *c)
{
    const shard_tensor **sorted = NULL;
    hash_sha256 *h = NULL;
    uint8_t digest[HASH_SHA256_BYTES];
    const char *kept = c->cut == NULL ? NULL : json_string_value(json_object_get(c->cut->manifest, "digest"));
    if (c->cut != NULL) {
        snprintf(c->digest, sizeof(c->digest), "%s", kept == NULL ? "" : kept);
        return ST_OK;
    }
    status st = hash_sha256_create(&h);
    if (st == ST_OK)
        st = mem_calloc(c->tensors.n + 1, sizeof(*sorted), "digest", &sorted);
    if (st == ST_OK) {
        for (size_t i = 0; i < c->tensors.n; i++)
            sorted[i] = &c->tensors.list[i];
        qsort(sorted, c->tensors.n, sizeof(*sorted), by_name);
        st = digest_config(c, h);
    }
    for (size_t i = 0; st == ST_OK && i < c->tensors.n; i++)
        st = digest_tensor(c, h, sorted[i]);
    if (st == ST_OK) {
        hash_sha256_final(h, digest);
        memcpy(c->digest, "sha256:", 8);
        hash_hex(digest, sizeof(digest), c->digest + 7);
    }
    free(sorted);
    hash_sha256_destroy(&h);
    return st;
}

const char *shard_checkpoint_digest(const shard_checkpoint *checkpoint)
{
    shard_checkpoint *c = (shard_checkpoint *)checkpoint; /* computed on first use, under the lock */
    pthread_mutex_lock(&c->lock);
    if (c->digest[0] == '\0' && make_digest(c) != ST_OK)
        c->digest[0] = '\0';
    pthread_mutex_unlock(&c->lock);
    return c->digest;
}

/* ---- verification ---- */

/* A file of the hub's cache is a link to a blob named by its hash: 64 hex digits are the SHA-256. */
static status verify_blob(void *arg, size_t i)
{
    shard_checkpoint *c = arg;
    char sha[65], *full = realpath(c->files[i].path, NULL);
    uint64_t bytes;
    const char *name = full == NULL ? "" : last_part(full);
    status st = ST_OK;
    if (strlen(name) != 64 || strspn(name, "0123456789abcdef") != 64)
        st = FAIL(ST_UNSUPPORTED, "%s: no hash of it is recorded (only files in the hub's cache and folders written by trireme shard have one)",
                  c->files[i].path);
    if (st == ST_OK)
        st = shard_cut_hash_file(full, sha, &bytes);
    if (st == ST_OK && strcmp(sha, name) != 0)
        st = FAIL(ST_CORRUPT, "%s: is damaged: its SHA-256 is %s, the hub's is %s; remove it and pull again", full, sha, name);
    free(full);
    return st;
}

status shard_checkpoint_verify(shard_checkpoint *c)
{
    if (c->cut != NULL)
        return shard_cut_verify(c);
    return shard_jobs_run(0, (size_t)c->n_files, verify_blob, c);
}
