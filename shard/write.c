#include "shard/write.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "shard/checkpoint_internal.h"
#include "shard/cut.h"
#include "shard/jobs.h"

enum { MAX_KEPT_VALUES = 4096 };

typedef struct writer {
    shard_checkpoint *c;
    const shard_plan *plan;
    const shard_write_options *o;
    const shard_types *types;
    char *temp;               /* the folder being written */
    shard_cut_entry *entries; /* in order of rank, then of offset */
    size_t n, cap;
    uint64_t *rank_bytes;     /* [n_ranks] */
    int *fds;                 /* [n_ranks], -1 until open */
    uint64_t total;
    pthread_mutex_t lock;     /* progress */
    log_progress progress;
    uint64_t done;
} writer;

/* ---- what goes where ---- */

static status add_entry(writer *w, const shard_rank_plan *r, shard_role role, int32_t layer)
{
    const shard_arch *a = &w->c->arch;
    shard_cut_entry e = {.role = role, .layer = layer, .rank = r->rank};
    if ((role == SHARD_HEAD && shard_plan_head_is_embedding(a, r)) || !shard_plan_slice(a, r, role, layer, &e.rows, &e.cols) || e.rows.end <= e.rows.begin)
        return ST_OK;
    if (shard_role_is_vector(role)) {
        e.shape = (packed_shape){.type = PACKED_F32, .rows = (int32_t)(e.rows.end - e.rows.begin), .cols = 1};
        e.bytes = (uint64_t)(e.rows.end - e.rows.begin) * sizeof(float);
    } else {
        if (e.cols.end <= e.cols.begin || !shard_plan_packed(a, r, w->types, role, layer, &e.shape))
            return ST_OK;
        e.bytes = packed_bytes(e.shape);
    }
    TRY(mem_grow(&w->entries, &w->cap, w->n + 1, sizeof(*w->entries), "shard: slices"));
    e.offset = w->rank_bytes[r->rank];
    w->rank_bytes[r->rank] += mem_align(e.bytes, SHARD_CUT_ALIGN);
    w->total += mem_align(e.bytes, SHARD_CUT_ALIGN);
    w->entries[w->n++] = e;
    return ST_OK;
}

static status list_entries(writer *w)
{
    for (int32_t i = 0; i < w->plan->n_ranks; i++) {
        const shard_rank_plan *r = &w->plan->ranks[i];
        for (int role = 0; role < SHARD_ROLES; role++) {
            if (!shard_role_in_layer((shard_role)role))
                TRY(add_entry(w, r, (shard_role)role, 0));
        }
        for (int32_t layer = r->layer_begin; layer < r->layer_end; layer++) {
            for (int role = 0; role < SHARD_ROLES; role++) {
                if (shard_role_in_layer((shard_role)role))
                    TRY(add_entry(w, r, (shard_role)role, layer));
            }
        }
    }
    return ST_OK;
}

/* ---- bytes ---- */

static char *rank_path(const writer *w, int32_t rank)
{
    char *path = NULL;
    return asprintf(&path, "%s/rank-%05d.bin", w->temp, rank) < 0 ? NULL : path;
}

/* All files at their full size before anything is read: a disk that is too small says so at once. */
static status create_files(writer *w)
{
    for (int32_t i = 0; i < w->plan->n_ranks; i++) {
        char *path = rank_path(w, i);
        if (path == NULL)
            return FAIL(ST_NO_MEMORY, "shard: out of memory");
        status st = ST_OK;
        w->fds[i] = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        int error = w->fds[i] < 0 ? errno : w->rank_bytes[i] > 0 ? posix_fallocate(w->fds[i], 0, (off_t)w->rank_bytes[i]) : 0;
        if (error == EOPNOTSUPP || error == EINVAL)
            error = ftruncate(w->fds[i], (off_t)w->rank_bytes[i]) != 0 ? errno : 0;
        if (error != 0)
            st = FAIL(ST_IO, "%s: %" PRIu64 " bytes of %" PRIu64 " in all: %s", path, w->rank_bytes[i], w->total, strerror(error));
        free(path);
        TRY(st);
    }
    return ST_OK;
}

static void show_progress(writer *w, uint64_t bytes)
{
    pthread_mutex_lock(&w->lock);
    w->done += bytes;
    if (!w->o->quiet)
        log_progress_update(&w->progress, w->done);
    pthread_mutex_unlock(&w->lock);
}

static status write_entry(void *arg, size_t i)
{
    writer *w = arg;
    shard_cut_entry *e = &w->entries[i];
    uint8_t digest[HASH_SHA256_BYTES];
    void *bytes;
    size_t size = mem_align((size_t)e->bytes, SHARD_CUT_ALIGN);
    char *path = rank_path(w, e->rank);
    if (path == NULL)
        return FAIL(ST_NO_MEMORY, "shard: out of memory");
    status st = mem_huge_alloc(size, "a slice to write", &bytes);
    if (st != ST_OK) {
        free(path);
        return st;
    }
    st = shard_role_is_vector(e->role) ? shard_checkpoint_read_vector(w->c, e->role, e->layer, e->rows, bytes)
                                       : shard_checkpoint_read_matrix(w->c, e->role, e->layer, e->rows, e->cols, e->shape, bytes);
    if (st == ST_OK)
        st = hash_sha256_of(bytes, (size_t)e->bytes, digest);
    if (st == ST_OK) {
        hash_hex(digest, sizeof(digest), e->sha256);
        st = file_write_at(w->fds[e->rank], path, e->offset, bytes, size);
    }
    mem_huge_free(bytes, size);
    free(path);
    if (st == ST_OK)
        show_progress(w, size);
    return st;
}

static status sync_files(writer *w)
{
    for (int32_t i = 0; i < w->plan->n_ranks; i++) {
        int fd = w->fds[i];
        w->fds[i] = -1;
        bool ok = fsync(fd) == 0;
        if (close(fd) != 0 || !ok)
            return FAIL(ST_IO, "%s/rank-%05d.bin: writing it to disk: %s", w->temp, i, strerror(errno));
    }
    return ST_OK;
}

/* ---- text files ---- */

static status write_text(writer *w, const char *name, const void *bytes, size_t n, json_t *files)
{
    char hex[HASH_SHA256_HEX], *path = file_join(w->temp, name), *slash = path == NULL ? NULL : strrchr(path, '/');
    uint8_t digest[HASH_SHA256_BYTES];
    if (path == NULL)
        return FAIL(ST_NO_MEMORY, "shard: out of memory");
    *slash = '\0';
    status st = file_make_dirs(path);
    *slash = '/';
    if (st == ST_OK)
        st = hash_sha256_of(bytes, n, digest);
    if (st == ST_OK)
        st = file_write_all(path, bytes, n, 0644);
    if (st == ST_OK) {
        hash_hex(digest, sizeof(digest), hex);
        json_object_set_new(files, name, json_pack("{s:I, s:s}", "bytes", (json_int_t)n, "sha256", hex));
    }
    free(path);
    return st;
}

static status copy_text(writer *w, const char *name, json_t *files)
{
    char *path = file_join(w->c->folder, name), *text = NULL;
    size_t n;
    if (path == NULL)
        return FAIL(ST_NO_MEMORY, "shard: out of memory");
    status st = ST_OK;
    if (file_exists(path) && !file_is_dir(path))
        st = file_read_all(path, (size_t)512 << 20, &text, &n);
    if (st == ST_OK && text != NULL)
        st = write_text(w, name, text, n, files);
    free(text);
    free(path);
    return st;
}

static status copy_extra_templates(writer *w, json_t *files)
{
    char *path = file_join(w->c->folder, "additional_chat_templates");
    DIR *d = path == NULL ? NULL : opendir(path);
    status st = ST_OK;
    for (struct dirent *e; st == ST_OK && d != NULL && (e = readdir(d)) != NULL;) {
        char name[320];
        size_t n = strlen(e->d_name);
        if (e->d_name[0] == '.' || n < 7 || strcmp(e->d_name + n - 6, ".jinja") != 0)
            continue;
        snprintf(name, sizeof(name), "additional_chat_templates/%s", e->d_name);
        st = copy_text(w, name, files);
    }
    if (d != NULL)
        closedir(d);
    free(path);
    return st;
}

/* The source's metadata as a GGUF of its own, with no tensors. */
static status write_metadata(writer *w, json_t *files)
{
    const shard_gguf *g = w->c->gguf;
    uint64_t kv_bytes = g->kv_end - g->kv_begin, counts[2] = {0, g->n_values};
    mem_str s = {0};
    mem_str_append(&s, "GGUF", 4);
    mem_str_append(&s, &g->version, 4);
    mem_str_append(&s, counts, sizeof(counts));
    mem_str_append(&s, g->bytes + g->kv_begin, (size_t)kv_bytes);
    status st = s.failed ? FAIL(ST_NO_MEMORY, "shard: out of memory") : write_text(w, "metadata.gguf", s.data, s.len, files);
    mem_str_free(&s);
    return st;
}

static status write_texts(writer *w, json_t *files)
{
    static const char *const names[] = {"config.json",           "generation_config.json", "tokenizer.json", "tokenizer_config.json",
                                        "special_tokens_map.json", "chat_template.jinja",  "chat_template.json", "README.md", "LICENSE"};
    for (size_t i = 0; w->c->gguf == NULL && i < ARRAY_LEN(names); i++)
        TRY(copy_text(w, names[i], files));
    return w->c->gguf != NULL ? write_metadata(w, files) : copy_extra_templates(w, files);
}

/* ---- manifest ---- */

/* Whether a tensor plays a role; if not, and it is small, its values are part of what the architecture is found from (rope factors). */
static bool is_bound(const shard_checkpoint *c, const shard_tensor *t)
{
    for (size_t i = 0; i < (size_t)c->arch.n_layers * SHARD_ROLES; i++) {
        if (c->bound[i].tensor == t)
            return true;
    }
    return false;
}

static status tensor_values(writer *w, const shard_tensor *t, json_t *out)
{
    float values[MAX_KEPT_VALUES];
    json_t *list = json_array();
    status st = shard_checkpoint_read_bytes(w->c, t, 0, values, (size_t)t->bytes);
    for (int64_t i = 0; st == ST_OK && i < t->elements; i++) {
        json_t *v = json_real((double)values[i]);
        if (v == NULL)
            st = FAIL(ST_FORMAT, "%s: tensor %s: value %lld is not finite", w->c->path, t->name, (long long)i);
        json_array_append_new(list, v);
    }
    json_object_set_new(out, "values", list);
    return st;
}

static status source_tensors(writer *w, json_t *out)
{
    for (size_t i = 0; i < w->c->tensors.n; i++) {
        const shard_tensor *t = &w->c->tensors.list[i];
        json_t *o = json_object(), *shape = json_array();
        for (int d = 0; d < t->n_dims; d++)
            json_array_append_new(shape, json_integer(t->dims[d]));
        json_object_set_new(o, "dtype", json_string(shard_dtype_name(t->dtype)));
        json_object_set_new(o, "shape", shape);
        json_object_set_new(out, t->name, o);
        if (w->c->gguf != NULL && t->dtype == SHARD_F32 && t->elements <= MAX_KEPT_VALUES && !is_bound(w->c, t))
            TRY(tensor_values(w, t, o));
    }
    return ST_OK;
}

static json_t *pair(shard_slice s)
{
    return json_pack("[I, I]", (json_int_t)s.begin, (json_int_t)s.end);
}

static json_t *entry_json(const shard_cut_entry *e)
{
    json_t *o = json_pack("{s:s, s:o, s:s, s:I, s:I, s:s}", "role", shard_role_name(e->role), "rows", pair(e->rows), "type",
                          packed_format_of(e->shape.type)->name, "offset", (json_int_t)e->offset, "bytes", (json_int_t)e->bytes, "sha256", e->sha256);
    if (shard_role_in_layer(e->role))
        json_object_set_new(o, "layer", json_integer(e->layer));
    if (!shard_role_is_vector(e->role))
        json_object_set_new(o, "cols", pair(e->cols));
    if (e->shape.phase != 0)
        json_object_set_new(o, "phase", json_integer(e->shape.phase));
    return o;
}

static json_t *ranks_json(const writer *w)
{
    json_t *ranks = json_array();
    size_t at = 0;
    for (int32_t i = 0; i < w->plan->n_ranks; i++) {
        const shard_rank_plan *r = &w->plan->ranks[i];
        char name[32];
        json_t *tensors = json_array();
        for (; at < w->n && w->entries[at].rank == i; at++)
            json_array_append_new(tensors, entry_json(&w->entries[at]));
        snprintf(name, sizeof(name), "rank-%05d.bin", i);
        json_array_append_new(ranks, json_pack("{s:i, s:i, s:i, s:s, s:I, s:o, s:o, s:o, s:o, s:o}", "rank", i, "stage", r->stage, "tp_index", r->tp_index,
                                               "file", name, "bytes", (json_int_t)w->rank_bytes[i], "layers",
                                               pair((shard_slice){r->layer_begin, r->layer_end}), "heads", pair(r->heads), "kv_heads", pair(r->kv_heads),
                                               "channels", pair(r->channels), "tensors", tensors));
    }
    return ranks;
}

static json_t *options_json(const writer *w)
{
    const shard_plan *p = w->plan;
    json_t *layers = json_array(), *o;
    for (int32_t s = 0; s < p->pp; s++)
        json_array_append_new(layers, json_integer(p->ranks[s * p->tp].layer_end - p->ranks[s * p->tp].layer_begin));
    o = json_pack("{s:i, s:i, s:b, s:o}", "tp", p->tp, "pp", p->pp, "f32", (int)w->o->f32, "stage_layers", layers);
    if (w->o->rank_weights != NULL) {
        json_t *weights = json_array();
        for (int32_t i = 0; i < p->n_ranks; i++)
            json_array_append_new(weights, json_real(w->o->rank_weights[i]));
        json_object_set_new(o, "rank_weights", weights);
    }
    return o;
}

/* The source's own recipe, and what was done to it here. */
static json_t *recipe_json(const writer *w, const json_t *facts)
{
    const json_t *was = json_object_get(facts, "recipe");
    json_t *o = json_is_object(was) ? json_deep_copy(was) : json_object();
    json_object_set_new(o, "weights", json_string(w->o->f32 ? "expanded to f32" : "packed as the source stores them, without requantising"));
    return o;
}

static status write_manifest(writer *w, json_t *files)
{
    static const char *const kept[] = {"name", "source", "revision", "licence", "base", "parent", "policies", "evaluations", "digest"};
    char when[32];
    time_t now = time(NULL);
    struct tm tm;
    json_t *facts, *m = json_object(), *tensors = json_object();
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    status st = shard_checkpoint_describe(w->c, &facts);
    if (st == ST_OK) {
        json_object_set_new(m, "format", json_string(SHARD_CUT_FORMAT));
        json_object_set_new(m, "version", json_integer(SHARD_CUT_VERSION));
        json_object_set_new(m, "tool", json_pack("{s:s, s:s?, s:s?}", "name", "trireme", "version", w->o->tool_version, "commit", w->o->tool_commit));
        json_object_set_new(m, "created", json_string(when));
        for (size_t i = 0; i < ARRAY_LEN(kept); i++)
            json_object_set(m, kept[i], json_object_get(facts, kept[i]));
        json_object_set_new(m, "recipe", recipe_json(w, facts));
        json_object_set(m, "source_format", json_object_get(facts, "format"));
        json_decref(facts);
        st = source_tensors(w, tensors);
    }
    char *text = NULL;
    if (st == ST_OK) {
        json_object_set_new(m, "options", options_json(w));
        json_object_set(m, "files", files);
        json_object_set(m, "source_tensors", tensors);
        json_object_set_new(m, "ranks", ranks_json(w));
        text = json_dumps(m, JSON_INDENT(1));
        st = text == NULL ? FAIL(ST_NO_MEMORY, "shard: out of memory for the manifest") : ST_OK;
    }
    char *path = file_join(w->temp, "manifest.json");
    if (st == ST_OK)
        st = path == NULL ? FAIL(ST_NO_MEMORY, "shard: out of memory") : file_write_all(path, text, strlen(text), 0644);
    free(path);
    free(text);
    json_decref(tensors);
    json_decref(m);
    return st;
}

/* ---- the folder ---- */

/* Removes what this writer made, two levels deep. */
static void remove_folder(const char *folder)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        char *path = file_join(folder, e->d_name);
        struct stat sb;
        if (path != NULL && lstat(path, &sb) == 0 && S_ISDIR(sb.st_mode))
            remove_folder(path);
        else if (path != NULL)
            unlink(path);
        free(path);
    }
    if (d != NULL)
        closedir(d);
    rmdir(folder);
}

static status check_space(const writer *w)
{
    struct statvfs v;
    if (statvfs(w->temp, &v) != 0)
        return ST_OK;
    uint64_t available = (uint64_t)v.f_bavail * v.f_frsize;
    if (w->total <= available)
        return ST_OK;
    return FAIL(ST_IO, "%s: the cut takes %" PRIu64 " bytes and the disk has %" PRIu64 " left: free some, or choose another target", w->temp, w->total, available);
}

static status write_all(writer *w)
{
    json_t *files = json_object();
    status st = check_space(w);
    if (st == ST_OK)
        st = create_files(w);
    if (st == ST_OK) {
        log_progress_begin(&w->progress, "writing", w->total, true);
        st = shard_jobs_run(0, w->n, write_entry, w);
        if (!w->o->quiet)
            log_progress_end(&w->progress);
    }
    if (st == ST_OK)
        st = sync_files(w);
    if (st == ST_OK)
        st = write_texts(w, files);
    if (st == ST_OK)
        st = write_manifest(w, files);
    json_decref(files);
    return st;
}

static status make_temp(writer *w, const char *target)
{
    size_t n = strlen(target);
    while (n > 1 && target[n - 1] == '/')
        n--;
    if (asprintf(&w->temp, "%.*s.tmp.%ld", (int)n, target, (long)getpid()) < 0) {
        w->temp = NULL;
        return FAIL(ST_NO_MEMORY, "shard: out of memory");
    }
    if (mkdir(w->temp, 0777) == 0)
        return ST_OK;
    status st = FAIL(ST_IO, "%s: cannot create it: %s", w->temp, strerror(errno));
    free(w->temp);
    w->temp = NULL;
    return st;
}

/* The rename, and the folder it is an entry of, must both reach the disk. */
static status publish(const writer *w, const char *target)
{
    if (rename(w->temp, target) != 0)
        return FAIL(ST_IO, "%s: cannot be given its name: %s", target, strerror(errno));
    int fd = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    return ST_OK;
}

static status check_source(const shard_checkpoint *c, const char *target)
{
    struct stat sb;
    if (lstat(target, &sb) == 0)
        return FAIL(ST_INVALID, "%s: exists already: remove it or choose another name", target);
    if (c->cut != NULL)
        return FAIL(ST_INVALID, "%s: is a cut itself: cut its source instead", c->path);
    if (!c->has_weights)
        return FAIL(ST_INVALID, "%s: has no weights to cut", c->path);
    return ST_OK;
}

status shard_write(shard_checkpoint *c, const shard_plan *plan, const shard_write_options *options, const char *target, shard_write_stats *out)
{
    writer w = {.c = c, .plan = plan, .o = options, .types = shard_checkpoint_types(c, options->f32)};
    TRY(check_source(c, target));
    TRY(mem_calloc((size_t)plan->n_ranks, sizeof(*w.rank_bytes), "ranks", &w.rank_bytes));
    status st = mem_calloc((size_t)plan->n_ranks, sizeof(*w.fds), "ranks", &w.fds);
    for (int32_t i = 0; st == ST_OK && i < plan->n_ranks; i++)
        w.fds[i] = -1;
    pthread_mutex_init(&w.lock, NULL);
    if (st == ST_OK)
        st = list_entries(&w);
    if (st == ST_OK)
        st = make_temp(&w, target);
    if (st == ST_OK)
        st = write_all(&w);
    if (st == ST_OK)
        st = publish(&w, target);
    for (int32_t i = 0; w.fds != NULL && i < plan->n_ranks; i++) {
        if (w.fds[i] >= 0)
            close(w.fds[i]);
    }
    if (st != ST_OK && w.temp != NULL)
        remove_folder(w.temp);
    if (st == ST_OK && out != NULL)
        *out = (shard_write_stats){.bytes = w.total, .ranks = plan->n_ranks, .tensors = w.n};
    pthread_mutex_destroy(&w.lock);
    free(w.temp);
    free(w.entries);
    free(w.rank_bytes);
    free(w.fds);
    return st;
}
