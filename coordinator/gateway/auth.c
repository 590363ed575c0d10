#include "coordinator/gateway/auth.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"

#define VERSION 1
#define SALT_BYTES 16
#define MAX_KEY 255
#define MAX_FILE (64u << 20)
#define LOCK_TIMEOUT_MS 5000
static const char magic[] = "trireme-keys";

typedef struct entry {
    uint8_t digest[HASH_SHA256_BYTES];
    auth_key key;
} entry;

/* The keys of one reading of the file: an open-addressed table by the first bytes of the digest, at most half full. */
typedef struct table {
    uint8_t salt[SALT_BYTES];
    entry **slots;
    entry *entries;
    size_t n, cap; /* cap: a power of two, of slots */
} table;

struct auth {
    pthread_mutex_t lock;
    char *path;
    table keys;
    bool has_single, open_admin, failing;
    entry single;
    uint8_t single_salt[SALT_BYTES];
    char **names; /* by number */
    int32_t n_names;
    struct timespec modified;
    off_t size;
    ino_t inode;
    time_t looked;
};

/* ---- digests ---- */

static status draw(void *bytes, size_t n)
{
    return getrandom(bytes, n, 0) == (ssize_t)n ? ST_OK : FAIL(ST_IO, "random bytes: %s", strerror(errno));
}

static status digest_of(const uint8_t salt[SALT_BYTES], const char *key, uint8_t digest[HASH_SHA256_BYTES])
{
    uint8_t bytes[SALT_BYTES + MAX_KEY];
    size_t n = strlen(key);
    if (n == 0 || n > MAX_KEY)
        return ST_INVALID;
    memcpy(bytes, salt, SALT_BYTES);
    memcpy(bytes + SALT_BYTES, key, n);
    status st = hash_sha256_of(bytes, SALT_BYTES + n, digest);
    explicit_bzero(bytes, sizeof(bytes));
    return st;
}

static size_t slot_of(const uint8_t *digest, size_t cap)
{
    uint64_t v;
    memcpy(&v, digest, sizeof(v));
    return (size_t)v & (cap - 1);
}

static const entry *find(const table *t, const uint8_t *digest)
{
    const entry *found = NULL;
    for (size_t i = t->cap > 0 ? slot_of(digest, t->cap) : 0; t->cap > 0 && t->slots[i] != NULL; i = (i + 1) & (t->cap - 1)) {
        if (CRYPTO_memcmp(t->slots[i]->digest, digest, HASH_SHA256_BYTES) == 0)
            found = t->slots[i];
    }
    return found;
}

/* ---- the file ---- */

static bool name_ok(const char *name, size_t n)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    return n > 0 && n < AUTH_NAME && strspn(name, allowed) >= n;
}

static bool unhex(const char *text, uint8_t *out, size_t n)
{
    if (strspn(text, "0123456789abcdef") != 2 * n || text[2 * n] != '\0')
        return false;
    for (size_t i = 0; i < n; i++) {
        const char pair[3] = {text[2 * i], text[2 * i + 1], '\0'};
        out[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return true;
}

static bool parse_amount(const char *text, int64_t max, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    *out = v;
    return end != text && *end == '\0' && errno == 0 && v >= 1 && v <= max;
}

static bool parse_option(const char *word, auth_key *k)
{
    int64_t v;
    if (strcmp(word, "admin") == 0) {
        k->admin = true;
        return true;
    }
    if (strncmp(word, "requests=", 9) == 0)
        return parse_amount(word + 9, INT64_MAX / 4, &k->limits.requests_per_min);
    if (strncmp(word, "tokens=", 7) == 0)
        return parse_amount(word + 7, INT64_MAX / 4, &k->limits.tokens_per_min);
    if (strncmp(word, "concurrent=", 11) != 0 || !parse_amount(word + 11, INT32_MAX, &v))
        return false;
    k->limits.max_concurrent = (int32_t)v;
    return true;
}

/* A line's words, in place; 0 for blank lines and comments. */
static int split(char *line, char *words[], int max)
{
    int n = 0;
    char *save = NULL;
    for (char *w = strtok_r(line, " \t\r", &save); w != NULL && n < max; w = strtok_r(NULL, " \t\r", &save))
        words[n++] = w;
    return n > 0 && words[0][0] == '#' ? 0 : n;
}

static status parse_header(const char *path, char *line, uint8_t salt[SALT_BYTES])
{
    char *words[4];
    int n = split(line, words, 4);
    if (n < 2 || strcmp(words[0], magic) != 0)
        return FAIL(ST_FORMAT, "%s: not a file of API keys (`trireme apikey add FILE NAME` makes one)", path);
    if (strtol(words[1], NULL, 10) > VERSION)
        return FAIL(ST_UNSUPPORTED, "%s: of format %s, this program knows up to %d: use a newer trireme", path, words[1], VERSION);
    if (strtol(words[1], NULL, 10) != VERSION || n != 3 || !unhex(words[2], salt, SALT_BYTES))
        return FAIL(ST_FORMAT, "%s, line 1: \"%s %d\" and a salt of %d hex digits are needed", path, magic, VERSION, 2 * SALT_BYTES);
    return ST_OK;
}

static status parse_line(const char *path, int number, char *line, entry *out, bool *is_key)
{
    char *words[16];
    int n = split(line, words, 16);
    *is_key = n > 0;
    if (n == 0)
        return ST_OK;
    *out = (entry){0};
    if (n < 2 || n == 16 || !name_ok(words[0], strlen(words[0])) || !unhex(words[1], out->digest, HASH_SHA256_BYTES))
        return FAIL(ST_FORMAT, "%s, line %d: a name, a digest of %d hex digits, and limits are needed", path, number, 2 * HASH_SHA256_BYTES);
    snprintf(out->key.name, sizeof(out->key.name), "%s", words[0]);
    for (int i = 2; i < n; i++) {
        if (!parse_option(words[i], &out->key))
            return FAIL(ST_FORMAT, "%s, line %d: \"%s\": requests=N, tokens=N, concurrent=N or admin is needed", path, number, words[i]);
    }
    return ST_OK;
}

static void table_free(table *t)
{
    free(t->slots);
    free(t->entries);
    *t = (table){0};
}

static status table_index(const char *path, table *t)
{
    for (t->cap = 16; t->cap < 2 * t->n + 2;)
        t->cap *= 2;
    TRY(mem_calloc(t->cap, sizeof(*t->slots), "API keys", &t->slots));
    for (size_t i = 0; i < t->n; i++) {
        if (find(t, t->entries[i].digest) != NULL)
            return FAIL(ST_FORMAT, "%s: \"%s\" has the key of another name", path, t->entries[i].key.name);
        size_t s = slot_of(t->entries[i].digest, t->cap);
        while (t->slots[s] != NULL)
            s = (s + 1) & (t->cap - 1);
        t->slots[s] = &t->entries[i];
    }
    return ST_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->key.name, ((const entry *)b)->key.name);
}

/* text is cut up. */
static status table_parse(const char *path, char *text, table *t)
{
    size_t lines = 1;
    for (const char *p = text; (p = strchr(p, '\n')) != NULL; p++)
        lines++;
    TRY(mem_calloc(lines, sizeof(*t->entries), "API keys", &t->entries));
    int number = 0;
    for (char *line = text, *next; line != NULL; line = next) {
        next = strchr(line, '\n');
        if (next != NULL)
            *next++ = '\0';
        bool is_key = false;
        TRY(++number == 1 ? parse_header(path, line, t->salt) : parse_line(path, number, line, &t->entries[t->n], &is_key));
        t->n += is_key;
    }
    qsort(t->entries, t->n, sizeof(*t->entries), by_name);
    for (size_t i = 1; i < t->n; i++) {
        if (by_name(&t->entries[i - 1], &t->entries[i]) == 0)
            return FAIL(ST_FORMAT, "%s: the name \"%s\" is there twice", path, t->entries[i].key.name);
    }
    return table_index(path, t);
}

static status table_read(const char *path, table *t, struct stat *sb)
{
    char *text;
    size_t n;
    *t = (table){0};
    if (stat(path, sb) != 0)
        return FAIL(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s: %s", path, strerror(errno));
    if ((sb->st_mode & 022) != 0)
        return FAIL(ST_INVALID, "%s: others may write to this file of API keys: chmod 600 it", path);
    TRY(file_read_all(path, MAX_FILE, &text, &n));
    status st = strlen(text) == n ? table_parse(path, text, t) : FAIL(ST_FORMAT, "%s: holds a NUL byte", path);
    free(text);
    if (st != ST_OK)
        table_free(t);
    return st;
}

/* ---- checking ---- */

/* The number of a name, given out in order and kept. -1: out of memory. */
static int32_t number_of(auth *a, const char *name)
{
    for (int32_t i = 0; i < a->n_names; i++) {
        if (strcmp(a->names[i], name) == 0)
            return i;
    }
    char **grown = realloc(a->names, ((size_t)a->n_names + 1) * sizeof(*grown));
    if (grown != NULL)
        a->names = grown;
    char *copy = grown != NULL ? strdup(name) : NULL;
    if (copy == NULL)
        return -1;
    a->names[a->n_names] = copy;
    return a->n_names++;
}

static status adopt(auth *a, table *t, const struct stat *sb)
{
    for (size_t i = 0; i < t->n; i++) {
        t->entries[i].key.number = number_of(a, t->entries[i].key.name);
        if (t->entries[i].key.number < 0)
            return FAIL(ST_NO_MEMORY, "no memory for API keys");
    }
    table_free(&a->keys);
    a->keys = *t;
    *t = (table){0};
    a->modified = sb->st_mtim;
    a->size = sb->st_size;
    a->inode = sb->st_ino;
    return ST_OK;
}

static bool unchanged(const auth *a, const struct stat *sb)
{
    return sb->st_size == a->size && sb->st_ino == a->inode && sb->st_mtim.tv_sec == a->modified.tv_sec && sb->st_mtim.tv_nsec == a->modified.tv_nsec;
}

static status reload_locked(auth *a)
{
    table t;
    struct stat sb;
    if (a->path == NULL || (stat(a->path, &sb) == 0 && unchanged(a, &sb)))
        return ST_OK;
    status st = table_read(a->path, &t, &sb);
    if (st == ST_OK)
        st = adopt(a, &t, &sb);
    if (st == ST_OK)
        log_info("%s: %zu API key%s", a->path, a->keys.n, a->keys.n == 1 ? "" : "s");
    if (st != ST_OK)
        table_free(&t);
    return st;
}

status auth_reload(auth *a)
{
    pthread_mutex_lock(&a->lock);
    status st = reload_locked(a);
    pthread_mutex_unlock(&a->lock);
    return st;
}

status auth_create(const auth_options *o, auth **out)
{
    auth *a = NULL;
    TRY(mem_calloc(1, sizeof(*a), "API keys", &a));
    pthread_mutex_init(&a->lock, NULL);
    a->open_admin = o->open_admin;
    status st = ST_OK;
    if (o->single != NULL) {
        a->has_single = true;
        a->single.key = (auth_key){.name = "default", .admin = true};
        st = draw(a->single_salt, SALT_BYTES);
        if (st == ST_OK && digest_of(a->single_salt, o->single, a->single.digest) != ST_OK)
            st = FAIL(ST_INVALID, "the API key must have 1 to %d bytes", MAX_KEY);
    }
    if (st == ST_OK && (a->single.key.number = number_of(a, o->single != NULL ? "default" : "anonymous")) < 0)
        st = FAIL(ST_NO_MEMORY, "no memory for API keys");
    if (st == ST_OK && o->path != NULL) {
        a->path = strdup(o->path);
        st = a->path != NULL ? reload_locked(a) : FAIL(ST_NO_MEMORY, "no memory for API keys");
    }
    if (st != ST_OK)
        auth_destroy(&a);
    else
        *out = a;
    return st;
}

void auth_destroy(auth **ap)
{
    auth *a = *ap;
    if (a == NULL)
        return;
    for (int32_t i = 0; i < a->n_names; i++)
        free(a->names[i]);
    free(a->names);
    free(a->path);
    table_free(&a->keys);
    pthread_mutex_destroy(&a->lock);
    free(a);
    *ap = NULL;
}

bool auth_required(const auth *a)
{
    return a->path != NULL || a->has_single;
}

const char *auth_name(auth *a, int32_t number)
{
    pthread_mutex_lock(&a->lock);
    const char *name = number >= 0 && number < a->n_names ? a->names[number] : "";
    pthread_mutex_unlock(&a->lock);
    return name;
}

/* Once a second; a failure is logged once, however long it lasts. */
static void look_again(auth *a)
{
    time_t now = time(NULL);
    if (now == a->looked)
        return;
    a->looked = now;
    if (a->failing)
        status_mute();
    status st = reload_locked(a);
    if (a->failing)
        status_unmute();
    a->failing = st != ST_OK;
}

static bool check_key(auth *a, const char *key, auth_key *out)
{
    uint8_t digest[HASH_SHA256_BYTES];
    bool found = false;
    if (a->has_single && digest_of(a->single_salt, key, digest) == ST_OK && CRYPTO_memcmp(digest, a->single.digest, sizeof(digest)) == 0) {
        *out = a->single.key;
        found = true;
    }
    const entry *e = !found && a->path != NULL && digest_of(a->keys.salt, key, digest) == ST_OK ? find(&a->keys, digest) : NULL;
    if (e != NULL)
        *out = e->key;
    return found || e != NULL;
}

auth_verdict auth_check(auth *a, const char *authorization, const char *x_api_key, auth_key *out)
{
    *out = (auth_key){.number = -1};
    const char *key = x_api_key;
    if (authorization != NULL && strncasecmp(authorization, "Bearer ", 7) == 0)
        key = authorization + 7 + strspn(authorization + 7, " ");
    if (!auth_required(a)) {
        *out = (auth_key){.name = "anonymous", .number = a->single.key.number, .admin = a->open_admin};
        return AUTH_OK;
    }
    if (key == NULL || *key == '\0')
        return AUTH_MISSING;
    pthread_mutex_lock(&a->lock);
    look_again(a);
    bool found = check_key(a, key, out);
    pthread_mutex_unlock(&a->lock);
    return found ? AUTH_OK : AUTH_WRONG;
}

/* ---- `trireme apikey` ---- */

static void line_of(mem_str *out, const char *name, const uint8_t digest[HASH_SHA256_BYTES], const auth_limits *l, bool admin)
{
    char hex[2 * HASH_SHA256_BYTES + 1];
    hash_hex(digest, HASH_SHA256_BYTES, hex);
    mem_str_printf(out, "%s %s", name, hex);
    if (l->requests_per_min > 0)
        mem_str_printf(out, " requests=%" PRId64, l->requests_per_min);
    if (l->tokens_per_min > 0)
        mem_str_printf(out, " tokens=%" PRId64, l->tokens_per_min);
    if (l->max_concurrent > 0)
        mem_str_printf(out, " concurrent=%" PRId32, l->max_concurrent);
    mem_str_puts(out, admin ? " admin\n" : "\n");
}

/* The file's text (a new one's header if there is none yet) and its salt. */
static status open_text(const char *path, mem_str *text, table *t)
{
    struct stat sb;
    char *old, hex[2 * SALT_BYTES + 1];
    size_t n;
    if (!file_exists(path)) {
        *t = (table){0};
        TRY(draw(t->salt, SALT_BYTES));
        hash_hex(t->salt, SALT_BYTES, hex);
        mem_str_printf(text, "%s %d %s\n", magic, VERSION, hex);
        return ST_OK;
    }
    TRY(table_read(path, t, &sb));
    TRY(file_read_all(path, MAX_FILE, &old, &n));
    mem_str_append(text, old, n);
    if (n > 0 && old[n - 1] != '\n')
        mem_str_putc(text, '\n');
    free(old);
    return ST_OK;
}

static const auth_key *named(const table *t, const char *name)
{
    for (size_t i = 0; i < t->n; i++) {
        if (strcmp(t->entries[i].key.name, name) == 0)
            return &t->entries[i].key;
    }
    return NULL;
}

/* Copies all lines but the name's. */
static void without(const mem_str *text, const char *name, mem_str *out)
{
    size_t n = strlen(name);
    for (const char *line = text->data, *end = line + text->len; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t len = stop != NULL ? (size_t)(stop - line) + 1 : (size_t)(end - line);
        const char *word = line + strspn(line, " \t");
        if (line == text->data || strncmp(word, name, n) != 0 || (word[n] != ' ' && word[n] != '\t'))
            mem_str_append(out, line, len);
        line += len;
    }
}

/* One change under the file's lock: takes name's line out, puts a new one in (key not NULL). */
static status change(const char *path, const char *name, const auth_limits *limits, bool admin, const char *key, bool may_exist)
{
    mem_str lock = {0}, text = {0}, out = {0};
    table t = {0};
    int fd = -1;
    uint8_t digest[HASH_SHA256_BYTES];
    mem_str_printf(&lock, "%s.lock", path);
    status st = lock.failed ? FAIL(ST_NO_MEMORY, "no memory") : file_lock(lock.data, LOCK_TIMEOUT_MS, &fd);
    if (st == ST_OK)
        st = open_text(path, &text, &t);
    if (st == ST_OK && key != NULL && !may_exist && named(&t, name) != NULL)
        st = FAIL(ST_INVALID, "%s: there is a key named \"%s\" already", path, name);
    if (st == ST_OK && key == NULL && named(&t, name) == NULL)
        st = FAIL(ST_NOT_FOUND, "%s: there is no key named \"%s\"", path, name);
    if (st == ST_OK) {
        without(&text, name, &out);
        if (key != NULL && (st = digest_of(t.salt, key, digest)) == ST_OK)
            line_of(&out, name, digest, limits, admin);
    }
    if (st == ST_OK)
        st = out.failed || text.failed ? FAIL(ST_NO_MEMORY, "no memory") : file_write_all(path, out.data, out.len, 0600);
    if (fd >= 0)
        file_unlock(&fd);
    table_free(&t);
    mem_str_free(&lock);
    mem_str_free(&text);
    mem_str_free(&out);
    return st;
}

static status check_name(const char *name)
{
    return name_ok(name, strlen(name)) ? ST_OK : FAIL(ST_INVALID, "\"%s\": a key's name has 1 to %d of the letters A-Z a-z, digits and . _ -", name, AUTH_NAME - 1);
}

status auth_file_add(const char *path, const char *name, const auth_limits *limits, bool admin, char key[AUTH_KEY_TEXT])
{
    /* 43 letters of 62: 256 bits. */
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    size_t n = 3;
    uint8_t bytes[64];
    TRY(check_name(name));
    memcpy(key, "sk-", 4);
    while (n < 3 + 43) {
        TRY(draw(bytes, sizeof(bytes)));
        for (size_t i = 0; i < sizeof(bytes) && n < 3 + 43; i++) {
            if (bytes[i] < 4 * 62) /* no letter likelier than another */
                key[n++] = alphabet[bytes[i] % 62];
        }
    }
    key[n] = '\0';
    explicit_bzero(bytes, sizeof(bytes));
    return change(path, name, limits, admin, key, false);
}

status auth_file_set(const char *path, const char *name, const auth_limits *limits, bool admin, const char *key)
{
    size_t n = strlen(key);
    TRY(check_name(name));
    if (n == 0 || n > MAX_KEY)
        return FAIL(ST_INVALID, "an API key has 1 to %d bytes", MAX_KEY);
    for (size_t i = 0; i < n; i++) {
        if (key[i] <= ' ' || key[i] > '~')
            return FAIL(ST_INVALID, "an API key has visible ASCII letters only");
    }
    return change(path, name, limits, admin, key, true);
}

status auth_file_remove(const char *path, const char *name)
{
    TRY(check_name(name));
    if (!file_exists(path))
        return FAIL(ST_NOT_FOUND, "%s: there is no such file", path);
    return change(path, name, NULL, false, NULL, true);
}

status auth_file_list(const char *path, auth_each each, void *arg)
{
    table t;
    struct stat sb;
    TRY(table_read(path, &t, &sb));
    for (size_t i = 0; i < t.n; i++)
        each(arg, &t.entries[i].key);
    table_free(&t);
    return ST_OK;
}
