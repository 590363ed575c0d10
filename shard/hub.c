#include "shard/hub.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "shard/hub_internal.h"

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

/* NAME-00002-of-00003.gguf and so on: not the first of a split set. */
static bool later_part(const char *file)
{
    size_t n = strlen(file);
    return n > 20 && file[n - 20] == '-' && strncmp(file + n - 14, "-of-", 4) == 0 && strncmp(file + n - 19, "00001", 5) != 0;
}

static status find_gguf(const char *folder, const char *want, char **out)
{
    DIR *d = opendir(folder);
    char *best = NULL;
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.' || !gguf_matches(e->d_name, want) || later_part(e->d_name) || (best != NULL && strcmp(best, e->d_name) <= 0))
            continue;
        free(best);
        best = strdup(e->d_name);
    }
    if (d != NULL)
        closedir(d);
    char *direct = best == NULL ? file_join(folder, want) : file_join(folder, best);
    free(best);
    if (direct == NULL || !file_exists(direct)) {
        free(direct);
        return FAIL(ST_NOT_FOUND, "%s: no GGUF file called or quantised as %s in it", folder, want);
    }
    *out = direct;
    return ST_OK;
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
    status st = find_gguf(folder, name->file, &out->path);
    free(folder);
    return st;
}

static status from_cache(const hub_repo *repo, const shard_hub_name *name, const char *revision, const char *why, shard_hub_result *out)
{
    char commit[41];
    TRY(hub_cache_ref(repo, revision, 0, commit));
    char *folder = commit[0] == '\0' ? NULL : hub_cache_snapshot(repo, commit, "");
    bool there = folder != NULL && file_is_dir(folder);
    free(folder);
    if (!there)
        return FAIL(ST_NOT_FOUND, "%s (revision %s): not in the cache (%s), and %s; run `trireme pull %s` where there is a network", name->repo, revision,
                    repo->folder, why, name->repo);
    return result_path(repo, name, commit, out);
}

static status fetch(const hub_config *config, const hub_repo *repo, const shard_hub_name *name, const shard_hub_options *o, shard_hub_result *out)
{
    const char *revision = o->revision == NULL ? "main" : o->revision;
    TRY(check_revision(revision));
    return from_cache(repo, name, revision, config->offline || o->offline ? "the network is off (HF_HUB_OFFLINE or --offline)" : "there is no network", out);
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
