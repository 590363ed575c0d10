/* shard/checkpoint_text.c - what a checkpoint brings besides weights: tokenizer, chat templates, generation defaults.
 *
 * A Hugging Face folder keeps them in files of their own; GGUF keeps all of them in its metadata. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "shard/checkpoint_internal.h"

#define MAX_TEXT_FILE ((size_t)512 << 20)
enum { MAX_JSON_FILE = 64 << 20, MAX_TEMPLATE_FILE = 8 << 20 };

/* A JSON object from an optional file of the folder: *out NULL if the file is absent. */
static status load_optional(const shard_checkpoint *c, const char *name, json_t **out)
{
    char *path = file_join(c->folder, name);
    status st = path == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", name) : ST_OK;
    if (st == ST_OK && file_exists(path)) {
        st = json_parse_file(path, MAX_JSON_FILE, out);
        if (st == ST_OK && !json_is_object(*out))
            st = FAIL(ST_FORMAT, "%s: must be a JSON object", path);
    }
    free(path);
    return st;
}

/* ---- generation ---- */

static void add_eos(shard_generation *g, int64_t id)
{
    for (int32_t i = 0; i < g->n_eos; i++) {
        if (g->eos[i] == id)
            return;
    }
    if (id >= 0 && id <= INT32_MAX && g->n_eos < SHARD_TEXT_MAX_EOS)
        g->eos[g->n_eos++] = (int32_t)id;
}

static status add_eos_json(shard_generation *g, const char *where, const json_t *v)
{
    size_t i;
    json_t *e;
    if (v == NULL || json_is_null(v))
        return ST_OK;
    if (json_is_integer(v)) {
        add_eos(g, json_integer_value(v));
        return ST_OK;
    }
    if (!json_is_array(v))
        return FAIL(ST_FORMAT, "%s: eos_token_id must be a token id or a list of them", where);
    json_array_foreach(v, i, e)
    {
        if (!json_is_integer(e))
            return FAIL(ST_FORMAT, "%s: eos_token_id must be a token id or a list of them", where);
        add_eos(g, json_integer_value(e));
    }
    return ST_OK;
}

static status generation_of_json(shard_generation *g, const char *where, const json_t *o, bool sampling)
{
    if (o == NULL)
        return ST_OK;
    const json_t *bos = json_object_get(o, "bos_token_id");
    if (g->bos < 0 && json_is_integer(bos) && json_integer_value(bos) >= 0 && json_integer_value(bos) <= INT32_MAX)
        g->bos = (int32_t)json_integer_value(bos);
    if (g->n_eos == 0)
        TRY(add_eos_json(g, where, json_object_get(o, "eos_token_id")));
    if (!sampling)
        return ST_OK;
    TRY(json_get_f32(o, where, "temperature", -1, &g->temperature));
    TRY(json_get_f32(o, where, "top_p", -1, &g->top_p));
    TRY(json_get_f32(o, where, "min_p", -1, &g->min_p));
    TRY(json_get_f32(o, where, "repetition_penalty", -1, &g->repetition_penalty));
    return json_get_i32(o, where, "top_k", -1, INT32_MIN, INT32_MAX, &g->top_k);
}

static float gguf_float(const shard_gguf *g, const char *key)
{
    double v;
    return shard_gguf_f64(g, key, &v) && isfinite(v) && v >= 0 && v < 1e30 ? (float)v : -1;
}

static int32_t gguf_id(const shard_gguf *g, const char *key)
{
    int64_t v;
    return shard_gguf_int(g, key, &v) && v >= 0 && v <= INT32_MAX ? (int32_t)v : -1;
}

/* Converters record one eos; a chat model's turn often ends with another control token, known by its spelling. */
static void add_turn_ends(shard_generation *out, shard_gguf *g)
{
    static const char *const turn_ends[] = {"<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>"};
    const char *const *tokens;
    const size_t *lens;
    const int64_t *types;
    int64_t n = shard_gguf_str_array(g, "tokenizer.ggml.tokens", &tokens, &lens);
    int64_t n_types = shard_gguf_int_array(g, "tokenizer.ggml.token_type", &types);
    for (int64_t i = 0; i < n && i < n_types; i++) {
        if (types[i] != 3 || lens[i] < 5 || lens[i] > 24)
            continue;
        for (size_t k = 0; k < ARRAY_LEN(turn_ends); k++) {
            if (strlen(turn_ends[k]) == lens[i] && memcmp(turn_ends[k], tokens[i], lens[i]) == 0)
                add_eos(out, i);
        }
    }
}

static void generation_of_gguf(shard_generation *out, shard_gguf *g)
{
    out->bos = gguf_id(g, "tokenizer.ggml.bos_token_id");
    add_eos(out, gguf_id(g, "tokenizer.ggml.eos_token_id"));
    add_eos(out, gguf_id(g, "tokenizer.ggml.eot_token_id"));
    add_turn_ends(out, g);
    out->temperature = gguf_float(g, "general.sampling.temp");
    out->top_p = gguf_float(g, "general.sampling.top_p");
    out->min_p = gguf_float(g, "general.sampling.min_p");
    out->repetition_penalty = gguf_float(g, "general.sampling.penalty_repeat");
    out->top_k = gguf_id(g, "general.sampling.top_k");
}

status shard_checkpoint_load_text(shard_checkpoint *c)
{
    shard_generation *g = &c->generation;
    *g = (shard_generation){.bos = -1, .temperature = -1, .top_p = -1, .min_p = -1, .repetition_penalty = -1, .top_k = -1};
    if (c->gguf != NULL) {
        generation_of_gguf(g, c->gguf);
        return ST_OK;
    }
    TRY(load_optional(c, "generation_config.json", &c->generation_config));
    TRY(load_optional(c, "tokenizer_config.json", &c->tokenizer_config));
    TRY(load_optional(c, "special_tokens_map.json", &c->special_tokens));
    TRY(generation_of_json(g, "generation_config.json", c->generation_config, true));
    return generation_of_json(g, "config.json", c->config, false);
}

void shard_checkpoint_close_text(shard_checkpoint *c)
{
    shard_text_destroy(&c->text);
    json_decref(c->tokenizer_config);
    json_decref(c->special_tokens);
    json_decref(c->generation_config);
}

/* ---- tokenizer ---- */

static int8_t gguf_flag(const shard_gguf *g, const char *key)
{
    bool v;
    return shard_gguf_bool(g, key, &v) ? (int8_t)v : -1;
}

/* The vocabulary's scores and types as the tokenizer wants them; caller frees both. */
static status vocab_numbers(shard_gguf *g, int64_t n, float **scores, int32_t **types)
{
    const double *f;
    const int64_t *t;
    int64_t n_scores = shard_gguf_f64_array(g, "tokenizer.ggml.scores", &f), n_types = shard_gguf_int_array(g, "tokenizer.ggml.token_type", &t);
    if ((n_scores >= 0 && n_scores != n) || (n_types >= 0 && n_types != n))
        return FAIL(ST_FORMAT, "%s: %lld tokens but %lld scores and %lld token types", g->where, (long long)n, (long long)n_scores, (long long)n_types);
    if (n_scores >= 0) {
        TRY(mem_calloc((size_t)n + 1, sizeof(float), "scores", scores));
        for (int64_t i = 0; i < n; i++)
            (*scores)[i] = (float)f[i];
    }
    if (n_types >= 0) {
        TRY(mem_calloc((size_t)n + 1, sizeof(int32_t), "token types", types));
        for (int64_t i = 0; i < n; i++)
            (*types)[i] = t[i] >= 0 && t[i] <= INT32_MAX ? (int32_t)t[i] : 0;
    }
    return ST_OK;
}

/* Calls `use` with the file's vocabulary. */
static status with_vocab(shard_gguf *g, status (*use)(const char *where, const shard_vocab *v, void *arg), void *arg)
{
    shard_vocab v = {.model = shard_gguf_str(g, "tokenizer.ggml.model"), .pre = shard_gguf_str(g, "tokenizer.ggml.pre")};
    int64_t n = shard_gguf_str_array(g, "tokenizer.ggml.tokens", &v.tokens, &v.token_lens);
    if (v.model == NULL || n <= 0)
        return FAIL(ST_NOT_FOUND, "%s: brings no tokenizer (no tokenizer.ggml.model and tokenizer.ggml.tokens in its metadata)", g->where);
    if (n > INT32_MAX)
        return FAIL(ST_LIMIT, "%s: %lld tokens", g->where, (long long)n);
    int64_t merges = shard_gguf_str_array(g, "tokenizer.ggml.merges", &v.merges, &v.merge_lens);
    v.n_tokens = (int32_t)n;
    v.n_merges = merges < 0 || merges > INT32_MAX ? 0 : (int32_t)merges;
    v.bos = gguf_id(g, "tokenizer.ggml.bos_token_id");
    v.eos = gguf_id(g, "tokenizer.ggml.eos_token_id");
    v.unk = gguf_id(g, "tokenizer.ggml.unknown_token_id");
    v.sep = gguf_id(g, "tokenizer.ggml.seperator_token_id"); /* the format's own spelling */
    v.cls = gguf_id(g, "tokenizer.ggml.cls_token_id");
    v.pad = gguf_id(g, "tokenizer.ggml.padding_token_id");
    v.mask = gguf_id(g, "tokenizer.ggml.mask_token_id");
    v.add_bos = gguf_flag(g, "tokenizer.ggml.add_bos_token");
    v.add_eos = gguf_flag(g, "tokenizer.ggml.add_eos_token");
    v.add_space_prefix = gguf_flag(g, "tokenizer.ggml.add_space_prefix");
    v.remove_extra_whitespaces = gguf_flag(g, "tokenizer.ggml.remove_extra_whitespaces");
    const shard_gguf_value *map = shard_gguf_find(g, "tokenizer.ggml.precompiled_charsmap");
    if (map != NULL && map->array && (map->kind == SHARD_GGUF_U8 || map->kind == SHARD_GGUF_I8) && map->n > 0) {
        v.precompiled_charsmap = map->data;
        v.charsmap_len = (size_t)map->n;
    }
    float *scores = NULL;
    int32_t *types = NULL;
    status st = vocab_numbers(g, n, &scores, &types);
    v.scores = scores;
    v.types = types;
    if (st == ST_OK)
        st = use(g->where, &v, arg);
    free(scores);
    free(types);
    return st;
}

static status use_as_tokenizer(const char *where, const shard_vocab *v, void *out)
{
    return shard_tokenizer_from_vocab(where, v, out);
}

static status use_as_bytes(const char *where, const shard_vocab *v, void *out)
{
    (void)where;
    return shard_vocab_encode(v, out);
}

/* A folder has none: what was looked for, and the remedy. */
static status no_tokenizer(const shard_checkpoint *c)
{
    char *spm = file_join(c->folder, "tokenizer.model"), *vocab = file_join(c->folder, "vocab.json");
    status st;
    if (spm == NULL || vocab == NULL)
        st = FAIL(ST_NO_MEMORY, "%s: out of memory", c->folder);
    else if (c->gguf == NULL && (file_exists(spm) || file_exists(vocab)))
        st = FAIL(ST_UNSUPPORTED,
                  "%s: has %s but no tokenizer.json; write one once, in Python: AutoTokenizer.from_pretrained(\"%s\").save_pretrained(\"%s\")", c->folder,
                  file_exists(spm) ? "tokenizer.model" : "vocab.json", c->folder, c->folder);
    else if (c->gguf == NULL)
        st = FAIL(ST_NOT_FOUND, "%s: no tokenizer.json in it: give one with --tokenizer, or prompts as token ids", c->folder);
    else
        st = FAIL(ST_NOT_FOUND, "%s: brings no tokenizer (no tokenizer.ggml.model and tokenizer.ggml.tokens in its metadata)", c->path);
    free(spm);
    free(vocab);
    return st;
}

status shard_checkpoint_tokenizer(shard_checkpoint *c, const shard_tokenizer **out)
{
    const shard_text *t;
    TRY(shard_checkpoint_text(c, &t));
    status_mute();
    status st = shard_text_tokenizer_get(t, out);
    status_unmute();
    return st == ST_OK ? ST_OK : st == ST_NOT_FOUND ? no_tokenizer(c) : FAIL(st, "%s", status_message());
}

static status tokenizer_of_file(const char *path, shard_tokenizer **out)
{
    char magic[4] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat sb;
    if (fd < 0 || fstat(fd, &sb) != 0) {
        status st = FAIL(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return st;
    }
    status st;
    if (pread(fd, magic, sizeof(magic), 0) == (ssize_t)sizeof(magic) && memcmp(magic, "GGUF", 4) == 0) {
        shard_tensors tensors = {0};
        shard_gguf *g = NULL;
        st = shard_tensors_init(&tensors);
        if (st == ST_OK)
            st = shard_gguf_read(path, fd, (uint64_t)sb.st_size, 0, &tensors, &g);
        if (st == ST_OK)
            st = with_vocab(g, use_as_tokenizer, out);
        shard_gguf_destroy(&g);
        shard_tensors_free(&tensors);
    } else {
        char *text;
        size_t len;
        st = file_read_all(path, MAX_TEXT_FILE, &text, &len);
        if (st == ST_OK) {
            st = shard_tokenizer_from_json(path, text, len, out);
            free(text);
        }
    }
    close(fd);
    return st;
}

status shard_tokenizer_open(const char *path, shard_tokenizer **out)
{
    if (!file_is_dir(path))
        return tokenizer_of_file(path, out);
    char *json = file_join(path, "tokenizer.json"), *metadata = file_join(path, "metadata.gguf");
    status st;
    if (json == NULL || metadata == NULL) {
        st = FAIL(ST_NO_MEMORY, "%s: out of memory", path);
    } else if (file_exists(json) || file_exists(metadata)) {
        st = tokenizer_of_file(file_exists(json) ? json : metadata, out);
    } else {
        shard_checkpoint *c;
        const shard_tokenizer *t;
        st = shard_checkpoint_open(path, &(shard_open_options){.config_only = true}, &c);
        if (st == ST_OK) {
            st = shard_checkpoint_tokenizer(c, &t);
            if (st == ST_OK)
                st = shard_text_tokenizer_take(c->text, out);
            shard_checkpoint_close(&c);
        }
    }
    free(json);
    free(metadata);
    return st;
}

/* ---- chat templates ---- */

static const char *const special_names[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

/* A special token is a string or an AddedToken object. */
static json_t *token_text(const json_t *v)
{
    if (json_is_object(v))
        v = json_object_get(v, "content");
    return json_is_string(v) ? (json_t *)v : NULL;
}

static void variables_of_folder(const shard_checkpoint *c, json_t *out)
{
    for (size_t i = 0; i < ARRAY_LEN(special_names); i++) {
        json_t *v = token_text(json_object_get(c->tokenizer_config, special_names[i]));
        if (v == NULL)
            v = token_text(json_object_get(c->special_tokens, special_names[i]));
        if (v != NULL)
            json_object_set(out, special_names[i], v);
    }
}

static void variables_of_gguf(shard_gguf *g, json_t *out)
{
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id",       "tokenizer.ggml.eos_token_id", "tokenizer.ggml.unknown_token_id",
                                       "tokenizer.ggml.seperator_token_id", "tokenizer.ggml.padding_token_id", "tokenizer.ggml.cls_token_id",
                                       "tokenizer.ggml.mask_token_id"};
    const char *const *tokens;
    const size_t *lens;
    int64_t n = shard_gguf_str_array(g, "tokenizer.ggml.tokens", &tokens, &lens);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        int32_t id = gguf_id(g, keys[i]);
        if (id >= 0 && id < n)
            json_object_set_new(out, special_names[i], json_stringn(tokens[id], lens[id]));
    }
}

static bool is_default(const char *name)
{
    return name == NULL || strcmp(name, "default") == 0;
}

/* chat_template in JSON: a string (the default one), or a list of {name, template}. */
static const json_t *pick_template(const json_t *v, const char *name)
{
    size_t i;
    json_t *e;
    if (json_is_string(v))
        return is_default(name) ? v : NULL;
    json_array_foreach(v, i, e)
    {
        const char *have = json_string_value(json_object_get(e, "name"));
        if (have != NULL && strcmp(have, is_default(name) ? "default" : name) == 0)
            return json_object_get(e, "template");
    }
    if (is_default(name) && json_array_size(v) == 1)
        return json_object_get(json_array_get(v, 0), "template");
    return NULL;
}

static status copy_text(const char *text, size_t n, const char *where, const char *detail, char **out, size_t *len, char **out_where)
{
    char *copy = malloc(n + 1);
    if (copy == NULL || asprintf(out_where, "%s%s%s", where, detail[0] != '\0' ? ": " : "", detail) < 0) {
        free(copy);
        return FAIL(ST_NO_MEMORY, "%s: out of memory", where);
    }
    memcpy(copy, text, n);
    copy[n] = '\0';
    *out = copy;
    *len = n;
    return ST_OK;
}

static bool plain_name(const char *s)
{
    return s[0] != '\0' && s[0] != '.' && strchr(s, '/') == NULL && strlen(s) < 128;
}

/* A template in a file of its own: *text stays NULL where there is none. */
static status template_file(const shard_checkpoint *c, const char *name, char **text, size_t *len, char **where)
{
    char relative[192], *path;
    if (is_default(name))
        snprintf(relative, sizeof(relative), "chat_template.jinja");
    else if (plain_name(name))
        snprintf(relative, sizeof(relative), "additional_chat_templates/%s.jinja", name);
    else
        return ST_OK;
    path = file_join(c->folder, relative);
    if (path == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", relative);
    status st = ST_OK;
    if (file_exists(path))
        st = file_read_all(path, MAX_TEMPLATE_FILE, text, len);
    if (*text != NULL)
        *where = path;
    else
        free(path);
    return st;
}

static status template_of_folder(const shard_checkpoint *c, const char *name, char **text, size_t *len, char **where)
{
    TRY(template_file(c, name, text, len, where));
    if (*text != NULL)
        return ST_OK;
    json_t *legacy = NULL;
    TRY(load_optional(c, "chat_template.json", &legacy));
    const char *file = "chat_template.json";
    const json_t *v = pick_template(json_object_get(legacy, "chat_template"), name);
    if (v == NULL) {
        file = "tokenizer_config.json";
        v = pick_template(json_object_get(c->tokenizer_config, "chat_template"), name);
    }
    status st = ST_OK;
    char *path = file_join(c->folder, file);
    if (path == NULL)
        st = FAIL(ST_NO_MEMORY, "%s: out of memory", file);
    else if (json_is_string(v))
        st = copy_text(json_string_value(v), json_string_length(v), path, "chat_template", text, len, where);
    free(path);
    json_decref(legacy);
    return st;
}

status shard_checkpoint_template_source(shard_checkpoint *c, const char *name, char **text, size_t *len, char **where)
{
    *text = *where = NULL;
    if (c->gguf == NULL)
        return template_of_folder(c, name, text, len, where);
    char key[192];
    snprintf(key, sizeof(key), "tokenizer.chat_template%s%s", is_default(name) ? "" : ".", is_default(name) ? "" : name);
    const char *source = shard_gguf_str(c->gguf, key);
    return source == NULL ? ST_OK : copy_text(source, strlen(source), c->path, key, text, len, where);
}

/* Names are of files and keys: what names no file cannot be asked for. */
static void add_name(json_t *names, const char *name, size_t len)
{
    size_t i;
    json_t *v;
    char *copy = strndup(name, len);
    bool known = copy == NULL || is_default(copy) || !plain_name(copy);
    json_array_foreach(names, i, v)
        known = known || strcmp(json_string_value(v), copy) == 0;
    if (!known)
        json_array_append_new(names, json_string(copy));
    free(copy);
}

static void add_listed_names(json_t *names, const json_t *config)
{
    size_t i;
    json_t *e;
    json_array_foreach(json_object_get(config, "chat_template"), i, e)
    {
        const char *name = json_string_value(json_object_get(e, "name"));
        if (name != NULL)
            add_name(names, name, strlen(name));
    }
}

static void names_of_folder(const shard_checkpoint *c, json_t *out)
{
    json_t *legacy = NULL;
    status_mute();
    if (load_optional(c, "chat_template.json", &legacy) == ST_OK)
        add_listed_names(out, legacy);
    status_unmute();
    json_decref(legacy);
    add_listed_names(out, c->tokenizer_config);
    char *path = file_join(c->folder, "additional_chat_templates");
    DIR *d = path == NULL ? NULL : opendir(path);
    for (struct dirent *f; d != NULL && (f = readdir(d)) != NULL;) {
        size_t n = strlen(f->d_name);
        if (n > 6 && strcmp(f->d_name + n - 6, ".jinja") == 0)
            add_name(out, f->d_name, n - 6);
    }
    if (d != NULL)
        closedir(d);
    free(path);
}

json_t *shard_checkpoint_template_names(shard_checkpoint *c)
{
    json_t *out = json_array();
    char *text, *where;
    size_t len;
    status_mute();
    if (shard_checkpoint_template_source(c, NULL, &text, &len, &where) == ST_OK && text != NULL) {
        json_array_append_new(out, json_string("default"));
        free(text);
        free(where);
    }
    status_unmute();
    if (c->gguf == NULL) {
        names_of_folder(c, out);
        return out;
    }
    static const char prefix[] = "tokenizer.chat_template.";
    for (size_t i = 0; i < c->gguf->n_values; i++) {
        if (strncmp(c->gguf->values[i].key, prefix, sizeof(prefix) - 1) == 0)
            add_name(out, c->gguf->values[i].key + sizeof(prefix) - 1, strlen(c->gguf->values[i].key + sizeof(prefix) - 1));
    }
    return out;
}

/* ---- the assets ---- */

typedef struct asset_list {
    shard_text_asset *items;
    size_t n;
} asset_list;

/* Takes data (malloc'ed) over, whatever comes of it. */
static status add_asset(asset_list *l, const char *name, const char *where, void *data, size_t len)
{
    shard_text_asset *grown = realloc(l->items, (l->n + 1) * sizeof(*grown));
    if (grown == NULL) {
        free(data);
        return FAIL(ST_NO_MEMORY, "%s: out of memory", name);
    }
    l->items = grown;
    l->items[l->n++] = (shard_text_asset){strdup(name), data, len, strdup(where)};
    return l->items[l->n - 1].name == NULL || l->items[l->n - 1].where == NULL || data == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", name) : ST_OK;
}

static status add_vocab(shard_gguf *g, asset_list *l)
{
    mem_str bytes = {0};
    if (shard_gguf_find(g, "tokenizer.ggml.tokens") == NULL)
        return ST_OK;
    TRY(with_vocab(g, use_as_bytes, &bytes));
    size_t len = bytes.len;
    return add_asset(l, "vocab.bin", g->where, mem_str_take(&bytes), len);
}

static status add_tokenizer_json(const shard_checkpoint *c, asset_list *l)
{
    char *path = file_join(c->folder, "tokenizer.json"), *text = NULL;
    size_t len;
    status st = path == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", c->folder) : ST_OK;
    if (st == ST_OK && file_exists(path)) {
        st = file_read_all(path, MAX_TEXT_FILE, &text, &len);
        if (st == ST_OK)
            st = add_asset(l, "tokenizer.json", path, text, len);
    }
    free(path);
    return st;
}

static status add_templates(shard_checkpoint *c, asset_list *l)
{
    json_t *names = shard_checkpoint_template_names(c), *v;
    size_t i;
    status st = ST_OK;
    json_array_foreach(names, i, v)
    {
        char asset[192], *text, *where;
        size_t len;
        st = shard_checkpoint_template_source(c, json_string_value(v), &text, &len, &where);
        if (st != ST_OK || text == NULL)
            break;
        snprintf(asset, sizeof(asset), "template/%s.jinja", json_string_value(v));
        st = add_asset(l, asset, where, text, len);
        free(where);
        if (st != ST_OK)
            break;
    }
    json_decref(names);
    return st;
}

/* sentence-transformers keeps it beside the model; GGUF has a key of the family's. */
static status pooling_of(const shard_checkpoint *c, shard_pooling *out)
{
    int64_t type;
    char key[64];
    *out = SHARD_POOL_LAST;
    if (c->gguf != NULL) {
        const char *family = shard_gguf_str(c->gguf, "general.architecture");
        snprintf(key, sizeof(key), "%.32s.pooling_type", family == NULL ? "" : family);
        if (shard_gguf_int(c->gguf, key, &type) && type == 1)
            *out = SHARD_POOL_MEAN;
        return ST_OK;
    }
    json_t *config = NULL;
    bool mean = false;
    status st = load_optional(c, "1_Pooling/config.json", &config);
    if (st == ST_OK)
        st = json_get_bool(config, "1_Pooling/config.json", "pooling_mode_mean_tokens", false, &mean);
    *out = mean ? SHARD_POOL_MEAN : SHARD_POOL_LAST;
    json_decref(config);
    return st;
}

static status add_description(shard_checkpoint *c, asset_list *l)
{
    shard_text_info info = {.fim_prefix = -1, .fim_suffix = -1, .fim_middle = -1, .vocab = c->arch.vocab, .max_positions = c->arch.max_positions};
    char *text;
    json_t *variables = json_object();
    snprintf(info.family, sizeof(info.family), "%s", c->arch.family);
    if (c->gguf != NULL) {
        static const char *const keys[][2] = {{"tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"},
                                              {"tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"},
                                              {"tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"}};
        int32_t *const ids[] = {&info.fim_prefix, &info.fim_suffix, &info.fim_middle};
        for (size_t i = 0; i < ARRAY_LEN(keys); i++)
            *ids[i] = gguf_id(c->gguf, keys[i][0]) >= 0 ? gguf_id(c->gguf, keys[i][0]) : gguf_id(c->gguf, keys[i][1]);
        variables_of_gguf(c->gguf, variables);
    } else {
        variables_of_folder(c, variables);
    }
    status st = pooling_of(c, &info.pooling);
    if (st == ST_OK)
        st = shard_text_describe(&info, &c->generation, variables, &text);
    if (st == ST_OK)
        st = add_asset(l, "text.json", "text.json", text, strlen(text));
    json_decref(variables);
    return st;
}

status shard_checkpoint_text_assets(shard_checkpoint *c, shard_text_asset **assets, size_t *n)
{
    asset_list l = {0};
    status st = c->gguf != NULL ? add_vocab(c->gguf, &l) : add_tokenizer_json(c, &l);
    if (st == ST_OK)
        st = add_templates(c, &l);
    if (st == ST_OK)
        st = add_description(c, &l);
    if (st != ST_OK) {
        shard_text_assets_free(l.items, l.n);
        return st;
    }
    *assets = l.items;
    *n = l.n;
    return ST_OK;
}

status shard_checkpoint_text(shard_checkpoint *c, const shard_text **out)
{
    status st = ST_OK;
    pthread_mutex_lock(&c->lock);
    if (c->text == NULL) {
        shard_text_asset *assets;
        size_t n;
        st = shard_checkpoint_text_assets(c, &assets, &n);
        if (st == ST_OK) {
            st = shard_text_create_lazy(c->path, assets, n, &c->text);
            shard_text_assets_free(assets, n);
        }
    }
    *out = c->text;
    pthread_mutex_unlock(&c->lock);
    return st;
}

status shard_checkpoint_template_named(shard_checkpoint *c, const char *name, const shard_template **out, const json_t **variables)
{
    const shard_text *t;
    TRY(shard_checkpoint_text(c, &t));
    return shard_text_template(t, name, out, variables);
}

status shard_checkpoint_template(shard_checkpoint *c, const shard_template **out, const json_t **variables)
{
    return shard_checkpoint_template_named(c, NULL, out, variables);
}
