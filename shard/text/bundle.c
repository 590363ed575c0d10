#include "shard/text/bundle.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

enum { VERSION = 1, MAX_TEMPLATES = 256, MAX_TEMPLATE_NAME = 127 };

typedef struct named_template {
    char *name, *where, *source;
    size_t len;
    shard_template *template; /* NULL until asked for */
} named_template;

struct shard_text {
    char *where;
    shard_generation generation;
    shard_text_info info;
    json_t *variables;
    named_template *templates;
    size_t n_templates;
    pthread_mutex_t lock;        /* guards what follows, and templates[].template */
    shard_text_asset source;     /* of the tokenizer, until it is made; data NULL: none, or done */
    shard_tokenizer *tokenizer;
};

void shard_text_assets_free(shard_text_asset *assets, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(assets[i].name);
        free(assets[i].data);
        free(assets[i].where);
    }
    free(assets);
}

/* ---- text.json ---- */

static void put_known(json_t *o, const char *key, float v)
{
    if (v >= 0)
        json_object_set_new(o, key, json_real(v));
}

status shard_text_describe(const shard_text_info *info, const shard_generation *g, const json_t *variables, char **out)
{
    json_t *eos = json_array(), *generation = json_object();
    for (int32_t i = 0; i < g->n_eos; i++)
        json_array_append_new(eos, json_integer(g->eos[i]));
    json_object_set_new(generation, "bos", json_integer(g->bos));
    json_object_set_new(generation, "eos", eos);
    json_object_set_new(generation, "top_k", json_integer(g->top_k));
    put_known(generation, "temperature", g->temperature);
    put_known(generation, "top_p", g->top_p);
    put_known(generation, "min_p", g->min_p);
    put_known(generation, "repetition_penalty", g->repetition_penalty);
    json_t *o = json_pack("{si ss si si ss s{si si si} so sO}", "version", VERSION, "family", info->family, "vocab", info->vocab, "max_positions",
                          info->max_positions, "pooling", info->pooling == SHARD_POOL_MEAN ? "mean" : "last", "fim", "prefix", info->fim_prefix, "suffix",
                          info->fim_suffix, "middle", info->fim_middle, "generation", generation, "variables", variables);
    /* 17 digits would do for doubles; these are floats, and must come back as they were. */
    *out = o == NULL ? NULL : json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(o);
    return *out == NULL ? FAIL(ST_NO_MEMORY, "no memory for text.json") : ST_OK;
}

static status read_eos(const char *where, const json_t *generation, shard_generation *g)
{
    json_t *list, *v;
    size_t i;
    TRY(json_get_arr(generation, where, "eos", &list));
    if (json_array_size(list) > SHARD_TEXT_MAX_EOS)
        return FAIL(ST_FORMAT, "%s: more than %d end tokens", where, SHARD_TEXT_MAX_EOS);
    json_array_foreach(list, i, v)
    {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
            return FAIL(ST_FORMAT, "%s: eos must be a list of token ids", where);
        g->eos[g->n_eos++] = (int32_t)json_integer_value(v);
    }
    return ST_OK;
}

static status read_generation(const char *where, const json_t *o, shard_generation *g)
{
    *g = (shard_generation){.bos = -1, .temperature = -1, .top_p = -1, .min_p = -1, .repetition_penalty = -1, .top_k = -1};
    TRY(json_get_i32(o, where, "bos", -1, -1, INT32_MAX, &g->bos));
    TRY(json_get_i32(o, where, "top_k", -1, INT32_MIN, INT32_MAX, &g->top_k));
    TRY(json_get_f32(o, where, "temperature", -1, &g->temperature));
    TRY(json_get_f32(o, where, "top_p", -1, &g->top_p));
    TRY(json_get_f32(o, where, "min_p", -1, &g->min_p));
    TRY(json_get_f32(o, where, "repetition_penalty", -1, &g->repetition_penalty));
    return read_eos(where, o, g);
}

static status read_info(const char *where, const json_t *o, shard_text_info *info)
{
    const char *family, *pooling;
    json_t *fim;
    TRY(json_get_str(o, where, "family", "", &family));
    TRY(json_get_str(o, where, "pooling", "last", &pooling));
    TRY(json_get_obj(o, where, "fim", &fim));
    TRY(json_get_i32(o, where, "vocab", 0, 0, INT32_MAX, &info->vocab));
    TRY(json_get_i32(o, where, "max_positions", 0, 0, INT32_MAX, &info->max_positions));
    TRY(json_get_i32(fim, where, "prefix", -1, -1, INT32_MAX, &info->fim_prefix));
    TRY(json_get_i32(fim, where, "suffix", -1, -1, INT32_MAX, &info->fim_suffix));
    TRY(json_get_i32(fim, where, "middle", -1, -1, INT32_MAX, &info->fim_middle));
    if (strcmp(pooling, "last") != 0 && strcmp(pooling, "mean") != 0)
        return FAIL(ST_UNSUPPORTED, "%s: pooling \"%.40s\" is not known (last and mean are)", where, pooling);
    info->pooling = strcmp(pooling, "mean") == 0 ? SHARD_POOL_MEAN : SHARD_POOL_LAST;
    snprintf(info->family, sizeof(info->family), "%s", family);
    return ST_OK;
}

static status read_description(shard_text *t, const shard_text_asset *a)
{
    json_t *o, *generation, *variables;
    const char *where = a->where != NULL ? a->where : a->name;
    int32_t version;
    TRY(json_parse(where, a->data, a->len, &o));
    status st = json_is_object(o) ? json_get_i32(o, where, "version", 0, 0, INT32_MAX, &version) : FAIL(ST_FORMAT, "%s: must be a JSON object", where);
    if (st == ST_OK && version != VERSION)
        st = version > VERSION ? FAIL(ST_UNSUPPORTED, "%s: is of version %d; this program reads %d: update it", where, version, VERSION)
                               : FAIL(ST_FORMAT, "%s: says no version", where);
    if (st == ST_OK)
        st = json_get_obj(o, where, "generation", &generation);
    if (st == ST_OK)
        st = json_get_obj(o, where, "variables", &variables);
    if (st == ST_OK)
        st = read_generation(where, generation, &t->generation);
    if (st == ST_OK)
        st = read_info(where, o, &t->info);
    if (st == ST_OK && variables != NULL)
        json_object_update(t->variables, variables);
    json_decref(o);
    return st;
}

/* ---- templates ---- */

static bool is_default(const char *name)
{
    return name == NULL || strcmp(name, "default") == 0;
}

static named_template *find_template(const shard_text *t, const char *name)
{
    for (size_t i = 0; i < t->n_templates; i++) {
        if (strcmp(t->templates[i].name, is_default(name) ? "default" : name) == 0)
            return &t->templates[i];
    }
    return NULL;
}

static status add_template(shard_text *t, const char *name, size_t name_len, const shard_text_asset *a)
{
    if (t->n_templates == MAX_TEMPLATES || name_len > MAX_TEMPLATE_NAME)
        return FAIL(ST_FORMAT, "%s: more than %d chat templates, or a name of more than %d bytes", t->where, MAX_TEMPLATES, MAX_TEMPLATE_NAME);
    named_template *grown = realloc(t->templates, (t->n_templates + 1) * sizeof(*grown));
    if (grown == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", t->where);
    t->templates = grown;
    named_template *n = &grown[t->n_templates];
    *n = (named_template){.name = strndup(name, name_len), .where = strdup(a->where != NULL ? a->where : a->name), .source = malloc(a->len + 1), .len = a->len};
    t->n_templates++;
    if (n->name == NULL || n->where == NULL || n->source == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", t->where);
    if (a->len > 0)
        memcpy(n->source, a->data, a->len);
    n->source[a->len] = '\0';
    return ST_OK;
}

status shard_text_template(const shard_text *t, const char *name, const shard_template **out, const json_t **variables)
{
    named_template *n = find_template(t, name);
    *variables = t->variables;
    if (n == NULL && is_default(name))
        return FAIL(ST_NOT_FOUND, "%s: brings no chat template: it is a base model; give plain prompts, or a template with --template", t->where);
    if (n == NULL)
        return FAIL(ST_NOT_FOUND, "%s: brings no chat template named %.128s", t->where, name);
    pthread_mutex_t *lock = &((shard_text *)t)->lock;
    status st = ST_OK;
    pthread_mutex_lock(lock);
    if (n->template == NULL)
        st = shard_template_parse(n->where, n->source, n->len, &n->template);
    *out = n->template;
    pthread_mutex_unlock(lock);
    return st;
}

const char *shard_text_template_source(const shard_text *t, const char *name, size_t *len)
{
    const named_template *n = find_template(t, name);
    if (n != NULL && len != NULL)
        *len = n->len;
    return n == NULL ? NULL : n->source;
}

/* ---- tokenizer ---- */

/* Spellings of the fill-in-the-middle tokens. */
static const struct {
    const char *prefix, *suffix, *middle; /* middle NULL: suffix, prefix, and then the text */
} fim_spellings[] = {
    {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"}, {"<fim_prefix>", "<fim_suffix>", "<fim_middle>"},
    {"<fim-prefix>", "<fim-suffix>", "<fim-middle>"},       {"\xe2\x96\x81<PRE>", "\xe2\x96\x81<SUF>", "\xe2\x96\x81<MID>"},
    {"<\xef\xbd\x9c""fim\xe2\x96\x81""begin\xef\xbd\x9c>", "<\xef\xbd\x9c""fim\xe2\x96\x81""hole\xef\xbd\x9c>", "<\xef\xbd\x9c""fim\xe2\x96\x81""end\xef\xbd\x9c>"},
    {"<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"}, {"[PREFIX]", "[SUFFIX]", NULL},
};

static void find_fim(shard_text_info *info, const shard_tokenizer *t)
{
    bool found = info->fim_prefix >= 0 && info->fim_suffix >= 0;
    for (size_t i = 0; i < ARRAY_LEN(fim_spellings) && !found; i++) {
        info->fim_prefix = shard_tokenizer_id(t, fim_spellings[i].prefix);
        info->fim_suffix = shard_tokenizer_id(t, fim_spellings[i].suffix);
        info->fim_middle = fim_spellings[i].middle == NULL ? -1 : shard_tokenizer_id(t, fim_spellings[i].middle);
        found = info->fim_prefix >= 0 && info->fim_suffix >= 0 && (info->fim_middle >= 0 || fim_spellings[i].middle == NULL);
    }
    if (!found)
        info->fim_prefix = info->fim_suffix = info->fim_middle = -1;
    info->fim_suffix_first = found && info->fim_middle < 0;
}

static status make_tokenizer(const shard_text_asset *a, shard_tokenizer **out)
{
    const char *where = a->where != NULL ? a->where : a->name;
    if (strcmp(a->name, "vocab.bin") != 0)
        return shard_tokenizer_from_json(where, a->data, a->len, out);
    shard_vocab vocab;
    void *memory;
    TRY(shard_vocab_decode(where, a->data, a->len, &vocab, &memory));
    status st = shard_tokenizer_from_vocab(where, &vocab, out);
    free(memory);
    return st;
}

static void free_source(shard_text *t)
{
    free(t->source.name);
    free(t->source.data);
    free(t->source.where);
    t->source = (shard_text_asset){0};
}

/* With the lock held. */
static status need_tokenizer(shard_text *t)
{
    if (t->tokenizer != NULL)
        return ST_OK;
    if (t->source.data == NULL)
        return FAIL(ST_NOT_FOUND, "%s: brings no tokenizer: give prompts as token ids", t->where);
    TRY(make_tokenizer(&t->source, &t->tokenizer));
    free_source(t);
    find_fim(&t->info, t->tokenizer);
    return ST_OK;
}

status shard_text_tokenizer_get(const shard_text *t, const shard_tokenizer **out)
{
    shard_text *mine = (shard_text *)t;
    pthread_mutex_lock(&mine->lock);
    status st = need_tokenizer(mine);
    *out = t->tokenizer;
    pthread_mutex_unlock(&mine->lock);
    return st;
}

const shard_tokenizer *shard_text_tokenizer(const shard_text *t)
{
    const shard_tokenizer *out;
    status_mute();
    status st = shard_text_tokenizer_get(t, &out);
    status_unmute();
    return st == ST_OK ? out : NULL;
}

status shard_text_tokenizer_take(shard_text *t, shard_tokenizer **out)
{
    pthread_mutex_lock(&t->lock);
    status st = need_tokenizer(t);
    if (st == ST_OK) {
        *out = t->tokenizer;
        t->tokenizer = NULL;
    }
    pthread_mutex_unlock(&t->lock);
    return st;
}

/* ---- the bundle ---- */

static status keep_source(shard_text *t, const shard_text_asset *a)
{
    free_source(t);
    t->source.name = strdup(a->name);
    t->source.where = a->where == NULL ? NULL : strdup(a->where);
    t->source.data = malloc(a->len + 1);
    if (t->source.name == NULL || t->source.data == NULL || (a->where != NULL && t->source.where == NULL))
        return FAIL(ST_NO_MEMORY, "%s: no memory for its %zu bytes", a->name, a->len);
    if (a->len > 0)
        memcpy(t->source.data, a->data, a->len);
    t->source.len = a->len;
    return ST_OK;
}

/* Names that are not known are a newer replica's, and skipped. */
static status take_asset(shard_text *t, const shard_text_asset *a)
{
    static const char prefix[] = "template/", suffix[] = ".jinja";
    size_t n = strlen(a->name);
    if (strcmp(a->name, "tokenizer.json") == 0 || strcmp(a->name, "vocab.bin") == 0)
        return keep_source(t, a);
    if (strcmp(a->name, "text.json") == 0)
        return read_description(t, a);
    if (n > sizeof(prefix) - 1 + sizeof(suffix) - 1 && strncmp(a->name, prefix, sizeof(prefix) - 1) == 0 && strcmp(a->name + n - sizeof(suffix) + 1, suffix) == 0)
        return add_template(t, a->name + sizeof(prefix) - 1, n - sizeof(prefix) - sizeof(suffix) + 2, a);
    return ST_OK;
}

static status fill(shard_text *t, const char *where, const shard_text_asset *assets, size_t n)
{
    t->where = strdup(where);
    t->variables = json_object();
    t->info.fim_prefix = t->info.fim_suffix = t->info.fim_middle = -1;
    if (t->where == NULL || t->variables == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", where);
    TRY(read_generation(where, NULL, &t->generation));
    for (size_t i = 0; i < n; i++)
        TRY(take_asset(t, &assets[i]));
    return ST_OK;
}

status shard_text_create_lazy(const char *where, const shard_text_asset *assets, size_t n, shard_text **out)
{
    shard_text *t;
    TRY(mem_calloc(1, sizeof(*t), "text of a checkpoint", &t));
    pthread_mutex_init(&t->lock, NULL);
    status st = fill(t, where, assets, n);
    if (st != ST_OK)
        shard_text_destroy(&t);
    else
        *out = t;
    return st;
}

status shard_text_create(const shard_text_asset *assets, size_t n, shard_text **out)
{
    shard_text *t;
    TRY(shard_text_create_lazy("the checkpoint", assets, n, &t));
    status st = t->source.data != NULL ? need_tokenizer(t) : ST_OK;
    if (st != ST_OK)
        shard_text_destroy(&t);
    else
        *out = t;
    return st;
}

void shard_text_destroy(shard_text **tp)
{
    shard_text *t = *tp;
    if (t == NULL)
        return;
    for (size_t i = 0; i < t->n_templates; i++) {
        free(t->templates[i].name);
        free(t->templates[i].where);
        free(t->templates[i].source);
        shard_template_destroy(&t->templates[i].template);
    }
    free(t->templates);
    free_source(t);
    shard_tokenizer_destroy(&t->tokenizer);
    json_decref(t->variables);
    pthread_mutex_destroy(&t->lock);
    free(t->where);
    free(t);
    *tp = NULL;
}

const shard_generation *shard_text_generation(const shard_text *t)
{
    return &t->generation;
}

const shard_text_info *shard_text_info_get(const shard_text *t)
{
    return &t->info;
}
