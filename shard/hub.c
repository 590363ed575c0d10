#include "shard/hub.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "shard/hub_internal.h"
#include "shard/safetensors.h"

enum { MAX_INDEX = 64 << 20, MAX_LISTING = 256 << 20 };

/* Letters, digits, dot, dash, underscore; no ".." and no "--" (the cache's separator); neither begins nor ends with a dot or dash. */
static bool name_part(const char *s, size_t n)
{
    if (n == 0 || n > 96 || s[0] == '.' || s[0] == '-' || s[n - 1] == '.' || s[n - 1] == '-')
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!isalnum((unsigned char)s[i]) && strchr("._-", s[i]) == NULL)
            return false;
        if (i > 0 && s[i] == s[i - 1] && (s[i] == '.' || s[i] == '-'))
            return false;
    }
    return true;
}

bool shard_hub_name_parse(const char *text, shard_hub_name *out)
{
    size_t n = strcspn(text, ":"), slash = strcspn(text, "/");
    if (n >= sizeof(out->repo) || slash >= n || !name_part(text, slash) || !name_part(text + slash + 1, n - slash - 1))
        return false;
    *out = (shard_hub_name){0};
    memcpy(out->repo, text, n);
    if (text[n] == '\0')
        return true;
    const char *file = text + n + 1;
    size_t len = strlen(file);
    if (len == 0 || len >= sizeof(out->file) || file[0] == '.' || file[0] == '/')
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)file[i]) && strchr("._-/+", file[i]) == NULL)
            return false;
        if (file[i] == '.' && file[i + 1] == '.')
            return false;
    }
    memcpy(out->file, file, len + 1);
    return true;
}

static status check_revision(const char *revision)
{
    if (!hub_safe_path(revision) || strlen(revision) > 200 || strpbrk(revision, "?#%") != NULL)
        return FAIL(ST_INVALID, "revision \"%.80s\": not the name of a branch, tag or commit", revision);
    return ST_OK;
}

/* ---- from the cache ---- */

/* The first GGUF file of the snapshot that `want` names or whose name holds it as its quantisation. */
static bool gguf_matches(const char *file, const char *want)
{
    const char *base = strrchr(file, '/') == NULL ? file : strrchr(file, '/') + 1;
    size_t n = strlen(base), m = strlen(want);
    if (strcmp(file, want) == 0 || strcmp(base, want) == 0)
        return true;
    if (n < 6 || strcasecmp(base + n - 5, ".gguf") != 0)
        return false;
    for (size_t i = 0; i + m <= n - 5; i++) { /* whole words: Q4_K must not find Q4_K_M */
        bool begins = i == 0 || strchr("-._", base[i - 1]) != NULL, ends = i + m == n - 5 || base[i + m] == '-' || base[i + m] == '.';
        if (begins && ends && strncasecmp(base + i, want, m) == 0)
            return true;
    }
    return false;
}

static bool is_gguf(const char *file)
{
    size_t n = strlen(file);
    return n > 5 && strcasecmp(file + n - 5, ".gguf") == 0;
}

/* NAME-00002-of-00003.gguf: one of a split set. */
static bool is_part(const char *file)
{
    size_t n = strlen(file);
    return n > 20 && is_gguf(file) && file[n - 20] == '-' && strncmp(file + n - 14, "-of-", 4) == 0 && strspn(file + n - 19, "0123456789") == 5 &&
           strspn(file + n - 10, "0123456789") == 5;
}

static bool later_part(const char *file)
{
    return is_part(file) && strncmp(file + strlen(file) - 19, "00001", 5) != 0;
}

/* The first GGUF file (in the order of names) under the snapshot that matches; *out is relative to it. */
static void find_gguf(const char *folder, const char *prefix, const char *want, int depth, char **out)
{
    char *path = prefix[0] == '\0' ? strdup(folder) : file_join(folder, prefix);
    DIR *d = path == NULL ? NULL : opendir(path);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char *name = NULL, *full = NULL;
        if (e->d_name[0] == '.' || asprintf(&name, "%s%s%s", prefix, prefix[0] != '\0' ? "/" : "", e->d_name) < 0)
            continue;
        full = file_join(folder, name);
        if (full != NULL && file_is_dir(full) && depth > 0) {
            find_gguf(folder, name, want, depth - 1, out);
        } else if (is_gguf(name) && gguf_matches(name, want) && !later_part(name) && (*out == NULL || strcmp(name, *out) < 0)) {
            free(*out);
            *out = name;
            name = NULL;
        }
        free(full);
        free(name);
    }
    if (d != NULL)
        closedir(d);
    free(path);
}

/* Whether all parts of the split set that `name` begins are there (true for a file that is no set). */
static bool parts_there(const char *folder, const char *name)
{
    size_t n = strlen(name);
    bool set = is_part(name), all = true;
    char *copy = strdup(name);
    int count = set ? atoi(name + n - 10) : 1;
    for (int i = 1; copy != NULL && all && i <= count; i++) {
        char digits[8];
        snprintf(digits, sizeof(digits), "%05d", i % 100000);
        if (set)
            memcpy(copy + n - 19, digits, 5);
        char *path = file_join(folder, copy);
        all = path != NULL && file_exists(path);
        free(path);
    }
    bool ok = copy != NULL && all;
    free(copy);
    return ok;
}

/* The files that an index names are there. */
static bool indexed_there(const char *folder, const char *index_path)
{
    json_t *index = NULL;
    const char **names = NULL;
    size_t n = 0;
    status_mute();
    bool ok = json_parse_file(index_path, MAX_INDEX, &index) == ST_OK && shard_safetensors_index_files(index_path, index, &names, &n) == ST_OK;
    status_unmute();
    for (size_t i = 0; ok && i < n; i++) {
        char *path = file_join(folder, names[i]);
        ok = path != NULL && file_exists(path);
        free(path);
    }
    free(names);
    json_decref(index);
    return ok;
}

static bool has(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    bool yes = path != NULL && file_exists(path);
    free(path);
    return yes;
}

/* Weights are downloaded last, so a snapshot that has them has everything. */
static bool snapshot_complete(const char *folder, const shard_hub_name *name, bool config_only)
{
    if (name->file[0] != '\0') {
        char *gguf = NULL;
        find_gguf(folder, "", name->file, 3, &gguf);
        bool ok = gguf != NULL && parts_there(folder, gguf);
        free(gguf);
        return ok;
    }
    if (!has(folder, "config.json"))
        return false;
    if (config_only || has(folder, "model.safetensors"))
        return true;
    char *index = file_join(folder, "model.safetensors.index.json");
    bool ok = index != NULL && file_exists(index) && indexed_there(folder, index);
    free(index);
    return ok;
}

static status result_path(const hub_repo *repo, const shard_hub_name *name, const char *commit, shard_hub_result *out)
{
    char *folder = hub_cache_snapshot(repo, commit, "");
    out->commit = strdup(commit);
    if (folder == NULL || out->commit == NULL) {
        free(folder);
        return FAIL(ST_NO_MEMORY, "hub: out of memory");
    }
    if (name->file[0] == '\0') {
        out->path = folder;
        return ST_OK;
    }
    char *gguf = NULL;
    find_gguf(folder, "", name->file, 3, &gguf);
    out->path = gguf == NULL ? NULL : file_join(folder, gguf);
    status st = out->path == NULL ? FAIL(ST_NOT_FOUND, "%s: no GGUF file called or quantised as %s in it", folder, name->file) : ST_OK;
    free(gguf);
    free(folder);
    return st;
}

static bool cached_complete(const hub_repo *repo, const shard_hub_name *name, const char *commit, bool config_only)
{
    char *folder = commit[0] == '\0' ? NULL : hub_cache_snapshot(repo, commit, "");
    bool ok = folder != NULL && file_is_dir(folder) && snapshot_complete(folder, name, config_only);
    free(folder);
    return ok;
}

/* Offline: what is there is taken, complete or not; opening it names what is missing. */
static status from_cache(const hub_repo *repo, const shard_hub_name *name, const char *revision, shard_hub_result *out)
{
    char commit[41];
    TRY(hub_cache_ref(repo, revision, 0, commit));
    char *folder = commit[0] == '\0' ? NULL : hub_cache_snapshot(repo, commit, "");
    bool there = folder != NULL && file_is_dir(folder);
    free(folder);
    if (!there)
        return FAIL(ST_NOT_FOUND, "%s (revision %s): not in the cache (%s), and the network is switched off; run `trireme pull %s` where it is on", name->repo,
                    revision, repo->folder, name->repo);
    return result_path(repo, name, commit, out);
}

/* ---- what is needed ---- */

typedef struct wanted {
    char *file;
    char hash[65];  /* "" = not known yet */
    int64_t size;   /* -1 = not known yet */
} wanted;

typedef struct pull {
    const hub_config *config;
    const hub_repo *repo;
    const shard_hub_name *name;
    hub_http *http;
    char commit[41];
    json_t *listing;
    wanted *list;
    size_t n;
    uint64_t total, before;
    log_progress progress;
    shard_hub_result *out;
} pull;

static const json_t *sibling(const pull *p, const char *file)
{
    size_t i;
    json_t *s;
    json_array_foreach(json_object_get(p->listing, "siblings"), i, s)
    {
        const char *name = json_string_value(json_object_get(s, "rfilename"));
        if (name != NULL && strcmp(name, file) == 0)
            return s;
    }
    return NULL;
}

static status want(pull *p, const char *file)
{
    const json_t *s = sibling(p, file), *lfs = json_object_get(s, "lfs");
    if (!hub_safe_path(file))
        return FAIL(ST_FORMAT, "%s: lists a file called \"%.100s\", which could leave its folder: refused", p->name->repo, file);
    if (s == NULL)
        return FAIL(ST_NOT_FOUND, "%s at %s: has no file %s", p->name->repo, p->commit, file);
    for (size_t i = 0; i < p->n; i++) {
        if (strcmp(p->list[i].file, file) == 0)
            return ST_OK;
    }
    wanted *grown = realloc(p->list, (p->n + 1) * sizeof(*grown)), *w;
    if (grown == NULL)
        return FAIL(ST_NO_MEMORY, "hub: out of memory");
    p->list = grown;
    w = &grown[p->n];
    *w = (wanted){.file = strdup(file), .size = -1};
    if (w->file == NULL)
        return FAIL(ST_NO_MEMORY, "hub: out of memory");
    p->n++;
    const char *sha256 = json_string_value(json_object_get(lfs, "sha256")), *blob = json_string_value(json_object_get(s, "blobId"));
    const char *hash = lfs != NULL && !json_is_null(lfs) ? (sha256 != NULL ? sha256 : json_string_value(json_object_get(lfs, "oid"))) : blob;
    const json_t *size = json_is_integer(json_object_get(lfs, "size")) ? json_object_get(lfs, "size") : json_object_get(s, "size");
    if (hub_is_hex(hash, 64) || hub_is_hex(hash, 40))
        snprintf(w->hash, sizeof(w->hash), "%s", hash);
    if (json_is_integer(size) && json_integer_value(size) >= 0)
        w->size = json_integer_value(size);
    return ST_OK;
}

static status want_texts(pull *p)
{
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "chat_template.jinja", "chat_template.json", "README.md", "LICENSE"};
    static const char extra[] = "additional_chat_templates/";
    size_t i;
    json_t *s;
    for (i = 0; i < ARRAY_LEN(names); i++) {
        if (sibling(p, names[i]) != NULL)
            TRY(want(p, names[i]));
    }
    json_array_foreach(json_object_get(p->listing, "siblings"), i, s)
    {
        const char *name = json_string_value(json_object_get(s, "rfilename"));
        size_t n = name == NULL ? 0 : strlen(name);
        if (n > sizeof(extra) + 5 && strncmp(name, extra, sizeof(extra) - 1) == 0 && strcmp(name + n - 6, ".jinja") == 0)
            TRY(want(p, name));
    }
    return ST_OK;
}

/* The quantisations on offer, for a message. */
static void offered(const pull *p, mem_str *out)
{
    size_t i;
    json_t *s;
    json_array_foreach(json_object_get(p->listing, "siblings"), i, s)
    {
        const char *name = json_string_value(json_object_get(s, "rfilename"));
        if (name != NULL && is_gguf(name) && !later_part(name) && hub_safe_path(name) && out->len < 600)
            mem_str_printf(out, "%s%s", out->len > 0 ? ", " : "", name);
    }
    if (out->len == 0)
        mem_str_puts(out, "none");
}

static bool same_set(const char *a, const char *b)
{
    size_t n = strlen(a);
    return strcmp(a, b) == 0 || (is_part(a) && is_part(b) && strlen(b) == n && strncmp(a, b, n - 19) == 0 && strcmp(a + n - 14, b + n - 14) == 0);
}

static status want_gguf(pull *p)
{
    size_t i;
    json_t *s;
    const char *first = NULL;
    json_array_foreach(json_object_get(p->listing, "siblings"), i, s)
    {
        const char *name = json_string_value(json_object_get(s, "rfilename"));
        if (name != NULL && is_gguf(name) && gguf_matches(name, p->name->file) && (first == NULL || strcmp(name, first) < 0))
            first = name;
    }
    if (first == NULL) {
        mem_str list = {0};
        offered(p, &list);
        status st = FAIL(ST_NOT_FOUND, "%s at %s: no GGUF file called or quantised as %s; it has: %s", p->name->repo, p->commit, p->name->file, list.data);
        mem_str_free(&list);
        return st;
    }
    json_array_foreach(json_object_get(p->listing, "siblings"), i, s)
    {
        const char *name = json_string_value(json_object_get(s, "rfilename"));
        if (name != NULL && same_set(first, name))
            TRY(want(p, name));
    }
    return ST_OK;
}

static status fail_no_weights(const pull *p)
{
    mem_str list = {0};
    offered(p, &list);
    bool gguf = strcmp(list.data == NULL ? "none" : list.data, "none") != 0;
    status st = gguf ? FAIL(ST_INVALID, "%s: has GGUF files only: name one, as %s:FILE.gguf or %s:QUANTISATION; it has: %s", p->name->repo, p->name->repo,
                            p->name->repo, list.data)
                     : FAIL(ST_UNSUPPORTED, "%s at %s: has no safetensors and no GGUF weights", p->name->repo, p->commit);
    mem_str_free(&list);
    return st;
}

/* ---- getting it ---- */

static char *resolve_path(const pull *p, const char *file)
{
    mem_str s = {0};
    mem_str_printf(&s, "/%s/resolve/%s/", p->name->repo, p->commit);
    for (const char *c = file; *c != '\0'; c++) {
        if (isalnum((unsigned char)*c) || strchr("-._~/", *c) != NULL)
            mem_str_putc(&s, *c);
        else
            mem_str_printf(&s, "%%%02X", (unsigned char)*c);
    }
    return mem_str_take(&s);
}

/* SHA-256, or git's SHA-1 of "blob SIZE\0" and the bytes. */
static status hash_file(const char *path, uint64_t size, bool git, char out[65])
{
    enum { CHUNK = 1 << 20 };
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int len = 0;
    char head[64], *buffer = malloc(CHUNK);
    int fd = open(path, O_RDONLY | O_CLOEXEC), n = snprintf(head, sizeof(head), "blob %llu", (unsigned long long)size) + 1;
    status st = fd < 0 ? FAIL(ST_IO, "%s: cannot be read", path) : ST_OK;
    if (st == ST_OK && (ctx == NULL || buffer == NULL || EVP_DigestInit_ex(ctx, git ? EVP_sha1() : EVP_sha256(), NULL) != 1))
        st = FAIL(ST_NO_MEMORY, "%s: no memory for its hash", path);
    if (st == ST_OK && git)
        EVP_DigestUpdate(ctx, head, (size_t)n);
    for (uint64_t at = 0; st == ST_OK && at < size; at += CHUNK) {
        size_t part = size - at < CHUNK ? (size_t)(size - at) : CHUNK;
        st = file_read_at(fd, path, at, buffer, part);
        if (st == ST_OK)
            EVP_DigestUpdate(ctx, buffer, part);
    }
    if (st == ST_OK && EVP_DigestFinal_ex(ctx, digest, &len) == 1)
        hash_hex(digest, len, out);
    if (fd >= 0)
        close(fd);
    free(buffer);
    EVP_MD_CTX_free(ctx);
    return st;
}

static status check_and_publish(pull *p, const wanted *w, const char *incomplete, const char *blob)
{
    char hash[65] = "";
    TRY(hash_file(incomplete, (uint64_t)w->size, strlen(w->hash) == 40, hash));
    if (strcmp(hash, w->hash) != 0) {
        unlink(incomplete);
        return FAIL(ST_CORRUPT, "%s: %s: what was downloaded has the hash %s, the hub says %s; it was removed: try again", p->name->repo, w->file, hash, w->hash);
    }
    if (rename(incomplete, blob) != 0)
        return FAIL(ST_IO, "%s: %s", blob, strerror(errno));
    p->out->files_downloaded++;
    return ST_OK;
}

/* One file into its blob.  A beginning left by an earlier run may turn out to be another file's: then once more, from nothing. */
static status download_locked(pull *p, const wanted *w, const char *path, const char *incomplete, const char *blob)
{
    struct stat sb;
    bool resumed = stat(incomplete, &sb) == 0 && sb.st_size > 0;
    for (;; resumed = false) {
        uint64_t got = 0;
        status st = hub_http_file(p->http, path, w->file, incomplete, (uint64_t)w->size, &p->progress, p->before, &got);
        p->out->bytes_downloaded += got;
        TRY(st);
        if (resumed)
            status_mute();
        st = check_and_publish(p, w, incomplete, blob);
        if (resumed)
            status_unmute();
        if (st != ST_CORRUPT || !resumed)
            return st;
        log_warn("%s: what an earlier run left of it does not fit; downloading all of it", w->file);
    }
}

static status download(pull *p, const wanted *w, const char *blob)
{
    char *incomplete = NULL, *lock = NULL, *path = resolve_path(p, w->file);
    struct stat sb;
    int fd = -1;
    if (asprintf(&incomplete, "%s.incomplete", blob) < 0)
        incomplete = NULL;
    if (asprintf(&lock, "%s/%s.lock", p->repo->locks, w->hash) < 0)
        lock = NULL;
    status st = path == NULL || incomplete == NULL || lock == NULL ? FAIL(ST_NO_MEMORY, "hub: out of memory") : ST_OK;
    if (st == ST_OK)
        st = file_lock(lock, HUB_LOCK_TIMEOUT_MS, &fd); /* other tools lock single blobs */
    if (st == ST_OK && stat(blob, &sb) != 0)
        st = download_locked(p, w, path, incomplete, blob);
    file_unlock(&fd);
    free(path);
    free(incomplete);
    free(lock);
    return st;
}

/* Hash and size from the file's own answer, where the listing had none. */
static status complete_wanted(pull *p, wanted *w)
{
    if (w->hash[0] != '\0' && w->size >= 0)
        return ST_OK;
    char *path = resolve_path(p, w->file), hash[65];
    int64_t size;
    if (path == NULL)
        return FAIL(ST_NO_MEMORY, "hub: out of memory");
    status st = hub_http_head(p->http, path, w->file, hash, &size);
    free(path);
    TRY(st);
    if (hash[0] == '\0' || size < 0)
        return FAIL(ST_FORMAT, "%s: %s: the server gives neither its hash nor its size, so it cannot be checked", p->name->repo, w->file);
    snprintf(w->hash, sizeof(w->hash), "%s", hash);
    w->size = size;
    return ST_OK;
}

static status get(pull *p, wanted *w)
{
    struct stat sb;
    char *blob = hub_cache_blob(p->repo, w->hash);
    if (blob == NULL)
        return FAIL(ST_NO_MEMORY, "hub: out of memory");
    bool there = stat(blob, &sb) == 0 && sb.st_size == w->size;
    status st = ST_OK;
    if (!there) {
        unlink(blob); /* of another size: not what its name says */
        st = download(p, w, blob);
    }
    if (st == ST_OK)
        st = hub_cache_link(p->repo, p->commit, w->file, w->hash);
    free(blob);
    p->before += (uint64_t)w->size;
    p->out->files++;
    return st;
}

static status check_space(const pull *p, size_t first)
{
    struct statvfs v;
    uint64_t need = 0;
    for (size_t i = first; i < p->n; i++) {
        char *blob = hub_cache_blob(p->repo, p->list[i].hash);
        if (blob != NULL && !file_exists(blob))
            need += (uint64_t)p->list[i].size;
        free(blob);
    }
    if (statvfs(p->repo->folder, &v) != 0 || need <= (uint64_t)v.f_bavail * v.f_frsize)
        return ST_OK;
    return FAIL(ST_IO, "%s: %llu bytes are to be downloaded and the disk has %llu left: free some, or set HF_HUB_CACHE to another disk", p->repo->folder,
                (unsigned long long)need, (unsigned long long)((uint64_t)v.f_bavail * v.f_frsize));
}

/* Gets list entries from `first` on. */
static status get_from(pull *p, size_t first)
{
    for (size_t i = first; i < p->n; i++) {
        TRY(complete_wanted(p, &p->list[i]));
        p->total += (uint64_t)p->list[i].size;
    }
    TRY(check_space(p, first));
    p->progress.total = p->total;
    for (size_t i = first; i < p->n; i++)
        TRY(get(p, &p->list[i]));
    return ST_OK;
}

/* An index is read as soon as it is there; it says which files hold the weights. */
static status get_indexed(pull *p)
{
    json_t *index = NULL;
    const char **names = NULL;
    size_t n = 0, first = p->n;
    TRY(want(p, "model.safetensors.index.json"));
    TRY(get_from(p, first));
    char *path = hub_cache_snapshot(p->repo, p->commit, "model.safetensors.index.json");
    status st = path == NULL ? FAIL(ST_NO_MEMORY, "hub: out of memory") : json_parse_file(path, MAX_INDEX, &index);
    if (st == ST_OK)
        st = shard_safetensors_index_files(path, index, &names, &n);
    first = p->n;
    for (size_t i = 0; st == ST_OK && i < n; i++)
        st = want(p, names[i]);
    if (st == ST_OK)
        st = get_from(p, first);
    free(names);
    json_decref(index);
    free(path);
    return st;
}

static status get_weights(pull *p)
{
    size_t first = p->n;
    if (p->name->file[0] != '\0') {
        TRY(want_gguf(p));
        return get_from(p, first);
    }
    if (sibling(p, "model.safetensors") == NULL)
        return sibling(p, "model.safetensors.index.json") != NULL ? get_indexed(p) : fail_no_weights(p);
    TRY(want(p, "model.safetensors"));
    return get_from(p, first);
}

static status list_repository(pull *p, const char *revision)
{
    mem_str path = {0};
    char *text = NULL, what[512];
    size_t len = 0;
    mem_str_printf(&path, "/api/models/%s/revision/", p->name->repo);
    for (const char *c = revision; *c != '\0'; c++) {
        if (isalnum((unsigned char)*c) || strchr("-._~", *c) != NULL)
            mem_str_putc(&path, *c);
        else
            mem_str_printf(&path, "%%%02X", (unsigned char)*c);
    }
    mem_str_puts(&path, "?blobs=true");
    snprintf(what, sizeof(what), "%s (revision %s)", p->name->repo, revision);
    status st = path.failed ? FAIL(ST_NO_MEMORY, "hub: out of memory") : hub_http_text(p->http, path.data, what, MAX_LISTING, &text, &len);
    mem_str_free(&path);
    TRY(st);
    st = json_parse(what, text, len, &p->listing);
    free(text);
    TRY(st);
    const char *sha = json_string_value(json_object_get(p->listing, "sha"));
    if (!hub_is_hex(sha, 40) || !json_is_array(json_object_get(p->listing, "siblings")))
        return FAIL(ST_FORMAT, "%s: the hub's answer has no commit (sha) or no list of files (siblings)", what);
    if (hub_is_hex(revision, 40) && strcmp(sha, revision) != 0)
        return FAIL(ST_CORRUPT, "%s: the hub answers with another commit, %s", what, sha);
    snprintf(p->commit, sizeof(p->commit), "%s", sha);
    return ST_OK;
}

static status pull_files(pull *p, const char *revision, bool config_only)
{
    log_info("%s: revision %s is commit %s", p->name->repo, revision, p->commit);
    char *blobs = file_join(p->repo->folder, "blobs");
    status st = blobs == NULL ? FAIL(ST_NO_MEMORY, "hub: out of memory") : file_make_dirs(blobs);
    free(blobs);
    TRY(st);
    log_progress_begin(&p->progress, p->name->repo, 0, true);
    st = want_texts(p);
    if (st == ST_OK)
        st = get_from(p, 0);
    if (st == ST_OK && !config_only)
        st = get_weights(p);
    log_progress_end(&p->progress);
    TRY(st);
    TRY(hub_cache_set_ref(p->repo, revision, p->commit));
    return result_path(p->repo, p->name, p->commit, p->out);
}

static status pull_online(const hub_config *config, const hub_repo *repo, const shard_hub_name *name, const char *revision, bool config_only,
                          shard_hub_result *out)
{
    char cached[41];
    pull p = {.config = config, .repo = repo, .name = name, .out = out};
    TRY(hub_http_create(config, &p.http));
    status_mute();
    status st = list_repository(&p, revision), have = hub_cache_ref(repo, revision, 0, cached);
    char cause[512];
    snprintf(cause, sizeof(cause), "%s", status_message());
    status_unmute();
    if ((st == ST_IO || st == ST_TIMEOUT) && have == ST_OK && cached_complete(repo, name, cached, config_only)) {
        log_warn("%s; going on with commit %s from the cache", cause, cached);
        st = result_path(repo, name, cached, out);
    } else if (st != ST_OK) {
        st = FAIL(st, "%s", cause);
    } else {
        st = pull_files(&p, revision, config_only);
    }
    for (size_t i = 0; i < p.n; i++)
        free(p.list[i].file);
    free(p.list);
    json_decref(p.listing);
    hub_http_destroy(&p.http);
    return st;
}

/* One process at a time works on a repository; the others wait, then find its work done. */
static status lock_repository(const hub_repo *repo, const char *name, int *fd)
{
    char *path = NULL;
    TRY(file_make_dirs(repo->locks));
    if (asprintf(&path, "%s/trireme.lock", repo->locks) < 0)
        return FAIL(ST_NO_MEMORY, "hub: out of memory");
    status_mute();
    status st = file_lock(path, 0, fd);
    status_unmute();
    if (st == ST_TIMEOUT) {
        log_info("%s: waiting for another process that is downloading it", name);
        st = file_lock(path, HUB_LOCK_TIMEOUT_MS, fd);
    } else if (st != ST_OK) {
        st = file_lock(path, 0, fd); /* again, for its message */
    }
    free(path);
    return st;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static status fetch(const hub_config *config, const hub_repo *repo, const shard_hub_name *name, const shard_hub_options *o, shard_hub_result *out)
{
    const char *revision = o->revision == NULL ? "main" : o->revision;
    char commit[41];
    int lock = -1;
    double asked = now();
    TRY(check_revision(revision));
    if (config->offline || o->offline)
        return from_cache(repo, name, revision, out);
    if (hub_is_hex(revision, 40) && cached_complete(repo, name, revision, o->config_only))
        return result_path(repo, name, revision, out); /* a commit does not change */
    TRY(lock_repository(repo, name->repo, &lock));
    status st = hub_cache_ref(repo, revision, asked, commit);
    if (st == ST_OK && cached_complete(repo, name, commit, o->config_only))
        st = result_path(repo, name, commit, out);
    else if (st == ST_OK)
        st = pull_online(config, repo, name, revision, o->config_only, out);
    file_unlock(&lock);
    return st;
}

status shard_hub_fetch(const shard_hub_name *name, const shard_hub_options *options, shard_hub_result *out)
{
    hub_config config;
    hub_repo repo;
    *out = (shard_hub_result){0};
    TRY(hub_config_load(&config));
    status st = hub_repo_init(&config, name->repo, &repo);
    if (st == ST_OK) {
        st = fetch(&config, &repo, name, options, out);
        hub_repo_free(&repo);
    }
    hub_config_free(&config);
    if (st != ST_OK) {
        free(out->path);
        free(out->commit);
        *out = (shard_hub_result){0};
    }
    return st;
}
