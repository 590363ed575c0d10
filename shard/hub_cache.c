/* shard/hub_cache.c - where the hub's files lie on this machine, and what the environment says about the hub. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "shard/hub_internal.h"

static const char *env(const char *name)
{
    const char *v = getenv(name);
    return v == NULL || v[0] == '\0' ? NULL : v;
}

static bool env_true(const char *name)
{
    const char *v = env(name);
    return v != NULL && (strcmp(v, "1") == 0 || strcasecmp(v, "true") == 0 || strcasecmp(v, "yes") == 0 || strcasecmp(v, "on") == 0);
}

/* HF_HOME, else $XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface (the working folder's, without a home); NULL: out of memory. */
static char *hf_home(void)
{
    const char *home = env("HOME");
    char *out = NULL;
    int n;
    if (env("HF_HOME") != NULL)
        return strdup(env("HF_HOME"));
    if (env("XDG_CACHE_HOME") != NULL)
        n = asprintf(&out, "%s/huggingface", env("XDG_CACHE_HOME"));
    else
        n = asprintf(&out, "%s/.cache/huggingface", home == NULL ? "." : home);
    return n < 0 ? NULL : out;
}

static char *trimmed(const char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    size_t n = strlen(s);
    while (n > 0 && isspace((unsigned char)s[n - 1]))
        n--;
    return n == 0 ? NULL : strndup(s, n);
}

/* HF_TOKEN, else the file HF_TOKEN_PATH or HF_HOME/token.  A token that cannot be read is as none: public repositories need none. */
static char *find_token(const char *home)
{
    const char *direct = env("HF_TOKEN") != NULL ? env("HF_TOKEN") : env("HUGGING_FACE_HUB_TOKEN");
    if (direct != NULL)
        return trimmed(direct);
    char *path = env("HF_TOKEN_PATH") != NULL ? strdup(env("HF_TOKEN_PATH")) : file_join(home, "token"), *text = NULL, *out = NULL;
    size_t len;
    status_mute();
    if (path != NULL && file_exists(path) && file_read_all(path, 4096, &text, &len) == ST_OK)
        out = trimmed(text);
    status_unmute();
    free(path);
    free(text);
    return out;
}

static status check_token(const hub_config *c)
{
    for (const char *p = c->token; p != NULL && *p != '\0'; p++) {
        if (!isgraph((unsigned char)*p))
            return FAIL(ST_INVALID, "the hub token (HF_TOKEN, or the token file under HF_HOME) holds a blank or control character");
    }
    return ST_OK;
}

static status check_endpoint(const char *e)
{
    if (strncmp(e, "https://", 8) != 0 && strncmp(e, "http://", 7) != 0)
        return FAIL(ST_INVALID, "HF_ENDPOINT=%s: must start with https:// or http://", e);
    return ST_OK;
}

status hub_config_load(hub_config *out)
{
    *out = (hub_config){.offline = env_true("HF_HUB_OFFLINE")};
    char *home = hf_home();
    const char *cache = env("HF_HUB_CACHE") != NULL ? env("HF_HUB_CACHE") : env("HUGGINGFACE_HUB_CACHE");
    if (home != NULL) {
        out->cache = cache != NULL ? strdup(cache) : file_join(home, "hub");
        out->endpoint = strdup(env("HF_ENDPOINT") != NULL ? env("HF_ENDPOINT") : "https://huggingface.co");
        out->token = find_token(home);
    }
    free(home);
    status st = out->cache == NULL || out->endpoint == NULL ? FAIL(ST_NO_MEMORY, "hub: out of memory") : ST_OK;
    if (st == ST_OK) {
        for (size_t n = strlen(out->endpoint); n > 0 && out->endpoint[n - 1] == '/'; n--)
            out->endpoint[n - 1] = '\0';
        st = check_endpoint(out->endpoint);
    }
    if (st == ST_OK)
        st = check_token(out);
    if (st != ST_OK)
        hub_config_free(out);
    return st;
}

void hub_config_free(hub_config *c)
{
    free(c->cache);
    free(c->endpoint);
    free(c->token);
    *c = (hub_config){0};
}

status hub_repo_init(const hub_config *config, const char *name, hub_repo *out)
{
    char folder[256];
    const char *slash = strchr(name, '/');
    *out = (hub_repo){0};
    if (slash == NULL)
        snprintf(folder, sizeof(folder), "models--%s", name);
    else
        snprintf(folder, sizeof(folder), "models--%.*s--%s", (int)(slash - name), name, slash + 1);
    if (asprintf(&out->folder, "%s/%s", config->cache, folder) < 0)
        out->folder = NULL;
    if (asprintf(&out->locks, "%s/.locks/%s", config->cache, folder) < 0)
        out->locks = NULL;
    if (out->folder == NULL || out->locks == NULL) {
        hub_repo_free(out);
        return FAIL(ST_NO_MEMORY, "hub: out of memory");
    }
    return ST_OK;
}

void hub_repo_free(hub_repo *r)
{
    free(r->folder);
    free(r->locks);
    *r = (hub_repo){0};
}

bool hub_safe_path(const char *path)
{
    size_t len = strlen(path);
    if (len == 0 || len > 512)
        return false;
    for (const char *p = path; *p != '\0';) {
        size_t n = strcspn(p, "/");
        if (n == 0 || n > 255 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        for (size_t i = 0; i < n; i++) {
            if (p[i] == '\\' || (unsigned char)p[i] < 0x20 || p[i] == 0x7f)
                return false;
        }
        p += n;
        if (*p == '/' && *++p == '\0')
            return false;
    }
    return true;
}

bool hub_is_hex(const char *s, size_t n)
{
    return s != NULL && strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

status hub_cache_ref(const hub_repo *r, const char *revision, double fresh_after, char commit[41])
{
    commit[0] = '\0';
    if (hub_is_hex(revision, 40)) {
        memcpy(commit, revision, 41);
        return ST_OK;
    }
    char *path = NULL, *text = NULL;
    size_t len = 0;
    struct stat sb;
    if (asprintf(&path, "%s/refs/%s", r->folder, revision) < 0)
        return FAIL(ST_NO_MEMORY, "hub: out of memory");
    status st = ST_OK;
    if (stat(path, &sb) == 0 && (double)sb.st_mtim.tv_sec + 1e-9 * (double)sb.st_mtim.tv_nsec >= fresh_after)
        st = file_read_all(path, 4096, &text, &len);
    char *hash = text == NULL ? NULL : trimmed(text);
    if (st == ST_OK && hash != NULL) {
        if (hub_is_hex(hash, 40))
            memcpy(commit, hash, 41);
        else
            st = FAIL(ST_FORMAT, "%s: does not hold a commit; remove it and try again", path);
    }
    free(hash);
    free(text);
    free(path);
    return st;
}

/* mkdir -p of the folder a path lies in. */
static status make_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash == NULL ? NULL : strndup(path, (size_t)(slash - path));
    if (dir == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", path);
    status st = file_make_dirs(dir);
    free(dir);
    return st;
}

status hub_cache_set_ref(const hub_repo *r, const char *revision, const char *commit)
{
    char *path = NULL;
    if (hub_is_hex(revision, 40))
        return ST_OK;
    if (asprintf(&path, "%s/refs/%s", r->folder, revision) < 0)
        return FAIL(ST_NO_MEMORY, "hub: out of memory");
    status st = make_parent(path);
    if (st == ST_OK)
        st = file_write_all(path, commit, strlen(commit), 0644);
    free(path);
    return st;
}

char *hub_cache_snapshot(const hub_repo *r, const char *commit, const char *file)
{
    char *out = NULL;
    return asprintf(&out, "%s/snapshots/%s%s%s", r->folder, commit, file[0] != '\0' ? "/" : "", file) < 0 ? NULL : out;
}

char *hub_cache_blob(const hub_repo *r, const char *hash)
{
    char *out = NULL;
    return asprintf(&out, "%s/blobs/%s", r->folder, hash) < 0 ? NULL : out;
}

status hub_cache_link(const hub_repo *r, const char *commit, const char *file, const char *hash)
{
    char *link = hub_cache_snapshot(r, commit, file), *tmp = NULL, target[1024];
    size_t n = 0;
    for (const char *p = file; *p != '\0'; p++) {
        if (*p == '/' && n + 3 < sizeof(target) - 128)
            n += (size_t)snprintf(target + n, sizeof(target) - n, "../");
    }
    snprintf(target + n, sizeof(target) - n, "../../blobs/%s", hash);
    if (link == NULL || asprintf(&tmp, "%s.tmp.%ld", link, (long)getpid()) < 0) {
        free(link);
        return FAIL(ST_NO_MEMORY, "hub: out of memory");
    }
    status st = make_parent(link);
    if (st == ST_OK) {
        unlink(tmp);
        if (symlink(target, tmp) != 0 || rename(tmp, link) != 0) {
            st = FAIL(ST_IO, "%s: cannot link it to its blob: %s", link, strerror(errno));
            unlink(tmp);
        }
    }
    free(link);
    free(tmp);
    return st;
}
