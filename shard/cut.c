/* shard/cut.c - opening, reading and checking a folder that `trireme shard` wrote (see cut.h). */
#include "shard/cut.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "shard/checkpoint_internal.h"
#include "shard/jobs.h"

#define MAX_MANIFEST ((size_t)1 << 30)
enum { MAX_RANKS = 1 << 16, HASH_CHUNK = 1 << 20 };

bool shard_cut_is(const char *folder)
{
    char *path = file_join(folder, "manifest.json");
    bool yes = path != NULL && file_exists(path);
    free(path);
    return yes;
}

/* ---- the manifest ---- */

static status get_pair(const json_t *o, const char *where, const char *key, int64_t max, shard_slice *out)
{
    json_t *v = json_object_get(o, key);
    const json_t *b = json_array_get(v, 0), *e = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_integer(b) || !json_is_integer(e) || json_integer_value(b) < 0 ||
        json_integer_value(e) < json_integer_value(b) || json_integer_value(e) > max)
        return FAIL(ST_FORMAT, "%s: %s must be [begin, end] within %lld", where, key, (long long)max);
    *out = (shard_slice){json_integer_value(b), json_integer_value(e)};
    return ST_OK;
}

static shard_role role_of(const char *name)
{
    int r = 0;
    while (r < SHARD_ROLES && (name == NULL || strcmp(shard_role_name((shard_role)r), name) != 0))
        r++;
    return (shard_role)r;
}

static status parse_matrix(const json_t *o, const char *where, int64_t cols, shard_cut_entry *e)
{
    const char *type;
    int32_t phase;
    TRY(json_get_str(o, where, "type", "", &type));
    TRY(json_get_i32(o, where, "phase", 0, 0, PACKED_SUPER - 1, &phase));
    TRY(get_pair(o, where, "cols", cols, &e->cols));
    e->shape = (packed_shape){.type = packed_type_parse(type), .rows = (int32_t)(e->rows.end - e->rows.begin),
                              .cols = (int32_t)(e->cols.end - e->cols.begin), .phase = phase};
    if (e->shape.type == PACKED_TYPES)
        return FAIL(ST_UNSUPPORTED, "%s: unknown packed type \"%.32s\": cut the checkpoint again with this version", where, type);
    if (packed_bytes(e->shape) == 0 || packed_bytes(e->shape) != e->bytes)
        return FAIL(ST_FORMAT, "%s: %s: %llu bytes are not what %d x %d as %s take", where, shard_role_name(e->role), (unsigned long long)e->bytes,
                    e->shape.rows, e->shape.cols, type);
    return ST_OK;
}

static status parse_entry(const shard_checkpoint *c, const json_t *o, const char *where, uint64_t file_bytes, shard_cut_entry *e)
{
    const char *role, *sha;
    int64_t offset, bytes, rows, cols;
    TRY(json_get_str(o, where, "role", NULL, &role));
    TRY(json_get_i32(o, where, "layer", 0, 0, c->arch.n_layers - 1, &e->layer));
    TRY(json_get_int(o, where, "offset", -1, 0, INT64_MAX, &offset));
    TRY(json_get_int(o, where, "bytes", -1, 1, INT64_MAX, &bytes));
    TRY(json_get_str(o, where, "sha256", "", &sha));
    e->role = role_of(role);
    if (e->role == SHARD_ROLES || !shard_role_shape(&c->arch, e->role, &rows, &cols))
        return FAIL(ST_FORMAT, "%s: role \"%.40s\" is not one of this architecture", where, role == NULL ? "" : role);
    if (strlen(sha) != 64 || strspn(sha, "0123456789abcdef") != 64)
        return FAIL(ST_FORMAT, "%s: %s: sha256 must be 64 hex digits", where, role);
    snprintf(e->sha256, sizeof(e->sha256), "%s", sha);
    e->offset = (uint64_t)offset;
    e->bytes = (uint64_t)bytes;
    if (e->offset % SHARD_CUT_ALIGN != 0 || e->offset > file_bytes || e->bytes > file_bytes - e->offset)
        return FAIL(ST_FORMAT, "%s: %s of layer %d: bytes %llu at %llu lie outside its file", where, role, e->layer, (unsigned long long)e->bytes,
                    (unsigned long long)e->offset);
    TRY(get_pair(o, where, "rows", rows, &e->rows));
    if (!shard_role_is_vector(e->role))
        return parse_matrix(o, where, cols, e);
    e->cols = (shard_slice){0, 1};
    e->shape = (packed_shape){.type = PACKED_F32, .rows = (int32_t)(e->rows.end - e->rows.begin), .cols = 1};
    if ((uint64_t)(e->rows.end - e->rows.begin) * 4 != e->bytes)
        return FAIL(ST_FORMAT, "%s: %s of layer %d: %llu bytes are not its rows in f32", where, role, e->layer, (unsigned long long)e->bytes);
    return ST_OK;
}

static bool plain_rank_file(const char *name)
{
    return name != NULL && name[0] != '.' && name[0] != '\0' && strchr(name, '/') == NULL && strlen(name) < 200;
}

static status parse_rank(shard_checkpoint *c, const json_t *o, int32_t rank)
{
    shard_cut *cut = c->cut;
    const char *name;
    char where[512];
    int64_t bytes;
    json_t *tensors, *t;
    size_t i;
    snprintf(where, sizeof(where), "%s: rank %d", cut->where, rank);
    TRY(json_get_str(o, where, "file", NULL, &name));
    TRY(json_get_int(o, where, "bytes", -1, 0, INT64_MAX, &bytes));
    TRY(json_get_arr(o, where, "tensors", &tensors));
    if (!plain_rank_file(name) || tensors == NULL)
        return FAIL(ST_FORMAT, "%s: must have a file (a plain name) and tensors", where);
    char *path = file_join(c->folder, name);
    status st = path == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", where) : shard_checkpoint_add_file(c, path, true, &cut->files[rank]);
    free(path);
    TRY(st);
    const shard_file *f = &c->files[cut->files[rank]];
    if (f->bytes != (uint64_t)bytes)
        return FAIL(ST_FORMAT, "%s: has %llu bytes, the manifest says %lld: it is incomplete; cut or copy it again", f->path,
                    (unsigned long long)f->bytes, (long long)bytes);
    json_array_foreach(tensors, i, t)
    {
        shard_cut_entry *e = &cut->entries[cut->n];
        e->rank = rank;
        TRY(parse_entry(c, t, where, f->bytes, e));
        cut->n++;
    }
    return ST_OK;
}

static int by_role(const void *a, const void *b)
{
    const shard_cut_entry *x = a, *y = b;
    if (x->role != y->role)
        return x->role < y->role ? -1 : 1;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

static status parse_options(shard_cut *cut)
{
    json_t *o, *layers, *weights;
    TRY(json_get_obj(cut->manifest, cut->where, "options", &o));
    TRY(json_get_i32(o, cut->where, "tp", 0, 1, MAX_RANKS, &cut->tp));
    TRY(json_get_i32(o, cut->where, "pp", 0, 1, MAX_RANKS, &cut->pp));
    TRY(json_get_bool(o, cut->where, "f32", false, &cut->f32));
    TRY(json_get_arr(o, cut->where, "stage_layers", &layers));
    TRY(json_get_arr(o, cut->where, "rank_weights", &weights));
    if ((int64_t)cut->tp * cut->pp > MAX_RANKS)
        return FAIL(ST_FORMAT, "%s: tp %d x pp %d is more ranks than there can be", cut->where, cut->tp, cut->pp);
    cut->n_ranks = cut->tp * cut->pp;
    if (json_array_size(layers) != (size_t)cut->pp || (weights != NULL && json_array_size(weights) != (size_t)cut->n_ranks))
        return FAIL(ST_FORMAT, "%s: options: stage_layers must have %d entries, rank_weights %d", cut->where, cut->pp, cut->n_ranks);
    TRY(mem_calloc((size_t)cut->pp, sizeof(int32_t), "manifest", &cut->stage_layers));
    for (int32_t i = 0; i < cut->pp; i++)
        cut->stage_layers[i] = (int32_t)json_integer_value(json_array_get(layers, (size_t)i));
    if (weights == NULL)
        return ST_OK;
    TRY(mem_calloc((size_t)cut->n_ranks, sizeof(double), "manifest", &cut->rank_weights));
    for (int32_t i = 0; i < cut->n_ranks; i++)
        cut->rank_weights[i] = json_number_value(json_array_get(weights, (size_t)i));
    return ST_OK;
}

static status parse_head(shard_cut *cut)
{
    const char *format;
    int32_t version;
    if (!json_is_object(cut->manifest))
        return FAIL(ST_FORMAT, "%s: must be a JSON object", cut->where);
    TRY(json_get_str(cut->manifest, cut->where, "format", "", &format));
    TRY(json_get_i32(cut->manifest, cut->where, "version", 0, 1, INT32_MAX, &version));
    if (strcmp(format, SHARD_CUT_FORMAT) != 0)
        return FAIL(ST_FORMAT, "%s: format is \"%.40s\", not " SHARD_CUT_FORMAT, cut->where, format);
    if (version > SHARD_CUT_VERSION)
        return FAIL(ST_UNSUPPORTED, "%s: format version %d, this trireme reads up to %d: use a newer trireme, or cut the checkpoint again with this one",
                    cut->where, version, SHARD_CUT_VERSION);
    return parse_options(cut);
}

static status parse_ranks(shard_checkpoint *c)
{
    shard_cut *cut = c->cut;
    json_t *ranks, *r;
    size_t i, n = 0;
    TRY(json_get_arr(cut->manifest, cut->where, "ranks", &ranks));
    if (json_array_size(ranks) != (size_t)cut->n_ranks)
        return FAIL(ST_FORMAT, "%s: lists %zu ranks, tp %d x pp %d are %d", cut->where, json_array_size(ranks), cut->tp, cut->pp, cut->n_ranks);
    json_array_foreach(ranks, i, r)
        n += json_array_size(json_object_get(r, "tensors"));
    TRY(mem_calloc(n + 1, sizeof(*cut->entries), "manifest", &cut->entries));
    TRY(mem_calloc((size_t)cut->n_ranks, sizeof(*cut->files), "manifest", &cut->files));
    json_array_foreach(ranks, i, r)
        TRY(parse_rank(c, r, (int32_t)i));
    qsort(cut->entries, cut->n, sizeof(*cut->entries), by_role);
    return ST_OK;
}

/* What the source's tensors were called and shaped: the architecture is found from them as it was from the source. */
static status parse_source_tensors(shard_checkpoint *c)
{
    json_t *all, *v, *d;
    const char *name;
    size_t i;
    TRY(json_get_obj(c->cut->manifest, c->cut->where, "source_tensors", &all));
    json_object_foreach(all, name, v)
    {
        shard_tensor t = {.file = -1, .n_dims = (int32_t)json_array_size(json_object_get(v, "shape"))};
        const char *dtype;
        TRY(json_get_str(v, c->cut->where, "dtype", "", &dtype));
        t.dtype = shard_dtype_parse(dtype);
        if (t.dtype == SHARD_DTYPES || t.n_dims > SHARD_MAX_DIMS)
            return FAIL(ST_FORMAT, "%s: source_tensors: %.128s: bad dtype or shape", c->cut->where, name);
        json_array_foreach(json_object_get(v, "shape"), i, d)
            t.dims[i] = json_integer_value(d);
        TRY(shard_tensors_add(&c->tensors, c->cut->where, name, strlen(name), &t));
    }
    return ST_OK;
}

status shard_cut_values(const shard_checkpoint *c, const char *name, int64_t elements, int64_t *n, float **out)
{
    float *values;
    json_t *list = json_object_get(json_object_get(json_object_get(c->cut->manifest, "source_tensors"), name), "values");
    if (!json_is_array(list) || json_array_size(list) != (size_t)elements)
        return FAIL(ST_FORMAT, "%s: source_tensors: %s has no values", c->cut->where, name);
    TRY(mem_calloc((size_t)elements + 1, sizeof(float), name, &values));
    for (size_t i = 0; i < (size_t)elements; i++)
        values[i] = (float)json_number_value(json_array_get(list, i));
    *n = elements;
    *out = values;
    return ST_OK;
}

static status types_of_entries(shard_checkpoint *c)
{
    const shard_cut *cut = c->cut;
    size_t n = (size_t)c->arch.n_layers * SHARD_ROLES;
    TRY(mem_calloc(n, 1, "tensor types", &c->types_of));
    for (size_t i = 0; i < cut->n; i++) {
        const shard_cut_entry *e = &cut->entries[i];
        if (shard_role_is_vector(e->role))
            continue;
        size_t at = (size_t)(shard_role_in_layer(e->role) ? e->layer : 0) * SHARD_ROLES + e->role;
        c->types_of[at] = (uint8_t)e->shape.type;
        if (c->arch.tied_embeddings && (e->role == SHARD_TOKEN_EMBED || e->role == SHARD_HEAD))
            c->types_of[SHARD_HEAD] = c->types_of[SHARD_TOKEN_EMBED] = (uint8_t)e->shape.type;
    }
    c->types = (shard_types){.dflt = PACKED_F32, .of = c->types_of};
    return ST_OK;
}

status shard_cut_open(shard_checkpoint *c)
{
    c->source = SHARD_SOURCE_CUT;
    c->has_weights = true;
    TRY(mem_calloc(1, sizeof(*c->cut), "manifest", &c->cut));
    c->cut->where = file_join(c->folder, "manifest.json");
    if (c->cut->where == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", c->folder);
    TRY(json_parse_file(c->cut->where, MAX_MANIFEST, &c->cut->manifest));
    TRY(parse_head(c->cut));
    TRY(parse_source_tensors(c));
    TRY(shard_checkpoint_open_config(c));
    TRY(parse_ranks(c));
    return types_of_entries(c);
}

void shard_cut_close(shard_cut **pointer)
{
    shard_cut *cut = *pointer;
    if (cut == NULL)
        return;
    json_decref(cut->manifest);
    free(cut->where);
    free(cut->stage_layers);
    free(cut->rank_weights);
    free(cut->entries);
    free(cut->files);
    free(cut);
    *pointer = NULL;
}

bool shard_checkpoint_cut_info(const shard_checkpoint *c, shard_cut_info *out)
{
    if (c->cut == NULL)
        return false;
    *out = (shard_cut_info){.tp = c->cut->tp, .pp = c->cut->pp, .f32 = c->cut->f32, .stage_layers = c->cut->stage_layers,
                            .rank_weights = c->cut->rank_weights};
    return true;
}

/* ---- reading ---- */

static bool same(const shard_cut_entry *e, shard_slice rows, shard_slice cols, packed_shape s)
{
    return e->rows.begin == rows.begin && e->rows.end == rows.end && e->cols.begin == cols.begin && e->cols.end == cols.end &&
           e->shape.type == s.type && e->shape.phase == s.phase;
}

/* The entry with exactly this slice; of several (slices that ranks share) one in the file read last.  Vectors: any that covers the rows. */
static const shard_cut_entry *find(shard_cut *cut, shard_role role, int32_t layer, shard_slice rows, shard_slice cols, packed_shape shape)
{
    shard_cut_entry probe = {.role = role, .layer = shard_role_in_layer(role) ? layer : 0, .rank = -1};
    size_t lo = 0, hi = cut->n;
    const shard_cut_entry *best = NULL;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (by_role(&cut->entries[mid], &probe) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    int32_t last = __atomic_load_n(&cut->last_rank, __ATOMIC_RELAXED);
    for (; lo < cut->n && cut->entries[lo].role == role && cut->entries[lo].layer == probe.layer; lo++) {
        const shard_cut_entry *e = &cut->entries[lo];
        bool fits = shard_role_is_vector(role) ? e->rows.begin <= rows.begin && e->rows.end >= rows.end : same(e, rows, cols, shape);
        if (fits && (best == NULL || e->rank == last))
            best = e;
    }
    if (best != NULL)
        __atomic_store_n(&cut->last_rank, best->rank, __ATOMIC_RELAXED);
    return best;
}

static status fail_no_slice(const shard_checkpoint *c, shard_role role, int32_t layer, shard_slice rows, shard_slice cols)
{
    char text[96];
    return FAIL(ST_INVALID,
                "%s: was cut for tp %d x pp %d%s and does not hold %s, rows %lld to %lld, columns %lld to %lld: start it with --tp %d --pp %d%s, or cut "
                "the checkpoint again with trireme shard",
                c->path, c->cut->tp, c->cut->pp, c->cut->f32 ? " in f32" : "", shard_checkpoint_role_text(role, layer, text), (long long)rows.begin,
                (long long)rows.end, (long long)cols.begin, (long long)cols.end, c->cut->tp, c->cut->pp, c->cut->f32 ? " --compute f32" : "");
}

static status read_entry(shard_checkpoint *c, const shard_cut_entry *e, uint64_t from, void *dst, size_t n)
{
    int32_t file = c->cut->files[e->rank];
    int fd;
    TRY(shard_checkpoint_file_fd(c, file, &fd));
    TRY(file_read_at(fd, c->files[file].path, e->offset + from, dst, n));
    atomic_fetch_add_explicit(&c->bytes_read, n, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->bytes_needed, n, memory_order_relaxed);
    return ST_OK;
}

status shard_cut_read_matrix(shard_checkpoint *c, shard_role role, int32_t layer, shard_slice rows, shard_slice cols, packed_shape shape, int32_t row_begin,
                             int32_t row_end, void *dst)
{
    packed_layout l;
    const shard_cut_entry *e = find(c->cut, role, layer, rows, cols, shape);
    if (e == NULL && role == SHARD_HEAD && c->arch.tied_embeddings)
        e = find(c->cut, SHARD_TOKEN_EMBED, 0, rows, cols, shape);
    if (e == NULL)
        return fail_no_slice(c, role, layer, rows, cols);
    if (!packed_layout_of(shape, &l) || l.bytes != e->bytes || row_begin < 0 || row_begin % PACKED_ROWS != 0 || row_end > shape.rows || row_end < row_begin)
        return FAIL(ST_INTERNAL, "%s: %s: shape %d x %d does not fit its slice", c->path, shard_role_name(role), shape.rows, shape.cols);
    size_t from = (size_t)(row_begin / PACKED_ROWS) * l.panel_bytes, to = (size_t)((row_end + PACKED_ROWS - 1) / PACKED_ROWS) * l.panel_bytes;
    if (row_end == shape.rows)
        to = l.bytes;
    TRY(read_entry(c, e, from, (char *)dst + from, to - from));
    if (row_end == shape.rows)
        atomic_fetch_add_explicit(&c->tensors_read, 1, memory_order_relaxed);
    return ST_OK;
}

status shard_cut_read_vector(shard_checkpoint *c, shard_role role, int32_t layer, shard_slice rows, float *dst)
{
    const shard_cut_entry *e = find(c->cut, role, layer, rows, (shard_slice){0, 1}, (packed_shape){0});
    if (e == NULL)
        return fail_no_slice(c, role, layer, rows, (shard_slice){0, 1});
    TRY(read_entry(c, e, (uint64_t)(rows.begin - e->rows.begin) * 4, dst, (size_t)(rows.end - rows.begin) * 4));
    atomic_fetch_add_explicit(&c->tensors_read, 1, memory_order_relaxed);
    return ST_OK;
}

/* ---- checking ---- */

/* SHA-256 of bytes [begin, end) of an open file. */
static status hash_range(int fd, const char *path, uint64_t begin, uint64_t end, char out[65])
{
    hash_sha256 *h = NULL;
    uint8_t digest[HASH_SHA256_BYTES];
    char *buffer = malloc(HASH_CHUNK);
    status st = buffer == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", path) : hash_sha256_create(&h);
    while (st == ST_OK && begin < end) {
        size_t n = end - begin < HASH_CHUNK ? (size_t)(end - begin) : HASH_CHUNK;
        st = file_read_at(fd, path, begin, buffer, n);
        if (st == ST_OK)
            hash_sha256_update(h, buffer, n);
        begin += n;
    }
    if (st == ST_OK) {
        hash_sha256_final(h, digest);
        hash_hex(digest, sizeof(digest), out);
    }
    hash_sha256_destroy(&h);
    free(buffer);
    return st;
}

status shard_cut_hash_file(const char *path, char out[65], uint64_t *bytes)
{
    struct stat sb;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode)) {
        if (fd >= 0)
            close(fd);
        return FAIL(ST_IO, "%s: cannot be read", path);
    }
    *bytes = (uint64_t)sb.st_size;
    status st = hash_range(fd, path, 0, *bytes, out);
    close(fd);
    return st;
}

static status verify_entry(void *arg, size_t i)
{
    shard_checkpoint *c = arg;
    const shard_cut_entry *e = &c->cut->entries[i];
    const shard_file *f = &c->files[c->cut->files[e->rank]];
    char sha[65], text[96];
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return FAIL(ST_IO, "%s: %s", f->path, strerror(errno));
    status st = hash_range(fd, f->path, e->offset, e->offset + e->bytes, sha);
    close(fd);
    TRY(st);
    if (strcmp(sha, e->sha256) != 0)
        return FAIL(ST_CORRUPT, "%s: tensor %s (rows %lld to %lld) is damaged: SHA-256 is %s, the manifest says %s; cut or copy it again",
                    f->path, shard_checkpoint_role_text(e->role, e->layer, text), (long long)e->rows.begin, (long long)e->rows.end, sha, e->sha256);
    return ST_OK;
}

static status verify_text(const shard_checkpoint *c)
{
    json_t *files, *v;
    const char *name;
    TRY(json_get_obj(c->cut->manifest, c->cut->where, "files", &files));
    json_object_foreach(files, name, v)
    {
        const char *want = json_string_value(json_object_get(v, "sha256"));
        char sha[65], *path = strstr(name, "..") != NULL || name[0] == '/' ? NULL : file_join(c->folder, name);
        uint64_t bytes;
        status st = path == NULL ? FAIL(ST_FORMAT, "%s: files: bad name \"%.80s\"", c->cut->where, name) : shard_cut_hash_file(path, sha, &bytes);
        if (st == ST_OK && (want == NULL || strcmp(sha, want) != 0))
            st = FAIL(ST_CORRUPT, "%s: is not the file the manifest was written for (SHA-256 differs): copy it again", path);
        free(path);
        TRY(st);
    }
    return ST_OK;
}

status shard_cut_verify(shard_checkpoint *c)
{
    TRY(verify_text(c));
    return shard_jobs_run(0, c->cut->n, verify_entry, c);
}
