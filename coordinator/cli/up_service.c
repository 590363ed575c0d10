#include "coordinator/cli/up_service.h"

#include <curl/curl.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"

/* ---- the folder ---- */

enum { MAX_SOCKET_FOLDER = 80 }; /* a socket's path has at most 107 bytes */

#define FOLDER_PREFIX "trireme-up."

static int remove_entry(const char *path, const struct stat *sb, int kind, struct FTW *where)
{
    (void)sb, (void)kind, (void)where;
    return remove(path);
}

/* Takes the lock that says that a run is alive; -1: it is, or has not got so far. */
static int folder_lock(const char *folder, int flags)
{
    mem_str s = {0};
    mem_str_printf(&s, "%s/lock", folder);
    int fd = s.failed ? -1 : open(s.data, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd);
        fd = -1;
    }
    mem_str_free(&s);
    return fd;
}

/* Folders of runs that were killed, and could not remove their keys themselves. */
static void folders_sweep(const char *place)
{
    DIR *dir = opendir(place);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        struct stat sb;
        mem_str s = {0};
        if (strncmp(e->d_name, FOLDER_PREFIX, strlen(FOLDER_PREFIX)) != 0)
            continue;
        mem_str_printf(&s, "%s/%s", place, e->d_name);
        bool ours = !s.failed && lstat(s.data, &sb) == 0 && S_ISDIR(sb.st_mode) && sb.st_uid == geteuid();
        int fd = ours ? folder_lock(s.data, 0) : -1;
        if (fd >= 0) {
            nftw(s.data, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
            close(fd);
        }
        mem_str_free(&s);
    }
    if (dir != NULL)
        closedir(dir);
}

status up_folder_create(up_folder *out)
{
    const char *places[] = {getenv("XDG_RUNTIME_DIR"), getenv("TMPDIR"), "/tmp"};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        mem_str s = {0};
        if (places[i] == NULL || places[i][0] != '/' || strlen(places[i]) > MAX_SOCKET_FOLDER)
            continue;
        folders_sweep(places[i]);
        mem_str_printf(&s, "%s/" FOLDER_PREFIX "XXXXXX", places[i]);
        if (!s.failed && mkdtemp(s.data) != NULL) {
            out->path = mem_str_take(&s);
            out->lock = out->path != NULL ? folder_lock(out->path, O_CREAT) : -1;
            return out->lock >= 0 ? ST_OK : FAIL(ST_IO, "%s: cannot be locked: %s", out->path != NULL ? out->path : "a folder", strerror(errno));
        }
        mem_str_free(&s);
    }
    return FAIL(ST_IO, "no folder for the service's keys and socket: %s: set TMPDIR to a place that can be written", strerror(errno));
}

void up_folder_remove(up_folder *f)
{
    if (f->path != NULL) {
        nftw(f->path, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
        close(f->lock);
    }
    free(f->path);
    *f = (up_folder){0};
}

/* ---- the port ---- */

static status port_refused(const char *host, int32_t port, int why)
{
    if (why == EADDRINUSE)
        return FAIL(ST_BUSY, "port %d is in use on %s: end what listens there, or give another with --port (0: any free one)", port, host);
    if (why == EACCES)
        return FAIL(ST_IO, "port %d may be used by root alone: give one above 1023 with --port", port);
    if (why == EADDRNOTAVAIL)
        return FAIL(ST_INVALID, "%s is no address of this machine: give one with --host (0.0.0.0: all of them)", host);
    return FAIL(ST_IO, "cannot listen on %s port %d: %s", host, port, strerror(why));
}

static int32_t port_of(int fd)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof(a);
    char text[16];
    if (getsockname(fd, (struct sockaddr *)&a, &len) != 0 || getnameinfo((struct sockaddr *)&a, len, NULL, 0, text, sizeof(text), NI_NUMERICSERV) != 0)
        return 0;
    return (int32_t)strtol(text, NULL, 10);
}

status up_port_check(const char *host, int32_t *port)
{
    char service[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    snprintf(service, sizeof(service), "%d", *port);
    int rc = getaddrinfo(host, service, &hints, &found);
    if (rc != 0)
        return FAIL(ST_INVALID, "--host %s: %s", host, gai_strerror(rc));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, why = fd < 0 ? errno : 0;
    /* As the gateway does: connections of an earlier run that are still being closed are no hindrance, another listener is. */
    if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0))
        why = errno;
    status st = why != 0 ? port_refused(host, *port, why) : ST_OK;
    if (st == ST_OK)
        *port = port_of(fd);
    if (fd >= 0)
        close(fd);
    freeaddrinfo(found);
    return st;
}

void up_address(const char *host, int32_t port, mem_str *out)
{
    bool v6 = strchr(host, ':') != NULL && host[0] != '[';
    mem_str_printf(out, v6 ? "[%s]:%d" : "%s:%d", host, port);
}

void up_url(const char *host, int32_t port, bool tls, mem_str *out)
{
    if (strcmp(host, "0.0.0.0") == 0)
        host = "127.0.0.1";
    else if (strcmp(host, "::") == 0 || strcmp(host, "[::]") == 0)
        host = "::1";
    mem_str_puts(out, tls ? "https://" : "http://");
    up_address(host, port, out);
}

char *up_program_find(const char *name)
{
    const char *path = getenv("PATH");
    for (const char *p = path; p != NULL && *p != '\0';) {
        size_t n = strcspn(p, ":");
        mem_str s = {0};
        mem_str_printf(&s, "%.*s/%s", (int)n, p, name);
        if (!s.failed && access(s.data, X_OK) == 0)
            return mem_str_take(&s);
        mem_str_free(&s);
        p += n + (p[n] == ':');
    }
    return NULL;
}

void up_quote(const char *text, mem_str *out)
{
    mem_str_putc(out, '\'');
    for (; *text != '\0'; text++) {
        if (*text == '\'')
            mem_str_puts(out, "'\\''");
        else
            mem_str_putc(out, *text);
    }
    mem_str_putc(out, '\'');
}

/* ---- ready? ---- */

static size_t on_body(char *bytes, size_t size, size_t n, void *arg)
{
    mem_str *body = arg;
    mem_str_append(body, bytes, size * n);
    return body->failed ? 0 : size * n;
}

/* The body of a 200, parsed; NULL for anything else.  The certificate is not checked: it is our own child that we ask. */
static json_t *get(const char *url, const char *path, const char *api_key)
{
    CURL *c = curl_easy_init();
    mem_str address = {0}, header = {0}, body = {.limit = (size_t)16 << 20};
    json_t *out = NULL;
    long code = 0;
    mem_str_printf(&address, "%s%s", url, path);
    mem_str_printf(&header, "Authorization: Bearer %s", api_key);
    struct curl_slist *headers = header.failed ? NULL : curl_slist_append(NULL, header.data);
    if (c != NULL && headers != NULL && !address.failed) {
        curl_easy_setopt(c, CURLOPT_URL, address.data);
        curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(c, CURLOPT_PROXY, "");
        curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, 1000L);
        curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
        curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(c, CURLOPT_WRITEDATA, &body);
        if (curl_easy_perform(c) == CURLE_OK && curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &code) == CURLE_OK && code == 200 && !body.failed)
            out = json_loadb(body.data != NULL ? body.data : "", body.len, 0, NULL);
    }
    curl_slist_free_all(headers);
    curl_easy_cleanup(c);
    mem_str_free(&address);
    mem_str_free(&header);
    mem_str_free(&body);
    return out;
}

status up_ready_ask(const char *url, const char *api_key, up_readiness *out)
{
    *out = (up_readiness){0};
    json_t *models = get(url, "/v1/models", api_key);
    const char *id = json_string_value(json_object_get(json_array_get(json_object_get(models, "data"), 0), "id"));
    if (id != NULL) {
        size_t i;
        json_t *replica, *state = get(url, "/state", api_key);
        out->model = strdup(id);
        json_array_foreach(json_object_get(state, "replicas"), i, replica) {
            const char *what = json_string_value(json_object_get(replica, "state"));
            out->ready += what != NULL && strcmp(what, "ready") == 0;
        }
        json_decref(state);
    }
    json_decref(models);
    return id != NULL && out->model == NULL ? FAIL(ST_NO_MEMORY, "no memory for a name") : ST_OK;
}
