/* comm/wire/allow.c - the public keys that a gateway admits, and ZeroMQ's questions about them.
 *
 * CURVE without an authentication handler admits any key, so the handler always runs: a REP socket at a fixed address of the context, answered
 * by the thread that owns the server (ZAP, rfc.zeromq.org/spec/27).  The folder is read again when a second has passed, so that adding and removing a
 * key needs no restart; a handshake does not make it read more than five times a second. */
#include "comm/wire/wire_internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

typedef struct allowed {
    char name[WIRE_NAME], key[WIRE_KEY];
} allowed;

struct wire_allow {
    char *dir;
    allowed *list;
    size_t n, cap;
    double read_at, told_at;
    uint64_t refused, told;
    char problem[512]; /* told once */
};

enum { MAX_ALLOWED = 65536 };

static status allow_append(wire_allow *a, const char *name, const char *key)
{
    if (a->n == MAX_ALLOWED)
        return FAIL(ST_LIMIT, "%s: more than %d keys", a->dir, MAX_ALLOWED);
    TRY(mem_grow(&a->list, &a->cap, a->n + 1, sizeof(*a->list), "allowed keys"));
    strcpy(a->list[a->n].name, name);
    strcpy(a->list[a->n++].key, key);
    return ST_OK;
}

static status allow_file(wire_allow *a, const char *file)
{
    char name[WIRE_NAME], key[WIRE_KEY];
    size_t n = strlen(file);
    if (file[0] == '.' || n < 5 || strcmp(file + n - 4, ".pub") != 0)
        return ST_OK;
    if (n - 4 >= sizeof(name))
        return FAIL(ST_FORMAT, "%s/%s: a key's name has at most %zu letters", a->dir, file, sizeof(name) - 1);
    memcpy(name, file, n - 4);
    name[n - 4] = '\0';
    if (!wire_name_valid(name))
        return FAIL(ST_FORMAT, "%s/%s: a key's name is letters, digits, '.', '_' and '-'", a->dir, file);
    char *path = file_join(a->dir, file);
    status st = path == NULL ? ST_NO_MEMORY : wire_public_key_read(path, key);
    free(path);
    return st == ST_OK ? allow_append(a, name, key) : st;
}

/* Whoever may write into the folder may admit a replica, and a replica sees every prompt. */
static status check_dir(const char *dir)
{
    struct stat sb;
    if (stat(dir, &sb) != 0)
        return FAIL(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s: %s; `trireme keygen` makes it", dir, strerror(errno));
    if (!S_ISDIR(sb.st_mode))
        return FAIL(ST_INVALID, "%s: not a folder", dir);
    if ((sb.st_mode & 022) != 0)
        return FAIL(ST_INVALID, "%s: others may write into this folder, and so admit replicas: chmod go-w %s", dir, dir);
    return ST_OK;
}

/* A file that is wrong is passed over and told; the others count. */
static status allow_read(wire_allow *a)
{
    a->n = 0; /* a folder that cannot be read admits nobody */
    TRY(check_dir(a->dir));
    DIR *dir = opendir(a->dir);
    if (dir == NULL)
        return FAIL(ST_IO, "%s: %s", a->dir, strerror(errno));
    status st = ST_OK;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        status one = allow_file(a, e->d_name);
        st = one != ST_OK ? one : st;
    }
    closedir(dir);
    return st;
}

void wire_allow_refresh(wire_allow *a, double now, double age)
{
    if (now - a->read_at < age)
        return;
    a->read_at = now;
    status_mute();
    status st = allow_read(a);
    status_unmute();
    const char *problem = st == ST_OK ? "" : status_message();
    if (strncmp(problem, a->problem, sizeof(a->problem) - 1) == 0)
        return;
    if (st != ST_OK)
        log_warn("allowed keys: %s", problem);
    strncpy(a->problem, problem, sizeof(a->problem) - 1);
}

status wire_allow_create(const char *dir, wire_allow **out)
{
    wire_allow *a;
    TRY(check_dir(dir));
    TRY(mem_calloc(1, sizeof(*a), "allowed keys", &a));
    a->dir = strdup(dir);
    if (a->dir == NULL) {
        wire_allow_destroy(&a);
        return FAIL(ST_NO_MEMORY, "no memory for the allowed keys");
    }
    wire_allow_refresh(a, log_clock(), 0);
    if (a->n == 0)
        log_warn("%s holds no public key: no replica can join until one is added (trireme keygen --help)", dir);
    *out = a;
    return ST_OK;
}

void wire_allow_destroy(wire_allow **a)
{
    if (*a == NULL)
        return;
    free((*a)->dir);
    free((*a)->list);
    free(*a);
    *a = NULL;
}

const char *wire_allow_find(const wire_allow *a, const char *public_key)
{
    for (size_t i = 0; i < a->n; i++)
        if (strcmp(a->list[i].key, public_key) == 0)
            return a->list[i].name;
    return NULL;
}

/* version, request id, domain, address, routing id, mechanism, credentials */
enum { ZAP_VERSION, ZAP_REQUEST, ZAP_DOMAIN, ZAP_ADDRESS, ZAP_ROUTE, ZAP_MECHANISM, ZAP_KEY, ZAP_PARTS };
typedef struct zap_part {
    char data[256];
    int n; /* at most 255; longer parts come cut */
} zap_part;

static int zap_receive(void *socket, zap_part parts[ZAP_PARTS])
{
    int n = 0, more = 1;
    for (size_t size = sizeof(more); more; size = sizeof(more)) {
        zap_part extra, *p = n < ZAP_PARTS ? &parts[n] : &extra;
        p->n = zmq_recv(socket, p->data, sizeof(p->data) - 1, ZMQ_DONTWAIT);
        if (p->n < 0)
            return 0;
        p->n = p->n < 255 ? p->n : 255;
        p->data[p->n] = '\0';
        n++;
        if (zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size) != 0)
            return 0;
    }
    return n;
}

static void zap_send(void *socket, const void *data, size_t n, bool more)
{
    zmq_send(socket, data, n, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
}

/* The key travels with the peer's messages as a property: length and name, length and value. */
static size_t zap_properties(const char *key, uint8_t out[128])
{
    size_t name = strlen(WIRE_KEY_PROPERTY), value = strlen(key), n = 0;
    out[n++] = (uint8_t)name;
    memcpy(out + n, WIRE_KEY_PROPERTY, name);
    n += name;
    for (int shift = 24; shift >= 0; shift -= 8)
        out[n++] = (uint8_t)(value >> shift);
    memcpy(out + n, key, value);
    return n + value;
}

/* One line a second at most, since anyone may knock. */
static void tell_refused(wire_allow *a, const char *key, const char *address, double now)
{
    a->refused++;
    if (a->told > 0 && now - a->told_at < 1)
        return;
    log_warn("refused %s: its key %s is not in %s (%llu refused so far)", address, key[0] != '\0' ? key : "of no use", a->dir,
             (unsigned long long)a->refused);
    a->told = a->refused;
    a->told_at = now;
}

bool wire_allow_answer(wire_allow *a, void *socket, double now)
{
    zap_part parts[ZAP_PARTS];
    char key[WIRE_KEY] = "";
    uint8_t properties[128];
    int n = zap_receive(socket, parts);
    if (n == 0)
        return false;
    bool whole = n == ZAP_PARTS && strcmp(parts[ZAP_VERSION].data, "1.0") == 0 && strcmp(parts[ZAP_MECHANISM].data, "CURVE") == 0 && parts[ZAP_KEY].n == 32;
    if (whole)
        zmq_z85_encode(key, (const uint8_t *)parts[ZAP_KEY].data, 32);
    wire_allow_refresh(a, now, 0.2);
    const char *user = whole ? wire_allow_find(a, key) : NULL;
    size_t n_properties = user != NULL ? zap_properties(key, properties) : 0;
    zap_send(socket, "1.0", 3, true);
    zap_send(socket, parts[ZAP_REQUEST].data, n > ZAP_REQUEST ? (size_t)parts[ZAP_REQUEST].n : 0, true);
    zap_send(socket, user != NULL ? "200" : "400", 3, true);
    zap_send(socket, user != NULL ? "OK" : "unknown key", user != NULL ? 2 : 11, true);
    zap_send(socket, user != NULL ? user : "", user != NULL ? strlen(user) : 0, true);
    zap_send(socket, properties, n_properties, false);
    if (user == NULL)
        tell_refused(a, key, n > ZAP_ADDRESS ? parts[ZAP_ADDRESS].data : "", now);
    return user == NULL;
}
