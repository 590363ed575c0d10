/* shard/checkpoint.c - from a name to an open checkpoint: what it is, its files, its architecture, and which tensor plays which role. */
#include "shard/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
#include "shard/hub.h"
#include "shard/pack.h"
#include "shard/safetensors.h"

enum { MAX_CONFIG_BYTES = 16 << 20, MAX_INDEX_BYTES = 64 << 20 };

/* ---- files ---- */

static status open_file_of(const char *path, int *fd)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd >= 0)
        return ST_OK;
    return FAIL(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s: %s%s", path, strerror(errno),
                errno == ENOENT ? "; the checkpoint is incomplete: fetch it again" : "");
}

status shard_checkpoint_add_file(shard_checkpoint *c, const char *path, bool later, int32_t *index)
{
    struct stat sb;
    shard_file *files = realloc(c->files, (size_t)(c->n_files + 1) * sizeof(*files)), *f;
    if (files == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", path);
    c->files = files;
    f = &files[c->n_files];
    *f = (shard_file){.fd = -1};
    TRY(open_file_of(path, &f->fd));
    f->path = strdup(path);
    status st = f->path == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", path) : ST_OK;
    if (st == ST_OK && (fstat(f->fd, &sb) != 0 || !S_ISREG(sb.st_mode)))
        st = FAIL(ST_IO, "%s: not a regular file", path);
    if (st != ST_OK || later) {
        close(f->fd);
        f->fd = -1;
    }
    if (st != ST_OK) {
        free(f->path);
        return st;
    }
    f->bytes = (uint64_t)sb.st_size;
    *index = c->n_files++;
    return ST_OK;
}

status shard_checkpoint_file_fd(shard_checkpoint *c, int32_t index, int *fd)
{
    shard_file *f = &c->files[index];
    pthread_mutex_lock(&c->lock);
    status st = f->fd >= 0 ? ST_OK : open_file_of(f->path, &f->fd);
    *fd = f->fd;
    pthread_mutex_unlock(&c->lock);
    return st;
}

static status add_safetensors(shard_checkpoint *c, const char *path)
{
    int32_t index;
    uint8_t first[8];
    char *json;
    uint64_t header;
    TRY(shard_checkpoint_add_file(c, path, false, &index));
    shard_file *f = &c->files[index];
    if (f->bytes < 8)
        return FAIL(ST_FORMAT, "%s: %llu bytes are too few for a safetensors file; fetch it again", path, (unsigned long long)f->bytes);
    TRY(file_read_at(f->fd, path, 0, first, 8));
    TRY(shard_safetensors_header_bytes(path, first, f->bytes, &header));
    TRY(mem_calloc((size_t)header + 1, 1, path, &json));
    status st = file_read_at(f->fd, path, 8, json, (size_t)header);
    if (st == ST_OK)
        st = shard_safetensors_parse(path, json, (size_t)header, f->bytes, index, &c->tensors);
    free(json);
    f->header_bytes = 8 + header;
    return st;
}

static bool all_there(const char *folder, const char *const *names, size_t n)
{
    bool all = true;
    for (size_t i = 0; all && i < n; i++) {
        char *path = file_join(folder, names[i]);
        all = path != NULL && file_exists(path);
        free(path);
    }
    return all;
}

/* A folder without all of its files still has a configuration to plan with: `optional` then adds none. */
static status add_indexed(shard_checkpoint *c, const char *index_path, bool optional)
{
    json_t *index;
    const char **names = NULL;
    size_t n = 0;
    TRY(json_parse_file(index_path, MAX_INDEX_BYTES, &index));
    status st = shard_safetensors_index_files(index_path, index, &names, &n);
    if (st == ST_OK && optional && !all_there(c->folder, names, n)) {
        free(names);
        json_decref(index);
        return ST_OK;
    }
    for (size_t i = 0; st == ST_OK && i < n; i++) {
        char *path = file_join(c->folder, names[i]);
        st = path == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", index_path) : add_safetensors(c, path);
        free(path);
    }
    if (st == ST_OK)
        st = shard_safetensors_index_check(index_path, index, &c->tensors, names);
    free(names);
    json_decref(index);
    return st;
}

/* ---- what the folder holds ---- */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcasecmp(s + n - m, end) == 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void free_names(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

/* Sorted names in the folder that end in `suffix`. */
static status list_folder(const char *folder, const char *suffix, char ***out, size_t *n)
{
    DIR *d = opendir(folder);
    char **names = NULL;
    size_t count = 0;
    status st = ST_OK;
    if (d == NULL)
        return FAIL(ST_IO, "%s: %s", folder, strerror(errno));
    for (struct dirent *e; st == ST_OK && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.' || !ends_with(e->d_name, suffix))
            continue;
        char **grown = realloc(names, (count + 1) * sizeof(*names));
        if (grown != NULL)
            names = grown;
        if (grown == NULL || (names[count] = strdup(e->d_name)) == NULL)
            st = FAIL(ST_NO_MEMORY, "%s: out of memory", folder);
        else
            count++;
    }
    closedir(d);
    if (st != ST_OK) {
        free_names(names, count);
        return st;
    }
    if (count > 1)
        qsort(names, count, sizeof(*names), by_name);
    *out = names;
    *n = count;
    return ST_OK;
}

static bool folder_has(const char *folder, const char *suffix)
{
    char **names;
    size_t n;
    if (list_folder(folder, suffix, &names, &n) != ST_OK)
        return false;
    free_names(names, n);
    return n > 0;
}

static char *existing(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    if (path != NULL && !file_exists(path)) {
        free(path);
        path = NULL;
    }
    return path;
}

static status fail_no_weights(const shard_checkpoint *c)
{
    if (folder_has(c->folder, ".bin") || folder_has(c->folder, ".pt") || folder_has(c->folder, ".pth"))
        return FAIL(ST_UNSUPPORTED,
                    "%s: holds weights as Python pickles, which can run code when read and are refused; convert them: in Python, "
                    "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR)",
                    c->folder);
    return FAIL(ST_NOT_FOUND, "%s: no model.safetensors and no model.safetensors.index.json in it", c->folder);
}

/* A single file, the files of an index, or the only .safetensors there is. */
static status add_weights(shard_checkpoint *c, bool optional)
{
    char *single = existing(c->folder, "model.safetensors"), *index = existing(c->folder, "model.safetensors.index.json");
    status st;
    if (single != NULL) {
        st = add_safetensors(c, single);
    } else if (index != NULL) {
        st = add_indexed(c, index, optional);
    } else {
        char **names = NULL;
        size_t n = 0;
        st = list_folder(c->folder, ".safetensors", &names, &n);
        if (st == ST_OK && n == 1) {
            single = file_join(c->folder, names[0]);
            st = single == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", c->folder) : add_safetensors(c, single);
        } else if (st == ST_OK && !(optional && n == 0)) {
            st = n == 0 ? fail_no_weights(c)
                        : FAIL(ST_INVALID, "%s: %zu .safetensors files but no model.safetensors.index.json that says which belong together", c->folder, n);
        }
        free_names(names, n);
    }
    free(single);
    free(index);
    c->has_weights = c->n_files > 0;
    return st;
}

/* ---- roles ---- */

shard_role shard_checkpoint_stored_role(const shard_checkpoint *c, shard_role role)
{
    return role == SHARD_HEAD && c->arch.tied_embeddings ? SHARD_TOKEN_EMBED : role;
}

const shard_bound *shard_checkpoint_bound(const shard_checkpoint *c, shard_role role, int32_t layer)
{
    role = shard_checkpoint_stored_role(c, role);
    if (c->bound == NULL || role < 0 || role >= SHARD_ROLES || layer >= c->arch.n_layers)
        return NULL;
    return &c->bound[(size_t)(shard_role_in_layer(role) ? layer : 0) * SHARD_ROLES + role];
}

static bool has_tensor(void *arg, const char *name)
{
    return shard_tensors_find(&((shard_checkpoint *)arg)->tensors, name) != NULL;
}

const char *shard_checkpoint_role_text(shard_role role, int32_t layer, char out[96])
{
    if (shard_role_in_layer(role))
        snprintf(out, 96, "%s of layer %d", shard_role_name(role), layer);
    else
        snprintf(out, 96, "%s", shard_role_name(role));
    return out;
}

/* The tensor must have the shape the architecture calls for; vectors may be stored with any dimensions. */
static status check_shape(const shard_checkpoint *c, const shard_tensor *t, const shard_stored *s, shard_role role)
{
    bool ok;
    if (shard_role_is_vector(role)) {
        ok = t->elements == s->stored_rows * (s->stored_cols > 0 ? s->stored_cols : 1) && shard_dtype_block(t->dtype) == 1;
    } else {
        int64_t inner = t->n_dims > 0 ? t->dims[t->n_dims - 1] : 1, outer = inner > 0 ? t->elements / inner : 0;
        ok = s->transposed ? outer == s->stored_cols && inner == s->stored_rows : outer == s->stored_rows && inner == s->stored_cols;
    }
    if (ok)
        return ST_OK;
    char shape[160];
    return FAIL(ST_FORMAT, "%s: tensor %s has the shape %s (%s), the configuration calls for [%lld, %lld]: the two do not belong together",
                c->files[t->file].path, t->name, shard_tensor_shape_text(t, shape), shard_dtype_name(t->dtype),
                (long long)(s->transposed ? s->stored_cols : s->stored_rows), (long long)(s->transposed ? s->stored_rows : s->stored_cols));
}

/* The role's rows must lie inside the stored tensor; a failure is a descriptor's fault or a configuration that contradicts itself. */
static status check_rows(const shard_checkpoint *c, const shard_bound *b)
{
    bool ok = b->row_begin >= 0 && b->rows >= 0 && (b->cols == b->stored_cols || b->cols == 1);
    int64_t rows = b->cols == 1 && b->stored_cols > 1 ? b->stored_rows * b->stored_cols : b->stored_rows, need = b->rows;
    switch (b->map) {
    case SHARD_ROWS_PLAIN:
        break;
    case SHARD_ROWS_GROUPED:
        ok = ok && b->group_take > 0 && b->group_begin >= 0 && b->group_begin + b->group_take <= b->group_rows && b->rows % b->group_take == 0;
        need = ok ? b->rows / b->group_take * b->group_rows : 0;
        break;
    case SHARD_ROWS_ROTARY:
        ok = ok && b->group_rows > 0 && b->rotary >= 0 && b->rotary % 2 == 0 && b->rotary <= b->group_rows && b->rows % b->group_rows == 0;
        break;
    }
    if (!ok || b->row_begin > rows || need > rows - b->row_begin)
        return FAIL(ST_FORMAT, "%s: tensor %s cannot hold the %lld rows it should: the configuration contradicts itself", c->path, b->tensor->name,
                    (long long)b->rows);
    return ST_OK;
}

/* One tensor for each head: all must be there, alike in shape and type. */
static status bind_pieces(shard_checkpoint *c, const shard_stored *s, shard_role role, shard_bound *b)
{
    if (!shard_role_is_vector(role) || s->map != SHARD_ROWS_PLAIN || b->rows != s->pieces * s->stored_rows)
        return FAIL(ST_INTERNAL, "%s: %s: only whole vectors can be kept in several tensors", c->path, s->name);
    b->pieces = s->pieces;
    b->piece = mem_arena_alloc(c->tensors.arena, (size_t)s->pieces * sizeof(*b->piece));
    if (b->piece == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", c->path);
    for (int32_t i = 0; i < s->pieces; i++) {
        char name[192];
        shard_stored_piece(s, i, name);
        b->piece[i] = shard_tensors_find(&c->tensors, name);
        if (b->piece[i] == NULL)
            return FAIL(ST_FORMAT, "%s: tensor %s is missing: the checkpoint is incomplete; fetch it again", c->path, name);
        TRY(check_shape(c, b->piece[i], s, role));
    }
    b->tensor = b->piece[0];
    return ST_OK;
}

static status check_type(const shard_checkpoint *c, const shard_bound *b, packed_type *out)
{
    const shard_tensor *t = b->tensor;
    *out = shard_dtype_packed(t->dtype);
    if (*out == PACKED_TYPES && shard_pack_possible(t->dtype, PACKED_F32))
        *out = PACKED_F32;
    if (*out == PACKED_TYPES || (b->transposed && (shard_dtype_block(t->dtype) > 1 || t->dtype == SHARD_F8_E4M3)))
        return FAIL(ST_UNSUPPORTED, "%s: tensor %s is stored as %s, which this tensor's role cannot be read from; supported are F32, F16, BF16 and F8_E4M3%s",
                    c->files[t->file].path, t->name, shard_dtype_name(t->dtype), c->source == SHARD_SOURCE_GGUF ? " and the GGUF block types" : "");
    return ST_OK;
}

/* The scales that a file keeps beside an fp8 weight: one, one a row, or one for each block whose size the configuration tells. */
static status bind_scale(shard_checkpoint *c, shard_bound *b)
{
    static const char *const names[] = {"%.*s.weight_scale_inv", "%.*s.weight_scale"};
    const shard_tensor *t = b->tensor, *s = NULL;
    size_t len = strlen(t->name), stem = len > 7 ? len - 7 : 0;
    char name[SHARD_MAX_NAME + 24], shape[160];
    for (size_t i = 0; s == NULL && stem > 0 && strcmp(t->name + stem, ".weight") == 0 && i < ARRAY_LEN(names); i++) {
        snprintf(name, sizeof(name), names[i], (int)stem, t->name);
        s = shard_tensors_find(&c->tensors, name);
    }
    int64_t rows = b->stored_rows, cols = b->stored_cols, br = 0, bc = 0;
    json_t *q, *block;
    TRY(json_get_obj(c->config, c->path, "quantization_config", &q));
    if (s == NULL && q != NULL)
        return FAIL(ST_FORMAT, "%s: tensor %s is fp8, and there is no %.*s.weight_scale_inv or weight_scale beside it: the checkpoint is incomplete; fetch it again",
                    c->files[t->file].path, t->name, (int)stem, t->name);
    if (s == NULL)
        return ST_OK; /* as they are */
    block = json_object_get(q, "weight_block_size");
    if (s->elements == 1) {
        br = rows, bc = cols;
    } else if (s->elements == rows && s->dims[0] == rows) {
        br = 1, bc = cols;
    } else if (json_array_size(block) == 2 && json_is_integer(json_array_get(block, 0)) && json_is_integer(json_array_get(block, 1))) {
        br = json_integer_value(json_array_get(block, 0)), bc = json_integer_value(json_array_get(block, 1));
        if (br < 1 || bc < 1 || br > INT32_MAX || bc > INT32_MAX)
            return FAIL(ST_FORMAT, "%s: weight_block_size: [%lld, %lld]", c->path, (long long)br, (long long)bc);
        if (s->n_dims != 2 || s->dims[0] != (rows + br - 1) / br || s->dims[1] != (cols + bc - 1) / bc)
            br = 0;
        if (bc < cols && bc % PACKED_F8_SUPER != 0)
            return FAIL(ST_UNSUPPORTED, "%s: weight_block_size: blocks of %lld columns; multiples of %d are supported", c->path, (long long)bc, PACKED_F8_SUPER);
    }
    bool number = s->dtype == SHARD_F32 || s->dtype == SHARD_BF16 || s->dtype == SHARD_F16;
    if (br == 0 || !number)
        return FAIL(number ? ST_FORMAT : ST_UNSUPPORTED, "%s: tensor %s %s (%s) cannot be the scales of a weight [%lld, %lld]", c->files[s->file].path, s->name,
                    shard_tensor_shape_text(s, shape), shard_dtype_name(s->dtype), (long long)rows, (long long)cols);
    b->scale = s;
    b->scale_rows = br;
    b->scale_cols = bc;
    return ST_OK;
}

static status bind_role(shard_checkpoint *c, shard_role role, int32_t layer)
{
    char text[96];
    int64_t rows, cols;
    shard_stored s = {0};
    if (!shard_role_shape(&c->arch, role, &rows, &cols) || shard_checkpoint_stored_role(c, role) != role)
        return ST_OK;
    if (!shard_arch_stored(&c->arch, c->source == SHARD_SOURCE_GGUF, role, layer, has_tensor, c, &s))
        return FAIL(ST_UNSUPPORTED, "%s: family %s: it is not known where %s files keep %s", c->path, c->arch.family,
                    c->source == SHARD_SOURCE_GGUF ? "GGUF" : "Hugging Face", shard_checkpoint_role_text(role, layer, text));
    size_t at = (size_t)layer * SHARD_ROLES + role;
    if (s.pieces > 0) {
        c->bound[at] = (shard_bound){.rows = rows, .cols = cols, .stored_rows = s.stored_rows, .stored_cols = s.stored_cols, .add = s.add};
        return bind_pieces(c, &s, role, &c->bound[at]);
    }
    const shard_tensor *t = shard_tensors_find(&c->tensors, s.name);
    if (t == NULL)
        return FAIL(ST_FORMAT, "%s: tensor %s (%s) is missing: the checkpoint is incomplete; fetch it again", c->path, s.name,
                    shard_checkpoint_role_text(role, layer, text));
    TRY(check_shape(c, t, &s, role));
    c->bound[at] = (shard_bound){.tensor = t, .rows = rows, .cols = cols, .stored_rows = s.stored_rows, .stored_cols = s.stored_cols,
                                 .transposed = s.transposed, .map = s.map, .row_begin = s.row_begin, .group_rows = s.group_rows,
                                 .group_begin = s.group_begin, .group_take = s.group_take, .rotary = s.rotary, .add = s.add};
    TRY(check_rows(c, &c->bound[at]));
    if (!shard_role_is_vector(role)) {
        packed_type type;
        TRY(check_type(c, &c->bound[at], &type));
        c->types_of[at] = (uint8_t)type;
        if (t->dtype == SHARD_F8_E4M3)
            TRY(bind_scale(c, &c->bound[at]));
    }
    return ST_OK;
}

static status bind_all(shard_checkpoint *c)
{
    size_t n = (size_t)c->arch.n_layers * SHARD_ROLES;
    TRY(mem_calloc(n, sizeof(*c->bound), "tensor roles", &c->bound));
    TRY(mem_calloc(n, 1, "tensor types", &c->types_of));
    for (int role = 0; role < SHARD_ROLES; role++) {
        int32_t layers = shard_role_in_layer((shard_role)role) ? c->arch.n_layers : 1;
        for (int32_t layer = 0; layer < layers; layer++)
            TRY(bind_role(c, (shard_role)role, layer));
    }
    if (c->arch.tied_embeddings)
        c->types_of[SHARD_HEAD] = c->types_of[SHARD_TOKEN_EMBED];
    c->types = (shard_types){.dflt = PACKED_F32, .of = c->types_of};
    return ST_OK;
}

/* Without weights: the type the configuration says they have. */
static status types_of_config(shard_checkpoint *c)
{
    const char *name;
    TRY(json_get_str(c->config, c->path, "torch_dtype", NULL, &name));
    if (name == NULL)
        TRY(json_get_str(c->config, c->path, "dtype", "float32", &name));
    bool bf16 = strcmp(name, "bfloat16") == 0, f16 = strcmp(name, "float16") == 0;
    c->types = (shard_types){.dflt = bf16 ? PACKED_BF16 : f16 ? PACKED_F16 : PACKED_F32};
    json_t *q = json_object_get(c->config, "quantization_config");
    if (q == NULL || !shard_config_is_f8(q))
        return ST_OK;
    size_t n = (size_t)c->arch.n_layers * SHARD_ROLES;
    TRY(mem_calloc(n, 1, "tensor types", &c->types_of));
    for (size_t i = 0; i < n; i++) /* the matrices of the layers; what lies outside is left as it is */
        c->types_of[i] = (uint8_t)(shard_role_in_layer((shard_role)(i % SHARD_ROLES)) ? PACKED_F8 : c->types.dflt);
    c->types.of = c->types_of;
    return ST_OK;
}

/* ---- Hugging Face folders ---- */

static status open_config(shard_checkpoint *c, const char *config_path)
{
    TRY(json_parse_file(config_path, MAX_CONFIG_BYTES, &c->config));
    if (!json_is_object(c->config))
        return FAIL(ST_FORMAT, "%s: must be a JSON object", config_path);
    if (c->to_plan) {
        TRY(shard_arch_to_plan(config_path, c->config, &c->arch));
        if (c->arch.n_experts > 0 || c->arch.kv_latent > 0) /* its tensors have no roles yet */
            return types_of_config(c);
    }
    TRY(shard_arch_from_config(config_path, c->config, c->has_weights ? has_tensor : NULL, c, &c->arch));
    if (!c->has_weights)
        return types_of_config(c);
    return bind_all(c);
}

static status open_hf(shard_checkpoint *c, bool config_only)
{
    char *config = file_join(c->folder, "config.json");
    if (config == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", c->folder);
    status st = ST_OK;
    if (!file_exists(config))
        st = FAIL(ST_NOT_FOUND, "%s: no config.json in it, so it is no Hugging Face checkpoint", c->folder);
    if (st == ST_OK)
        st = add_weights(c, config_only);
    if (st == ST_OK)
        st = open_config(c, config);
    free(config);
    return st;
}

/* ---- GGUF ---- */

static bool meta_int(void *arg, const char *key, int64_t *out) { return shard_gguf_int(((shard_checkpoint *)arg)->gguf, key, out); }
static bool meta_f64(void *arg, const char *key, double *out) { return shard_gguf_f64(((shard_checkpoint *)arg)->gguf, key, out); }
static bool meta_bool(void *arg, const char *key, bool *out) { return shard_gguf_bool(((shard_checkpoint *)arg)->gguf, key, out); }
static const char *meta_str(void *arg, const char *key) { return shard_gguf_str(((shard_checkpoint *)arg)->gguf, key); }
static int64_t meta_int_array(void *arg, const char *key, const int64_t **out)
{
    return shard_gguf_int_array(((shard_checkpoint *)arg)->gguf, key, out);
}
static int64_t meta_f64_array(void *arg, const char *key, const double **out)
{
    return shard_gguf_f64_array(((shard_checkpoint *)arg)->gguf, key, out);
}

static bool meta_shape(void *arg, const char *name, int64_t *rows, int64_t *cols)
{
    const shard_tensor *t = shard_tensors_find(&((shard_checkpoint *)arg)->tensors, name);
    if (t == NULL)
        return false;
    int64_t inner = t->n_dims > 0 ? t->dims[t->n_dims - 1] : 1;
    *rows = t->n_dims > 1 ? (inner > 0 ? t->elements / inner : 0) : inner;
    *cols = t->n_dims > 1 ? inner : 1;
    return true;
}

static status meta_f32(void *arg, const char *name, int64_t *n, float **out)
{
    enum { MAX_VALUES = 1 << 20 };
    shard_checkpoint *c = arg;
    const shard_tensor *t = shard_tensors_find(&c->tensors, name);
    if (t == NULL)
        return FAIL(ST_NOT_FOUND, "%s: tensor %s is missing", c->path, name);
    if (t->elements > MAX_VALUES || shard_dtype_block(t->dtype) != 1)
        return FAIL(ST_FORMAT, "%s: tensor %s: %lld values of type %s where a few floats should be", c->path, name, (long long)t->elements,
                    shard_dtype_name(t->dtype));
    void *raw = NULL;
    float *values = NULL;
    if (c->cut != NULL)
        return shard_cut_values(c, name, t->elements, n, out);
    status st = mem_calloc((size_t)t->bytes + 1, 1, name, &raw);
    if (st == ST_OK)
        st = mem_calloc((size_t)t->elements + 1, sizeof(float), name, &values);
    if (st == ST_OK)
        st = shard_checkpoint_read_bytes(c, t, 0, raw, (size_t)t->bytes);
    if (st == ST_OK)
        st = shard_unpack_f32(t->dtype, raw, 0, t->elements, values);
    free(raw);
    if (st != ST_OK) {
        free(values);
        return st;
    }
    *n = t->elements;
    *out = values;
    return ST_OK;
}

static status add_gguf(shard_checkpoint *c, const char *path, shard_gguf **out)
{
    int32_t index;
    TRY(shard_checkpoint_add_file(c, path, false, &index));
    TRY(shard_gguf_read(path, c->files[index].fd, c->files[index].bytes, index, &c->tensors, out));
    c->files[index].header_bytes = (*out)->data_begin;
    return ST_OK;
}

/* NAME-00001-of-00003.gguf: the part number's place in the path, or NULL. */
static char *part_number(char *path)
{
    size_t n = strlen(path);
    char *p = n > 20 ? path + n - 20 : NULL; /* "-00001-of-00003.gguf" */
    if (p == NULL || p[0] != '-' || strncmp(p + 6, "-of-", 4) != 0 || strcasecmp(p + 15, ".gguf") != 0 || strspn(p + 1, "0123456789") != 5 ||
        strspn(p + 10, "0123456789") != 5)
        return NULL;
    return p + 1;
}

static status add_part(shard_checkpoint *c, const char *path, int64_t part, int64_t count)
{
    shard_gguf *g;
    int64_t no = 0, of = 0;
    TRY(add_gguf(c, path, &g));
    bool ok = shard_gguf_int(g, "split.no", &no) && shard_gguf_int(g, "split.count", &of) && no == part && of == count;
    shard_gguf_destroy(&g);
    return ok ? ST_OK : FAIL(ST_FORMAT, "%s: its split.no and split.count do not say part %lld of %lld: it belongs to another set", path,
                             (long long)part + 1, (long long)count);
}

/* The other parts of a split set, named after the first. */
static status add_parts(shard_checkpoint *c)
{
    int64_t no = 0, count = 1, tensors = -1;
    shard_gguf_int(c->gguf, "split.count", &count);
    shard_gguf_int(c->gguf, "split.no", &no);
    shard_gguf_int(c->gguf, "split.tensors.count", &tensors);
    if (count <= 1)
        return ST_OK;
    if (count > 99999)
        return FAIL(ST_FORMAT, "%s: split.count is %lld", c->path, (long long)count);
    if (no != 0)
        return FAIL(ST_INVALID, "%s: is part %lld of %lld; name the first part (...-00001-of-%05lld.gguf)", c->path, (long long)no + 1,
                    (long long)count, (long long)count);
    char *path = strdup(c->path), *number = path == NULL ? NULL : part_number(path);
    if (number == NULL || atoi(number + 9) != count) {
        free(path);
        return FAIL(ST_FORMAT, "%s: is one of %lld parts, but is not named NAME-00001-of-%05lld.gguf, so the others cannot be found", c->path,
                    (long long)count, (long long)count);
    }
    status st = ST_OK;
    for (int64_t i = 1; st == ST_OK && i < count; i++) {
        char digits[8];
        snprintf(digits, sizeof(digits), "%05d", (int)(i + 1));
        memcpy(number, digits, 5);
        st = add_part(c, path, i, count);
    }
    free(path);
    if (st == ST_OK && tensors >= 0 && (uint64_t)tensors != c->tensors.n)
        st = FAIL(ST_FORMAT, "%s: its parts hold %zu tensors, split.tensors.count says %lld", c->path, c->tensors.n, (long long)tensors);
    return st;
}

static status arch_of_gguf(shard_checkpoint *c)
{
    shard_meta meta = {.arg = c, .get_int = meta_int, .get_f64 = meta_f64, .get_bool = meta_bool, .get_str = meta_str,
                       .get_int_array = meta_int_array, .get_f64_array = meta_f64_array, .tensor_shape = meta_shape, .tensor_f32 = meta_f32};
    return shard_arch_from_gguf(c->path, &meta, &c->arch);
}

status shard_checkpoint_open_config(shard_checkpoint *c)
{
    char *metadata = existing(c->folder, "metadata.gguf"), *config = file_join(c->folder, "config.json");
    status st = ST_OK;
    if (metadata != NULL) {
        st = add_gguf(c, metadata, &c->gguf);
        if (st == ST_OK)
            st = arch_of_gguf(c);
    } else if (config != NULL) {
        st = json_parse_file(config, MAX_CONFIG_BYTES, &c->config);
        if (st == ST_OK)
            st = shard_arch_from_config(config, c->config, has_tensor, c, &c->arch);
    }
    free(metadata);
    free(config);
    return st;
}

static status open_gguf(shard_checkpoint *c)
{
    c->source = SHARD_SOURCE_GGUF;
    c->has_weights = true;
    TRY(add_gguf(c, c->path, &c->gguf));
    TRY(add_parts(c));
    TRY(arch_of_gguf(c));
    return bind_all(c);
}

/* ---- what a name is ---- */

static bool is_gguf_file(const char *path)
{
    char magic[4] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    bool yes = pread(fd, magic, 4, 0) == 4 && memcmp(magic, "GGUF", 4) == 0;
    close(fd);
    return yes;
}

static status open_file(shard_checkpoint *c, bool config_only)
{
    if (ends_with(c->path, ".gguf") || is_gguf_file(c->path))
        return open_gguf(c);
    if (ends_with(c->path, ".json")) {
        if (!config_only)
            return FAIL(ST_INVALID, "%s: a configuration alone has no weights; name the folder it lies in", c->path);
        return open_config(c, c->path);
    }
    if (ends_with(c->path, ".safetensors"))
        return FAIL(ST_INVALID, "%s: holds weights only; name the folder that has its config.json too", c->path);
    return FAIL(ST_UNSUPPORTED, "%s: neither a GGUF file nor a folder with config.json", c->path);
}

/* A folder without config.json that holds one GGUF file (or one split set) means that file. */
static status gguf_in_folder(shard_checkpoint *c, bool *found)
{
    char **names = NULL, *config = existing(c->folder, "config.json");
    size_t n = 0, firsts = 0, first = 0;
    *found = false;
    if (config != NULL) {
        free(config);
        return ST_OK;
    }
    TRY(list_folder(c->folder, ".gguf", &names, &n));
    for (size_t i = 0; i < n; i++) {
        char *number = part_number(names[i]);
        if (number != NULL && strncmp(number, "00001", 5) != 0)
            continue;
        first = firsts++ == 0 ? i : first;
    }
    status st = ST_OK;
    if (firsts > 1)
        st = FAIL(ST_INVALID, "%s: holds %zu GGUF models; name one of them, for example %s/%s", c->folder, firsts, c->folder, names[first]);
    if (firsts == 1) {
        free(c->path);
        c->path = file_join(c->folder, names[first]);
        *found = c->path != NULL;
        if (c->path == NULL)
            st = FAIL(ST_NO_MEMORY, "%s: out of memory", c->folder);
    }
    free_names(names, n);
    return st;
}

static status open_path(shard_checkpoint *c, bool config_only)
{
    bool gguf;
    if (!file_is_dir(c->path)) {
        const char *slash = strrchr(c->path, '/');
        c->folder = slash == NULL ? strdup(".") : strndup(c->path, slash == c->path ? 1 : (size_t)(slash - c->path));
        return c->folder == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", c->path) : open_file(c, config_only);
    }
    c->folder = strdup(c->path);
    if (c->folder == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", c->path);
    if (shard_cut_is(c->folder))
        return shard_cut_open(c);
    TRY(gguf_in_folder(c, &gguf));
    return gguf ? open_gguf(c) : open_hf(c, config_only);
}

static status open_model(shard_checkpoint *c, const shard_open_options *o)
{
    if (file_exists(c->model)) {
        c->path = strdup(c->model);
        return c->path == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", c->model) : open_path(c, o->config_only);
    }
    shard_hub_name name;
    if (!shard_hub_name_parse(c->model, &name))
        return FAIL(ST_NOT_FOUND, "%s: no such file or folder (and not a hub name, which looks like ORG/NAME or ORG/NAME:FILE.gguf)", c->model);
    shard_hub_options hub = {.revision = o->revision, .offline = o->offline, .config_only = o->config_only};
    shard_hub_result r;
    TRY(shard_hub_fetch(&name, &hub, &r));
    c->path = r.path;
    c->revision = r.commit;
    c->hub_name = strdup(name.repo);
    return c->hub_name == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", c->model) : open_path(c, o->config_only);
}

status shard_checkpoint_open(const char *model, const shard_open_options *options, shard_checkpoint **out)
{
    static const shard_open_options none;
    shard_checkpoint *c;
    TRY(mem_calloc(1, sizeof(*c), model, &c));
    pthread_mutex_init(&c->lock, NULL);
    c->model = strdup(model);
    c->types_f32 = (shard_types){.dflt = PACKED_F32};
    c->to_plan = options != NULL && options->config_only && options->to_plan;
    status st = c->model == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", model) : shard_tensors_init(&c->tensors);
    if (st == ST_OK)
        st = open_model(c, options == NULL ? &none : options);
    if (st == ST_OK)
        st = shard_checkpoint_load_text(c);
    if (st != ST_OK) {
        shard_checkpoint_close(&c);
        return st;
    }
    *out = c;
    return ST_OK;
}

void shard_checkpoint_close(shard_checkpoint **checkpoint)
{
    shard_checkpoint *c = *checkpoint;
    if (c == NULL)
        return;
    *checkpoint = NULL;
    shard_checkpoint_close_text(c);
    shard_cut_close(&c->cut);
    for (int32_t i = 0; i < c->n_files; i++) {
        if (c->files[i].fd >= 0)
            close(c->files[i].fd);
        free(c->files[i].path);
    }
    for (shard_scratch *s = c->scratch, *next; s != NULL; s = next) {
        next = s->next;
        free(s);
    }
    shard_gguf_destroy(&c->gguf);
    shard_tensors_free(&c->tensors);
    json_decref(c->config);
    free(c->files);
    free(c->bound);
    free(c->types_of);
    free(c->model);
    free(c->folder);
    free(c->path);
    free(c->hub_name);
    free(c->revision);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

const shard_arch *shard_checkpoint_arch(const shard_checkpoint *c)
{
    return &c->arch;
}

const shard_types *shard_checkpoint_types(const shard_checkpoint *c, bool f32)
{
    return f32 ? &c->types_f32 : &c->types;
}

void shard_checkpoint_io_stats(const shard_checkpoint *c, shard_io_stats *out)
{
    *out = (shard_io_stats){.bytes_read = atomic_load(&c->bytes_read), .bytes_needed = atomic_load(&c->bytes_needed),
                            .tensors_read = atomic_load(&c->tensors_read)};
}

const shard_generation *shard_checkpoint_generation(const shard_checkpoint *c)
{
    return &c->generation;
}
